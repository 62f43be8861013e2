"""Image sets: what they check, what their digest sees, and every source that `load_data` reads."""

import dataclasses
import os
import pickle
import socket
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from repsim import ImageSet, load_data
from repsim._common.provenance import CautionWarning
from repsim.cli.main import main
from repsim.data.image_set import stratified_rows
from tests.conftest import exactly

# --- ImageSet ---------------------------------------------------------------------------------------------


def small_set(**changes: Any) -> ImageSet:
    images = torch.arange(3 * 2 * 4 * 5, dtype=torch.uint8).view(3, 2, 4, 5)
    made = {"images": images, "labels": torch.tensor([0, 1, 0]), "ids": ("a", "b", "c"), "name": "small"}
    return ImageSet(**{**made, **changes})


def test_a_set_knows_its_length_and_shows_what_it_is() -> None:
    data = small_set()
    assert len(data) == 3
    assert repr(data) == f"ImageSet('small', 3 images of 2×4×5, digest {data.digest[:12]})"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"images": torch.zeros(3, 4, 5)},
            "ImageSet: images must be (n, c, h, w), uint8 or floating point; got float32 of shape (3, 4, 5). "
            "Add the channel axis, or convert with images.to(torch.uint8).",
        ),
        (
            {"images": torch.zeros(3, 1, 4, 5, dtype=torch.int64)},
            "ImageSet: images must be (n, c, h, w), uint8 or floating point; got int64 of shape (3, 1, 4, 5). "
            "Add the channel axis, or convert with images.to(torch.uint8).",
        ),
        (
            {"labels": torch.tensor([0, 1])},
            "ImageSet: images, labels and ids must be equally many; got 3 images, 2 labels and 3 ids. Align them.",
        ),
        (
            {"ids": ("a", "b")},
            "ImageSet: images, labels and ids must be equally many; got 3 images, 3 labels and 2 ids. Align them.",
        ),
        (
            {"images": torch.zeros(0, 1, 4, 5), "labels": torch.zeros(0, dtype=torch.int64), "ids": ()},
            "ImageSet: there must be images; got none. Choose another split or folder.",
        ),
        (
            {"ids": ("a", "b", "a")},
            "ImageSet: ids must be unique; got 1 repeated ids. "
            "Drop the copies: a copy adds a row without adding evidence.",
        ),
        (
            {"images": torch.linspace(0, 255, 120).view(3, 2, 4, 5)},
            "ImageSet: floating-point images must lie in [0, 1]; got [0, 255]. "
            "Divide by 255, or leave normalisation to load_model(normalize=...).",
        ),
        (
            {"images": torch.linspace(-2, 1, 120).view(3, 2, 4, 5)},
            "ImageSet: floating-point images must lie in [0, 1]; got [-2, 1]. "
            "Divide by 255, or leave normalisation to load_model(normalize=...).",
        ),
        (
            {"images": torch.full((3, 2, 4, 5), torch.nan)},
            "ImageSet: floating-point images must lie in [0, 1]; got [nan, nan]. "
            "Divide by 255, or leave normalisation to load_model(normalize=...).",
        ),
        (
            {"labels": torch.tensor([0.0, 0.7, 1.0])},
            "ImageSet: labels must be (n,) int64; got float32 of shape (3,). Pass one class index per image.",
        ),
        (
            {"labels": torch.tensor([[1, 0], [0, 1], [1, 0]])},
            "ImageSet: labels must be (n,) int64; got int64 of shape (3, 2). Pass one class index per image.",
        ),
    ],
)
def test_a_set_that_cannot_be_is_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=exactly(text)):
        small_set(**changes)


def test_pixels_are_float32_between_0_and_1() -> None:
    images = torch.arange(256, dtype=torch.uint8).view(4, 1, 8, 8)
    data = small_set(images=images, labels=torch.zeros(4, dtype=torch.int64), ids=("a", "b", "c", "d"))
    pixels = data.pixels(slice(0, 4))
    assert pixels.dtype == torch.float32
    assert torch.equal(pixels.flatten(), torch.arange(256) / 255)
    assert torch.equal(images.flatten(), torch.arange(256, dtype=torch.uint8))  # the set itself stays


def test_pixels_of_some_rows_are_those_rows() -> None:
    data = small_set()
    whole = data.pixels(slice(None))
    assert torch.equal(data.pixels(slice(1, 3)), whole[1:3])
    assert torch.equal(data.pixels(torch.tensor([2, 0])), whole[[2, 0]])


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_floating_point_images_come_out_as_they_went_in(dtype: torch.dtype) -> None:
    images = torch.linspace(0, 1, 120).view(3, 2, 4, 5).to(dtype)
    pixels = small_set(images=images).pixels(slice(None))
    assert pixels.dtype == torch.float32
    assert torch.equal(pixels, images.float())


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"images": [[1]]}, "ImageSet: images must be a tensor; got list. Convert it with torch.as_tensor."),
        ({"labels": np.zeros(3)}, "ImageSet: labels must be a tensor; got ndarray. Convert it with torch.as_tensor."),
    ],
)
def test_arrays_that_are_no_tensors_are_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(TypeError, match=exactly(text)):
        small_set(**changes)


