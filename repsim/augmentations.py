"""What training images go through at random: `augmentation("crop:4+flip")`, by name and by composition."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from repsim._checks import did_you_mean, message
from repsim.attacks.threat import Images

#: Images in, changed images out; all that is random comes from the generator.
Step = Callable[[Images, torch.Generator], Images]


@dataclass(frozen=True)
class Augmentation:
    """A way of changing each image of a batch at random.

    Attributes:
        apply: (images, amount, generator) -> images.
        unit: What an amount is; empty for augmentations that take none.
        usual: The amount where none is written.
    """

    apply: Callable[[Images, float, torch.Generator], Images]
    unit: str = ""
    usual: float = 0.0


def augmentation(text: str) -> Step:
    """The augmentation of a text.

    Args:
        text: Names of `AUGMENTATIONS`, each with its amount behind a colon where it takes one, joined by "+" and
            applied from left to right, as in "crop:4+flip"; "none" leaves the images as they are.

    Returns:
        A function (images (b, c, h, w) in [0, 1], generator) -> images.

    Raises:
        ValueError: An unknown name, or an amount that is no number >= 0 or where none is taken.
    """
    steps = [_step(part) for part in text.split("+") if part != "none"]

    def apply(x: Images, generator: torch.Generator) -> Images:
        for step in steps:
            x = step(x, generator)
        return x

    return apply


def _step(part: str) -> Step:
    name, colon, given = part.partition(":")
    if name not in AUGMENTATIONS:
        advice = did_you_mean(name, ["none", *AUGMENTATIONS])
        raise ValueError(message("augmentation", "the name must be known", repr(name), advice))
    chosen = AUGMENTATIONS[name]
    if colon and not chosen.unit:
        raise ValueError(message("augmentation", f"{name} must have no amount", repr(part), f'Write "{name}"'))
    try:
        amount = float(given) if colon else chosen.usual
    except ValueError:
        amount = -1.0
    if not 0 <= amount < float("inf"):
        advice = f'Write, say, "{name}:{chosen.usual:g}"'
        raise ValueError(
            message("augmentation", f"{name} must have an amount >= 0 ({chosen.unit})", repr(part), advice)
        )
    return lambda x, generator: chosen.apply(x, amount, generator)


def _crop(x: Images, padding: float, generator: torch.Generator) -> Images:
    """All crops at once: torchvision takes one place for a whole batch, and a call per image costs more than a step."""
    n, _, height, width = x.shape
    around = int(padding)
    padded = F.pad(x, (around,) * 4)
    down, right = torch.randint(2 * around + 1, (2, n, 1), generator=generator)
    rows, columns = down + torch.arange(height), right + torch.arange(width)
    x = padded.permute(0, 2, 3, 1)[torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]
    return x.permute(0, 3, 1, 2).contiguous()


def _flip(x: Images, _: float, generator: torch.Generator) -> Images:
    return torch.where(torch.rand(len(x), 1, 1, 1, generator=generator) < 0.5, x.flip(3), x)


#: What `augmentation` knows.
AUGMENTATIONS: dict[str, Augmentation] = {
    "crop": Augmentation(_crop, "pixels of zeros around the image of which a part is taken", 4),
    "flip": Augmentation(_flip),
}
