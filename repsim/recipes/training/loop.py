"""The training loop that every recipe shares."""

import copy
import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from repsim._common.messages import message
from repsim._common.progress import progress_bar
from repsim._common.provenance import versions
from repsim._common.random_numbers import seeded
from repsim.data.image_set import ImageSet, check_image_set
from repsim.networks.load import load_model
from repsim.networks.network import Network
from repsim.networks.weight_files import read_checkpoint, save_checkpoint, weights_digest
from repsim.recipes.training.augmentations import Step, augmentation
from repsim.recipes.training.recipe import Recipe, Run, Stage
from repsim.recipes.training.scores import scores_of
from repsim.recipes.training.state import read_state, write_state


@dataclass(frozen=True, eq=False)
class TrainedNetwork:
    """A trained network and its record (architecture, settings, seed, data, scores, cost, versions)."""

    network: Network
    record: dict[str, Any]

    def save(self, path: str | Path) -> Path:
        """Writes a checkpoint that `load_model(path)` reads."""
        return save_checkpoint(path, self.network.net, self.record)


def train(
    recipe: Recipe,
    data: ImageSet,
    test: ImageSet,
    *,
    seed: int,
    name: str,
    start: Network | None = None,
    resume: str | Path | None = None,
    save_every: float = 60.0,
    snapshots: str | Path | None = None,
    device: str = "cpu",
    progress: bool = True,
    after_epoch: Callable[[int], None] | None = None,
) -> TrainedNetwork:
    """Trains a network; the same seed on the same machine gives the same weights, interrupted or not.

    On a GPU that holds to rounding: some of PyTorch's kernels add in an order of their own.

    Args:
        recipe: Settings, as in `RECIPES["standard"](epochs=10)` or `RECIPES["pgd"].preset("cifar10")`.
        data: Training images.
        test: Images for the scores; they have no part in the training.
        seed: Of the weights, the order of the images and everything random in the recipe.
        name: What results call the network.
        start: A network to begin from, which stays as it is; None begins from the random weights of `seed`.
        resume: File for the state of the training. Where it exists the training goes on from there; it is written
            at the ends of epochs and left when the training is done.
        snapshots: Folder for the network after each epoch, as checkpoints epoch-001.safetensors, … of their own, for
            the study of training itself; None keeps none.
        save_every: Seconds that pass at least between two writes of the state; 0 writes after every epoch.
        device: Where to train, as in "cuda"; the order of images and the noise are those of the CPU everywhere.
        progress: Show a bar when it takes more than two seconds.
        after_epoch: Called with the number of epochs done, when the training begins or goes on and after each epoch;
            what it raises ends the training.

    Returns:
        The network in eval mode, on the CPU, with its record. `record["cost"]["gradient_evaluations"]` counts images
        whose gradient was taken, by the training and by its attacks.

    Raises:
        ValueError: A negative seed, a start of another architecture, a state file of another training, an
            augmentation whose images are no images any more.
        TypeError: Images that are no `ImageSet`.
        RuntimeError: Weights or answers that are no longer finite.
        OSError: The state could not be written; what was written before is whole.

    Cost:
        One forward and one backward pass per image, epoch and gradient evaluation. A state takes about twice the room
        of the weights; the images stay as they are in `data`.
    """
    check_image_set("train", data, test)
    if seed < 0:
        raise ValueError(message("train", "seed must be >= 0", f"{seed}", "Choose another"))
    classes = max(int(data.labels.max()), int(test.labels.max())) + 1
    network = load_model(recipe.architecture, normalize=recipe.normalize, num_classes=classes, seed=seed, name=name)
    begun = None
    if start is not None:
        network, classes = _started(network, start, test, classes)
        begun = {"name": start.name, "weights_sha256": weights_digest(start.net.state_dict())}
    training = {
        "recipe": recipe.name,
        "settings": json.loads(json.dumps(dataclasses.asdict(recipe))),  # as a file gives them back
        "seed": seed,
        "num_classes": classes,
        "start": begun,
        "train_digest": data.digest,
    }
    network.to(device)
    if data.images.shape[1] > 1:  # in this layout a core takes 1.4 times as many steps of a ResNet-20
        network.to(memory_format=torch.channels_last)
    learned = _mislabelled(data, recipe.label_noise, seed) if recipe.label_noise else data
    run = Run(network, sgd(network, recipe), recipe_generator(seed), learned, seed)
    order = torch.Generator().manual_seed(seed)
    augment = augmentation(recipe.augment)
    path = Path(resume) if resume is not None else None
    if path is not None and path.exists():
        read_state(path, run, order, training)
    if snapshots is not None:
        _check_snapshots(Path(snapshots), training)
    report = after_epoch or (lambda epoch: None)
    report(run.epoch)
    written = time.perf_counter()
    epochs = [(part, stage, epoch) for part, stage in enumerate(recipe.stages()) for epoch in range(stage.epochs)]
    per_epoch = max(1, len(data) // recipe.batch_size)
    with progress_bar(len(epochs) * per_epoch, f"train {name}", "step", show=progress) as bar, counted(run):
        bar.update(run.epoch * per_epoch)
        for part, stage, epoch in epochs[run.epoch :]:
            if run.stopped:
                break
            began = time.perf_counter()
            with _own_random_numbers(seed, run.epoch, device):
                now = recipe.in_epoch(epoch, stage.epochs)
                _epoch(now, replace(stage, loss=now.stages()[part].loss), epoch, run, order, augment, bar)
            run.epoch += 1
            run.stopped = recipe.after_epoch(run)
            if snapshots is not None:
                _snapshot(Path(snapshots) / f"epoch-{run.epoch:03d}.safetensors", run, recipe, training)
            run.seconds += time.perf_counter() - began
            _check_weights(run, name, len(epochs))
            done = run.epoch == len(epochs) or bool(run.stopped)
            if path is not None and (done or time.perf_counter() - written >= save_every):
                write_state(path, run, order, training)
                written = time.perf_counter()
            report(run.epoch)
    network.eval()
    with torch.no_grad():
        if not bool(torch.isfinite(network(test.pixels(slice(0, 64)).to(device))).all()):
            raise RuntimeError(f"train: {name} must give finite answers; got NaN or infinity. Lower the learning rate.")
    scores = scores_of(network, recipe, test)
    network.to("cpu").to(memory_format=torch.contiguous_format)
    record = {
        "architecture": recipe.architecture,
        "num_classes": classes,
        "normalize": network.provenance["normalize"],
        "recipe": recipe.name,
        "settings": training["settings"],
        "seed": seed,
        "start": begun,
        "data": {
            "train": data.name,
            "train_digest": data.digest,
            "test": test.name,
            "test_digest": test.digest,
        },
        "scores": scores,
        "facts": recipe.facts(network.net),
        "stopped": run.stopped or None,
        "cost": {
            "epochs": run.epoch,
            "gradient_evaluations": run.gradients,
            "seconds_per_epoch": run.seconds / run.epoch,
            "device": device,
            "threads": torch.get_num_threads(),
        },
        "versions": versions(),
    }
    network.provenance.update(record=record, notes=[f"trained here by recipe {recipe.name}, seed {seed}"])
    return TrainedNetwork(network, record)


def _epoch(recipe: Recipe, stage: Stage, epoch: int, run: Run, order: torch.Generator, augment: Step, bar: Any) -> None:
    """One pass over the images of a stage, in a new order."""
    if epoch == 0:
        run.optimizer.state.clear()
    device = next(run.network.parameters()).device
    per_epoch = max(1, len(run.data) // recipe.batch_size)
    step, total = epoch * per_epoch, stage.epochs * per_epoch
    rise = max(1, total // 5)
    shuffled = torch.randperm(len(run.data), generator=order)
    for rows in shuffled[: per_epoch * recipe.batch_size].split(recipe.batch_size):
        if recipe.decay_epochs:
            share = 0.1 ** sum(epoch >= k for k in recipe.decay_epochs)
        else:
            share = min((step + 1) / rise, (total - step) / max(1, total - rise))
        for group in run.optimizer.param_groups:
            group["lr"] = stage.learning_rate * share
        x = augment(run.data.pixels(rows), order)
        run.network.train()
        recipe.update(run, stage.loss, x.to(device), run.data.labels[rows].to(device))
        step += 1
        bar.update()


@contextmanager
def _own_random_numbers(seed: int, epoch: int, device: str) -> Iterator[None]:
    """PyTorch's own random numbers, which dropout draws, decided by the seed and the epoch; the program's are left."""
    devices = [device] if torch.device(device).type == "cuda" else []
    with seeded(int(np.random.SeedSequence([seed, 3, epoch]).generate_state(1)[0]), devices):
        yield


def _snapshot(path: Path, run: Run, recipe: Recipe, training: dict[str, Any]) -> None:
    """The network as it is between two epochs, with what a checkpoint must say to load by itself."""
    record = {"architecture": recipe.architecture, "normalize": run.network.provenance["normalize"], **training}
    save_checkpoint(path, run.network.net, {**record, "epoch": run.epoch})


def _check_snapshots(folder: Path, training: dict[str, Any]) -> None:
    """A folder of snapshots is of one training alone: two of them mixed would be studied as one."""
    for path in sorted(folder.glob("epoch-*.safetensors")):
        record = read_checkpoint(path).record
        for name, value in training.items():
            if record.get(name) != value:
                got = f"{path.name} of {name} {record.get(name)!r}"
                advice = "Choose another folder, or empty this one"
                raise ValueError(message("train", f"{folder} must hold no snapshots of another training", got, advice))


def sgd(network: Network, recipe: Recipe) -> torch.optim.Optimizer:
    return torch.optim.SGD(
        network.parameters(),
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=recipe.momentum > 0,
    )


def recipe_generator(seed: int) -> torch.Generator:
    """A stream of random numbers apart from the one that orders the images, which `seed` itself starts."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence([seed, 1]).generate_state(1)[0]))


def _mislabelled(data: ImageSet, share: float, seed: int) -> ImageSet:
    """The images with a share of the labels replaced by another class of theirs, drawn from the seed alone."""
    generator = torch.Generator().manual_seed(int(np.random.SeedSequence([seed, 2]).generate_state(1)[0]))
    classes, places = data.labels.unique(return_inverse=True)
    if len(classes) < 2:
        got, advice = f"{len(classes)} in {data.name}", "Train on images of several classes"
        raise ValueError(message("train", "label_noise needs at least two classes", got, advice))
    rows = torch.randperm(len(data), generator=generator)[: round(share * len(data))]
    labels = data.labels.clone()
    labels[rows] = classes[
        (places[rows] + torch.randint(1, len(classes), rows.shape, generator=generator)) % len(classes)
    ]
    return ImageSet(data.images, labels, data.ids, data.name, data.classes)


def _started(network: Network, start: Network, test: ImageSet, classes: int) -> tuple[Network, int]:
    """The network with the weights and the head of another one, and the width of that head."""
    have, want = (n.provenance.get("architecture") for n in (start, network))
    advice = "Set the recipe's architecture and normalize to those of the network, or start from another one"
    if have != want:
        raise ValueError(message("train", f"start must be a {want}", f"{start.name!r}, a {have}", advice))
    pixels = [n.provenance.get("normalize") for n in (start, network)]
    if pixels[0] != pixels[1]:
        must = f"start must normalise pixels as the recipe does, {pixels[1]}"
        raise ValueError(message("train", must, f"{pixels[0]}", advice))
    with torch.no_grad():
        width = copy.deepcopy(start).eval()(test.pixels(slice(0, 1))).shape[1]
    if width < classes:
        must = f"start must have an output for each of {classes} classes"
        raise ValueError(message("train", must, f"{width}", "Start from a network with a wider head"))
    network.net = copy.deepcopy(start.net)
    return network, width


@contextmanager
def counted(run: Run) -> Iterator[None]:
    """Counts the images that pass through the network while gradients are recorded."""

    def count(_: nn.Module, given: tuple[Tensor, ...], __: Tensor) -> None:
        if torch.is_grad_enabled():
            run.gradients += len(given[0])

    handle = run.network.register_forward_hook(count)
    try:
        yield
    finally:
        handle.remove()


def _check_weights(run: Run, name: str, epochs: int) -> None:
    if not all(bool(torch.isfinite(p).all()) for p in run.network.parameters()):
        got = f"NaN or infinity after epoch {run.epoch} of {epochs}"
        raise RuntimeError(message("train", f"{name} must keep finite weights", got, "Lower the learning rate"))
