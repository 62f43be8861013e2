"""`repsim compare` with attacked and corrupted sides: what each side is shown, what is kept, what is never used."""

import errno
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from repsim import Activations, ImageSet, Network, SimilarityMatrix, compare, extract, load_data, load_model
from repsim.data.stored import read_images, write_images
from repsim.robustness.adversarial_sets import adversarial
from repsim.robustness.corruptions import corrupt
from tests.conftest import exactly
from tests.support import commands
from tests.support.commands import PGD, STANDARD, Run

INPUT = ["--data", "digits", "--limit", 60, "--layers", "layer*.*", "--metric", "cka"]
ATTACK = ["--attack-a", "linf:0.1", "--attack-steps", 3]
MADE = "pgd-3(digits_standard, linf:0.1)"


@pytest.fixture(scope="module", autouse=True)
def no_pictures() -> Iterator[None]:
    """Other tests draw; these would spend most of their time on it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SimilarityMatrix, "save_picture", lambda self, path: path)
        yield


def ran(folder: Path, a: str, b: str, *words: Any) -> Run:
    return commands.ran("compare", folder, a, b, *INPUT, *words)


@pytest.fixture(scope="module")
def data() -> ImageSet:
    return load_data("digits", limit=60)


@pytest.fixture(scope="module")
def nets() -> tuple[Network, Network]:
    return load_model(STANDARD), load_model(PGD)


@pytest.fixture(scope="module")
def moved(nets: tuple[Network, Network], data: ImageSet) -> ImageSet:
    """What ATTACK makes."""
    return adversarial(nets[0], data, "linf:0.1", steps=3)


@pytest.fixture(scope="module")
def reused(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return ran(tmp_path_factory.mktemp("reused"), STANDARD, PGD, *ATTACK, "--reuse-attack")


def side(net: Network, data: ImageSet) -> Activations:
    return extract(net, data, layers="layer*.*", progress=False)


def accuracy(net: Network, data: ImageSet) -> float:
    with torch.no_grad():
        return float((net(data.pixels(slice(0, None))).argmax(1) == data.labels).double().mean())


def holds(found: Run, a: Activations, b: Activations, metric: str = "cka") -> None:
    """The matrix in a run's folder is that of these two sides, by name and number."""
    made = SimilarityMatrix.load(found.folder / f"{metric}.npz")
    expected = compare(a, b, metric)
    assert (made.row_model, made.col_model) == (expected.row_model, expected.col_model)
    np.testing.assert_allclose(made.values, expected.values, atol=1e-6)  # products of float32


def kept(found: Run) -> list[str]:
    """The files of adversarial images."""
    return [name for name in found.names if name.startswith("pgd-")]


def shown(found: Run) -> list[list[str]]:
    """The cells of the table of sides."""
    lines = found.out.splitlines()
    at = next(k for k, line in enumerate(lines) if line.startswith("side"))
    rows = [re.split(r" {2,}", line) for line in lines[at : at + 4]]
    return [rows[0], *rows[2:]]


# --- What the sides are shown ---------------------------------------------------------------------------------


def test_one_attacked_side(nets: tuple[Network, Network], data: ImageSet, moved: ImageSet, tmp_path: Path) -> None:
    for words in (ATTACK, [*ATTACK, "--attack-b", "none"]):
        found = ran(tmp_path, STANDARD, PGD, *words)
        assert found.code == 0
        holds(found, side(nets[0], moved), side(nets[1], data))
        facts = found.summary["conditions"]
        record = json.loads(json.dumps(moved.record))
        record["source"] = facts["a"]["record"]["source"]
        assert facts["a"] == {
            "network": "digits_standard",
            "condition": MADE,
            "accuracy_before": accuracy(nets[0], data),
            "accuracy_after": accuracy(nets[0], moved),
            "pixels": moved.pixel_digest,
            "file": kept(found)[0],
            "record": record,
        }
        assert record["adversarial_accuracy"] == facts["a"]["accuracy_after"] < facts["a"]["accuracy_before"]
        assert facts["a"]["record"]["source"]["sha256"] == nets[0].provenance["sha256"]
        assert facts["b"] == {
            "network": "digits_pgd",
            "condition": "none",
            "accuracy_before": accuracy(nets[1], data),
            "accuracy_after": accuracy(nets[1], data),
            "pixels": data.pixel_digest,
            "file": None,
            "record": {},
        }
        assert shown(found) == [
            ["side", "network", "shown", "accuracy before", "after"],
            ["A", "digits_standard", MADE, *(f"{facts['a'][f'accuracy_{w}']:.4f}" for w in ("before", "after"))],
            ["B", "digits_pgd", "the images as they are", *[f"{facts['b']['accuracy_before']:.4f}"] * 2],
        ]


