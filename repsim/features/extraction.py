"""Hooks: a network and images in, `Activations` out."""

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from repsim._common.messages import message
from repsim._common.progress import progress_bar
from repsim.data.image_set import ImageSet
from repsim.features.activations import Activations
from repsim.features.forward import TappedNetwork
from repsim.features.reductions import find_reduction
from repsim.features.source import Source
from repsim.networks.answers import CPU_ROWS
from repsim.networks.layers import Layers, select_layers
from repsim.numerics.memory import available_memory, empty_rows
from repsim.robustness.adversarial_sets import Condition, under

__all__ = ["CPU_ROWS", "Layers", "extract", "select_layers"]


def extract(
    net: nn.Module,
    data: ImageSet | Tensor | Iterable[Any],
    *,
    layers: Layers = None,
    reduction: str = "mean",
    batch_size: int = 256,
    name: str | None = None,
    attack: Condition | None = None,
    progress: bool = True,
) -> Activations:
    """Runs a network over samples and keeps what its layers answer.

    The network runs in eval mode without gradients, on the device where its parameters are, and is left in
    the modes it had, without hooks, whatever happens. Outputs are copied or reduced inside the hook, so an
    in-place operation after a layer cannot change what was recorded.

    Args:
        net: A `Network` of `load_model` (takes pixels in [0, 1]) or any module; wrappers such as
            DataParallel are looked through, so layer names are the bare network's.
        data: An `ImageSet`, a tensor, or batches (x or (x, y)) that come in the same order each time, such as
            a DataLoader that does not shuffle.
        layers: None for every leaf module and every residual block; a name or glob ("layer*.*" for blocks;
            `*` does not cross a dot, "**.conv*" reaches any depth), a list of these, or a function
            (name, module) -> bool.
        reduction: What makes a row of a layer's output. Feature maps (n, c, h, w): "mean" over positions, "max",
            "pool:K" (K×K averages); tokens (n, t, c): "mean_tokens", "cls"; anything: "flatten". Rows stay rows.
            They answer different questions: "flatten" also asks where in the image, "mean" does not.
        batch_size: Rows per forward pass. On a CPU passes are split further where that is faster.
        name: What results call the network; None takes the network's own name. Images under an input condition (of
            `adversarial`, `corrupt`, or `attack`) add that condition to the name, as in "resnet20 under blur:3".
        attack: Move the images against this network first: a threat model or its text, "linf:8/255", for PGD of 20
            steps, or a function (network, ImageSet) -> ImageSet, such as
            `functools.partial(adversarial, threat="l2:0.5", steps=50)`. The samples stay the same, so the result can
            be compared with features of the clean images.
        progress: Show a bar when it takes more than two seconds.

    Returns:
        One (n, p) tensor per layer in execution order, on the CPU. A module that runs twice gives two
        layers, `name` and `name#2`.

    Raises:
        ValueError: An unknown layer, a layer that never ran, an output without tensors or whose first axis is
            not the batch, a reduction that does not fit the output, a shuffling loader; as for `adversarial`.
        TypeError: An attack on data that is no `ImageSet`.
        MemoryError: Features that would not fit into memory.

    Cost:
        The forward passes, and one copy of the features; the attack before, where there is one.
    """
    forward = TappedNetwork(net, layers, find_reduction(reduction), "extract", name)
    if attack is not None:
        data = under(net, data, attack, progress=progress)
    source = Source.of(data, "extract")
    step = forward.step(batch_size)
    buffers, answers = _Buffers(source.n), _Answers()
    bar = progress_bar(source.n, f"extract {forward.name}", "sample", show=progress)
    with forward.recording(buffers.write) as run, bar:
        for x in source.batches(step):
            buffers.begin(len(x))
            answers.add(run(x), len(x))
            buffers.end()
            bar.update(len(x))
    provenance = {**forward.provenance, **source.facts, "layers_that_never_ran": forward.never_ran()}
    given = source.labels, source.digest, source.called(forward.name), reduction, provenance, source.ids
    return Activations(buffers.features, *given, answers.together())


class _Answers:
    """What the network itself answers, as long as that is one row of numbers per sample."""

    def __init__(self) -> None:
        self._parts: list[Tensor] | None = []

    def add(self, answer: Any, rows: int) -> None:
        plain = isinstance(answer, Tensor) and answer.is_floating_point() and answer.ndim == 2 and len(answer) == rows
        if self._parts is not None and plain and all(p.shape[1] == answer.shape[1] for p in self._parts[:1]):
            self._parts.append(answer.detach().cpu().clone())
        else:
            self._parts = None

    def together(self) -> Tensor | None:
        return torch.cat(self._parts) if self._parts else None


class _Buffers:
    """Room for all rows of every layer, allocated once, in order of execution."""

    def __init__(self, n: int) -> None:
        self.features: dict[str, Tensor] = {}
        self._n, self._start, self._rows = n, 0, 0
        self._need, self._have = 0, available_memory()

    def begin(self, rows: int) -> None:
        self._rows = rows

    def write(self, layer: str, rows: Float[Tensor, "b p"]) -> None:
        if self._start == 0:
            # Buffers take no memory until they are written to, so this batch tells what all of them will need.
            self._need += self._n * rows.shape[1] * rows.element_size()
            if self._have is not None and self._need > self._have:
                return
            self.features[layer] = empty_rows(self._n, rows.shape[1], rows.dtype)
        self.features[layer][self._start : self._start + self._rows].copy_(rows)

    def end(self) -> None:
        if self._have is not None and self._need > self._have:
            got = f"{self._need / 2**30:.1f} GiB for {self._n:,} samples with {self._have / 2**30:.1f} GiB free"
            advice = 'Use reduction="mean", fewer layers or fewer samples'
            raise MemoryError(message("extract", "the features must fit into memory", got, advice))
        self._start += self._rows
