"""Damaged files of every kind: a value or one line of ours, and nothing is started, imported or written elsewhere.

The short run takes a few inputs of each kind; the long one 20,000: `python tests/all.py --slow`. A seed decides all.
"""

import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import repsim
from repsim import Activations, SimilarityMatrix, load_data, load_model
from repsim.data.stored import read_images, write_images
from repsim.networks.weight_files import read_checkpoint
from repsim.robustness.corruptions import corrupt
from repsim.robustness.smoothing import Certificates, certify
from repsim.studies.augmentation.plan import read_plan
from tests.support.places import DATA

#: What a refusal begins with: who asks.
OURS = ("load_model: ", "load_data: ", "SimilarityMatrix", "plan: ", "read_images: ", "Certificates", "recipe: ")
OURS += ("strategy: ", "augmentation: ", "preset: ", "metric: ", "repsim: ", "ImageSet: ", "MetricFacts", "train: ")


# --- What is damaged ------------------------------------------------------------------------------------------


def _weights(folder: Path) -> bytes:
    return (DATA / "digits_standard.safetensors").read_bytes()


def _torch(folder: Path, *, legacy: bool = False) -> bytes:
    state = load_model("digits_conv").net.state_dict()
    torch.save({"state_dict": state, "epoch": 3}, folder / "x.pth", _use_new_zipfile_serialization=not legacy)
    return (folder / "x.pth").read_bytes()


def _matrix(folder: Path) -> bytes:
    a = Activations.from_arrays({"l": np.random.default_rng(0).normal(size=(9, 3))})
    return repsim.compare(a, a, "cka").save(folder / "x.npz").read_bytes()


def _plan(folder: Path) -> bytes:
    return b"""data = "digits"
seeds = 3
layers = ["layer*", "linear"]
[settings]
epochs = 2
architecture = "digits_conv"
[strategies]
none = "none"
flip = "crop:2+flip"
noise = "label_noise:0.2"
[tasks]
parity = {even = [0, 2], odd = [1, 3]}
unseen = {held_out = [8, 9]}
"""


def _digits() -> repsim.ImageSet:
    return load_data("digits", limit=12)


def _derived(folder: Path) -> bytes:
    write_images(folder / "x.npz", corrupt(_digits(), "blur:1"), {"a": 1})
    return (folder / "x.npz").read_bytes()


def _certificates(folder: Path) -> bytes:
    net = load_model("digits_conv")
    return certify(net, _digits(), 0.2, n0=5, n=20, progress=False).save(folder / "c.npz").read_bytes()


def _picture(kind: str) -> Callable[[Path], bytes]:
    def made(folder: Path) -> bytes:
        pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"x.{kind}")
        return (folder / f"x.{kind}").read_bytes()

    return made


def _read_pictures(path: Path) -> Any:
    """The damaged picture beside a whole one, as a folder of class folders."""
    return load_data(f"imagefolder:{path.parent.parent}", root=path.parents[2] / "root", progress=False)


def _read_cache(path: Path) -> Any:
    """A damaged cache of decoded images is made anew."""
    folder = path.parents[1] / "set" / "a"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "0.png").exists():
        Image.fromarray(np.full((4, 4), 7, np.uint8)).save(folder / "0.png")
    root = path.parents[1] / "root"
    first = load_data(f"imagefolder:{folder.parent}", root=root, progress=False)
    (cached,) = (root / "decoded").iterdir()
    cached.write_bytes(path.read_bytes())
    again = load_data(f"imagefolder:{folder.parent}", root=root, progress=False)
    assert again.digest == first.digest
    return again


def _state(folder: Path) -> bytes:
    from repsim.recipes import RECIPES, train

    data = _digits()
    recipe = RECIPES["standard"](architecture="digits_conv", epochs=1, batch_size=4, eval_eps=0.0)
    path = folder / "x.state"
    train(recipe, data, load_data("digits", split="train", limit=12), seed=0, name="x", resume=path, progress=False)
    return path.read_bytes()


def _read_state(path: Path) -> Any:
    from repsim.recipes.training.state import _read

    return _read(path)


#: Kind -> (a whole file, the name it is read by, its reader).
KINDS: dict[str, tuple[Callable[[Path], bytes], str, Callable[[Path], Any]]] = {
    "weights": (_weights, "x.safetensors", load_model),
    "weights of PyTorch": (_torch, "x.pth", lambda p: load_model("digits_conv", checkpoint=p)),
    "weights of old PyTorch": (lambda f: _torch(f, legacy=True), "x.pth", read_checkpoint),
    "matrix": (_matrix, "x.npz", SimilarityMatrix.load),
    "plan": (_plan, "x.toml", read_plan),
    "adversarial images": (_derived, "x.npz", lambda p: read_images(p, _digits(), {"a": 1})),
    "certificates": (_certificates, "c.npz", Certificates.load),
    "state": (_state, "x.state", _read_state),
    "cache": (_picture("bmp"), "x.decoded", _read_cache),
    **{
        f"{k} picture": (_picture(k), f"x.{k}", _read_pictures)
        for k in ("png", "jpg", "bmp", "gif", "webp", "tif", "ppm")
    },
}


