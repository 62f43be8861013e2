"""What training images go through at random: `augmentation("crop:4+flip")`, by name and by composition."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from repsim._common.checks import fraction
from repsim._common.messages import message
from repsim._common.random_numbers import seeded
from repsim._common.references import users_function
from repsim.data.image_set import Images

#: Images in, changed images out; all that is random comes from the generator.
Step = Callable[[Images, torch.Generator], Images]


@dataclass(frozen=True)
class Augmentation:
    """A way of changing each image of a batch at random.

    Attributes:
        apply: (images, amount, generator) -> images.
        unit: What an amount is; empty for augmentations that take none. An amount of 0 changes nothing.
        usual: The amount where none is written.
        most: The highest amount.
        whole: Whether the amount is a whole number.
        channels: How many channels it is made for; () for any.
        inside: Whether the images stay in [0, 1].
    """

    apply: Callable[[Images, float, torch.Generator], Images]
    unit: str = ""
    usual: float = 0.0
    most: float = math.inf
    whole: bool = False
    channels: tuple[int, ...] = ()
    inside: bool = True


def augmentation(text: str) -> Step:
    """The augmentation of a text.

    The images that every step returns are checked: the shape and the type they had, finite, in [0, 1]. Only
    `gaussian_noise` may leave [0, 1], as it does in training for randomised smoothing, and so it comes last.

    Args:
        text: Names of `AUGMENTATIONS`, each with its amount behind a colon where it takes one, joined by "+" and
            applied from left to right, as in "crop:4+flip"; "none" leaves the images as they are.
            "package.module:function" is a function of your own, (images (b, c, h, w) in [0, 1], generator) -> images.
            What it draws from torch's global generator is seeded by the generator it is given, too.

    Returns:
        A function (images (b, c, h, w) in [0, 1], generator) -> images. Its draws depend on the generator alone, and
        torch's global generator is left as it was.

    Raises:
        ValueError: An unknown name, an amount out of its range or where none is taken, noise that does not come last.

    Source:
        Cutout: DeVries, Taylor 2017, arXiv 1708.04552. Random erasing: Zhong et al. 2017, arXiv 1708.04896.
        RandAugment: Cubuk et al. 2020, arXiv 1909.13719. TrivialAugment: Müller, Hutter 2021, arXiv 2103.10158.
        AugMix: Hendrycks et al. 2020, arXiv 1912.02781. These are torchvision's, but for cutout.

    Cost:
        Crops, mirror images, shifts, cutout and noise take a whole batch at once. The others are torchvision's and take
        one image after the other: 0.05 to 1 ms for each.
    """
    parts = [part for part in text.split("+") if part != "none"]
    steps = [step for part in parts for step in _step(part)]
    names = [part.partition(":")[0] for part in parts]
    for at, name in enumerate(names[:-1]):
        if name in AUGMENTATIONS and not AUGMENTATIONS[name].inside:
            advice = f'Write "{"+".join([*parts[:at], *parts[at + 1 :], parts[at]])}"'
            raise ValueError(message("augmentation", f"{name} must come last, as it leaves [0, 1]", repr(text), advice))

    def apply(x: Images, generator: torch.Generator) -> Images:
        for step in steps:
            x = step(x, generator)
        return x

    return apply


def amount(text: str) -> float:
    """A number written as such or as a fraction, "0.1" or "8/255"; NaN for any other text."""
    try:
        return fraction(text)
    except ValueError:
        return math.nan


def _step(part: str) -> list[Step]:
    """One part of a text: a step, or none where the amount is 0."""
    name, colon, given = part.partition(":")
    if name not in AUGMENTATIONS:
        known = ["none", *AUGMENTATIONS]
        function = users_function(part, "augmentation", known=known, takes="(images, generator) -> images")
        return [lambda x, generator: _checked(part, x, _seeded(lambda: function(x, generator), generator))]
    chosen = AUGMENTATIONS[name]
    if colon and not chosen.unit:
        raise ValueError(message("augmentation", f"{name} must have no amount", repr(part), f'Write "{name}"'))
    value = amount(given) if colon else chosen.usual
    if not (0 <= value <= chosen.most and math.isfinite(value)) or (chosen.whole and value != int(value)):
        kind = "a whole amount" if chosen.whole else "an amount"
        limits = f"from 0 to {chosen.most:g}" if math.isfinite(chosen.most) else ">= 0"
        advice = f'Write, say, "{name}:{chosen.usual:g}"'
        must = f"{name} must have {kind} {limits} ({chosen.unit})"
        raise ValueError(message("augmentation", must, repr(part), advice))
    if chosen.unit and not value:
        return []

    def apply(x: Images, generator: torch.Generator) -> Images:
        if chosen.channels and x.shape[1] not in chosen.channels:
            known = " or ".join(map(str, chosen.channels))
            must = f"{name} needs images of {known} channels"
            raise ValueError(message("augmentation", must, f"{x.shape[1]}", "Choose another augmentation"))
        return _checked(part, x, chosen.apply(x, value, generator), inside=chosen.inside)

    return [apply]


def _checked(name: str, x: Images, found: Any, *, inside: bool = True) -> Images:
    """What a step returned, if it is images like those it got."""
    if not isinstance(found, Tensor) or found.shape != x.shape or found.dtype != x.dtype:
        kind = type(found).__name__
        got = f"{str(found.dtype)[6:]} of shape {tuple(found.shape)}" if isinstance(found, Tensor) else kind
        must = f"{name} must return images as it got them, {str(x.dtype)[6:]} of shape {tuple(x.shape)}"
        raise ValueError(message("augmentation", must, got, "Return one image for each, of the same size and type"))
    low, high = (float(v) for v in found.aminmax())  # NaN where there is one
    rounding = 1e-5
    if not (math.isfinite(low + high) and (not inside or (low >= -rounding and high <= 1 + rounding))):
        must = f"{name} must return finite pixels" + " in [0, 1]" * inside
        raise ValueError(message("augmentation", must, f"[{low:g}, {high:g}]", "Clamp them where that is meant"))
    return found.clamp(0, 1) if inside and (low < 0 or high > 1) else found


def _seeded(call: Callable[[], Any], generator: torch.Generator) -> Any:
    """Calls what draws from torch's global generator, with draws that depend on `generator` alone."""
    with seeded(int(torch.randint(2**62, (), generator=generator))):
        return call()