def test_transfer_shows_the_other_side_the_very_same_images(
    reused: Run, nets: tuple[Network, Network], data: ImageSet, moved: ImageSet
) -> None:
    assert reused.code == 0
    holds(reused, side(nets[0], moved), side(nets[1], moved))
    facts = reused.summary["conditions"]
    assert facts["a"]["pixels"] == facts["b"]["pixels"] == moved.pixel_digest
    assert facts["a"]["condition"] == facts["b"]["condition"] == MADE
    assert facts["b"]["accuracy_after"] == accuracy(nets[1], moved)
    assert facts["b"]["record"] == facts["a"]["record"]
    assert kept(reused) == [facts["a"]["file"]] == [facts["b"]["file"]]
    made = SimilarityMatrix.load(reused.folder / "cka.npz")
    assert made.col_model == f"digits_pgd under {MADE}"
    assert made.provenance["cols"]["condition"]["threat"] == "linf:0.1"


def test_both_sides_attacked_each_for_itself(nets: tuple[Network, Network], data: ImageSet, tmp_path: Path) -> None:
    words = [*ATTACK, "--attack-b", "linf:0.1", "--attack-restarts", 2, "--seed", 0]
    found = ran(tmp_path, STANDARD, PGD, *words)
    assert found.code == 0
    own = [adversarial(net, data, "linf:0.1", steps=3, restarts=2) for net in nets]
    assert not torch.equal(own[0].images, own[1].images)
    holds(found, side(nets[0], own[0]), side(nets[1], own[1]))
    assert len(kept(found)) == 2
    assert [fact["record"]["restarts"] for fact in found.summary["conditions"].values()] == [2, 2]


def test_a_network_and_itself_under_attack(
    nets: tuple[Network, Network], data: ImageSet, moved: ImageSet, tmp_path: Path
) -> None:
    found = ran(tmp_path, STANDARD, STANDARD, "--attack-b", "linf:0.1", "--attack-steps", 3)
    assert found.code == 0
    holds(found, side(nets[0], data), side(nets[0], moved))
    made = SimilarityMatrix.load(found.folder / "cka.npz")
    assert (made.row_model, made.col_model) == ("digits_standard", f"digits_standard under {MADE}")
    assert list(found.summary["networks"]) == ["digits_standard"]


def test_a_network_and_itself_under_the_same_attack_are_one_side(tmp_path: Path) -> None:
    for words in (["--attack-b", "linf:0.1"], ["--reuse-attack"]):
        found = ran(tmp_path, STANDARD, STANDARD, *ATTACK, *words)
        assert found.out.count("Activations(") == 1
        made = SimilarityMatrix.load(found.folder / "cka.npz")
        np.testing.assert_array_equal(made.values, made.values.T)
        np.testing.assert_allclose(np.diag(made.values), 1.0, atol=1e-9)