def damaged(content: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """Bytes flipped, cut out, cut off, swapped, doubled, or taken from a file of another kind."""
    data = bytearray(content)
    way = rng.integers(7)
    a, b = sorted(int(v) for v in rng.integers(0, len(data) + 1, 2))
    # Headers are short and decide most: half of all damage is done there.
    if rng.random() < 0.5:
        a, b = a % 200, min(b % 200 + 1, len(data))
        a, b = min(a, b), max(a, b)
    if way == 0:
        for place in rng.integers(a, max(a + 1, b), int(rng.integers(1, 8))):
            data[min(place, len(data) - 1)] ^= 1 << int(rng.integers(8))
    elif way == 1:
        data[a:b] = rng.integers(0, 256, b - a, dtype=np.uint8).tobytes()
    elif way == 2:
        del data[a:b]
    elif way == 3:
        del data[b:]
    elif way == 4:
        half = (b - a) // 2
        data[a : a + half], data[a + half : a + 2 * half] = data[a + half : a + 2 * half], data[a : a + half]
    elif way == 5:
        data[a:a] = data[a:b]
    else:
        data[a:b] = other[a:b]
    return bytes(data)


# --- What must not happen -------------------------------------------------------------------------------------

#: Calls that no reader of a file makes.
FORBIDDEN = ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "socket.connect")
FORBIDDEN += ("os.startfile", "ctypes.dlopen", "pty.spawn", "os.spawn")

#: Where modules may come from: those that are loaded already, the package, and what it depends on.
ROOTS = [
    os.path.realpath(p) for p in (Path(repsim.__file__).parent, Path(os.__file__).parent, Path(np.__file__).parents[1])
]


class Watch:
    """Notes, while it is on, what a process must not do; an audit hook cannot be removed, so it is turned off."""

    def __init__(self) -> None:
        self.on, self.allowed, self.seen = False, Path(), list[str]()

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event in FORBIDDEN:
            self.seen.append(f"{event} {arguments!r:.200}")
        elif event == "import" and len(arguments) > 1 and arguments[1]:
            place = os.path.realpath(str(arguments[1]))
            if not any(place.startswith(root) for root in ROOTS):
                self.seen.append(f"import of {arguments[0]} from {place}")
        elif event == "open" and isinstance(arguments[0], str | bytes) and _writes(arguments):
            path = os.path.realpath(os.fsdecode(arguments[0]))
            if not path.startswith(str(self.allowed)) and not path.startswith("/dev/") and "__pycache__" not in path:
                self.seen.append(f"open {path} to write")


def _writes(arguments: tuple[Any, ...]) -> bool:
    mode, flags = arguments[1], arguments[2]
    return (
        any(c in mode for c in "wax+")
        if isinstance(mode, str)
        else bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    )


@pytest.fixture(scope="module")
def watch() -> Watch:
    made = Watch()
    sys.addaudithook(made)
    return made


@contextmanager
def watching(watch: Watch, folder: Path) -> Iterator[None]:
    watch.allowed, watch.seen = Path(os.path.realpath(folder)), []
    watch.on = True
    try:
        yield
    finally:
        watch.on = False
    assert watch.seen == []


def check(kind: str, count: int, folder: Path, watch: Watch) -> None:
    make, name, read = KINDS[kind]
    pictures = kind.endswith("picture")
    (folder / "make").mkdir()
    content = make(folder / "make")
    other = KINDS["matrix"][0](folder / "make") if kind != "matrix" else _plan(folder)
    for seed in range(count):
        place = folder / ("set/a" if pictures else "one")
        place.mkdir(parents=True, exist_ok=True)
        path = place / name
        path.write_bytes(damaged(content, other, np.random.default_rng([seed, *kind.encode()])))
        with watching(watch, folder), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                read(path)
            except (ValueError, TypeError, OSError, MemoryError) as error:
                text = str(error)
            else:
                continue
        assert "\n" not in text, (kind, seed, text)
        assert text.startswith(OURS), (kind, seed, text)
        assert len(text) < 1500, (kind, seed, text)


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_are_a_value_or_one_line(kind: str, tmp_path: Path, watch: Watch) -> None:
    check(kind, 12, tmp_path, watch)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many_damaged_files_are_a_value_or_one_line(kind: str, tmp_path: Path, watch: Watch) -> None:
    check(kind, -(-20_000 // len(KINDS)), tmp_path, watch)


def test_the_watch_sees_what_is_forbidden(tmp_path: Path, watch: Watch) -> None:
    (tmp_path / "foreign_module.py").write_text("x = 1")
    sys.path.insert(0, str(tmp_path))
    watch.allowed, watch.seen, watch.on = tmp_path / "in", [], True
    try:
        os.system("true")
        open(tmp_path / "out.txt", "w").close()
        __import__("foreign_module")
    finally:
        watch.on = False
        sys.path.remove(str(tmp_path))
        sys.modules.pop("foreign_module", None)
    kinds = [text.split()[0] for text in watch.seen]
    assert "os.system" in kinds
    assert "open" in kinds
    assert json.dumps(watch.seen)