def _torchvision(
    name: str, settings: Callable[[Images, float], dict[str, Any]] = lambda x, amount: {}, *, grey_levels: bool = False
) -> Callable[[Images, float, torch.Generator], Images]:
    """A transform of torchvision's, called once for each image: it would draw once for a whole batch.

    Args:
        name: Of the transform.
        settings: (images, amount) -> what it is made with.
        grey_levels: Whether it needs uint8; the pixels are then rounded to the nearest of 256 levels.
    """

    def apply(x: Images, amount: float, generator: torch.Generator) -> Images:
        from torchvision.transforms import v2

        transform = getattr(v2, name)(**settings(x, amount))
        given = x.mul(255).round().to(torch.uint8) if grey_levels else x
        found = _seeded(lambda: torch.stack([transform(image) for image in given]), generator)
        return found.to(x.dtype).div(255) if grey_levels else found

    return apply


def _crop(x: Images, padding: float, generator: torch.Generator) -> Images:
    """All crops at once: torchvision takes one place for a whole batch, and a call per image costs more than a step."""
    n, _, height, width = x.shape
    around = int(padding)
    padded = F.pad(x, (around,) * 4)
    down, right = torch.randint(2 * around + 1, (2, n, 1), generator=generator)
    rows, columns = down + torch.arange(height), right + torch.arange(width)
    x = padded.permute(0, 2, 3, 1)[torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]
    return x.permute(0, 3, 1, 2).contiguous()


