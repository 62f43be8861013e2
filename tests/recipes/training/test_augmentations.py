"""Augmentations by name: what each does to each image, what is random about it, and what is refused."""

import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from repsim.recipes.training.augmentations import AUGMENTATIONS, amount, augmentation
from tests.conftest import exactly

#: Those that stay in [0, 1].
INSIDE = sorted(name for name, made in AUGMENTATIONS.items() if made.inside)
MINE = "augmentations_of_a_user"


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(n: int = 12, channels: int = 3, height: int = 8, width: int = 8) -> Tensor:
    """Grey levels of 256, away from black."""
    x = torch.randint(50, 256, (n, channels, height, width), generator=stream(9))
    return x.float() / 255


@pytest.fixture
def mine(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A module of the user's own, empty."""
    module = types.ModuleType(MINE)
    monkeypatch.setitem(sys.modules, MINE, module)
    return module


# --- All of them ----------------------------------------------------------------------------------------------


def test_every_augmentation_of_the_list_is_there() -> None:
    assert set(AUGMENTATIONS) == {
        *("crop", "flip", "flip_crop", "vertical_flip", "shift", "rotation", "cutout", "random_erasing", "blur"),
        *("gaussian_noise", "color_jitter", "randaugment", "trivialaugment", "augmix"),
    }


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", sorted(AUGMENTATIONS))
def test_images_keep_shape_type_and_range_and_change(name: str, channels: int) -> None:
    for height, width in ((8, 8), (20, 16)):
        x = pictures(16, channels, height, width)
        before = x.clone()
        found = augmentation(name)(x, stream())
        assert torch.equal(x, before)
        assert (found.shape, found.dtype) == (x.shape, torch.float32)
        assert found.is_contiguous()
        assert bool(torch.isfinite(found).all())
        changed = [not torch.equal(found[i], x[i]) for i in range(16)]
        assert sum(changed) >= 3
        if name in INSIDE:
            assert 0 <= float(found.min()) <= float(found.max()) <= 1


@pytest.mark.parametrize("name", sorted(AUGMENTATIONS))
def test_the_generator_alone_decides(name: str) -> None:
    x, change = pictures(), augmentation(name)
    torch.manual_seed(1)
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].tolist()  # type: ignore[index, union-attr]
    first = change(x, stream())
    assert torch.equal(torch.get_rng_state(), state)
    assert np.random.get_state()[1].tolist() == numpy_state  # type: ignore[index, union-attr]
    torch.manual_seed(2)
    assert torch.equal(change(x, stream()), first)
    assert any(not torch.equal(change(x, stream(seed)), first) for seed in range(1, 6))
    generator = stream()
    change(x, generator)
    assert not torch.equal(generator.get_state(), stream().get_state())


@pytest.mark.parametrize("name", sorted(set(AUGMENTATIONS) - {"shift"}))
def test_each_image_has_draws_of_its_own(name: str) -> None:
    x = pictures(1).expand(24, -1, -1, -1)
    assert len({image.numpy().tobytes() for image in augmentation(name)(x, stream())}) > 1


@pytest.mark.parametrize("name", sorted(n for n, made in AUGMENTATIONS.items() if made.unit))
def test_an_amount_of_nothing_changes_nothing(name: str) -> None:
    x = pictures()
    assert augmentation(f"{name}:0")(x, stream()) is x


