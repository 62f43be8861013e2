"""Corruptions: what each does at every severity, its randomness, and what is refused."""

import io
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from repsim import ImageSet, compare, extract, load_model
from repsim.robustness.corruptions import CORRUPTIONS, corrupt
from tests.conftest import exactly

RANDOM = ("gaussian_noise", "rotation", "translation", "patch_shuffle")


def photographs(
    n: int = 12, channels: int = 3, side: int = 16, seed: int = 0, dtype: torch.dtype = torch.uint8
) -> ImageSet:
    """Smooth coloured images: low frequencies, and a little texture."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, channels, 4, 4, generator=generator)
    x = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear")
    x = (0.9 * x + 0.1 * torch.rand(x.shape, generator=generator)).clamp(0, 1)
    images = x.mul(255).round().to(torch.uint8) if dtype == torch.uint8 else x.to(dtype)
    return ImageSet(images, torch.arange(n) % 3, tuple(f"i{i}" for i in range(n)), "photographs")


def pixels(data: ImageSet) -> Tensor:
    return data.pixels(slice(0, None)).double()


# --- What holds for all of them -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_every_severity_moves_further(name: str) -> None:
    data = photographs(n=40)
    far = [float((pixels(corrupt(data, f"{name}:{s}")) - pixels(data)).square().mean()) for s in range(1, 6)]
    assert far[0] > 0
    assert all(less < more for less, more in itertools.pairwise(far))


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float16])
def test_the_samples_stay_the_same(name: str, dtype: torch.dtype) -> None:
    data = photographs(dtype=dtype)
    made = corrupt(data, f"{name}:2", seed=3)
    assert made.images.dtype == dtype
    assert made.images.shape == data.images.shape
    assert (made.ids, made.classes) == (data.ids, data.classes)
    assert torch.equal(made.labels, data.labels)
    assert made.digest == data.digest
    assert made.pixel_digest != data.pixel_digest
    assert made.origin is data
    assert (made.condition, made.name) == (f"{name}:2", f"photographs under {name}:2")
    assert made.record == {
        "corruption": name,
        "severity": 2,
        "level": CORRUPTIONS[name].levels[1],
        "level_is": CORRUPTIONS[name].unit,
        "seed": 3,
    }


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_seed_and_the_id_decide_everything(name: str) -> None:
    data = photographs()
    state = torch.get_rng_state()
    one, same, other = (corrupt(data, f"{name}:4", seed=seed).images for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert torch.equal(one, other) == (name not in RANDOM)
    assert torch.equal(torch.get_rng_state(), state)


@settings(deadline=None, max_examples=15)
@given(st.permutations(range(12)), st.integers(1, 12), st.sampled_from(sorted(CORRUPTIONS)))
def test_an_image_does_not_depend_on_the_others(order: list[int], n: int, name: str) -> None:
    data, rows = photographs(), order[:n]
    first, later = corrupt(data.take(rows), f"{name}:3"), corrupt(data, f"{name}:3").take(rows)
    # Products over more images may be split otherwise, which moves a pixel by a grey level at most.
    assert int((first.images.int() - later.images.int()).abs().max()) <= 1
    assert first.digest == later.digest == data.take(rows).digest


def test_more_images_than_fit_one_pass_are_all_corrupted() -> None:
    data = photographs(n=300, side=4)
    made = corrupt(data, "brightness:5")
    torch.testing.assert_close(made.images[290:], corrupt(data.take(range(290, 300)), "brightness:5").images)


@pytest.mark.parametrize("name", sorted(set(CORRUPTIONS) - {"saturation"}))
def test_grey_images_of_unequal_sides(name: str) -> None:
    data = ImageSet(photographs(channels=1).images[:, :, :12], torch.zeros(12).long(), photographs().ids, "grey")
    assert corrupt(data, f"{name}:5").images.shape == (12, 1, 12, 16)


# --- One by one -----------------------------------------------------------------------------------------------


def test_noise_has_its_deviation_and_is_scaled_by_severity() -> None:
    data = ImageSet(torch.full((200, 1, 8, 8), 0.5), torch.zeros(200).long(), tuple(map(str, range(200))), "grey")
    first, second = (pixels(corrupt(data, f"gaussian_noise:{s}")) - 0.5 for s in (1, 2))
    # 12,800 numbers: the deviation within five standard errors.
    assert abs(float(first.std()) / 0.08 - 1) < 5 / np.sqrt(2 * 12_800)
    assert abs(float(first.mean())) < 5 * 0.08 / np.sqrt(12_800)
    inside = (first.abs() < 0.3) & (second.abs() < 0.3)
    torch.testing.assert_close(second[inside], 1.5 * first[inside], atol=1e-6, rtol=0)


def test_blur_is_a_gaussian_mean() -> None:
    x = torch.zeros(1, 1, 33, 33)
    x[0, 0, 16, 16] = 1
    found = pixels(corrupt(ImageSet(x, torch.zeros(1).long(), ("i",), "dot"), "blur:4"))[0, 0]
    sigma = 1.0 * 33 / 32
    way = np.arange(-4, 5)
    kernel = np.exp(-(way**2) / (2 * sigma**2))
    kernel /= kernel.sum()
    np.testing.assert_allclose(found[12:21, 12:21].numpy(), np.outer(kernel, kernel), atol=1e-6)
    assert float(found.sum()) == pytest.approx(1, abs=1e-5)


def test_brightness_and_contrast_of_grey_levels() -> None:
    data = photographs(channels=1, dtype=torch.float32)
    x = pixels(data)
    torch.testing.assert_close(pixels(corrupt(data, "brightness:2")), (x + 0.2).clamp(0, 1), atol=1e-6, rtol=0)
    mean = x.mean((2, 3), keepdim=True)
    torch.testing.assert_close(pixels(corrupt(data, "contrast:3")), mean + 0.2 * (x - mean), atol=1e-6, rtol=0)


def test_brightness_keeps_hue_and_saturation() -> None:
    import colorsys

    data = photographs(dtype=torch.float32)
    before, after = pixels(data)[:3, :, ::5, ::5], pixels(corrupt(data, "brightness:2"))[:3, :, ::5, ::5]
    for old, new in zip(
        before.permute(0, 2, 3, 1).reshape(-1, 3), after.permute(0, 2, 3, 1).reshape(-1, 3), strict=True
    ):
        hue, saturation, value = colorsys.rgb_to_hsv(*old.tolist())
        expected = colorsys.hsv_to_rgb(hue, saturation, min(1.0, value + 0.2))
        np.testing.assert_allclose(new.numpy(), expected, atol=1e-6)
    black = ImageSet(torch.zeros(1, 3, 4, 4), torch.zeros(1).long(), ("i",), "black")
    torch.testing.assert_close(pixels(corrupt(black, "brightness:3")), torch.full((1, 3, 4, 4), 0.3).double())


def test_saturation_ends_in_grey() -> None:
    data = photographs(dtype=torch.float32)
    grey = pixels(corrupt(data, "saturation:5"))
    torch.testing.assert_close(grey[:, 0], grey[:, 1])
    torch.testing.assert_close(grey[:, 0], grey[:, 2])
    half = pixels(corrupt(data, "saturation:2"))
    torch.testing.assert_close(half, (pixels(data) + grey) / 2, atol=1e-5, rtol=0)


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_what_pillow_writes_and_reads(channels: int) -> None:
    data = photographs(channels=channels)
    made = corrupt(data, "jpeg:3")
    for given_, found in zip(data.images, made.images, strict=True):
        buffer, array = io.BytesIO(), given_.permute(1, 2, 0).numpy()
        Image.fromarray(array[:, :, 0] if channels == 1 else array).save(buffer, "JPEG", quality=15)
        expected = np.asarray(Image.open(buffer)).reshape(array.shape)
        np.testing.assert_array_equal(found.permute(1, 2, 0).numpy(), expected)


def spots(n: int = 30, side: int = 32, height: int = 32, right: int = 8) -> ImageSet:
    """A bright spot some pixels to the right of the middle."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(side), indexing="ij")
    spot = torch.exp(-((rows - (height - 1) / 2) ** 2 + (columns - (side - 1) / 2 - right) ** 2) / 8)
    images = spot.expand(n, 1, height, side).clone()
    return ImageSet(images, torch.zeros(n).long(), tuple(map(str, range(n))), "spots")


