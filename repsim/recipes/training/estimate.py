"""What a training will cost, told from its first steps."""

import time
from dataclasses import dataclass, replace

import torch

from repsim.data.image_set import ImageSet
from repsim.networks.load import load_model
from repsim.recipes.training.augmentations import augmentation
from repsim.recipes.training.loop import counted, recipe_generator, sgd
from repsim.recipes.training.recipe import Recipe, Run


@dataclass(frozen=True)
class Estimate:
    """A training that has not been done.

    Attributes:
        architecture: Of the network.
        parameters: Numbers that are learned.
        epochs: Passes over the training images, over all parts.
        gradient_evaluations: Images whose gradient will be taken.
        seconds: That the steps will take, without scores.
    """

    architecture: str
    parameters: int
    epochs: int
    gradient_evaluations: int
    seconds: float

    def __str__(self) -> str:
        hours, minutes = divmod(round(self.seconds / 60), 60)
        took = f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes else f"{self.seconds:.0f} s"
        counts = f"{self.parameters:,} parameters, {self.epochs} epochs, {self.gradient_evaluations:,}"
        return f"{self.architecture}, {counts} gradient evaluations: about {took} on this machine"


def estimate(recipe: Recipe, data: ImageSet, classes: int, *, device: str = "cpu", steps: int = 2) -> Estimate:
    """What a training will cost, from a few steps of each of its parts on a network that is thrown away.

    Args:
        recipe: As for `train`.
        data: Training images.
        classes: Outputs of the network.
        device: Where the training will be.
        steps: Timed per part, after one that is not, at the settings of the first and of the last epoch.

    Cost:
        Six steps per part of the training.
    """
    network = load_model(recipe.architecture, normalize=recipe.normalize, num_classes=classes).to(device)
    run = Run(network, sgd(network, recipe), recipe_generator(0), data, 0)
    per_epoch = max(1, len(data) // recipe.batch_size)
    rows = torch.arange(min(recipe.batch_size, len(data)))
    x = augmentation(recipe.augment)(data.pixels(rows), torch.Generator().manual_seed(0)).to(device)
    y = data.labels[rows].to(device)
    seconds, gradients, began, before = 0.0, 0.0, 0.0, 0
    with counted(run):
        for part, stage in enumerate(recipe.stages()):
            for epoch in {0, stage.epochs - 1} if stage.epochs else ():
                now = recipe.in_epoch(epoch, stage.epochs)
                loss = replace(stage, loss=now.stages()[part].loss).loss
                share = stage.epochs / (1 if stage.epochs == 1 else 2)
                for step in range(steps + 1):
                    if step == 1:
                        began, before = time.perf_counter(), run.gradients
                    network.train()
                    now.update(run, loss, x, y)
                seconds += (time.perf_counter() - began) / steps * per_epoch * share
                gradients += (run.gradients - before) / steps * per_epoch * share
            run.epoch += stage.epochs
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return Estimate(recipe.architecture, parameters, run.epoch, round(gradients), seconds)