@pytest.mark.parametrize("b", [STANDARD, PGD])
def test_corrupted_sides(b: str, nets: tuple[Network, Network], data: ImageSet, tmp_path: Path) -> None:
    found = ran(tmp_path, STANDARD, b, "--attack-a", "none", "--attack-b", "gaussian_noise:3", "--seed", 0)
    noisy = corrupt(data, "gaussian_noise:3")
    net = nets[[STANDARD, PGD].index(b)]
    assert found.code == 0
    holds(found, side(nets[0], data), side(net, noisy))
    fact = found.summary["conditions"]["b"]
    assert (fact["condition"], fact["file"]) == ("gaussian_noise:3", None)
    assert fact["record"]["corruption"] == "gaussian_noise"
    assert fact["accuracy_after"] == accuracy(net, noisy)
    assert kept(found) == []
    assert shown(found)[2][2] == "gaussian_noise:3"


def test_an_attack_against_a_corruption(
    nets: tuple[Network, Network], data: ImageSet, moved: ImageSet, tmp_path: Path
) -> None:
    found = ran(tmp_path, STANDARD, PGD, *ATTACK, "--attack-b", "blur:2")
    holds(found, side(nets[0], moved), side(nets[1], corrupt(data, "blur:2")))


def test_live_sides(nets: tuple[Network, Network], data: ImageSet, moved: ImageSet, tmp_path: Path) -> None:
    words = [*INPUT[:-2], *ATTACK, "--live", "--device", "cpu"]
    found = commands.ran("compare", tmp_path, STANDARD, STANDARD, *words)
    assert found.code == 0
    pushed, clean = (extract(nets[0], d, layers="layer*.*", reduction="flatten") for d in (moved, data))
    holds(found, pushed, clean, "cka_minibatch")
    assert f"LiveActivations('digits_standard under {MADE}'" in found.out


def test_without_conditions_nothing_is_said_of_them(tmp_path: Path) -> None:
    for words in ([], ["--attack-a", "none", "--attack-b", "none"]):
        found = ran(tmp_path, STANDARD, PGD, *words)
        assert found.code == 0
        assert found.summary["conditions"] == {}
        assert "shown" not in found.out
        assert found.names == ["cka.csv", "cka.npz", "report.html", "summary.json"]


def five_classes() -> nn.Module:
    return load_model("digits_resnet8", num_classes=5).net


class Features(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.ModuleDict({"x": nn.Conv2d(1, 2, 3)})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"features": self.layer["x"](x)}


@pytest.mark.parametrize("name", ["five_classes", "Features"])
def test_a_network_that_does_not_answer_the_labels_has_no_accuracy(name: str, tmp_path: Path) -> None:
    found = ran(tmp_path, f"{__name__}:{name}", PGD, "--attack-a", "blur:1")
    assert found.code == 0
    fact = found.summary["conditions"]["a"]
    assert (fact["accuracy_before"], fact["accuracy_after"]) == (None, None)
    assert shown(found)[1][-2:] == ["-", "-"]


# --- What is kept ---------------------------------------------------------------------------------------------


def never(*_: object, **__: object) -> None:
    raise AssertionError("made anew")


def test_a_second_run_reads_what_the_first_has_made(
    reused: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(reused.folder, tmp_path / "again"))
    (file,) = kept(reused)
    before = (folder / file).read_bytes()
    assert f"adversarial images written to {reused.folder / file}" in reused.out.splitlines()
    monkeypatch.setattr("repsim.cli.conditions.adversarial", never)
    again = ran(folder, STANDARD, PGD, *ATTACK, "--reuse-attack")
    assert (again.code, again.err) == (0, "")
    assert f"adversarial images read from {folder / file}" in again.out.splitlines()
    assert (folder / file).read_bytes() == before
    assert again.summary["conditions"] == reused.summary["conditions"]
    one, two = (SimilarityMatrix.load(run.folder / "cka.npz") for run in (reused, again))
    np.testing.assert_array_equal(one.values, two.values)
    assert one.provenance["rows"] == two.provenance["rows"]
    # The other side may use them as well, and the order of the sides does not matter.
    other = ran(folder, PGD, STANDARD, "--attack-b", "linf:0.1", "--attack-steps", 3)
    assert other.code == 0


