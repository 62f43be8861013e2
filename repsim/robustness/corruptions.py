"""Common corruptions: `corrupt`, by name and in five severities."""

import io
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from repsim._common.checks import is_finite
from repsim._common.messages import did_you_mean, message
from repsim._common.progress import progress_bar
from repsim._common.references import users_function
from repsim.data.image_set import Images, ImageSet, check_image_set

#: A corruption of the user's own: images in [0, 1] and one generator per image -> images of the same shape.
OwnCorruption = Callable[[Images, list[torch.Generator]], Images]

#: Images that are corrupted at once.
_ROWS = 256


def corrupt(data: ImageSet, corruption: "str | OwnCorruption", *, seed: int = 0, progress: bool = True) -> ImageSet:
    """The images of a set, corrupted; the same samples under another condition.

    The result has the labels, the ids and the digest of `data`, so features of the one can be compared with features
    of the other, row by row. What is random about an image depends on the seed and its id alone, and is the same for
    all severities: severity 5 of `gaussian_noise` is severity 1 with the noise scaled up.

    Args:
        data: The images.
        corruption: A name of `CORRUPTIONS` and a severity from 1 to 5, as in "gaussian_noise:3". Noise, brightness,
            contrast and jpeg have the levels of ImageNet-C; the others scale with the image, so that they mean the
            same at every size. Or a function of your own, (images, one generator per image) -> images, itself or by
            its place, "package.module:function"; what it returns is cut to [0, 1].
        seed: Of all that is random.
        progress: Show a bar when it takes more than two seconds.

    Returns:
        The set, in the type of `data`; grey levels are rounded to the nearest.

    Raises:
        ValueError: An unknown corruption or severity, saturation of images without colour, jpeg of images that are
            neither grey nor RGB, patch_shuffle of images whose sides 4 does not divide.
        TypeError: Images that are no `ImageSet`; a function that returns no images.

    Source:
        Hendrycks, Dietterich 2019, arXiv 1903.12261 (levels); Zhang, Zhu 2019, arXiv 1905.09797 (patch_shuffle).

    Cost:
        One pass over the images; jpeg encodes them one after the other.

    Example:
        >>> from repsim import load_data
        >>> corrupt(load_data("digits", limit=20), "blur:3").name
        'digits/test under blur:3'
    """
    check_image_set("corrupt", data)
    if callable(corruption) or is_own_corruption(corruption):
        return _by_own(data, corruption, seed, progress)
    name, chosen, severity = parse_corruption(corruption)
    channels, height, width = data.images.shape[1:]
    if chosen.channels and channels not in chosen.channels:
        known = " or ".join(map(str, chosen.channels))
        got, advice = f"{channels} for {data.name}", "Choose another corruption"
        raise ValueError(message("corrupt", f"{name} needs images of {known} channels", got, advice))
    if height % chosen.multiple or width % chosen.multiple:
        must = f"{name} needs sides that {chosen.multiple} divides"
        raise ValueError(message("corrupt", must, f"{height}×{width}", "Resize the images first"))
    level = chosen.levels[severity - 1]
    done = _changed(data, name, lambda x, generators: chosen.apply(x, level, generators), seed, progress)
    record = {"corruption": name, "severity": severity, "level": level, "level_is": chosen.unit, "seed": seed}
    return data.derived(done, f"{name}:{severity}", record)


def _by_own(data: ImageSet, corruption: "str | OwnCorruption", seed: int, progress: bool) -> ImageSet:
    """The images as a function of the user's own makes them, held to what images must be."""
    if isinstance(corruption, str):
        takes = "(images, generators) -> images"
        name, function = corruption, users_function(corruption, "corrupt", known=CORRUPTIONS, takes=takes)
    else:
        place = getattr(corruption, "__module__", None), getattr(corruption, "__qualname__", type(corruption).__name__)
        name, function = ":".join(filter(None, place)), corruption

    def checked(x: Images, generators: list[torch.Generator]) -> Images:
        found = function(x.clone(), generators)
        if not isinstance(found, Tensor) or found.shape != x.shape or not found.is_floating_point():
            got = f"{tuple(found.shape)}, {found.dtype}" if isinstance(found, Tensor) else type(found).__name__
            must = f"{name} must return images as it got them, {tuple(x.shape)} in [0, 1]"
            raise TypeError(message("corrupt", must, got, "Return a tensor of that shape"))
        if not is_finite(found):
            advice = "Look for a division by zero, or a logarithm of black"
            raise ValueError(message("corrupt", f"{name} must return finite pixels", "NaN or infinity", advice))
        return found

    return data.derived(_changed(data, name, checked, seed, progress), name, {"corruption": name, "seed": seed})


