"""What needs labels and ids beside the pixels says so when it is given pixels alone."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

import repsim
from repsim import ImageSet
from repsim.networks.network import Network
from repsim.recipes import RECIPES, train
from repsim.robustness.adversarial_sets import adversarial
from repsim.robustness.corruptions import corrupt
from repsim.robustness.smoothing import certify, predict
from repsim.studies.augmentation.judging import judge
from repsim.studies.robustness.whole_study import robustness
from tests.conftest import exactly

PIXELS = torch.rand(4, 1, 8, 8)

ASKED: dict[str, Callable[[Network, ImageSet, Any], object]] = {
    "adversarial": lambda net, _, x: adversarial(net, x, "linf:0.1"),
    "corrupt": lambda _, __, x: corrupt(x, "blur:1"),
    "certify": lambda net, _, x: certify(net, x, 0.1),
    "predict": lambda net, _, x: predict(net, x, 0.1),
    "train": lambda _, data, x: train(RECIPES["standard"].preset("digits"), data, x, seed=0, name="a"),
    "judge": lambda net, data, x: judge({"a": [net, net]}, data, x),
    "robustness": lambda net, _, x: robustness(
        {"a": [net], "b": [repsim.load_model("digits_resnet8", seed=1, name="b")]}, x
    ),
}


@pytest.mark.parametrize("function", ASKED)
@pytest.mark.parametrize("given", [PIXELS, (PIXELS, torch.zeros(4))], ids=["a tensor", "a pair"])
def test_pixels_alone_are_refused(function: str, given: Any, digits: ImageSet) -> None:
    net = repsim.load_model("digits_resnet8", seed=0)
    text = (
        f"{function}: images must come as an ImageSet; got {type(given).__name__}. "
        "Use load_data(...), or make one: ImageSet(images, labels, ids, name)."
    )
    with pytest.raises(TypeError, match=exactly(text)):
        ASKED[function](net, digits, given)


def test_targets_must_be_a_tensor(digits: ImageSet) -> None:
    net = repsim.load_model("digits_resnet8", seed=0)
    text = "adversarial: targets must be a tensor; got list. Convert it with torch.as_tensor."
    with pytest.raises(TypeError, match=exactly(text)):
        adversarial(net, digits.take([0]), "linf:0.1", targets=[1])  # type: ignore[arg-type]