def centres(data: ImageSet) -> np.ndarray:
    """Where the brightness is, from the middle, as (right, down)."""
    x = pixels(data)[:, 0]
    down = (x.sum(2) * (torch.arange(x.shape[1]) - (x.shape[1] - 1) / 2)).sum(1) / x.sum((1, 2))
    right = (x.sum(1) * (torch.arange(x.shape[2]) - (x.shape[2] - 1) / 2)).sum(1) / x.sum((1, 2))
    return torch.stack([right, down], 1).numpy()


@pytest.mark.parametrize("height", [32, 24])
def test_rotation_turns_about_the_middle_to_either_side(height: int) -> None:
    found = centres(corrupt(spots(height=height), "rotation:5"))
    angle = np.degrees(np.arctan2(found[:, 1], found[:, 0]))
    np.testing.assert_allclose(np.abs(angle), 30, atol=1)
    np.testing.assert_allclose(np.hypot(*found.T), 8, atol=0.2)
    assert {*np.sign(angle)} == {-1, 1}


def test_translation_shifts_by_its_share_in_any_direction() -> None:
    moved = centres(corrupt(spots(right=0), "translation:3"))
    np.testing.assert_allclose(np.hypot(*moved.T), 0.12 * 32, atol=0.05)
    quadrants = {(right > 0, down > 0) for right, down in moved}
    assert len(quadrants) == 4


