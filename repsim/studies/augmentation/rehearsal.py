"""A study asked of untrained networks and two images, so that a mistake is met before the trainings and not after."""

from collections.abc import Mapping

from repsim.data.image_set import ImageSet
from repsim.features.extraction import extract
from repsim.networks.layers import Layers, study_layers
from repsim.networks.load import load_model
from repsim.studies.augmentation.features import Task, joined_sets
from repsim.studies.augmentation.judging import LABELS, before_the_head, check_question
from repsim.studies.augmentation.plan import Plan


def rehearse(
    plan: Plan,
    train: ImageSet,
    test: ImageSet,
    *,
    tasks: Mapping[str, Task],
    layers: Layers,
    reduction: str,
    metric: str,
    fit_limit: int | None,
) -> None:
    """Whether a plan's networks can be judged as is asked, once they are trained.

    Args:
        plan: The study.
        train: Of `plan.images()`.
        test: The other one.
        tasks: As for `judge`.
        layers: As for `judge`.
        reduction: As for `judge`.
        metric: As for `judge`.
        fit_limit: As for `judge`.

    Raises:
        ValueError: As `judge` would raise it: an unknown layer, reduction or measure, tasks that do not fit the labels
            or the images, a layer whose output the reduction does not fit.

    Cost:
        One untrained network, and two images of every set.
    """
    check_question(train, test, metric)
    given = {"tasks": tasks, "fit_limit": fit_limit, "without": plan.held_out}
    images = joined_sets(train, test, labels=LABELS, **given)
    recipe = plan.recipe(plan.strategies[0])
    classes = max(int(train.labels.max()), int(test.labels.max())) + 1
    network = load_model(recipe.architecture, normalize=recipe.normalize, num_classes=classes, name="untrained")
    chosen = study_layers(network) if layers is None else layers
    for data in images.joined.values():
        side = extract(network, data.take([0, len(data) - 1]), layers=chosen, reduction=reduction, progress=False)
        before_the_head(side)