def _shift(x: Images, pixels: float, generator: torch.Generator) -> Images:
    """The same step for the whole batch, unlike a crop of padded images."""
    around, (height, width) = int(pixels), x.shape[2:]
    down, right = torch.randint(2 * around + 1, (2,), generator=generator).tolist()
    return F.pad(x, (around,) * 4)[:, :, down : down + height, right : right + width].contiguous()


def _flip(x: Images, _: float, generator: torch.Generator) -> Images:
    return torch.where(torch.rand(len(x), 1, 1, 1, generator=generator) < 0.5, x.flip(3), x)


def _vertical_flip(x: Images, _: float, generator: torch.Generator) -> Images:
    return torch.where(torch.rand(len(x), 1, 1, 1, generator=generator) < 0.5, x.flip(2), x)


def _flip_crop(x: Images, padding: float, generator: torch.Generator) -> Images:
    return _crop(_flip(x, 0, generator), padding, generator)


def _cutout(x: Images, share: float, generator: torch.Generator) -> Images:
    """A black square for each image; its centre is any pixel, so the border may cut it, as in the paper."""
    n, _, height, width = x.shape
    side = max(1, round(share * min(height, width)))
    top = torch.randint(height, (n, 1, 1), generator=generator) - side // 2
    left = torch.randint(width, (n, 1, 1), generator=generator) - side // 2
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    hidden = (rows >= top) & (rows < top + side) & (columns >= left) & (columns < left + side)
    return x.masked_fill(hidden[:, None], 0)


def _gaussian_noise(x: Images, deviation: float, generator: torch.Generator) -> Images:
    return x + deviation * torch.randn(x.shape, generator=generator)


def _jitter(x: Images, strength: float) -> dict[str, Any]:
    return {"brightness": strength, "contrast": strength, "saturation": strength, "hue": strength / 4}


def _blur(x: Images, deviation: float) -> dict[str, Any]:
    # Three deviations on both sides hold all but 0.3 % of the kernel; a reflected border is at most a side wide.
    radius = min(math.ceil(3 * deviation), min(x.shape[2:]) - 1)
    return {"kernel_size": 2 * radius + 1, "sigma": (deviation / 20, deviation)}


def _rotation(x: Images, degrees: float) -> dict[str, Any]:
    from torchvision.transforms.v2 import InterpolationMode

    return {"degrees": degrees, "interpolation": InterpolationMode.BILINEAR}


#: What `augmentation` knows.
AUGMENTATIONS: dict[str, Augmentation] = {
    "crop": Augmentation(_crop, "pixels of zeros around the image of which a part is taken", 4, whole=True),
    "flip": Augmentation(_flip),
    "flip_crop": Augmentation(_flip_crop, "pixels of zeros around the image of which a part is taken", 4, whole=True),
    "vertical_flip": Augmentation(_vertical_flip),
    "shift": Augmentation(_shift, "pixels that a whole batch may move, either way along both axes", 1, whole=True),
    "cutout": Augmentation(_cutout, "share of the shorter side that a black square has", 0.5, most=1),
    "random_erasing": Augmentation(_torchvision("RandomErasing")),
    "gaussian_noise": Augmentation(_gaussian_noise, "standard deviation in pixels of [0, 1]", 0.1, inside=False),
    "blur": Augmentation(_torchvision("GaussianBlur", _blur), "highest standard deviation in pixels", 2),
    "rotation": Augmentation(_torchvision("RandomRotation", _rotation), "degrees, to either side", 15, most=180),
    "color_jitter": Augmentation(
        _torchvision("ColorJitter", _jitter),
        "change of brightness, contrast and saturation, and a quarter of it of the hue",
        0.4,
        most=1,
        channels=(1, 3),
    ),
    "randaugment": Augmentation(_torchvision("RandAugment", grey_levels=True), channels=(1, 3)),
    "trivialaugment": Augmentation(_torchvision("TrivialAugmentWide", grey_levels=True), channels=(1, 3)),
    "augmix": Augmentation(_torchvision("AugMix", grey_levels=True), channels=(1, 3)),
}