@pytest.mark.parametrize(("severity", "count"), [(1, 3), (2, 6), (3, 10), (4, 13), (5, 16)])
def test_patches_move_and_none_is_lost(severity: int, count: int) -> None:
    grid = torch.arange(16).view(4, 4).repeat_interleave(2, 0).repeat_interleave(3, 1)
    images = (10 * grid).to(torch.uint8).expand(5, 2, 8, 12).clone()
    data = ImageSet(images, torch.zeros(5).long(), tuple("abcde"), "patches")
    made = corrupt(data, f"patch_shuffle:{severity}").images
    for before, after in zip(images, made, strict=True):
        assert torch.equal(after[0], after[1])  # channels move together
        small = after[0, ::2, ::3]
        assert torch.equal(small.repeat_interleave(2, 0).repeat_interleave(3, 1), after[0])
        assert sorted(small.flatten().tolist()) == [10 * i for i in range(16)]
        assert int((small != before[0, ::2, ::3]).sum()) == count


# --- Conditions of a side -------------------------------------------------------------------------------------


def test_corruptions_follow_each_other() -> None:
    data = photographs()
    made = corrupt(corrupt(data, "blur:1"), "gaussian_noise:2")
    assert made.condition == "blur:1 + gaussian_noise:2"
    assert made.name == "photographs under blur:1 + gaussian_noise:2"
    assert made.origin is data
    assert made.record["before"]["corruption"] == "blur"
    assert made.digest == data.digest


def test_clean_and_corrupted_features_are_compared_row_by_row(digits: ImageSet) -> None:
    net = load_model("digits_resnet8", seed=0)
    clean = extract(net, digits, layers="layer3")
    noisy = [extract(net, corrupt(digits, f"gaussian_noise:{s}"), layers="layer3") for s in (1, 5)]
    assert noisy[0].name == "digits_resnet8 under gaussian_noise:1"
    found = [compare(clean, side, "cka") for side in noisy]
    assert 1 > float(found[0].values[0, 0]) > float(found[1].values[0, 0]) > 0
    assert (found[0].row_model, found[0].col_model) == ("digits_resnet8", "digits_resnet8 under gaussian_noise:1")
    record = found[0].provenance["cols"]["condition"]
    assert (record["name"], record["severity"]) == ("gaussian_noise:1", 1)


# --- What is refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("corruption", "text"),
    [
        (
            "gausian_noise:1",
            "corrupt: the corruption must be known; got 'gausian_noise'. Close matches: gaussian_noise.",
        ),
        ("blur", 'corrupt: severity must be 1 to 5; got none. Write, say, "blur:3".'),
        ("blur:0", "corrupt: severity must be 1 to 5; got '0'. Write, say, \"blur:3\"."),
        ("blur:6", "corrupt: severity must be 1 to 5; got '6'. Write, say, \"blur:3\"."),
        ("blur:2.5", "corrupt: severity must be 1 to 5; got '2.5'. Write, say, \"blur:3\"."),
    ],
)
def test_corruptions_that_are_none(corruption: str, text: str) -> None:
    with pytest.raises(ValueError, match=exactly(text)):
        corrupt(photographs(), corruption)


