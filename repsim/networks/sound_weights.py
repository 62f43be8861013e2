"""Whether what a file holds under a network's names can be its weights."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from repsim._common.messages import message


def check_weights(state: Mapping[str, Tensor], network: Mapping[str, Tensor], path: Path) -> None:
    """Weights are finite real numbers where the network has such, and variances are not below zero.

    Args:
        state: What a file holds for a network, under the network's own names.
        network: The network's own state dict, whose masks and counters may be integers or truth values.
        path: The file.

    Raises:
        ValueError: Integers, truth values or complex numbers where the network has fractions; NaN or infinity;
            a negative running variance. The key is named.

    Cost:
        One pass over the weights.
    """
    for key, value in state.items():
        wrong = _wrong(key, value, network[key]) if key in network else ""
        if wrong:
            must = "weights must be finite real numbers, and running variances none below zero"
            advice = "Save the network again, unquantised and after a training that did not diverge"
            raise ValueError(message("load_model", must, f"{path} with {wrong} under {key!r}", advice))


def _wrong(key: str, value: Tensor, own: Tensor) -> str:
    kind = str(value.dtype).removeprefix("torch.")
    if value.layout != torch.strided or value.is_meta or value.is_quantized:
        return f"a tensor without numbers of its own ({kind}, {str(value.layout).removeprefix('torch.')})"
    if own.is_floating_point():
        if not value.is_floating_point():
            return kind
        numbers = value.detach() if value.dtype == torch.float64 else value.detach().float()
        low, high = (float(v) for v in numbers.aminmax()) if value.numel() else (0.0, 0.0)
        if not (abs(low) < float("inf") and abs(high) < float("inf")):  # also where there is a NaN
            return "NaN or infinity"
        if key.rpartition(".")[2] == "running_var" and low < 0:
            return f"{low:g}"
    elif value.is_complex() != own.is_complex():
        return kind
    return ""
