"""Features on disk: the same numbers as in memory, never another run's, whole whatever happens to the run."""

import contextlib
import errno
import json
import os
import shutil
import signal
import sys
import warnings
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from repsim import Activations, CautionWarning, ImageSet, Network, bootstrap, compare, extract, live, permutation_test
from repsim._common.locks import alone
from repsim.features.store.stored_features import StoredFeatures
from repsim.features.store.writer import StoreWriter
from repsim.metrics import MinibatchCKA
from repsim.robustness import corrupt
from tests.conftest import exactly

N = 80


def convolutions(seed: int = 0, out: int = 3) -> nn.Sequential:
    torch.manual_seed(seed)
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        one=nn.Conv2d(1, 4, 3), act=nn.ReLU(), flat=nn.Flatten(), two=nn.Linear(4 * 36, out)
    )
    return nn.Sequential(layers)


def images(n: int = N, seed: int = 0) -> ImageSet:
    x = torch.randint(0, 256, (n, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return ImageSet(x, torch.arange(n) % 3, tuple(f"{i}.png" for i in range(n)), "made")


def quiet(function: Callable[..., Any], *given: Any, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CautionWarning)
        return function(*given, **options)


def stored(folder: Path, **options: Any) -> Activations:
    given = {"net": convolutions(), "data": images(), "batch_size": 16, **options}
    return quiet(extract, given.pop("net"), given.pop("data"), store=folder, **given)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# --- The same numbers -----------------------------------------------------------------------------------------


def test_a_store_holds_what_memory_would(tmp_path: Path) -> None:
    kept, found = quiet(extract, convolutions(), images(), batch_size=16), stored(tmp_path / "a")
    again = Activations.load(tmp_path / "a")
    for each in (found, again):
        assert each.layers == kept.layers
        assert all(torch.equal(each[layer], kept[layer]) for layer in kept)
        assert torch.equal(each.outputs, kept.outputs)  # type: ignore[arg-type]
        assert torch.equal(each.labels, kept.labels)  # type: ignore[arg-type]
        facts = ("digest", "ids", "reduction", "name", "widths", "dtypes", "n", "accuracy", "device")
        assert [getattr(each, name) for name in facts] == [getattr(kept, name) for name in facts]
        assert json.dumps(each.provenance) == json.dumps(kept.provenance)
        assert repr(each) == repr(kept)


@pytest.mark.parametrize(
    "metric", ["cka", "cka_biased", "cka_minibatch", "mean_cca", "gulp", "procrustes", "td", "rsa"]
)
def test_measures_of_stored_features_are_those_of_features_in_memory(metric: str, tmp_path: Path) -> None:
    a, b = (quiet(extract, convolutions(seed), images(), layers=["one", "act"]) for seed in (0, 1))
    x, y = (Activations.load(side.save(tmp_path / f"{i}")) for i, side in enumerate((a, b)))
    np.testing.assert_array_equal(quiet(compare, x, y, metric).values, quiet(compare, a, b, metric).values)
    np.testing.assert_array_equal(quiet(compare, x, x, metric).values, quiet(compare, a, a, metric).values)


def test_intervals_and_p_values_are_those_of_features_in_memory(tmp_path: Path) -> None:
    a = quiet(extract, convolutions(), images(), layers=["one", "act"])
    x = Activations.load(a.save(tmp_path / "a"))
    for ask in (
        lambda s: bootstrap(s, s, "cka", resamples=20),
        lambda s: permutation_test(s, s, "cka", permutations=20),
    ):
        one, two = quiet(ask, a), quiet(ask, x)
        assert one.details.keys() == two.details.keys()
        for name in one.details:
            np.testing.assert_array_equal(one.details[name], two.details[name])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_features_of_any_type_come_back_as_they_were(dtype: torch.dtype, tmp_path: Path) -> None:
    rows = torch.randn(7, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    outputs = torch.tensor([[0.0, 1.0]] * 7).to(dtype)
    a = Activations({"a/b c": rows, "outputs": rows[:, :1]}, outputs=outputs)
    x = Activations.load(a.save(tmp_path / "new" / "a"))
    assert x.dtypes == (dtype, dtype)
    assert torch.equal(x["a/b c"], rows)
    assert torch.equal(x["outputs"], rows[:, :1])
    assert x.outputs is not None
    assert torch.equal(x.outputs, outputs)
    assert x.labels is x.ids is x.digest is None


def test_layers_are_files_that_safetensors_reads(tmp_path: Path) -> None:
    found = stored(tmp_path / "a")
    files = sorted(path.name for path in (tmp_path / "a").glob("0*"))
    names = ["0000-one", "0001-act", "0002-flat", "0003-two"]
    assert files == [f"{name}.safetensors" for name in names]
    for file, layer in zip(files, found, strict=True):
        assert torch.equal(load_file(tmp_path / "a" / file)[layer], found[layer])


def test_half_as_many_bytes_where_float16_is_asked_for(tmp_path: Path) -> None:
    whole, half = quiet(extract, convolutions(), images()), stored(tmp_path / "a", dtype="float16")
    memory = quiet(extract, convolutions(), images(), dtype=torch.float16)
    for layer in whole:
        assert torch.equal(half[layer], whole[layer].half())
        assert torch.equal(half[layer], memory[layer])


def test_writing_to_a_tensor_leaves_the_store_as_it_is(tmp_path: Path) -> None:
    found, before = stored(tmp_path / "a"), contents(tmp_path / "a")
    found["one"].zero_()
    assert contents(tmp_path / "a") == before


def test_a_live_side_reads_a_stored_one_by_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, side = stored(tmp_path / "a", layers="one", batch_size=8), live(convolutions(), images(), layers="one")
    most: list[int] = []
    read = StoredFeatures._read

    def counted(self: StoredFeatures, track: Any, start: int, stop: int) -> Tensor:
        most.append(stop - start)
        return read(self, track, start, stop)

    monkeypatch.setattr(StoredFeatures, "_read", counted)
    measure = MinibatchCKA(batch_size=20)
    x = live(convolutions(), images(), layers="one", reduction="auto")
    found = compare(a, x, measure)
    assert max(most) == 20
    assert compare(side, side, measure).values[0, 0] == pytest.approx(1)
    assert found.values[0, 0] == pytest.approx(1, abs=1e-6)
    for rows in (torch.tensor([70, 3, 3]), slice(5, 50, 7), slice(3, 3)):
        parts: list[Tensor] = []
        a.read(rows, lambda number, at, x, parts=parts: parts.append(x))
        assert torch.equal(parts[0], a["one"][rows])


# --- One key, one store ---------------------------------------------------------------------------------------


class Counted(nn.Module):
    """Counts the rows that pass."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = 0

    def forward(self, x: Tensor) -> Tensor:
        self.rows += len(x)
        return x


def test_a_finished_store_runs_no_network(tmp_path: Path) -> None:
    counter = Counted()
    net = nn.Sequential(counter, convolutions())
    first = stored(tmp_path / "a", net=net)
    counter.rows = 0
    again = stored(tmp_path / "a", net=net, batch_size=7, name="other")
    assert counter.rows == 0
    assert again.name == "other"
    assert torch.equal(again["1.one"], first["1.one"])


def normalised(mean: float) -> Network:
    return Network(convolutions(), name="net", normalize=((mean,), (0.5,)))


OTHERS: dict[str, dict[str, Any]] = {
    "weights": {"net": convolutions(1)},
    "weights, architecture": {"net": convolutions(out=4)},
    "normalisation": {"net": normalised(0.5)},
    "samples": {"data": images(seed=1)},
    "layers": {"layers": ["one", "act"]},
    "layout": {"axes": {"one": "nhwc"}},
    "reduction": {"reduction": "max"},
    "dtype": {"dtype": "float16"},
    "condition": {"data": corrupt(images(), "blur:1")},
    "call": {"call": lambda net, x: net(x)},
}


@pytest.mark.parametrize("differs", OTHERS)
def test_a_store_of_another_key_is_refused_and_left_alone(differs: str, tmp_path: Path) -> None:
    stored(tmp_path / "a")
    before = contents(tmp_path / "a")
    text = (
        f"extract: the store must be of the features that are asked for; got {tmp_path / 'a'}, which differs in "
        f"{differs}. Name another folder, or remove this one."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        stored(tmp_path / "a", **OTHERS[differs])
    assert contents(tmp_path / "a") == before


def middle(tokens: Tensor) -> Tensor:
    return tokens[:, tokens.shape[1] // 2]


def test_a_function_is_known_by_its_code(tmp_path: Path) -> None:
    stored(tmp_path / "a", reduction=middle, layers="one")
    stored(tmp_path / "a", reduction=middle, layers="one")
    at = 3
    text = (
        "extract: reduction must be a name or a plain function where features are stored; got FUNCTION. "
        "Write a function without defaults, and without names of a function around it."
    )

    def around(tokens: Tensor) -> Tensor:
        return tokens[:, at]

    with pytest.raises(ValueError, match=exactly(text.replace("FUNCTION", repr(around)))):
        stored(tmp_path / "b", reduction=around)
    with pytest.raises(ValueError, match=r"which differs in reduction\. Name"):
        stored(tmp_path / "a", reduction=lambda tokens: tokens[:, 1], layers="one")


def test_buffers_outside_the_state_are_weights_too(tmp_path: Path) -> None:
    nets = [convolutions(), convolutions()]
    for i, net in enumerate(nets):
        net.register_buffer("table", torch.tensor([float(i)]), persistent=False)
    stored(tmp_path / "a", net=nets[0])
    with pytest.raises(ValueError, match=r"which differs in weights\. Name"):
        stored(tmp_path / "a", net=nets[1])


# --- Runs that end early --------------------------------------------------------------------------------------


def killed(folder: Path, at: int) -> int:
    """Extracts in a copy of this process that is killed at an event of the file system; the events without a kill."""
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        child = os.fork()
    if child == 0:
        count, sync = 0, os.fsync

        def met() -> None:
            nonlocal count
            count += 1
            if count == at:
                os.kill(os.getpid(), signal.SIGKILL)

        def hook(event: str, given: tuple[Any, ...]) -> None:
            names = ("open", "os.rename", "os.remove", "os.mkdir", "os.truncate")
            named = event in names and isinstance(given[0], str | os.PathLike)
            if named and os.fspath(given[0]).startswith(str(folder)):
                met()

        def synced(handle: int) -> None:
            met()
            sync(handle)

        code = 70
        with contextlib.suppress(BaseException):
            torch.set_num_threads(1)
            os.fsync = synced
            sys.addaudithook(hook)
            stored(folder)
            code = 0
        os.write(write, f"{count}".encode())
        os._exit(code)
    os.close(write)
    with os.fdopen(read) as stream:
        told = stream.read()
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        return -1
    assert os.WEXITSTATUS(status) == 0
    return int(told)


def survives(kills: int, folder: Path, seed: int) -> None:
    events = killed(folder / "whole", 0)
    whole = contents(folder / "whole")
    assert events > 60
    for i, at in enumerate(np.random.default_rng(seed).integers(1, events + 1, kills)):
        place = folder / f"{i}"
        # The threads of the disk and of the network take turns differently, so the last events may not be met.
        assert killed(place, int(at)) in (-1, *range(events - 3, events + 4))
        stored(place)
        assert contents(place) == whole, at
        shutil.rmtree(place)
    assert [path.name for path in folder.iterdir()] == ["whole"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_run_killed_anywhere_ends_with_the_same_bytes(tmp_path: Path) -> None:
    survives(6, tmp_path, seed=1)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_fifty_runs_killed_anywhere_end_with_the_same_bytes(tmp_path: Path) -> None:
    survives(50, tmp_path, seed=2)


class Stops(nn.Module):
    """Fails once after some rows have passed; the same network afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.left = 10**9

    def forward(self, x: Tensor) -> Tensor:
        self.left -= len(x)
        if self.left < 0:
            raise RuntimeError("stopped")
        return x


def test_only_what_is_missing_is_run_again(tmp_path: Path) -> None:
    stop = Stops()
    net = nn.Sequential(stop, convolutions())
    whole = stored(tmp_path / "whole", net=net)
    stop.left = 70
    with pytest.raises(RuntimeError, match="stopped"):
        stored(tmp_path / "a", net=net)
    journal = [json.loads(line) for line in (tmp_path / "a" / "journal.jsonl").read_text().splitlines()]
    done = journal[-1]["rows"][1]
    assert done >= 16
    with pytest.raises(
        ValueError,
        match=exactly(
            f"Activations.load: the store must be finished; got {tmp_path / 'a'}, which is not. "
            "Run the same extract(..., store=) again: it goes on where it was."
        ),
    ):
        Activations.load(tmp_path / "a")
    # Also where a larger batch is asked for: the store keeps to its own.
    stop.left = 60 + N - done
    found = stored(tmp_path / "a", net=net, batch_size=64)
    assert contents(tmp_path / "a") == contents(tmp_path / "whole")
    assert torch.equal(found["1.two"], whole["1.two"])


def test_a_journal_that_was_cut_off_counts_as_far_as_it_is_whole(tmp_path: Path) -> None:
    stop = Stops()
    net = nn.Sequential(stop, convolutions())
    stored(tmp_path / "whole", net=net)
    stop.left = 70
    with pytest.raises(RuntimeError, match="stopped"):
        stored(tmp_path / "a", net=net)
    with open(tmp_path / "a" / "journal.jsonl", "a") as stream:
        stream.write('{"rows": [48, 64], "sums": ["0')
    stop.left = 10**6
    stored(tmp_path / "a", net=net)
    assert contents(tmp_path / "a") == contents(tmp_path / "whole")


def test_a_run_killed_after_its_last_word_leaves_no_journal(tmp_path: Path) -> None:
    stored(tmp_path / "a")
    before = contents(tmp_path / "a")
    (tmp_path / "a" / "journal.jsonl").write_text("{}")
    stored(tmp_path / "a")
    assert contents(tmp_path / "a") == before


# --- Bad input ------------------------------------------------------------------------------------------------


def test_flipped_bytes_are_told_of_when_they_are_read(tmp_path: Path) -> None:
    stored(tmp_path / "a")
    path = tmp_path / "a" / "0003-two.safetensors"
    with open(path, "r+b") as stream:
        stream.seek(-5, os.SEEK_END)
        byte = stream.read(1)[0]
        stream.seek(-5, os.SEEK_END)
        stream.write(bytes([byte ^ 1]))
    found = Activations.load(tmp_path / "a")
    assert len(found["one"]) == N
    text = (
        f"Activations.load: the store must hold what was written to it; got {path} "
        "(rows 64 to 79 differ from their checksum). Remove it, and extract or save anew."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        found["two"]
    with pytest.raises(ValueError, match=exactly(text)):
        compare(found, found)
    rows = Activations.load(tmp_path / "a")
    rows.read(slice(0, 60), lambda *_: None)
    for asked in (slice(60, 70), torch.tensor([1, 79])):
        with pytest.raises(ValueError, match=exactly(text)):
            rows.read(asked, lambda *_: None)


def test_files_that_are_missing_cut_off_or_others(tmp_path: Path) -> None:
    stored(tmp_path / "a")
    path = tmp_path / "a" / "0000-one.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    must = "Activations.load: the store must hold what was written to it; got "
    again = "Remove it, and extract or save anew."
    with pytest.raises(ValueError, match=exactly(f"{must}{path} ({len(whole) - 1:,} bytes long). {again}")):
        Activations.load(tmp_path / "a")
    path.write_bytes(whole.replace(b"F32", b"F16", 1))
    with pytest.raises(ValueError, match=exactly(f"{must}{path} (another beginning). {again}")):
        Activations.load(tmp_path / "a")
    path.unlink()
    text = (
        f"Activations.load: every file of the store must be there; got no {path}. "
        "Bring it back, or remove the store and extract or save anew."
    )
    with pytest.raises(FileNotFoundError, match=exactly(text)):
        Activations.load(tmp_path / "a")


def test_folders_that_are_no_store(tmp_path: Path) -> None:
    text = "the store must exist; got {}. Check the path."
    with pytest.raises(FileNotFoundError, match=exactly(f"Activations.load: {text.format(tmp_path / 'none')}")):
        Activations.load(tmp_path / "none")
    (tmp_path / "notes.txt").write_text("mine")
    text = (
        f"the store must be a folder that holds nothing else; got {tmp_path} with notes.txt and no manifest.json. "
        "Name another folder."
    )
    with pytest.raises(ValueError, match=exactly(f"extract: {text}")):
        stored(tmp_path)
    with pytest.raises(ValueError, match=exactly(f"Activations.load: {text}")):
        Activations.load(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    text = (
        f"Activations.save: the folder must be new or empty; got {tmp_path}. Name another folder, or remove this one."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        Activations.from_arrays({"a": np.eye(3)}).save(tmp_path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: text[:50], "damaged, or something else"),
        (lambda text: "[]", "damaged, or something else"),
        (lambda text: text.replace("0000-one.safetensors", "../0000-one.safetensors"), "damaged, or something else"),
        (lambda text: text.replace('"n": 80', '"n": 800'), "damaged, or something else"),
        (lambda text: text.replace('"kind": "float32"', '"kind": "int32"'), "damaged, or something else"),
        (lambda text: text.replace('"format": 1', '"format": 2'), "format 2, where this version reads 1"),
    ],
)
def test_manifests_that_are_damaged(change: Callable[[str], str], reason: str, tmp_path: Path) -> None:
    stored(tmp_path / "a")
    path = tmp_path / "a" / "manifest.json"
    path.write_text(change(path.read_text()))
    text = f"the store must hold what was written to it; got {path} ({reason}). Remove it, and extract or save anew."
    with pytest.raises(ValueError, match=exactly(f"Activations.load: {text}")):
        Activations.load(tmp_path / "a")
    with pytest.raises(ValueError, match=exactly(f"extract: {text}")):
        stored(tmp_path / "a")


def test_a_disk_that_runs_full_keeps_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = contents(tmp_path / "whole") if stored(tmp_path / "whole") else {}
    write, left = StoreWriter._write_block, 3

    def full(self: StoreWriter, *given: Any) -> None:
        nonlocal left
        left -= 1
        if left:
            return write(self, *given)
        with self._one_line():
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(StoreWriter, "_write_block", full)
        text = (
            f"extract: the store must be written; got {tmp_path / 'a'} (No space left on device) after 32 of 80 rows. "
            "Free some space and run it again: it goes on from there."
        )
        with pytest.raises(OSError, match=exactly(text)):
            stored(tmp_path / "a")
        left = 1
        text = (
            f"Activations.save: the store must be written; got {tmp_path / 'b'} (No space left on device) after 0 of 3 "
            "rows. Free some space and run it again; nothing is left."
        )
        with pytest.raises(OSError, match=exactly(text)):
            Activations.from_arrays({"a": np.eye(3)}).save(tmp_path / "b")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "whole"]
    stored(tmp_path / "a")
    assert contents(tmp_path / "a") == whole


def test_a_disk_without_room_is_told_of_before_the_first_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1000))
    text = (
        f"extract: the features must fit on the disk; got 0.0 GiB to write with 0.0 GiB free at {tmp_path / 'a'}. "
        'Free some space, or use dtype="float16", reduction="mean", fewer layers or fewer samples.'
    )
    with pytest.raises(OSError, match=exactly(text)):
        stored(tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_numbers_beyond_float16_are_refused(tmp_path: Path) -> None:
    net = convolutions()
    with torch.no_grad():
        net.two.bias[1] = 70000.0  # type: ignore[index]
    found = quiet(extract, net, images())
    must = "layer 'two' must fit into float16, up to 65504"
    got = f"{float(found['two'][0, 1]):.6g} in row 0. Keep a wider type, as in dtype='float32'."
    with pytest.raises(ValueError, match=exactly(f"extract: {must}; got {got}")):
        stored(tmp_path / "a", net=net, dtype="float16")
    with pytest.raises(ValueError, match=exactly(f"extract: {must}; got {got}")):
        quiet(extract, net, images(), dtype="float16")
    with pytest.raises(ValueError, match=exactly(f"Activations.save: {must}; got {got}")):
        found.save(tmp_path / "b", dtype="float16")
    text = "extract: dtype must be float32 or float16; got 'int8'. Leave it out to keep features in their own type."
    with pytest.raises(ValueError, match=exactly(text)):
        quiet(extract, net, images(), dtype="int8")


def test_features_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    net = convolutions()
    with torch.no_grad():
        net.two.bias[1] = float("nan")  # type: ignore[index]
    text = (
        "extract: layer 'two' must be finite; got NaN or infinity, first in row 0. "
        "Look for a diverged network, an overflow in float16, or broken inputs."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        stored(tmp_path / "a", net=net)


def test_one_process_writes_to_a_store_at_a_time(tmp_path: Path) -> None:
    text = (
        f"extract: one run must write to a target at a time; got another one that writes to {tmp_path / 'a'} now. "
        "Wait for it, or choose another --out."
    )
    with alone(tmp_path / "a", "other", folder=True), pytest.raises(ValueError, match=exactly(text)):
        stored(tmp_path / "a")