@pytest.mark.parametrize(
    ("rows", "kind", "text"),
    [
        ([], ValueError, "there must be images; got no rows. Name at least one."),
        ([0, 3], ValueError, "rows must lie in 0 to 2; got 3. Count rows from 0."),
        ([-1], ValueError, "rows must lie in 0 to 2; got -1. Count rows from 0."),
        ([0.0], TypeError, "rows must be integers, or 3 truth values; got float32 of shape (1,). "),
        (["a"], TypeError, "rows must be integers, or 3 truth values; got ['a']. "),
        (None, TypeError, "rows must be integers, or 3 truth values; got None. "),
        ([True], TypeError, "rows must be integers, or 3 truth values; got bool of shape (1,). "),
        ([[0, 1]], TypeError, "rows must be integers, or 3 truth values; got int64 of shape (1, 2). "),
        ([False, False, False], ValueError, "there must be images; got no rows. Name at least one."),
    ],
    ids=str,
)
def test_rows_that_cannot_be_taken(rows: Any, kind: type[Exception], text: str) -> None:
    advice = "Pass a list of row numbers." if kind is TypeError else ""
    with pytest.raises(kind, match=exactly(f"ImageSet.take: {text}{advice}")):
        small_set().take(rows)


def test_rows_may_be_truth_values() -> None:
    data = small_set()
    assert data.take([True, False, True]).ids == data.take(torch.tensor([True, False, True])).ids == ("a", "c")


def test_take_keeps_images_labels_and_ids_together() -> None:
    data = small_set(labels=torch.tensor([5, 6, 7]), classes=("x",) * 8)
    taken = data.take([2, 0])
    assert torch.equal(taken.images, data.images[[2, 0]])
    assert taken.labels.tolist() == [7, 5]
    assert taken.ids == ("c", "a")
    assert (taken.name, taken.classes) == ("small", data.classes)
    assert taken.digest != data.digest
    assert data.take(torch.tensor([0, 1, 2])).digest == data.digest


# --- The digest -------------------------------------------------------------------------------------------


def test_the_digest_of_equal_sets_is_equal() -> None:
    assert small_set().digest == small_set().digest
    strided = small_set().images.permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2)
    assert not strided.is_contiguous()
    assert small_set(images=strided).digest == small_set().digest


def test_the_digest_sees_order_pixels_ids_labels_type_and_shape() -> None:
    data = small_set()
    one_pixel = data.images.clone()
    one_pixel[2, 1, 3, 4] += 1
    others = [
        data.take([1, 0, 2]),
        dataclasses.replace(data, ids=("b", "a", "c")),
        dataclasses.replace(data, ids=("a", "b", "d")),
        dataclasses.replace(data, images=one_pixel),
        dataclasses.replace(data, labels=torch.tensor([0, 1, 1])),
        dataclasses.replace(data, images=data.images / 255),
        dataclasses.replace(data, images=data.images.view(3, 2, 5, 4)),
        data.take([0, 1]),
    ]
    assert len({data.digest, *(other.digest for other in others)}) == 1 + len(others)


def test_the_digest_is_about_the_samples_and_not_about_their_name() -> None:
    assert small_set(name="another").digest == small_set().digest


