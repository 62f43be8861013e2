"""Hooks: a network and images in, `Activations` out."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from repsim.data.image_set import ImageSet
from repsim.data.text_set import TextSet
from repsim.features.activations import Activations
from repsim.features.inputs.batches import Call
from repsim.features.reductions import Choice
from repsim.features.store.budget import Plan
from repsim.features.store.one_run import Extraction
from repsim.networks.answers import CPU_ROWS
from repsim.networks.layers import Layers, select_layers
from repsim.robustness.adversarial_sets import Condition

__all__ = ["CPU_ROWS", "Layers", "extract", "select_layers"]


def extract(
    net: nn.Module,
    data: ImageSet | TextSet | Tensor | Iterable[Any] | Dataset[Any],
    *,
    layers: Layers = None,
    reduction: Choice = "auto",
    axes: Mapping[str, str] | None = None,
    batch_size: int = 256,
    name: str | None = None,
    attack: Condition | None = None,
    call: Call | None = None,
    dtype: torch.dtype | str | None = None,
    store: str | Path | None = None,
    memory: int | str | None = None,
    progress: bool = True,
) -> Activations:
    """Runs a network over samples and keeps what its layers answer.

    The network runs in eval mode without gradients, on the device where its parameters are, and is left in
    the modes it had, without hooks, whatever happens. Outputs are copied or reduced inside the hook, so an
    in-place operation after a layer cannot change what was recorded.

    Args:
        net: A `Network` of `load_model` (takes pixels in [0, 1]) or any module; wrappers such as
            DataParallel are looked through, so layer names are the bare network's.
        data: An `ImageSet`, a `TextSet`, a tensor, a data set of PyTorch or Hugging Face, or batches that come in the
            same order each time, such as a DataLoader that does not shuffle: x, (x, y), several inputs ((x1, x2), y),
            or dicts as tokenizers make them, with their labels under a name. Padding, as an attention_mask tells it,
            enters no mean. Batches are read as the network needs them and not kept, but for tokens.
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
        dtype: What features are kept as, "float32" or "float16"; None keeps the type that each layer answers in.
        store: A folder that the features are written to instead of memory, batch by batch, and read from when they are
            used (see `Activations.load`). A run that was killed goes on from its last whole batch; features that are
            there already are taken as they are, and no network is run. A store of other weights, samples, layers or
            settings is never taken or written over. "{key}" in the name stands for eight letters that differ with any
            of these, as in "features/resnet20-{key}".
        memory: Bytes that the features may take in memory, as in "8GB"; None is four fifths of what is free. Larger
            ones go to a store in the folder for temporary files, which is removed with them, and a line says so.
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
            A number too large for `dtype`. A store of something else, one that is damaged, or that another process
            writes to.
        TypeError: An attack on data that is no `ImageSet`.
        MemoryError: Features that fit neither into memory nor on the disk; three changes that help are named.
        OSError: A disk without room for the features; what is written by then stays, and is gone on from.

    Warns:
        CautionWarning: Outputs that do not fit the labels: another number of classes, or fewer right than by chance;
            layers that are left out as it is not clear which of their axes are features; a network whose
            answer to a sample depends on the rest of its batch; features that are above `memory`.

    Cost:
        The forward passes, and one copy of the features; before them three passes over two or three samples, which find
        out the axes, and the attack, where there is one.
    """
    options = layers, reduction, axes, batch_size, name, attack, call, dtype, memory, progress
    run = Extraction.of(net, data, "extract", *options)
    return run.in_memory() if store is None else run.stored(store)


def plan(
    net: nn.Module,
    data: ImageSet | TextSet | Tensor | Iterable[Any] | Dataset[Any],
    *,
    layers: Layers = None,
    reduction: Choice = "auto",
    axes: Mapping[str, str] | None = None,
    batch_size: int = 256,
    name: str | None = None,
    call: Call | None = None,
    dtype: torch.dtype | str | None = None,
) -> Plan:
    """What `extract` with the same arguments will take: bytes of every layer, and about how many seconds.

    Args:
        net: As for `extract`.
        data: As for `extract`; of an iterator, the first batch is used up.
        layers: As for `extract`.
        reduction: As for `extract`.
        axes: As for `extract`.
        batch_size: As for `extract`.
        name: As for `extract`.
        call: As for `extract`.
        dtype: As for `extract`.

    Returns:
        The plan; `print` shows it as a table.

    Raises:
        ValueError: As for `extract`.

    Cost:
        Passes over a few samples, and two over one batch.
    """
    options = layers, reduction, axes, batch_size, name, None, call, dtype, None, False
    return Extraction.of(net, data, "plan", *options).timed()
