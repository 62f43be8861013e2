"""Hooks: a network and images in, `Activations` out."""

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.data import Dataset

from repsim._common.messages import message
from repsim._common.progress import progress_bar
from repsim._common.provenance import CautionWarning
from repsim.data.image_set import ImageSet
from repsim.data.text_set import TextSet
from repsim.features.activations import Activations, outputs_caution
from repsim.features.batches import Call, rows_of
from repsim.features.forward import TappedNetwork
from repsim.features.reductions import Choice, Reductions
from repsim.features.source import Source
from repsim.networks.answers import CPU_ROWS, own_answer
from repsim.networks.layers import Layers, select_layers
from repsim.networks.network import Network, bare
from repsim.numerics.memory import available_memory, empty_rows
from repsim.robustness.adversarial_sets import Condition, under

__all__ = ["CPU_ROWS", "Layers", "extract", "select_layers"]


def extract(
    net: nn.Module,
    data: ImageSet | TextSet | Tensor | Dataset[Any] | Iterable[Any],
    *,
    layers: Layers = None,
    reduction: Choice = "auto",
    axes: Mapping[str, str] | None = None,
    batch_size: int = 256,
    name: str | None = None,
    attack: Condition | None = None,
    call: Call | None = None,
    progress: bool = True,
) -> Activations:
    """Runs a network over samples and keeps what its layers answer.

    The network runs in eval mode without gradients, on the device where its parameters are, and is left in
    the modes it had, without hooks, whatever happens. Outputs are copied or reduced inside the hook, so an
    in-place operation after a layer cannot change what was recorded.

    Args:
        net: A `Network` of `load_model` (takes pixels in [0, 1]) or any module; wrappers such as
            DataParallel are looked through, so layer names are the bare network's.
        data: An `ImageSet`, a `TextSet`, a tensor, or batches that come in the same order each time, such as a
            DataLoader that does not shuffle: x, (x, y), several inputs ((x1, x2), y), or dicts as tokenizers make them,
            with their labels under a name; or a data set of samples, read to its length. Padding, as an attention_mask
            tells it, enters no mean.
        layers: None for every leaf module and every block; "blocks" for the short list, one per block; a name or glob
            ("layer*.*"; `*` does not cross a dot, "**.conv*" reaches any depth), a list of these, or a function
            (name, module) -> bool. Modules that compiling, parametrising and quantising put in are no layers.
        reduction: What makes a row of a layer's output: "auto" or "mean" averages over all positions, "max" takes the
            largest, "pool:K" averages over K×K parts of a map, "flatten" keeps every number, "cls" and "last" take
            the first and the last token, "mean_tokens" averages over tokens. Rows stay rows. They answer different
            questions: "flatten" also asks where in the image, "mean" does not. A dict {glob: name} chooses layer by
            layer; a function makes rows (n, p) of tokens (n, t, c), in which form it gets every output.
        axes: Which axis of an output is what, {glob: "nchw"}, where it cannot be found out: a letter per axis, `n`
            samples, `c` features, others positions, so "nhwc", "ntc", "tnc", "nct"; "(nk)tc" where k windows of each
            sample are folded into the first axis. See `repsim.features.layout`.
        batch_size: Rows per forward pass. On a CPU passes are split further where that is faster.
        name: What results call the network; None takes the network's own name. Images under an input condition (of
            `adversarial`, `corrupt`, or `attack`) add that condition to the name, as in "resnet20 under blur:3".
        attack: Move the images against this network first: a threat model or its text, "linf:8/255", for PGD of 20
            steps, or a function (network, ImageSet) -> ImageSet, such as
            `functools.partial(adversarial, threat="l2:0.5", steps=50)`. The samples stay the same, so the result can
            be compared with features of the clean images.
        call: Runs the network on a batch, (network, batch) -> output, where that is not network(x), network(*x) or
            network(**x): `lambda net, batch: net.get_image_features(batch)`.
        progress: Show a bar when it takes more than two seconds.

    Returns:
        One (n, p) tensor per layer in execution order, on the CPU. A module that runs twice gives two
        layers, `name` and `name#2`. `provenance["layout"]` says which axis of each was what. Features are all axes that
        are neither samples nor positions; heads of attention count as features, windows folded into the samples' axis
        are averaged sample by sample. With layers=None and "blocks", what has no row of features per sample (tables,
        attention weights) is left out and named in `provenance["layers_left_out"]`.

    Raises:
        ValueError: An unknown layer, a layer that never ran, one that was asked for and has no row per sample, or whose
            axes are not clear; inputs that the network does not take or fails on; a reduction that does not fit the
            output, a shuffling loader; as for `adversarial`.
        TypeError: An attack on data that is no `ImageSet`.
        MemoryError: Features that would not fit into memory.

    Warns:
        CautionWarning: Outputs that do not fit the labels: another number of classes, or fewer right than by chance;
            layers that are left out as it is not clear which of their axes are features; a network whose
            answer to a sample depends on the rest of its batch.

    Cost:
        The forward passes, and one copy of the features; before them three passes over two or three samples, which find
        out the axes, and the attack, where there is one.
    """
    reductions = Reductions(reduction)
    forward = TappedNetwork(net, layers, reductions, axes, "extract", name, call)
    if attack is not None:
        data = under(net, data, attack, progress=progress)
    source = Source.of(data, "extract", getattr(bare(net, until=Network), "tokenizer", None))
    step = forward.step(batch_size)
    forward.look(source.first)
    _check_room(forward, source)
    buffers, answers = _Buffers(source.n), _Answers()
    bar = progress_bar(source.n, f"extract {forward.name}", "sample", show=progress)
    with forward.recording(buffers.write) as run, bar:
        for x in source.batches(step):
            count = rows_of(x)
            buffers.begin(count)
            answers.add(run(x), count)
            buffers.end()
            bar.update(count)
    told = {**source.facts, **forward.facts, "layers_that_never_ran": forward.never_ran()}
    provenance = {**forward.provenance, **told}
    given = source.labels, source.digest, source.called(forward.name), reductions.name, provenance, source.ids
    outputs = None if getattr(bare(net, until=Network), "headless", False) else answers.together()
    made = Activations(buffers.features, *given, outputs)
    if caution := outputs_caution(made, source.classes):
        warnings.warn(f"extract: {caution}", CautionWarning, stacklevel=2)
    return made