@pytest.mark.parametrize(
    "words",
    [
        ["--attack-a", "linf:0.05"],
        ["--attack-a", "l2:0.1"],
        ["--attack-steps", 2],
        ["--attack-restarts", 2],
        ["--seed", 1],
        ["--limit", 50],
        ["--split", "train"],
    ],
)
def test_other_settings_are_other_images_beside_the_first(words: list[Any], reused: Run, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(reused.folder, tmp_path / "again"))
    found = ran(folder, STANDARD, PGD, *ATTACK, "--reuse-attack", *words)
    assert (found.code, "caution" in found.err) == (0, False)
    assert len(kept(found)) == 2
    (new,) = set(kept(found)) - set(kept(reused))
    assert found.summary["conditions"]["a"]["file"] == new


def test_another_seed_makes_other_images_of_the_same_samples(tmp_path: Path) -> None:
    words = ["--limit", 597, "--layers", "layer3", *ATTACK, "--attack-steps", 0]  # all images, whatever the seed
    runs = [ran(tmp_path, STANDARD, PGD, *words, "--seed", seed) for seed in (0, 1)]
    assert runs[0].summary["data"] == runs[1].summary["data"]
    files = kept(runs[1])
    assert len(files) == 2
    one, two = (np.load(tmp_path / file)["images"] for file in files)
    assert not np.array_equal(one, two)
    # The start of an image depends on its id and the seed alone, so a second run of the first seed finds its own.
    assert "adversarial images read from" in ran(tmp_path, STANDARD, PGD, *words, "--seed", 0).out


def test_another_network_of_the_same_name_is_attacked_anew(reused: Run, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(reused.folder, tmp_path / "again"))
    copy = tmp_path / "digits_standard.safetensors"
    copy.write_bytes(Path(PGD).read_bytes())
    found = ran(folder, str(copy), PGD, *ATTACK, "--reuse-attack")
    assert len(kept(found)) == 2
    assert found.summary["conditions"]["a"]["pixels"] != reused.summary["conditions"]["a"]["pixels"]


def truncated(path: Path, other: Path) -> None:
    path.write_bytes(path.read_bytes()[:-300])


def emptied(path: Path, other: Path) -> None:
    path.write_bytes(b"")


def pickled(path: Path, other: Path) -> None:
    np.savez(path, facts=np.array([{}], dtype=object), images=np.zeros(3))


def replaced(path: Path, other: Path) -> None:
    shutil.copy(other, path)


def rewritten(change: Callable[[dict[str, Any], np.ndarray], None]) -> Callable[[Path, Path], None]:
    """Reads a file, changes what is in it, and writes it as it should be."""

    def damage(path: Path, other: Path) -> None:
        with np.load(path) as stored:
            facts, images = json.loads(str(stored["facts"])), stored["images"].copy()
        change(facts, images)
        np.savez(path, facts=np.array(json.dumps(facts)), images=images)

    return damage


def a_pixel(facts: dict[str, Any], images: np.ndarray) -> None:
    images[3, 0, 2, 2] = 1 - images[3, 0, 2, 2]


def an_id(facts: dict[str, Any], images: np.ndarray) -> None:
    facts["ids"][0] = "digits/9999"


def no_record(facts: dict[str, Any], images: np.ndarray) -> None:
    del facts["record"]


DAMAGE: dict[str, tuple[Callable[[Path, Path], None], str]] = {
    "truncated": (truncated, "damaged, or something else"),
    "empty": (emptied, "damaged, or something else"),
    "a pickle": (pickled, "damaged, or something else"),
    "of other settings": (replaced, "made with another threat"),
    "a pixel": (rewritten(a_pixel), "pixels that differ from the digest written with them"),
    "an id": (rewritten(an_id), "made from other images"),
    "no record": (rewritten(no_record), "damaged, or something else"),
}