def _changed(data: ImageSet, name: str, change: "OwnCorruption", seed: int, progress: bool) -> Tensor:
    """All images after a change, in the type that they had."""
    done = torch.empty_like(data.images)
    with progress_bar(len(data), f"corrupt {data.name}", "image", show=progress) as bar:
        for first in range(0, len(data), _ROWS):
            rows = slice(first, first + _ROWS)
            changed = change(data.pixels(rows), data.generators(rows, seed, name)).clamp(0, 1)
            done[rows] = changed.mul(255).round().to(torch.uint8) if done.dtype == torch.uint8 else changed.to(done)
            bar.update(len(changed))
    return done


@dataclass(frozen=True)
class Corruption:
    """A way of corrupting images.

    Attributes:
        apply: (images, level, one generator per image) -> images, which may leave [0, 1].
        levels: What severities 1 to 5 mean.
        unit: What a level is.
        channels: How many channels it is made for; () for any.
        multiple: What must divide the sides.
    """

    apply: Callable[[Images, float, list[torch.Generator]], Images]
    levels: tuple[float, float, float, float, float]
    unit: str
    channels: tuple[int, ...] = ()
    multiple: int = 1


def is_own_corruption(text: str) -> bool:
    """Whether a text is the place of a function, "package.module:function", and no name with a severity."""
    name, _, function = text.partition(":")
    return name not in CORRUPTIONS and function.partition(".")[0].isidentifier()


def parse_corruption(corruption: str) -> tuple[str, Corruption, int]:
    """What a text such as "blur:3" names.

    Args:
        corruption: A name of `CORRUPTIONS` and a severity from 1 to 5.

    Returns:
        The name, the corruption and the severity.

    Raises:
        ValueError: An unknown corruption or severity.
    """
    name, _, severity = corruption.partition(":")
    if name not in CORRUPTIONS:
        advice = did_you_mean(name, CORRUPTIONS)
        raise ValueError(message("corrupt", "the corruption must be known", repr(name), advice))
    if severity not in ("1", "2", "3", "4", "5"):
        got = repr(severity) if severity else "none"
        raise ValueError(message("corrupt", "severity must be 1 to 5", got, f'Write, say, "{name}:3"'))
    return name, CORRUPTIONS[name], int(severity)


def _gaussian_noise(x: Images, deviation: float, generators: list[torch.Generator]) -> Images:
    noise = [torch.randn(x.shape[1:], generator=generator) for generator in generators]
    return x + deviation * torch.stack(noise)


def _blur(x: Images, deviation: float, generators: list[torch.Generator]) -> Images:
    from torchvision.transforms.v2.functional import gaussian_blur

    side = min(x.shape[2:])
    sigma = deviation * max(1.0, side / 32)
    # Three deviations on both sides hold all but 0.3 % of the kernel; a reflected border is at most a side wide.
    radius = min(math.ceil(3 * sigma), side - 1)
    return gaussian_blur(x, [2 * radius + 1, 2 * radius + 1], [sigma, sigma])


def _jpeg(x: Images, quality: float, generators: list[torch.Generator]) -> Images:
    from PIL import Image

    grey = x.shape[1] == 1
    coded = np.empty((len(x), *x.shape[2:], x.shape[1]), dtype=np.uint8)
    for i, pixels in enumerate(x.mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()):
        buffer = io.BytesIO()
        Image.fromarray(pixels[:, :, 0] if grey else pixels).save(buffer, "JPEG", quality=int(quality))
        coded[i] = np.asarray(Image.open(buffer)).reshape(coded.shape[1:])
    return torch.from_numpy(coded).permute(0, 3, 1, 2).float() / 255