def _check_room(forward: TappedNetwork, source: Source) -> None:
    """Two rows tell how wide all features are, and whether they would fit, before the first batch is run."""
    need: dict[str, int] = {}

    def count(layer: str, rows: Float[Tensor, "b p"]) -> None:
        need[layer] = source.n * rows.shape[1] * rows.element_size()

    with forward.recording(count) as run:
        run(source.first(2))
    needed, have = sum(need.values()), available_memory()
    if have is not None and needed > have:
        got = f"{needed / 2**30:.1f} GiB for {source.n:,} samples with {have / 2**30:.1f} GiB free"
        advice = 'Use reduction="mean", fewer layers or fewer samples'
        raise MemoryError(message("extract", "the features must fit into memory", got, advice))


class _Answers:
    """What the network itself answers, as long as that is one row of numbers per sample."""

    def __init__(self) -> None:
        self._parts: list[Tensor] | None = []

    def add(self, answer: Any, rows: int) -> None:
        answer = own_answer(answer)
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

    def begin(self, rows: int) -> None:
        self._rows = rows

    def write(self, layer: str, rows: Float[Tensor, "b p"]) -> None:
        if self._start == 0:
            self.features[layer] = empty_rows(self._n, rows.shape[1], rows.dtype)
        self.features[layer][self._start : self._start + self._rows].copy_(rows)

    def end(self) -> None:
        self._start += self._rows