@pytest.mark.filterwarnings("always::repsim.CautionWarning")
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_or_foreign_file_is_never_used_silently(
    damage: str, reused: Run, moved: ImageSet, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(reused.folder, tmp_path / "again"))
    other = ran(tmp_path / "other", STANDARD, PGD, *ATTACK, "--attack-a", "linf:0.05")
    path, (change, reason) = folder / kept(reused)[0], DAMAGE[damage]
    good = path.read_bytes()
    change(path, other.folder / kept(other)[0])
    assert path.read_bytes() != good
    found = ran(folder, STANDARD, PGD, *ATTACK, "--reuse-attack")
    text = f"read_images: the file must hold the images that are asked for; got {path} ({reason}). Make them again."
    assert (found.code, found.err) == (0, f"caution: {text}\n")
    assert f"adversarial images written to {path}" in found.out.splitlines()
    assert found.summary["conditions"]["a"]["pixels"] == moved.pixel_digest
    assert kept(found) == [path.name]
    assert ran(folder, STANDARD, PGD, *ATTACK, "--reuse-attack").err == ""  # whole again


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("repsim._common.archive.np.savez", full)
    found = ran(tmp_path, STANDARD, PGD, *ATTACK)
    assert found.code == 2
    assert re.fullmatch(
        rf"save: {re.escape(str(tmp_path))}/pgd-3_digits_standard_linf_0\.1-[0-9a-f]{{8}}\.npz could not be written "
        r"\(No space left on device\); nothing was changed\. Free some space or choose another place\.\n",
        found.err,
    )
    assert list(tmp_path.iterdir()) == []


# --- The file itself ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rounded", [False, True])
def test_a_set_is_read_as_it_was_written(
    rounded: bool, nets: tuple[Network, Network], data: ImageSet, tmp_path: Path
) -> None:
    made = adversarial(nets[0], data, "l2:0.5", steps=2, rounded=rounded)
    settings = {"threat": "l2:0.5", "steps": (1, 2)}  # a tuple is a list in JSON, and equal to itself
    write_images(tmp_path / "x.npz", made, settings)
    again = read_images(tmp_path / "x.npz", data, settings)
    assert torch.equal(again.images, made.images)
    assert again.images.dtype == made.images.dtype
    assert again.origin is data
    for name in ("ids", "name", "condition", "pixel_digest", "digest"):
        assert getattr(again, name) == getattr(made, name)
    assert again.record == json.loads(json.dumps(made.record))