def test_saturation_of_grey_images_is_refused(digits: ImageSet) -> None:
    text = "corrupt: saturation needs images of 3 channels; got 1 for digits/test. Choose another corruption."
    with pytest.raises(ValueError, match=exactly(text)):
        corrupt(digits, "saturation:1")


def test_jpeg_of_four_channels_is_refused() -> None:
    text = "corrupt: jpeg needs images of 1 or 3 channels; got 4 for photographs. Choose another corruption."
    with pytest.raises(ValueError, match=exactly(text)):
        corrupt(photographs(channels=4), "jpeg:1")


def test_patches_need_sides_that_four_divides() -> None:
    text = "corrupt: patch_shuffle needs sides that 4 divides; got 18×18. Resize the images first."
    with pytest.raises(ValueError, match=exactly(text)):
        corrupt(photographs(side=18), "patch_shuffle:1")


# --- Corruptions of the user's own ----------------------------------------------------------------------------


def salted(x: Tensor, generators: list[torch.Generator]) -> Tensor:
    """Every pixel moved by noise of its own image; what leaves [0, 1] is cut."""
    return x + torch.stack([torch.rand(x.shape[1:], generator=generator) for generator in generators]) - 0.5


def test_a_function_of_one_s_own_corrupts() -> None:
    data = photographs()
    found = corrupt(data, salted, seed=3)
    place = f"{__name__}:salted"
    assert (found.condition, found.digest, found.ids) == (place, data.digest, data.ids)
    assert dict(found.record)["corruption"] == place
    assert dict(found.record)["seed"] == 3
    assert found.images.dtype == torch.uint8
    expected = salted(data.pixels(slice(0, None)), data.generators(slice(0, None), 3, place)).clamp(0, 1)
    assert torch.equal(found.images, expected.mul(255).round().to(torch.uint8))
    assert torch.equal(corrupt(data, place, seed=3).images, found.images)
    part = corrupt(data.take(torch.tensor([5, 2])), salted, seed=3)
    assert torch.equal(part.images, found.images[[5, 2]])
    assert not torch.equal(corrupt(data, salted, seed=4).images, found.images)


def test_it_is_not_given_the_images_to_write_into() -> None:
    data = photographs(dtype=torch.float32)
    before = data.images.clone()
    corrupt(data, lambda x, generators: x.mul_(0))
    assert torch.equal(data.images, before)


SHAPE = "must return images as it got them, (12, 3, 16, 16) in [0, 1]"
NO_IMAGES = {
    "another shape": (lambda x, generators: x[:1], TypeError, f"{SHAPE}; got (1, 3, 16, 16), torch.float32"),
    "grey levels": (lambda x, generators: x.byte(), TypeError, f"{SHAPE}; got (12, 3, 16, 16), torch.uint8"),
    "nothing": (lambda x, generators: None, TypeError, f"{SHAPE}; got NoneType"),
    "NaN": (lambda x, generators: x / 0, ValueError, "must return finite pixels; got NaN or infinity"),
}


@pytest.mark.parametrize("what", NO_IMAGES)
def test_functions_that_return_no_images(what: str) -> None:
    function, error, text = NO_IMAGES[what]
    advice = (
        "Look for a division by zero, or a logarithm of black." if what == "NaN" else "Return a tensor of that shape."
    )
    with pytest.raises(error, match=exactly(f"corrupt: {__name__}:<lambda> {text}. {advice}")):
        corrupt(photographs(), function)  # type: ignore[arg-type]


def test_places_where_no_corruption_is() -> None:
    text = (
        f"corrupt: package.module:function must exist; got '{__name__}:sugared' (module '{__name__}' has no attribute "
        "'sugared'). Check the name; the module must be importable from where you run."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        corrupt(photographs(), f"{__name__}:sugared")
