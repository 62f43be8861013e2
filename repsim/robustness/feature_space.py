"""`feature_attack`: move an input so that one layer sees something else, whatever the network answers."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from repsim._common.messages import message
from repsim.data.image_set import Images
from repsim.networks.answers import check_eval, frozen
from repsim.networks.layers import select_layers
from repsim.networks.modules import named_layers
from repsim.robustness.gradient import check_steps, climb
from repsim.robustness.threat import Randomness, ThreatModel


@dataclass(frozen=True, eq=False)
class FeatureAttackResult:
    """How far a layer's representation was moved.

    Attributes:
        images: The moved images, inside the ball and inside [0, 1], detached.
        distance: (b,) float64, ‖f(x′) − f(x)‖₂ over all of the layer's outputs, from a forward pass of its own.
        norm: (b,) float64, ‖f(x)‖₂.
    """

    images: Images
    distance: Float[Tensor, " b"]
    norm: Float[Tensor, " b"]

    @property
    def relative(self) -> Float[Tensor, " b"]:
        """distance / norm; NaN where the norm is 0, a representation that nothing can be relative to."""
        return torch.where(self.norm > 0, self.distance / self.norm, math.nan)


def feature_attack(
    net: nn.Module,
    x: Images,
    layer: str,
    threat: ThreatModel,
    *,
    steps: int,
    step_size: float,
    generator: Randomness,
    restarts: int = 1,
) -> FeatureAttackResult:
    """Moves a layer's representation of each image as far as the ball allows, by projected gradient ascent.

    It maximises ‖f(x + δ) − f(x)‖₂ / ‖f(x)‖₂ over δ in the ball, f the layer's outputs laid out in one row. No labels
    are involved: it says how stable a layer is, not how the network answers. Of several restarts each image keeps the
    one that moves it furthest.

    Args:
        net: Takes pixels in [0, 1]; in eval mode. Wrappers are looked through.
        x: Inputs.
        layer: One module's name, or a glob that one module matches. Where it runs several times, its first run.
        threat: The ball.
        steps: Gradient evaluations per restart.
        step_size: Length of a step in the ball's norm, in pixel units.
        generator: Of the random starts, as for `pgd`: at x itself the distance has no slope.
        restarts: How often to start.

    Returns:
        The moved images, the distances and the clean norms.

    Raises:
        ValueError: An unknown layer or several, one that did not run or answers no tensor, a network in training mode
            or without a gradient in its input, settings out of range.
        RuntimeError: A gradient that is not finite.

    Source:
        Sabour, Cao, Faghri, Fleet 2016, arXiv 1511.05122 (there towards another image's representation).

    Cost:
        restarts × (steps forward and backward passes + 1), and one forward pass.
    """
    threat.check(x, "feature_attack")
    check_eval(net, "feature_attack")
    check_steps(steps, step_size, "feature_attack")
    if restarts < 1:
        raise ValueError(message("feature_attack", "restarts must be >= 1", f"{restarts}", "Leave it out"))
    tap = _Tap(net, layer)
    with frozen(net):
        with torch.no_grad():
            clean = tap(x)
        norm = torch.linalg.vector_norm(clean, dim=1, dtype=torch.float64)
        # Each image's distance is divided by one number of its own, which changes no direction but keeps squares of
        # large features in range.
        scale = torch.where(norm > 0, norm, 1).to(clean)[:, None]

        def rise(moved: Images) -> Float[Tensor, " b"]:
            return ((tap(moved) - clean) / scale).square().sum(1)

        best, furthest = x, torch.full_like(norm, -1)
        for _ in range(restarts):
            found = climb(rise, x, threat.start(x, generator), threat, steps, step_size, "feature_attack")
            with torch.no_grad():
                distance = torch.linalg.vector_norm(tap(found) - clean, dim=1, dtype=torch.float64)
            best = torch.where((distance > furthest).view(-1, 1, 1, 1), found, best)
            furthest = torch.maximum(furthest, distance)
    return FeatureAttackResult(best, furthest, norm)


class _Tap:
    """A network up to one layer, as a function that keeps its gradient."""

    def __init__(self, net: nn.Module, layer: str) -> None:
        names, _ = select_layers(net, layer, "feature_attack")
        if len(names) != 1:
            got, advice = f"{layer!r}, which means {len(names)}", f"Choose one, such as {names[0]!r}"
            raise ValueError(message("feature_attack", "layer must mean one module", got, advice))
        self._net, self._layer = net, names[0]
        self._module = named_layers(net)[names[0]]

    def __call__(self, x: Images) -> Float[Tensor, "b p"]:
        seen: list[Tensor] = []

        def keep(module: nn.Module, inputs: object, output: object) -> None:
            if not isinstance(output, Tensor) or not output.is_floating_point() or len(output) != len(x):
                got = type(output).__name__
                must, advice = f"layer {self._layer!r} must answer one tensor per image", "Choose a layer inside it"
                raise ValueError(message("feature_attack", must, got, advice))
            if not seen:
                seen.append(output.flatten(1).clone())  # an operation in place may follow

        handle = self._module.register_forward_hook(keep)
        try:
            self._net(x)
        finally:
            handle.remove()
        if not seen:
            must, advice = f"layer {self._layer!r} must run", "Choose a layer that the forward pass uses"
            raise ValueError(message("feature_attack", must, "no output", advice))
        return seen[0]
