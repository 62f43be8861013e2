"""The control of an attack: noise of the attack's own norm, which knows nothing of the network."""

import torch
from torch import Tensor

from repsim.data.image_set import Images, ImageSet
from repsim.robustness.threat import ThreatModel, lengths

_ROWS = 256


def same_norm_noise(data: ImageSet, threat: ThreatModel, *, seed: int = 0) -> ImageSet:
    """The images of a set, moved at random by the radius of a threat model.

    In linf each pixel goes up or down by ε and is cut to [0, 1]. In l2 an image goes along a random direction, and as
    far that its change has the length ε after it was cut to [0, 1], as long as any point of the cube lies that far. An
    image's direction depends on the seed and its id alone, and is the same for every ε.

    Args:
        data: The images.
        threat: Whose norm and radius the noise has.
        seed: Of the directions.

    Returns:
        The same samples under another condition, float32 in [0, 1].

    Raises:
        ValueError: As for `ThreatModel.check`.

    Cost:
        One pass over the images.
    """
    moved = []
    for first in range(0, len(data), _ROWS):
        rows = slice(first, first + _ROWS)
        x = data.pixels(rows)
        threat.check(x, "same_norm_noise")
        way = torch.stack([torch.randn(x.shape[1:], generator=g) for g in data.generators(rows, seed, "noise control")])
        moved.append(_by_sign(x, way, threat.eps) if threat.norm == "linf" else _by_length(x, way, threat.eps))
    record = {"control": "noise of the norm of an attack", "threat": str(threat), "seed": seed}
    return data.derived(torch.cat(moved), f"noise({threat})", record)


def _by_sign(x: Images, way: Tensor, eps: float) -> Images:
    return (x + eps * way.sign()).clamp(0, 1)


def _by_length(x: Images, way: Tensor, eps: float) -> Images:
    start, way = x.double(), way.double() / lengths(way)
    # The length of the cut change grows more slowly than the step, so these steps rise to the right one from below.
    step = torch.full_like(lengths(way), eps)
    for _ in range(200):
        length = lengths((start + step * way).clamp(0, 1) - start)
        if bool((length >= eps * (1 - 1e-9)).all()):
            break
        step = step * eps / length
    return (start + step * way).clamp(0, 1).to(x)