def test_images_of_another_size_are_refused(data: ImageSet, moved: ImageSet, tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    write_images(path, moved, {})
    few = data.take(range(59))
    for other, reason in ((few, "made from other images"), (corrupt(data, "blur:1"), "pixels that differ")):
        with pytest.raises(ValueError, match=rf"\Aread_images: .*\({reason}"):
            read_images(path, other, {})
    text = "read_images: the file must hold the images that are asked for; got {} (made with another a, b). "
    with pytest.raises(ValueError, match=exactly(text.format(path) + "Make them again.")):
        read_images(path, data, {"a": 1, "b": 2})


# --- Mistakes -------------------------------------------------------------------------------------------------

MISTAKES: dict[str, tuple[list[Any], str]] = {
    "an attack of its own and a reused one": (
        [*ATTACK, "--attack-b", "linf:0.1", "--reuse-attack"],
        "repsim: --reuse-attack shows B the images of A; got --attack-b linf:0.1. Leave one of the two out.",
    ),
    "no attack and a reused one": (
        [*ATTACK, "--attack-b", "none", "--reuse-attack"],
        "repsim: --reuse-attack shows B the images of A; got --attack-b none. Leave one of the two out.",
    ),
    "nothing to reuse": (
        ["--reuse-attack"],
        "repsim: --reuse-attack needs an attack to reuse; got none. "
        "Pass --attack-a linf:8/255, say, or leave --reuse-attack out.",
    ),
    "no attack to reuse": (
        ["--attack-a", "none", "--reuse-attack"],
        "repsim: --reuse-attack needs an attack to reuse; got --attack-a none. "
        "Pass --attack-a linf:8/255, say, or leave --reuse-attack out.",
    ),
    "steps of nothing": (
        ["--attack-a", "blur:3", "--attack-steps", 5],
        "repsim: --attack-steps is a setting of PGD; got no attack. Leave it out, or pass --attack-a linf:8/255, say.",
    ),
    "restarts of nothing": (
        ["--attack-restarts", 5],
        "repsim: --attack-restarts is a setting of PGD; got no attack. "
        "Leave it out, or pass --attack-a linf:8/255, say.",
    ),
    "grey levels for pixels": (
        ["--attack-a", "linf:8"],
        "ThreatModel: eps of linf must be at most 1; got 8. "
        "Pixels are in [0, 1]: write 8/255 where you mean 8 of 255 grey levels.",
    ),
    "no radius": (
        ["--attack-b", "linf"],
        'ThreatModel: text must be NORM:EPS; got \'linf\'. Write, say, "linf:8/255" or "l2:0.5".',
    ),
    "an unknown norm": (
        ["--attack-a", "l1:0.5"],
        "repsim: --attack-a must be a threat, a corruption or none; got 'l1:0.5'. Close matches: l2:0.5",
    ),
    "an unknown corruption": (
        ["--attack-b", "blurr:3"],
        "repsim: --attack-b must be a threat, a corruption or none; got 'blurr:3'. Close matches: blur:3",
    ),
    "a corruption without severity": (
        ["--attack-a", "linf:0.1", "--attack-b", "blur"],
        'corrupt: severity must be 1 to 5; got none. Write, say, "blur:3".',
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_before_anything_is_loaded(
    mistake: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words, text = MISTAKES[mistake]
    monkeypatch.setattr("repsim.cli.compare.named_network", never)
    found = ran(tmp_path / "out", STANDARD, PGD, *words)
    assert (found.code, found.out) == (2, "")
    assert found.err.startswith(text)
    assert found.err.count("\n") == 1
    assert not text.endswith(".") or found.err == text + "\n"
    assert list(tmp_path.iterdir()) == []


class Argmax(nn.Module):
    """Answers by a choice that has no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.ModuleDict({"x": nn.Linear(64, 10)})

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.one_hot(self.layer["x"](x.flatten(1)).argmax(1), 10).float()


@pytest.mark.parametrize(
    ("network", "words", "text"),
    [
        (
            f"{__name__}:Argmax",
            ATTACK,
            "pgd: the network must have a gradient in its input; got none. "
            "Look for detach, no_grad, argmax or numpy on the way from the input.",
        ),
        (
            f"{__name__}:five_classes",
            ATTACK,
            "attack: labels must be classes of the network, 0 to 4; got 0 to 9. Choose the data it was trained for.",
        ),
        (STANDARD, [*ATTACK, "--layers", "layer9.*"], "extract: "),
        (STANDARD, [*ATTACK, "--attack-steps", -1], "pgd: steps must be >= 0; got -1. Ask for 20."),
        (STANDARD, [*ATTACK, "--attack-restarts", 0], "pgd: restarts must be >= 1; got 0. Leave it out."),
        (STANDARD, ["--attack-a", "l2:9"], "attack: eps of l2 must be at most √(pixels) = 8 for images of 64; got 9. "),
        (STANDARD, ["--attack-a", "saturation:1"], "corrupt: saturation needs images of 3 channels; got 1 for "),
    ],
)
def test_what_an_attack_cannot_do_is_one_line_and_leaves_nothing(
    network: str, words: list[Any], text: str, tmp_path: Path
) -> None:
    found = ran(tmp_path / "out", network, PGD, *words)
    assert found.code == 2
    assert found.err.startswith(text)
    assert found.err.count("\n") == 1
    assert not text.endswith(".") or found.err == text + "\n"
    assert list(tmp_path.iterdir()) == []
