"""What a layer answers, with padding told from tokens: means, ends and largest values over the tokens alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from repsim._common.messages import message


@dataclass(frozen=True)
class Output:
    """What a layer answers, with the samples first.

    Attributes:
        layer: Its name, for messages.
        x: (n, …).
        positions: The axes of positions; None where only the samples are known.
        mask: (n, t) True at tokens, where the one axis of positions holds padding.
    """

    layer: str
    x: Tensor
    positions: tuple[int, ...] | None
    mask: Tensor | None = None

    def tokens(self) -> Float[Tensor, "n t c"]:
        """All positions on one axis, all features on the last."""
        assert self.positions is not None, "asked only where the layout is known"
        rest = [i for i in range(1, self.x.ndim) if i not in self.positions]
        moved = self.x.permute(0, *self.positions, *rest)
        places = len(self.positions)
        return moved.flatten(places + 1).flatten(1, places) if places else moved.flatten(1).unsqueeze(1)

    def real(self) -> Bool[Tensor, "..."]:
        """The mask, with an axis of length 1 for every axis of features."""
        assert self.mask is not None, "asked only where there is padding"
        assert self.positions
        shape = [1] * self.x.ndim
        shape[0], shape[self.positions[0]] = self.mask.shape
        return self.mask.view(shape)


def mask_for(
    function: str, layer: str, x: Tensor, positions: Sequence[int], masks: Sequence[Tensor]
) -> Bool[Tensor, "n t"] | None:
    """The mask of a layer's output: that of its length. None where no sample is padded, or there are no positions.

    Args:
        function: Who asks, for messages.
        layer: The layer, for messages.
        x: Its output, with the samples first.
        positions: Its axes of positions.
        masks: Of the batch, True at tokens.

    Raises:
        ValueError: A sample without a token, or a padded batch at a layer of another length.
    """
    if not masks or not positions:
        return None
    fitting = [mask for mask in masks if len(positions) == 1 and mask.shape[1] == x.shape[positions[0]]]
    decoder = [mask for mask in fitting if "decoder" in layer]
    if not fitting:
        lengths = " × ".join(str(x.shape[at]) for at in positions)
        got = f"positions {lengths} at layer {layer!r} for a mask of {masks[0].shape[1]}"
        advice = "Choose layers that keep the tokens, or samples of one length"
        raise ValueError(message(function, "it must be clear which positions are padding", got, advice))
    mask = (decoder or fitting)[-1 if decoder else 0]
    if not bool(mask.any(1).all()):
        got = f"none in row {int((~mask.any(1)).nonzero()[0])} of a batch"
        raise ValueError(message(function, "every sample must have a token", got, "Leave empty samples out"))
    return mask.to(x.device)


def filled(out: Output, value: float) -> Tensor:
    """The output with a value in place of padding."""
    return torch.where(out.real(), out.x, value)


def masked_mean(out: Output) -> Float[Tensor, "n ..."]:
    """The mean over tokens, padding left out; sums in float32 at least."""
    assert out.positions
    wide = torch.promote_types(out.x.dtype, torch.float32)
    total = torch.where(out.real(), out.x.to(wide), 0).sum(out.positions[0])
    count = out.real().sum(out.positions[0])
    return (total / count).to(out.x.dtype)


def end_token(out: Output, *, last: bool) -> Float[Tensor, "n ..."]:
    """The first or the last token that is no padding."""
    assert out.mask is not None
    assert out.positions
    places = torch.arange(out.mask.shape[1], device=out.mask.device)
    at = (places * out.mask).argmax(1) if last else out.mask.int().argmax(1)
    return out.x.movedim(out.positions[0], 1)[torch.arange(len(at), device=at.device), at]
