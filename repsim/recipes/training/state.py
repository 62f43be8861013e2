"""The state of an unfinished training as a file: tensors and JSON, so reading it never runs code."""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from repsim._common.files import whole_file
from repsim._common.messages import message, some
from repsim._common.provenance import CautionWarning, versions
from repsim.networks.weight_files import weights_digest
from repsim.recipes.training.recipe import Run

#: What a state file's header is stored under.
_KEY = "repsim_training"


def write_state(path: Path, run: Run, order: torch.Generator, training: Mapping[str, Any]) -> None:
    """Writes all that the rest of a training depends on, whole or not at all.

    Args:
        path: Where to; a state that stands there is replaced.
        run: The training, between two epochs.
        order: The generator of the order of images.
        training: What is trained and how: settings, seed, digests of the data.
    """
    from safetensors.torch import save

    tensors = {f"weights.{key}": value for key, value in run.network.state_dict().items()}
    for i, parameter in enumerate(run.network.parameters()):
        momentum = run.optimizer.state[parameter].get("momentum_buffer")
        if momentum is not None:
            tensors[f"momentum.{i}"] = momentum
    tensors |= {"random.order": order.get_state(), "random.recipe": run.generator.get_state()}
    tensors |= {f"memory.{key}": value for key, value in run.memory.items()}
    tensors = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    counts = {"epoch": run.epoch, "gradients": run.gradients, "seconds": run.seconds, "stopped": run.stopped}
    header = {"training": training, "counts": counts, "versions": versions(), "digest": weights_digest(tensors)}
    with whole_file(path) as temporary:
        temporary.write_bytes(save(tensors, metadata={_KEY: json.dumps(header)}))


def read_state(path: Path, run: Run, order: torch.Generator, training: Mapping[str, Any]) -> None:
    """Puts a run where the file left it.

    Args:
        path: What `write_state` wrote.
        run: The training, not begun.
        order: The generator of the order of images.
        training: What is to be trained; the file must be of the same.

    Raises:
        ValueError: A file that is no such state, or that is damaged, or of another training.
    """
    tensors, header = _read(path)
    written, asked = _flat(header["training"]), _flat(training)
    names = [name for name in {**asked, **written} if written.get(name) != asked.get(name)]
    if names:
        must = "the state file must be of the training that is asked for"
        got = some(f"{name}={written.get(name)} for {asked.get(name)}" for name in names)
        advice = "Train with the file's settings, or name another file to begin anew"
        raise ValueError(message("train", must, f"{path} with {got}", advice))
    then, now = header["versions"]["torch"], versions()["torch"]
    if then != now:
        text = f"train: {path} was written under torch {then}, this is {now}: the weights may not be those of one run."
        warnings.warn(text, CautionWarning, stacklevel=3)
    run.network.load_state_dict(_part(tensors, "weights."))
    for i, parameter in enumerate(run.network.parameters()):
        if f"momentum.{i}" in tensors:
            run.optimizer.state[parameter]["momentum_buffer"] = tensors[f"momentum.{i}"].to(parameter)
    order.set_state(tensors["random.order"])
    run.generator.set_state(tensors["random.recipe"])
    run.memory = _part(tensors, "memory.")
    counts = header["counts"]
    run.epoch, run.gradients = counts["epoch"], counts["gradients"]
    run.seconds, run.stopped = counts["seconds"], counts["stopped"]


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    reason = ""
    tensors: dict[str, Tensor] = {}
    header: dict[str, Any] = {}
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
        header = json.loads(metadata.get(_KEY, "{}"))
    except (SafetensorError, OSError, ValueError) as error:
        reason = f"a damaged file ({error})"
    if not reason and not header:
        reason = "a file of another kind"
    if not reason and header["digest"] != weights_digest(tensors):
        reason = "tensors that differ from the digest written with them"
    if reason:
        advice = "Delete it, or name another file, to begin anew"
        raise ValueError(message("train", f"{path} must be the state of a training", reason, advice))
    return tensors, header


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _flat(training: Mapping[str, Any]) -> dict[str, Any]:
    """Settings beside what holds them, so that a difference is named by the setting alone."""
    return {**{k: v for k, v in training.items() if k != "settings"}, **training["settings"]}
