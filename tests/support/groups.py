"""What tests of studies share: groups of networks' features for which the right answer is known."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from repsim import Activations
from repsim.studies.common.groups import GroupFeatures


def side(name: str, layers: Mapping[str, np.ndarray], *, seed: int | None = None, **more: Any) -> Activations:
    """Features under a name, from a network of a seed."""
    made = Activations.from_arrays({k: torch.tensor(x) for k, x in layers.items()}, name=name, **more)
    return replace(made, provenance={"record": {"seed": seed}})


def network(rng: np.random.Generator, shifts: Sequence[float], n: int, noise: float) -> dict[str, np.ndarray]:
    """Layers that share what all networks see, what `shifts` add of something else, and noise of their own."""
    found = {}
    for k, shift in enumerate(shifts):
        common, other = np.random.default_rng(900 + k).standard_normal((2, n, 4))
        own = noise * np.exp(0.2 * rng.standard_normal())  # networks are not all equally far from the others
        mixed = (common + shift * other) @ rng.standard_normal((4, 12))
        found[f"layer{k}"] = mixed + own * rng.standard_normal((n, 12))
    return found


def group(
    name: str,
    networks: int,
    shifts: Sequence[float],
    *,
    seed: int = 0,
    n: int = 60,
    noise: float = 0.4,
    labels: bool = False,
) -> dict[str, Activations]:
    """Networks of one distribution; groups of equal shifts are of the same one."""
    rng = np.random.default_rng([seed, *name.encode()])
    more = {"labels": np.arange(n) % 3} if labels else {}
    names = [f"{name}-{k}" for k in range(networks)]
    return {key: side(key, network(rng, shifts, n, noise), seed=k, **more) for k, key in enumerate(names)}


def grouped(**groups: Mapping[str, Activations]) -> GroupFeatures:
    return GroupFeatures(groups, "study")