@pytest.mark.parametrize(
    ("name", "transform", "made_with", "grey_levels"),
    [
        ("random_erasing", "RandomErasing", {}, False),
        ("blur:1", "GaussianBlur", {"kernel_size": 7, "sigma": (0.05, 1.0)}, False),
        ("blur", "GaussianBlur", {"kernel_size": 13, "sigma": (0.1, 2.0)}, False),
        ("blur:9", "GaussianBlur", {"kernel_size": 15, "sigma": (0.45, 9.0)}, False),
        ("rotation:40", "RandomRotation", {"degrees": 40, "interpolation": 2}, False),
        (
            "color_jitter:0.8",
            "ColorJitter",
            {"brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2},
            False,
        ),
        ("randaugment", "RandAugment", {}, True),
        ("trivialaugment", "TrivialAugmentWide", {}, True),
        ("augmix", "AugMix", {}, True),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_torchvisions_transforms_are_called_image_by_image(
    name: str, transform: str, made_with: dict[str, Any], grey_levels: bool, channels: int
) -> None:
    from torchvision.transforms import v2

    if "interpolation" in made_with:
        made_with = {**made_with, "interpolation": v2.InterpolationMode.BILINEAR}
    x = pictures(channels=channels)
    found = augmentation(name)(x, stream(5))
    with torch.random.fork_rng():
        torch.manual_seed(int(torch.randint(2**62, (), generator=stream(5))))
        change = getattr(v2, transform)(**made_with)
        given = (x * 255).round().to(torch.uint8) if grey_levels else x
        wanted = torch.stack([change(image) for image in given])
    torch.testing.assert_close(found, wanted.float() / 255 if grey_levels else wanted, atol=1e-6, rtol=0)


@settings(max_examples=25, deadline=None)
@given(
    names=st.lists(st.sampled_from(["none", *INSIDE, "crop:1", "rotation:90", "cutout:1"]), max_size=3),
    noise=st.booleans(),
    shape=st.tuples(st.integers(1, 3), st.sampled_from([1, 3]), st.integers(4, 9), st.integers(4, 9)),
    level=st.sampled_from([0.0, 0.3, 1.0]),
)
def test_any_composition_gives_images(names: list[str], noise: bool, shape: tuple[int, ...], level: float) -> None:
    x = torch.full(shape, level)
    found = augmentation("+".join([*names, "gaussian_noise:0.2"] if noise else names or ["none"]))(x, stream())
    assert found.shape == x.shape
    assert bool(torch.isfinite(found).all())
    assert noise or 0 <= float(found.min()) <= float(found.max()) <= 1


def test_steps_go_from_left_to_right_and_nothing_is_nothing() -> None:
    x = pictures()
    generator = stream()
    wanted = augmentation("cutout")(augmentation("flip")(x, generator), generator)
    assert torch.equal(augmentation("flip+cutout")(x, stream()), wanted)
    assert torch.equal(augmentation("none+flip+none+cutout")(x, stream()), wanted)
    assert augmentation("none")(x, stream()) is x


# --- One by one -----------------------------------------------------------------------------------------------


def test_vertical_mirrors_are_half_of_the_images() -> None:
    x = pictures(200, 1, 3, 4)
    found = augmentation("vertical_flip")(x, stream())
    mirrored = [torch.equal(found[i], x[i].flip(1)) for i in range(200)]
    assert all(m or torch.equal(found[i], x[i]) for i, m in enumerate(mirrored))
    assert 70 < sum(mirrored) < 130


def test_mirrored_crops_are_crops_of_mirror_images() -> None:
    x = pictures()
    generator = stream()
    wanted = augmentation("crop:2")(augmentation("flip")(x, generator), generator)
    assert torch.equal(augmentation("flip_crop:2")(x, stream()), wanted)


def test_a_shift_moves_the_whole_batch_by_one_step() -> None:
    x, places = pictures(3, 2, 5, 6), set()
    padded = F.pad(x, (2, 2, 2, 2))
    for seed in range(400):
        found = augmentation("shift:2")(x, stream(seed))
        at = [(r, c) for r in range(5) for c in range(5) if torch.equal(padded[..., r : r + 5, c : c + 6], found)]
        assert len(at) == 1
        places |= set(at)
    assert places == {(r, c) for r in range(5) for c in range(5)}


@pytest.mark.parametrize(("share", "side"), [(0.5, 4), (0.3, 2), (0.01, 1), (1, 8)])
def test_cutout_blackens_a_square_around_any_pixel(share: float, side: int) -> None:
    x = torch.ones(400, 2, 8, 10)
    found = augmentation(f"cutout:{share}")(x, stream())
    possible = set()
    for row in range(8):
        for column in range(10):
            image = np.ones((8, 10))
            top, left = row - side // 2, column - side // 2
            image[max(0, top) : top + side, max(0, left) : left + side] = 0
            possible.add(image.astype(np.float32).tobytes())
    seen = {image.numpy().tobytes() for image in found[:, 0].contiguous()}
    assert torch.equal(found[:, 0], found[:, 1])
    assert seen <= possible
    assert len(seen) > 0.8 * len(possible)


def test_noise_has_its_deviation_and_leaves_the_range_of_pixels() -> None:
    x = torch.full((50, 1, 20, 20), 0.9)
    added = augmentation("gaussian_noise:0.25")(x, stream()) - x
    assert float(added.std()) == pytest.approx(0.25, rel=0.02)
    assert float(added.mean()) == pytest.approx(0, abs=0.01)
    assert float((added + x).max()) > 1


# --- A user's own ---------------------------------------------------------------------------------------------


def test_a_function_of_ones_own_is_called_with_images_and_generator(mine: types.ModuleType) -> None:
    def darker(x: Tensor, generator: torch.Generator) -> Tensor:
        return x * torch.rand(len(x), 1, 1, 1, generator=generator)

    mine.darker = darker  # type: ignore[attr-defined]
    mine.inner = types.SimpleNamespace(darker=darker)  # type: ignore[attr-defined]
    x = pictures()
    found = augmentation(f"{MINE}:darker")(x, stream())
    assert torch.equal(found, augmentation(f"{MINE}:inner.darker")(x, stream()))
    assert float(found.max()) < float(x.max())
    generator = stream()
    wanted = augmentation(f"{MINE}:darker")(augmentation("flip")(x, generator), generator)
    assert torch.equal(augmentation(f"flip+{MINE}:darker")(x, stream()), wanted)


def test_what_it_draws_from_the_global_generator_depends_on_the_given_one(mine: types.ModuleType) -> None:
    mine.fade = lambda x, generator: x * torch.rand(len(x), 1, 1, 1)  # type: ignore[attr-defined]
    x, change = pictures(), augmentation(f"{MINE}:fade")
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first = change(x, stream())
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(4)
    assert torch.equal(change(x, stream()), first)
    assert not torch.equal(change(x, stream(1)), first)


def test_rounding_is_cut_off(mine: types.ModuleType) -> None:
    mine.up = lambda x, generator: x + 1e-6  # type: ignore[attr-defined]
    x = torch.ones(2, 1, 3, 3)
    assert torch.equal(augmentation(f"{MINE}:up")(x, stream()), x)


SAME = "must return images as it got them, float32 of shape (4, 1, 3, 3)"


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (
            lambda x, g: x[:, :, :-1],
            f"{SAME}; got float32 of shape (4, 1, 2, 3). Return one image for each, of the same size and type.",
        ),
        (
            lambda x, g: x[:2],
            f"{SAME}; got float32 of shape (2, 1, 3, 3). Return one image for each, of the same size and type.",
        ),
        (
            lambda x, g: (x * 255).to(torch.uint8),
            f"{SAME}; got uint8 of shape (4, 1, 3, 3). Return one image for each, of the same size and type.",
        ),
        (lambda x, g: None, f"{SAME}; got NoneType. Return one image for each, of the same size and type."),
        (
            lambda x, g: x.numpy(),
            f"{SAME}; got ndarray. Return one image for each, of the same size and type.",
        ),
        (
            lambda x, g: x / 0 * 0,
            "must return finite pixels in [0, 1]; got [nan, nan]. Clamp them where that is meant.",
        ),
        (
            lambda x, g: x / 0,
            "must return finite pixels in [0, 1]; got [inf, inf]. Clamp them where that is meant.",
        ),
        (
            lambda x, g: x * 255,
            "must return finite pixels in [0, 1]; got [127.5, 127.5]. Clamp them where that is meant.",
        ),
        (
            lambda x, g: x - 1,
            "must return finite pixels in [0, 1]; got [-0.5, -0.5]. Clamp them where that is meant.",
        ),
    ],
)
def test_what_is_no_image_any_more_is_refused_by_name(
    function: Callable[..., Any], text: str, mine: types.ModuleType
) -> None:
    mine.bad = function  # type: ignore[attr-defined]
    x = torch.full((4, 1, 3, 3), 0.5)
    with pytest.raises(ValueError, match=exactly(f"augmentation: {MINE}:bad {text}")):
        augmentation(f"flip+{MINE}:bad")(x, stream())


@pytest.mark.parametrize("name", ["color_jitter", "randaugment", "trivialaugment", "augmix"])
def test_colour_operations_need_grey_or_colour_images(name: str) -> None:
    text = f"augmentation: {name} needs images of 1 or 3 channels; got 4. Choose another augmentation."
    with pytest.raises(ValueError, match=exactly(text)):
        augmentation(name)(pictures(channels=4), stream())


# --- What is no augmentation ----------------------------------------------------------------------------------


KNOWN = (
    "none, crop, flip, flip_crop, vertical_flip, shift, cutout, random_erasing, gaussian_noise, blur, rotation, "
    "color_jitter, … (4 more)"
)
IMPORTABLE = "Check the name; the module must be importable from where you run."


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("flp", "the name must be known; got 'flp'. Close matches: flip, flip_crop."),
        ("zzz", f"the name must be known; got 'zzz'. Known: {KNOWN}."),
        ("", f"the name must be known; got ''. Known: {KNOWN}."),
        ("flip+", f"the name must be known; got ''. Known: {KNOWN}."),
        ("crpo:4", "the name must be known; got 'crpo'. Close matches: crop, flip_crop, cutout."),
        ("flip:1", "flip must have no amount; got 'flip:1'. Write \"flip\"."),
        ("flip:", "flip must have no amount; got 'flip:'. Write \"flip\"."),
        (
            "shift:x",
            "shift must have a whole amount >= 0 (pixels that a whole batch may move, either way along both axes); "
            "got 'shift:x'. Write, say, \"shift:1\".",
        ),
        (
            "crop:1.5",
            "crop must have a whole amount >= 0 (pixels of zeros around the image of which a part is taken); "
            "got 'crop:1.5'. Write, say, \"crop:4\".",
        ),
        (
            "gaussian_noise:-1",
            "gaussian_noise must have an amount >= 0 (standard deviation in pixels of [0, 1]); "
            "got 'gaussian_noise:-1'. Write, say, \"gaussian_noise:0.1\".",
        ),
        (
            "rotation:inf",
            "rotation must have an amount from 0 to 180 (degrees, to either side); got 'rotation:inf'. "
            'Write, say, "rotation:15".',
        ),
        (
            "cutout:2",
            "cutout must have an amount from 0 to 1 (share of the shorter side that a black square has); "
            "got 'cutout:2'. Write, say, \"cutout:0.5\".",
        ),
        (
            "gaussian_noise:0.1+flip+cutout",
            "gaussian_noise must come last, as it leaves [0, 1]; got 'gaussian_noise:0.1+flip+cutout'. "
            'Write "flip+cutout+gaussian_noise:0.1".',
        ),
        (
            "no_such_module_here:function",
            "package.module:function must exist; got 'no_such_module_here:function' "
            f"(No module named 'no_such_module_here'). {IMPORTABLE}",
        ),
        (
            "math:no_such",
            f"package.module:function must exist; got 'math:no_such' (module 'math' has no attribute 'no_such'). "
            f"{IMPORTABLE}",
        ),
        ("math:pi", "math:pi must be a function (images, generator) -> images; got float. Name a function."),
    ],
)
def test_what_it_refuses(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=exactly(f"augmentation: {said}")):
        augmentation(text)


def test_amounts_are_numbers_or_fractions() -> None:
    assert [amount(text) for text in ("4", "0.25", "8/255", "1e-3")] == [4.0, 0.25, 8 / 255, 1e-3]
    assert all(np.isnan(amount(text)) for text in ("", "x", "1/0", "1/", "/2", "1/2/3"))
    x = pictures()
    wanted = augmentation("gaussian_noise:0.5")(x, stream())
    assert torch.equal(augmentation("gaussian_noise:1/2")(x, stream()), wanted)
