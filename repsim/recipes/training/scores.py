"""What a trained network's record says of it: accuracy on clean, attacked and noisy test images."""

from typing import Any

import torch
from torch import Tensor, nn

from repsim.data.image_set import ImageSet, stratified_rows
from repsim.networks.answers import accuracy
from repsim.networks.network import Network
from repsim.recipes.training.recipe import Recipe
from repsim.robustness import ThreatModel, pgd

#: Draws of the certificates in a record: to select the class, to estimate its probability; and their error rate.
_N0, _N, _ALPHA = 100, 1000, 0.001


def scores_of(network: Network, recipe: Recipe, test: ImageSet) -> dict[str, Any]:
    """Clean accuracy; under PGD-20; and, of recipes that train for certificates, what CERTIFY says of a few images.

    Args:
        network: In eval mode, on the device.
        recipe: Says by `eval_eps`, `certify_images` and `certified_sigmas` what is measured.
        test: Images that had no part in the training.
    """
    found: dict[str, Any] = {"n_test": len(test), "accuracy": accuracy(network, test, "train")}
    if recipe.eval_eps > 0:
        threat = ThreatModel("linf", recipe.eval_eps)
        found[f"accuracy under linf PGD-20, eps {recipe.eval_eps:g}"] = under_attack(network, test, threat)
    if recipe.certify_images and recipe.certified_sigmas():
        rows = stratified_rows(test.labels.numpy(), limit=max(recipe.certify_images, len(test.labels.unique())), seed=0)
        found["certified"] = _certified(network, recipe, test.take(torch.from_numpy(rows)))
    return found


def under_attack(network: nn.Module, test: ImageSet, threat: ThreatModel) -> float:
    """Accuracy under PGD-20 with steps of eps/5."""
    generator = torch.Generator().manual_seed(0)

    def moved(x: Tensor, y: Tensor) -> Tensor:
        return pgd(network, x, y, threat, steps=20, step_size=threat.eps / 5, generator=generator)

    return accuracy(network, test, "train", moved=moved)


def _certified(network: Network, recipe: Recipe, images: ImageSet) -> dict[str, Any]:
    """Certificates of the smoothed network, level by level."""
    from repsim.robustness.smoothing import certify

    found: dict[str, Any] = {"images": len(images), "n0": _N0, "n": _N, "alpha": _ALPHA}
    for sigma in recipe.certified_sigmas():
        made = certify(network, images, sigma, n0=_N0, n=_N, alpha=_ALPHA, progress=False)
        found[f"sigma {sigma:g}"] = {
            "average certified radius": made.average_certified_radius,
            "certified accuracy at radius 0": made.certified_accuracy(),
            f"certified accuracy at radius {sigma:g}": made.certified_accuracy(sigma),
            "radius cap": made.radius_cap,
        }
    return found