def _brightness(x: Images, added: float, generators: list[torch.Generator]) -> Images:
    # ImageNet-C raises the V of HSV: hue and saturation stay, so all channels grow by one factor; black turns grey.
    value = x.amax(1, keepdim=True)
    return torch.where(value > 0, x * ((value + added).clamp_max(1) / torch.where(value > 0, value, 1)), added)


def _contrast(x: Images, kept: float, generators: list[torch.Generator]) -> Images:
    mean = x.mean(dim=(2, 3), keepdim=True)
    return mean + kept * (x - mean)


def _saturation(x: Images, kept: float, generators: list[torch.Generator]) -> Images:
    from torchvision.transforms.v2.functional import adjust_saturation

    return adjust_saturation(x, kept)


def _rotation(x: Images, degrees: float, generators: list[torch.Generator]) -> Images:
    angle = math.radians(degrees) * torch.stack([torch.rand((), generator=g).sub(0.5).sign() for g in generators])
    height, width = x.shape[2:]
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros(len(x))
    # The grid runs from -1 to 1 along both sides, so turning needs their ratio.
    top = torch.stack([cos, -sin * height / width, zero], 1)
    return _resampled(x, torch.stack([top, torch.stack([sin * width / height, cos, zero], 1)], 1))


def _translation(x: Images, share: float, generators: list[torch.Generator]) -> Images:
    way = 2 * math.pi * torch.stack([torch.rand((), generator=generator) for generator in generators])
    one, zero = torch.ones(len(x)), torch.zeros(len(x))
    top = torch.stack([one, zero, 2 * share * way.cos()], 1)
    return _resampled(x, torch.stack([top, torch.stack([zero, one, 2 * share * way.sin()], 1)], 1))


def _resampled(x: Images, affine: Float[Tensor, "b 2 3"]) -> Images:
    """The images seen through affine maps, between pixels bilinear, black outside."""
    grid = F.affine_grid(affine, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _patch_shuffle(x: Images, share: float, generators: list[torch.Generator]) -> Images:
    b, c, height, width = x.shape
    patches = x.reshape(b, c, 4, height // 4, 4, width // 4).permute(0, 2, 4, 1, 3, 5).reshape(b, 16, -1).clone()
    for i, generator in enumerate(generators):
        chosen = torch.randperm(16, generator=generator)[: round(16 * share)]
        patches[i, chosen] = patches[i, chosen.roll(1)]  # a cycle, so that every chosen patch moves
    return patches.reshape(b, 4, 4, c, height // 4, width // 4).permute(0, 3, 1, 4, 2, 5).reshape(x.shape)


#: What `corrupt` knows.
CORRUPTIONS: dict[str, Corruption] = {
    "gaussian_noise": Corruption(_gaussian_noise, (0.08, 0.12, 0.18, 0.26, 0.38), "standard deviation in pixels"),
    "blur": Corruption(
        _blur, (0.4, 0.6, 0.8, 1.0, 1.5), "standard deviation in pixels of a side of 32, or of smaller sides themselves"
    ),
    "jpeg": Corruption(_jpeg, (25, 18, 15, 10, 7), "JPEG quality", channels=(1, 3)),
    "brightness": Corruption(_brightness, (0.1, 0.2, 0.3, 0.4, 0.5), "added to the largest channel"),
    "contrast": Corruption(_contrast, (0.4, 0.3, 0.2, 0.1, 0.05), "share kept of the distance from the mean"),
    "saturation": Corruption(
        _saturation, (0.75, 0.5, 0.25, 0.1, 0.0), "share kept of the distance from grey", channels=(3,)
    ),
    "rotation": Corruption(_rotation, (5, 10, 15, 20, 30), "degrees, to either side"),
    "translation": Corruption(_translation, (0.04, 0.08, 0.12, 0.16, 0.2), "share of the sides, in any direction"),
    "patch_shuffle": Corruption(
        _patch_shuffle, (0.2, 0.4, 0.6, 0.8, 1.0), "share moved of a grid of 4×4 patches", multiple=4
    ),
}