# --- The digits -------------------------------------------------------------------------------------------


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise AssertionError("something asked for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.usefixtures("no_network")
def test_the_digits_come_without_a_network_or_a_folder(tmp_path: Path) -> None:
    root = tmp_path / "data"
    sets = {split: load_data("digits", split=split, root=root) for split in ("train", "test", "all")}
    assert {split: len(data) for split, data in sets.items()} == {"train": 1200, "test": 597, "all": 1797}
    assert not root.exists()
    for split, data in sets.items():
        assert data.images.dtype == torch.uint8
        assert data.images.shape[1:] == (1, 8, 8)
        assert data.labels.dtype == torch.int64
        assert set(data.labels.tolist()) == set(range(10))
        assert data.classes == tuple("0123456789")
        assert data.name == f"digits/{split}"
    assert set(sets["train"].ids).isdisjoint(sets["test"].ids)
    assert set(sets["train"].ids) | set(sets["test"].ids) == set(sets["all"].ids)


def test_the_digits_are_scikit_learns() -> None:
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    data = load_data("digits")
    rows = [int(name.removeprefix("digits/")) for name in data.ids]
    assert data.labels.tolist() == bunch.target[rows].tolist()
    expected = torch.tensor(bunch.images[rows]) * 255 / 16  # the scans hold 0 to 16
    assert float((data.images[:, 0] - expected).abs().max()) <= 0.5
    assert int(data.images.min()) == 0
    assert int(data.images.max()) == 255


def test_the_default_split_is_test() -> None:
    assert load_data("digits").digest == load_data("digits", split="test").digest


def test_the_digests_of_the_digits_never_change() -> None:
    # Stored results name these: a change here means that they can no longer be compared.
    assert load_data("digits", split="test").digest[:16] == "b2f79c1424a40446"
    assert load_data("digits", split="train").digest[:16] == "d8e9255802309f51"
    assert load_data("digits", limit=100, seed=1).digest[:16] == "4c5095a73ac90d22"


# --- limit ------------------------------------------------------------------------------------------------


def test_a_limit_keeps_the_classes_in_proportion_and_the_order() -> None:
    whole, part = load_data("digits"), load_data("digits", limit=150)
    assert len(part) == 150
    for label, count in Counter(whole.labels.tolist()).items():
        share = count * 150 / len(whole)
        assert int(share) <= int((part.labels == label).sum()) <= int(share) + 1
    rows = [whole.ids.index(name) for name in part.ids]
    assert rows == sorted(rows)
    assert torch.equal(part.images, whole.images[rows])
    assert torch.equal(part.labels, whole.labels[rows])


def test_the_seed_decides_which_images_a_limit_keeps() -> None:
    first, again = load_data("digits", limit=150, seed=3), load_data("digits", limit=150, seed=3)
    assert first.ids == again.ids
    assert first.digest == again.digest
    assert load_data("digits", limit=150, seed=4).ids != first.ids


@pytest.mark.parametrize("limit", [597, 598, None])
def test_a_limit_that_is_not_smaller_keeps_all(limit: int | None) -> None:
    assert load_data("digits", limit=limit, seed=5).digest == load_data("digits").digest


@pytest.mark.parametrize("limit", [9, 0, -1])
def test_a_limit_below_the_number_of_classes_is_refused(limit: int) -> None:
    text = f"load_data: limit must leave every class an image; got limit={limit} for 10 classes. Raise the limit."
    with pytest.raises(ValueError, match=exactly(text)):
        load_data("digits", limit=limit)


def test_a_limit_of_one_per_class_keeps_one_per_class() -> None:
    assert sorted(load_data("digits", limit=10).labels.tolist()) == list(range(10))


@settings(max_examples=150, deadline=None)
@given(
    counts=st.lists(st.integers(1, 60), min_size=1, max_size=8),
    fraction=st.floats(0, 1),
    seed=st.integers(0, 3),
)
def test_stratified_rows_for_any_class_sizes(counts: list[int], fraction: float, seed: int) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)) * 7 - 3, counts))
    n = len(labels)
    limit = max(len(counts), round(fraction * n))
    rows = stratified_rows(labels, limit=limit, seed=seed)
    assert len(rows) == limit
    assert np.array_equal(rows, np.unique(rows))
    assert rows[0] >= 0
    assert rows[-1] < n
    kept = np.unique(labels[rows], return_counts=True)[1]
    assert len(kept) == len(counts)  # no class is lost
    share = np.array(counts) * limit / n
    if share.min() >= 1:  # otherwise rare classes are raised to one image, at the cost of the others
        assert np.all(np.abs(kept - share) < 1)


# --- Names and arguments ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("cifar-10", "Close matches: cifar10, cifar100"),
        ("fashionmnist", "Close matches: fashion_mnist, mnist"),
        ("zzz", "Known: digits, cifar10, cifar100, mnist, fashion_mnist, svhn, imagefolder:PATH, text:FILE.csv"),
        ("digits:train", "Close matches: digits"),
        ("", "Known: digits, cifar10, cifar100, mnist, fashion_mnist, svhn, imagefolder:PATH, text:FILE.csv"),
    ],
)
def test_an_unknown_name_is_met_with_the_closest_ones(name: str, advice: str) -> None:
    text = f"load_data: name must be a known data set; got {name!r}. {advice}."
    with pytest.raises(ValueError, match=exactly(text)):
        load_data(name)


@pytest.mark.parametrize("name", ["imagefolder", "imagefolder:"])
def test_an_image_folder_needs_a_path(
    name: str, image_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without a path the working directory must not be read, even where it would do.
    monkeypatch.chdir(image_folder({"a/0.png": grey(1), "b/0.png": grey(2)}))
    text = f"load_data: name must be a known data set; got {name!r}. Close matches: imagefolder:PATH."
    with pytest.raises(ValueError, match=exactly(text)):
        load_data(name)


def test_unknown_splits_are_refused() -> None:
    text = "load_data: split must be train, test or all; got 'validation'. Choose one of these."
    with pytest.raises(ValueError, match=exactly(text)):
        load_data("digits", split="validation")
    text = "load_data: split must be train or test; got 'all'. Choose one of these."
    with pytest.raises(ValueError, match=exactly(text)):
        load_data("cifar10", split="all")


def test_size_is_refused_where_it_would_be_ignored() -> None:
    text = (
        "load_data: size is for image folders; got size=16 for digits. "
        "Leave size out, or resize the images of an ImageSet yourself."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        load_data("digits", size=16)


# --- torchvision's sets, from small files in the formats that torchvision reads ----------------------------


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("name", ["cifar10", "cifar100", "mnist", "fashion_mnist", "svhn"])
def test_a_set_that_is_not_on_disk_is_named_and_not_downloaded(name: str, tmp_path: Path) -> None:
    root = tmp_path / "data"
    text = (
        f"load_data: {name} must be on disk; got no {name} under {root}. "
        f"Pass download=True (--download) to fetch it into {root}, or root= (--root) for where it is."
    )
    with pytest.raises(FileNotFoundError, match=exactly(text)):
        load_data(name, root=root)
    assert list(tmp_path.iterdir()) == []


def test_a_download_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision.datasets as sets

    def fail(self: object) -> NoReturn:
        raise RuntimeError("the server is away")

    monkeypatch.setattr(sets.MNIST, "download", fail)
    text = (
        f"load_data: mnist must be on disk; got the server is away. "
        f"Pass download=True (--download) to fetch it into {tmp_path}, or root= (--root) for where it is."
    )
    with pytest.raises(FileNotFoundError, match=exactly(text)):
        load_data("mnist", root=tmp_path, download=True)


def pixel_pattern(n: int, channels: int, side: int, start: int) -> np.ndarray:
    """(n, c, h, w) uint8 in which sample, channel, row and column can be told apart."""
    i, c, h, w = np.ogrid[start : start + n, :channels, :side, :side]
    return ((i * 89 + c * 61 + h * 7 + w) % 256).astype(np.uint8)


def write_cifar(root: Path, folder: str, batches: list[str], meta: tuple[str, str], key: str) -> None:
    (root / folder).mkdir(parents=True)
    for number, name in enumerate(batches):
        pixels = pixel_pattern(2, 3, 32, start=2 * number)
        content = {"data": pixels.reshape(2, -1), key: [(2 * number) % 10, (2 * number + 1) % 10]}
        (root / folder / name).write_bytes(pickle.dumps(content))
    (root / folder / meta[0]).write_bytes(pickle.dumps({meta[1]: [f"class {k}" for k in range(10)]}))


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_cifar_files_are_read(name: str, split: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # torchvision knows the MD5 of the real files; ours are two images each.
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, md5: Path(path).is_file())
    if name == "cifar10":
        batches = [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]
        write_cifar(tmp_path, "cifar-10-batches-py", batches, ("batches.meta", "label_names"), "labels")
        start, n = (0, 10) if split == "train" else (10, 2)
    else:
        write_cifar(tmp_path, "cifar-100-python", ["train", "test"], ("meta", "fine_label_names"), "fine_labels")
        start, n = (0, 2) if split == "train" else (2, 2)
    data = load_data(name, split=split, root=tmp_path)
    assert data.images.dtype == torch.uint8
    assert np.array_equal(data.images.numpy(), pixel_pattern(n, 3, 32, start))
    assert data.labels.dtype == torch.int64
    assert data.labels.tolist() == [k % 10 for k in range(start, start + n)]
    assert data.ids == tuple(f"{name}/{split}/{i:05d}" for i in range(n))
    assert data.name == f"{name}/{split}"
    assert data.classes == tuple(f"class {k}" for k in range(10))


def idx_file(array: np.ndarray) -> bytes:
    """The IDX format: two zero bytes, 8 for unsigned bytes, the number of axes, their lengths, the bytes."""
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes() + array.tobytes()


@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
@pytest.mark.parametrize("split", ["train", "test"])
def test_mnist_files_are_read(name: str, folder: str, split: str, tmp_path: Path) -> None:
    raw = tmp_path / folder / "raw"
    raw.mkdir(parents=True)
    for prefix, n, start in (("train", 5, 0), ("t10k", 3, 5)):
        pixels = pixel_pattern(n, 1, 28, start)[:, 0]
        labels = (np.arange(start, start + n) % 10).astype(np.uint8)
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(idx_file(pixels))
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(idx_file(labels))
    data = load_data(name, split=split, root=tmp_path)
    start, n = (0, 5) if split == "train" else (5, 3)
    assert data.images.dtype == torch.uint8
    assert np.array_equal(data.images.numpy(), pixel_pattern(n, 1, 28, start))
    assert data.labels.dtype == torch.int64
    assert data.labels.tolist() == list(range(start, start + n))
    assert data.ids == tuple(f"{name}/{split}/{i:05d}" for i in range(n))
    assert len(data.classes) == 10


@pytest.mark.parametrize("split", ["train", "test"])
def test_svhn_files_are_read(split: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import scipy.io

    monkeypatch.setattr("torchvision.datasets.svhn.check_integrity", lambda path, md5: Path(path).is_file())
    pixels = pixel_pattern(4, 3, 32, start=0)
    stored = {"X": pixels.transpose(2, 3, 1, 0), "y": np.array([[1], [10], [9], [2]], np.uint8)}
    scipy.io.savemat(tmp_path / f"{split}_32x32.mat", stored)
    data = load_data("svhn", split=split, root=tmp_path)
    assert data.images.dtype == torch.uint8
    assert np.array_equal(data.images.numpy(), pixels)
    assert data.labels.dtype == torch.int64
    assert data.labels.tolist() == [1, 0, 9, 2]  # the files write the digit 0 as 10
    assert data.ids == tuple(f"svhn/{split}/{i:05d}" for i in range(4))


# --- Image folders ----------------------------------------------------------------------------------------


def grey(value: int, width: int = 6, height: int = 4) -> Image.Image:
    return Image.fromarray(np.full((height, width), value, np.uint8))


def colour(value: tuple[int, int, int], width: int = 6, height: int = 4) -> Image.Image:
    return Image.fromarray(np.full((height, width, 3), value, np.uint8))


@pytest.fixture
def image_folder(tmp_path: Path) -> Callable[..., Path]:
    """Writes images, or bytes, under their names into a new folder."""

    def write(files: dict[str, Image.Image | bytes], name: str = "images") -> Path:
        for file, content in files.items():
            path = tmp_path / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                path.write_bytes(content)
            else:
                content.save(path)
        return tmp_path / name

    return write


@pytest.fixture
def no_decoding(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def stop() -> None:
        def refuse(*_: Any, **__: Any) -> NoReturn:
            raise AssertionError("an image was decoded")

        monkeypatch.setattr(Image, "open", refuse)

    return stop


def read(folder: Path, **options: Any) -> ImageSet:
    return load_data(f"imagefolder:{folder}", root=folder.parent / "data", **options)


def cache_files(folder: Path) -> list[Path]:
    return sorted((folder.parent / "data" / "decoded").iterdir())


def test_classes_are_numbered_in_the_order_of_their_names(image_folder: Callable[..., Path]) -> None:
    folder = image_folder(
        {"b/2.png": grey(3), "b/10.png": grey(2), "a/x.png": grey(1), "c/y.PNG": grey(4), "a/notes.txt": b"-"}
    )
    data = read(folder)
    assert data.classes == ("a", "b", "c")
    assert data.ids == ("a/x.png", "b/10.png", "b/2.png", "c/y.PNG")
    assert data.labels.tolist() == [0, 1, 1, 2]
    assert data.labels.dtype == torch.int64
    assert data.images[:, 0, 0, 0].tolist() == [1, 2, 3, 4]
    assert data.name == f"imagefolder:{folder}"


def test_ids_and_digest_do_not_depend_on_where_the_folder_is(image_folder: Callable[..., Path]) -> None:
    files = {"a/0.png": grey(1), "b/0.png": grey(2)}
    one, two = read(image_folder(files, "one")), read(image_folder(files, "two"))
    assert one.ids == two.ids
    assert one.digest == two.digest


def test_grey_images_have_one_channel_and_colour_ones_three(image_folder: Callable[..., Path]) -> None:
    images = read(image_folder({"a/0.png": grey(7), "b/0.png": grey(8)}, "grey")).images
    assert images.shape == (2, 1, 4, 6)
    assert images.dtype == torch.uint8
    images = read(image_folder({"a/0.png": colour((1, 2, 3)), "b/0.png": grey(8)}, "mixed")).images
    assert images.shape == (2, 3, 4, 6)
    assert images[:, :, 0, 0].tolist() == [[1, 2, 3], [8, 8, 8]]


def test_every_pixel_stands_where_it_stood(image_folder: Callable[..., Path]) -> None:
    pixels = pixel_pattern(3, 3, 9, start=0)[:, :, :5]  # higher than wide would hide a swapped axis
    files = {f"a/{i}.png": Image.fromarray(p.transpose(1, 2, 0)) for i, p in enumerate(pixels)}
    assert np.array_equal(read(image_folder(files)).images.numpy(), pixels)


def test_black_and_white_palette_and_transparent_images_are_read(image_folder: Callable[..., Path]) -> None:
    transparent = Image.fromarray(np.full((4, 6, 4), (1, 2, 3, 255), np.uint8))
    files = {
        "a/0.png": Image.fromarray(np.array([[0, 255] * 3] * 4, np.uint8)).convert("1"),
        "a/1.png": colour((9, 8, 7)).convert("P", palette=Image.Palette.ADAPTIVE),
        "a/2.png": transparent,
    }
    images = read(image_folder(files)).images
    assert images[:, :, 0, 1].tolist() == [[255, 255, 255], [9, 8, 7], [1, 2, 3]]


def test_images_of_16_bits_are_scaled_and_not_cut_off(image_folder: Callable[..., Path]) -> None:
    deep = Image.fromarray(np.full((4, 6), 100 * 257, np.uint16))  # 100 of 255, as 16 bits write it
    data = read(image_folder({"a/0.png": deep, "a/1.png": grey(100)}))
    assert data.images[:, 0, 0, 0].tolist() == [100, 100]


def test_hidden_files_and_folders_are_not_read(image_folder: Callable[..., Path]) -> None:
    # Archives made on a Mac carry such files beside each image.
    folder = image_folder({"a/0.png": grey(1), "a/._0.png": b"\0\5\26\7", ".git/x.png": grey(2)})
    data = read(folder)
    assert data.ids == ("a/0.png",)
    assert data.classes == ("a",)


def test_a_split_is_a_subfolder(image_folder: Callable[..., Path]) -> None:
    folder = image_folder({"train/a/0.png": grey(1), "test/a/0.png": grey(2)})
    assert read(folder, split="train").images.unique().tolist() == [1]
    assert read(folder, split="test").images.unique().tolist() == [2]


def test_only_the_images_that_a_limit_keeps_are_decoded(image_folder: Callable[..., Path]) -> None:
    files: dict[str, Image.Image | bytes] = {f"{c}/{i}.png": b"damaged" for c in "ab" for i in range(4)}
    folder = image_folder(files)
    labels = np.repeat([0, 1], 4)
    for row in stratified_rows(labels, limit=2, seed=0):
        grey(int(row)).save(folder / list(files)[row])
    data = read(folder, limit=2)
    assert data.labels.tolist() == [0, 1]
    assert data.images[:, 0, 0, 0].tolist() == stratified_rows(labels, limit=2, seed=0).tolist()


# The cache of decoded images ------------------------------------------------------------------------------


def test_a_second_load_does_not_decode(image_folder: Callable[..., Path], no_decoding: Callable[[], None]) -> None:
    folder = image_folder({"a/0.png": colour((1, 2, 3)), "b/0.png": grey(4)})
    first = read(folder)
    no_decoding()
    second = read(folder)
    assert second.digest == first.digest
    assert (second.ids, second.classes, second.name) == (first.ids, first.classes, first.name)
    assert len(cache_files(folder)) == 1


def mapped_files() -> str:
    """What this process has mapped into memory."""
    return Path("/proc/self/maps").read_text()


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="no list of what is mapped")
def test_many_pixels_stay_in_their_file(
    image_folder: Callable[..., Path], no_decoding: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = image_folder({"a/0.png": grey(7), "a/1.png": colour((1, 2, 3)), "b/0.png": grey(4)})
    expected = read(folder)
    (file,) = cache_files(folder)
    assert str(file) not in mapped_files()
    content = file.read_bytes()
    file.unlink()
    for place in ("decoding", "decoded_cache"):
        monkeypatch.setattr(f"repsim.data.{place}.MANY", 20)
    # Decoded pixels would not fit into memory.
    monkeypatch.setattr("repsim.numerics.memory.available_memory", lambda: 20)
    first = read(folder)
    assert str(file) in mapped_files()
    assert file.read_bytes() == content
    no_decoding()
    for data in (first, read(folder)):
        assert torch.equal(data.images, expected.images)
        assert data.digest == expected.digest
    first.images.zero_()
    assert file.read_bytes() == content
    assert cache_files(folder) == [file]


def test_many_pixels_take_memory_where_the_disk_has_no_room(
    image_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = image_folder({"a/0.png": grey(7), "b/0.png": grey(4)})
    expected = read(folder)
    monkeypatch.setattr("repsim.data.decoding.MANY", 20)

    def full(*_: Any) -> NoReturn:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    cache_files(folder)[0].unlink()
    assert read(folder).digest == expected.digest


def test_a_changed_file_is_decoded_again(image_folder: Callable[..., Path]) -> None:
    folder = image_folder({"a/0.bmp": grey(1), "b/0.bmp": grey(2)})
    before = read(folder)
    size = (folder / "a/0.bmp").stat().st_size
    grey(9).save(folder / "a/0.bmp")
    os.utime(folder / "a/0.bmp", (1, 1))
    assert (folder / "a/0.bmp").stat().st_size == size  # the time alone tells
    after = read(folder)
    assert before.images[:, 0, 0, 0].tolist() == [1, 2]
    assert after.images[:, 0, 0, 0].tolist() == [9, 2]
    assert after.digest != before.digest


def test_a_new_a_renamed_and_a_removed_file_are_seen(image_folder: Callable[..., Path]) -> None:
    folder = image_folder({"a/0.png": grey(1), "b/0.png": grey(2)})
    assert len(read(folder)) == 2
    image_folder({"b/1.png": grey(3)})
    assert read(folder).images[:, 0, 0, 0].tolist() == [1, 2, 3]
    image_folder({"a/1.png": grey(4)})
    (folder / "a/0.png").rename(folder / "b/2.png")
    assert read(folder).images[:, 0, 0, 0].tolist() == [4, 2, 3, 1]
    (folder / "b/0.png").unlink()
    assert read(folder).images[:, 0, 0, 0].tolist() == [4, 3, 1]


def test_another_size_or_limit_is_not_read_from_the_same_cache(image_folder: Callable[..., Path]) -> None:
    folder = image_folder({"a/0.png": grey(1), "a/1.png": grey(2)})
    assert read(folder).images.shape == (2, 1, 4, 6)
    assert read(folder, size=3).images.shape == (2, 1, 3, 3)
    assert read(folder, size=2).images.shape == (2, 1, 2, 2)
    kept = {read(folder, limit=1, seed=seed).ids for seed in range(8)}
    assert kept == {("a/0.png",), ("a/1.png",)}
    for seed in range(8):
        data = read(folder, limit=1, seed=seed)
        assert data.images[:, 0, 0, 0].tolist() == [1 + int(data.ids[0][2])]


def npy_bytes(folder: Path, array: np.ndarray) -> bytes:
    np.save(folder / "other.npy", array)
    return (folder / "other.npy").read_bytes()


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda content, tmp: b"", id="empty"),
        pytest.param(lambda content, tmp: content[: len(content) // 2], id="cut short"),
        pytest.param(lambda content, tmp: b"\0" * len(content), id="zeros"),
        pytest.param(lambda content, tmp: b"PK\3\4" + content, id="zip"),
        pytest.param(lambda content, tmp: pickle.dumps([1, 2]), id="pickle"),
        pytest.param(lambda content, tmp: npy_bytes(tmp, np.zeros((5, 1, 4, 6), np.uint8)), id="more rows"),
        pytest.param(lambda content, tmp: npy_bytes(tmp, np.zeros((2, 24), np.uint8)), id="other axes"),
        pytest.param(lambda content, tmp: npy_bytes(tmp, np.zeros((2, 1, 4, 6))), id="other type"),
    ],
)
def test_a_damaged_cache_is_replaced(
    damage: Callable[[bytes, Path], bytes],
    image_folder: Callable[..., Path],
    no_decoding: Callable[[], None],
    tmp_path: Path,
) -> None:
    folder = image_folder({"a/0.png": grey(1), "b/0.png": grey(2)})
    first = read(folder)
    (cached,) = cache_files(folder)
    cached.write_bytes(damage(cached.read_bytes(), tmp_path))
    with pytest.warns(CautionWarning, match=r"\.decoded did not hold what was written to it \(.*\): the images are"):
        assert read(folder).digest == first.digest
    assert cache_files(folder) == [cached]
    no_decoding()
    assert read(folder).digest == first.digest


def test_a_cache_that_cannot_be_written_does_no_harm(image_folder: Callable[..., Path]) -> None:
    folder = image_folder({"a/0.png": grey(1), "b/0.png": grey(2)})
    (folder.parent / "data").write_text("a file where the cache's folder should be")
    first, second = read(folder), read(folder)
    assert first.images[:, 0, 0, 0].tolist() == [1, 2]
    assert first.digest == second.digest
    assert (folder.parent / "data").read_text() == "a file where the cache's folder should be"


def test_a_full_disk_leaves_no_half_cache(image_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(stream: IO[bytes], images: np.ndarray) -> NoReturn:
        stream.write(b"half")
        raise OSError(28, "No space left on device")

    folder = image_folder({"a/0.png": grey(1), "b/0.png": grey(2)})
    monkeypatch.setattr(np, "save", fail)
    assert read(folder).images[:, 0, 0, 0].tolist() == [1, 2]
    assert cache_files(folder) == []


def test_a_change_that_keeps_size_and_time_is_seen(image_folder: Callable[..., Path]) -> None:
    folder = image_folder({"a/0.bmp": grey(1), "b/0.bmp": grey(2)})
    path = folder / "a/0.bmp"
    read(folder)
    times = path.stat()
    grey(9).save(path)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert read(folder).images[:, 0, 0, 0].tolist() == [9, 2]
    grey(7).save(folder / "other.bmp")
    os.utime(folder / "other.bmp", ns=(times.st_atime_ns, times.st_mtime_ns))
    (folder / "other.bmp").replace(path)
    assert read(folder).images[:, 0, 0, 0].tolist() == [7, 2]


@pytest.mark.parametrize("place", [0, 30, 100, 200, -1])
def test_every_byte_of_the_cache_is_checked(place: int, image_folder: Callable[..., Path]) -> None:
    folder = image_folder({"a/0.png": grey(1), "b/0.png": grey(2)})
    first = read(folder)
    (cached,) = cache_files(folder)
    content = bytearray(cached.read_bytes())
    content[place] ^= 1
    cached.write_bytes(bytes(content))
    with pytest.warns(CautionWarning, match="the images are decoded anew"):
        assert read(folder).digest == first.digest
    assert read(folder).digest == first.digest


def test_without_a_root_the_cache_is_the_users_own(
    image_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    folder = image_folder({"a/0.png": grey(1), "b/0.png": grey(2)})
    load_data(f"imagefolder:{folder}")
    assert [path.suffix for path in (tmp_path / "cache" / "repsim" / "decoded").iterdir()] == [".decoded"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "images"]


def test_the_cache_is_shown_and_cleared(image_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    folder = image_folder({"a/0.png": grey(1), "b/0.png": grey(2)})
    read(folder)
    (cached,) = cache_files(folder)
    (cached.parent / "mine.txt").write_text("not ours")
    root = str(folder.parent / "data")
    assert main(["cache", "--root", root]) == 0
    assert capsys.readouterr().out == f"1 sets of decoded images, 0.0 MiB, in {cached.parent}\n"
    assert main(["cache", "--root", root, "--clear"]) == 0
    assert capsys.readouterr().out == f"1 sets of decoded images, 0.0 MiB, removed from {cached.parent}\n"
    assert [path.name for path in cached.parent.iterdir()] == ["mine.txt"]
    assert main(["cache", "--root", str(folder / "nowhere")]) == 0


def test_another_users_cache_is_passed_over(image_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = image_folder({"a/0.png": grey(1), "b/0.png": grey(2)})
    first = read(folder)
    (cached,) = cache_files(folder)
    before = cached.read_bytes()
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert read(folder).digest == first.digest
    assert cached.read_bytes() == before


def test_decoding_asks_for_room_before(image_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = image_folder({"a/0.png": grey(1), "b/0.png": grey(2)})
    monkeypatch.setattr("repsim.numerics.memory.available_memory", lambda: 47)
    text = (
        "load_data: 2 decoded images must fit into memory; got 0.0 GiB with 0.0 GiB free. "
        "Pass a smaller size= or limit=."
    )
    with pytest.raises(MemoryError, match=exactly(text)):
        read(folder)


# What is wrong with a folder ------------------------------------------------------------------------------


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    text = (
        f"load_data: the image folder must exist; got {tmp_path / 'images'}. "
        "Name a folder that holds one folder per class."
    )
    with pytest.raises(FileNotFoundError, match=exactly(text)):
        read(tmp_path / "images")


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({}, "none"),
        ({"loose.png": grey(1)}, "none"),
        ({"a/notes.txt": b"x", "b/deeper/0.txt": b"x"}, "a, b"),
        ({f"{c}/x.txt": b"x" for c in "abcdef"}, "a, b, c, d, … (2 more)"),
    ],
)
def test_a_folder_without_images_in_class_folders_is_named(
    files: dict[str, Any], found: str, image_folder: Callable[..., Path], tmp_path: Path
) -> None:
    image_folder(files)
    folder = tmp_path / "images"
    folder.mkdir(exist_ok=True)
    text = (
        f"load_data: the image folder must hold images in class folders; got {folder} with the folders {found} "
        "and no image in them. Put the images into one folder per class, as folder/class/image.jpg."
    )
    with pytest.raises(FileNotFoundError, match=exactly(text)):
        read(folder)


def test_a_text_file_named_jpg_is_named(image_folder: Callable[..., Path]) -> None:
    folder = image_folder({"a/0.png": grey(1), "a/1.jpg": b"<html>not found</html>"})
    path = folder / "a" / "1.jpg"
    text = (
        f"load_data: every file must be a readable image; got {path} (cannot identify image file '{path}'). "
        "Repair or remove the file."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        read(folder)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_an_image_that_stops_halfway_is_named(suffix: str, image_folder: Callable[..., Path]) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    folder = image_folder({f"a/0.{suffix}": noise})
    path = folder / "a" / f"0.{suffix}"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"\Aload_data: every file must be a readable image; got ") as error:
        read(folder)
    assert str(error.value).startswith(
        f"load_data: every file must be a readable image; got {path} (image file is truncated"
    )
    assert str(error.value).endswith("). Repair or remove the file.")
    assert not (folder.parent / "data" / "decoded").exists()


def test_unequal_sizes_are_named(image_folder: Callable[..., Path]) -> None:
    files = {"a/0.png": grey(1, 6, 4), "a/1.png": grey(1, 4, 6), "b/0.png": grey(1, 6, 4)}
    text = (
        "load_data: all images must have one size; got 6×4, 4×6. "
        "Pass size=224, say, to resize the shorter side and crop the centre."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        read(image_folder(files))


def test_size_crops_the_centre(image_folder: Callable[..., Path]) -> None:
    columns = np.tile(np.arange(16, dtype=np.uint8) * 10, (8, 1))
    wide, high = Image.fromarray(columns), Image.fromarray(np.ascontiguousarray(columns.T))
    images = read(image_folder({"a/0.png": wide, "a/1.png": high}), size=8).images
    assert images.shape == (2, 1, 8, 8)
    assert np.array_equal(images[0, 0].numpy(), columns[:, 4:12])
    assert np.array_equal(images[1, 0].numpy(), columns.T[4:12])


def test_size_resizes_the_shorter_side_first(image_folder: Callable[..., Path]) -> None:
    halves = np.zeros((8, 32, 3), np.uint8)
    halves[:, 16:] = (200, 100, 50)
    folder = image_folder({"a/0.png": Image.fromarray(halves), "a/1.png": colour((5, 6, 7), 3, 5)})
    images = read(folder, size=4).images  # 8×32 becomes 4×16, of which columns 6 to 9 are kept
    assert images.shape == (2, 3, 4, 4)
    assert images[0, :, :, 0].unique().tolist() == [0]
    assert images[0, :, 0, 3].tolist() == [200, 100, 50]
    assert images[1, :, 2, 2].tolist() == [5, 6, 7]


# --- Sets of the user's own -----------------------------------------------------------------------------------


@pytest.fixture
def own_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = (
        "import torch\nfrom repsim import ImageSet\n"
        "def bars(split):\n"
        "    images = torch.zeros(12, 1, 8, 8, dtype=torch.uint8)\n"
        "    images[::2, :, 4] = images[1::2, :, :, 4] = 255\n"
        "    ids = tuple(f'bars/{split}/{i}' for i in range(12))\n"
        "    return ImageSet(images, torch.arange(12) % 2, ids, f'bars/{split}')\n"
        "def nothing(split):\n    return [split]\n"
        "number = 3\n"
    )
    (tmp_path / "sets_of_a_user.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "sets_of_a_user", raising=False)


def test_a_function_of_one_s_own_is_a_set(own_sets: None) -> None:
    data = load_data("sets_of_a_user:bars", split="train", limit=4)
    assert (data.name, len(data), sorted(data.labels.tolist())) == ("bars/train", 4, [0, 0, 1, 1])
    assert load_data("sets_of_a_user:bars").name == "bars/test"


OWN = {
    "sets_of_a_user:nothing": (
        TypeError,
        "sets_of_a_user:nothing must give an ImageSet; got list. Return ImageSet(images, labels, ids, name).",
    ),
    "sets_of_a_user:number": (
        ValueError,
        "sets_of_a_user:number must be a function split -> ImageSet; got int. Name a function.",
    ),
    "sets_of_a_user:none": (
        ValueError,
        "package.module:function must exist; got 'sets_of_a_user:none' (module 'sets_of_a_user' has no attribute "
        "'none'). Check the name; the module must be importable from where you run.",
    ),
    "digit:some/where": (
        ValueError,
        "the name must be known; got 'digit'. Close matches: digits, mnist.",
    ),
}


@pytest.mark.parametrize("name", OWN)
def test_functions_that_give_no_set(own_sets: None, name: str) -> None:
    error, text = OWN[name]
    with pytest.raises(error, match=exactly(f"load_data: {text}")):
        load_data(name)


def test_a_size_is_for_folders_alone(own_sets: None) -> None:
    text = (
        "load_data: size is for image folders; got size=8 for sets_of_a_user:bars. "
        "Leave size out, or resize the images of an ImageSet yourself."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        load_data("sets_of_a_user:bars", size=8)
