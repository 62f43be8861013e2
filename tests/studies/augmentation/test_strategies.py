"""Strategies from texts and functions, and the file that a study of them is read from."""

import dataclasses
import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from repsim import load_data
from repsim.recipes.adversarial.pgd import PGD
from repsim.recipes.mixup import Mixup
from repsim.recipes.standard import Standard
from repsim.recipes.training.augmentations import augmentation
from repsim.studies.augmentation.plan import Plan, PlannedTask, Strategy, read_plan, strategy
from tests.conftest import exactly


def darker(x: Tensor, generator: torch.Generator) -> Tensor:
    """A user's own augmentation."""
    return x * torch.rand(len(x), 1, 1, 1, generator=generator)


HERE = f"{__name__}:darker"


# --- One strategy ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "recipe", "settings"),
    [
        ("none", "standard", {"augment": "none"}),
        ("flip", "standard", {"augment": "flip"}),
        ("crop:2 + flip", "standard", {"augment": "crop:2+flip"}),
        ("flip+gaussian_noise:0.1", "standard", {"augment": "flip+gaussian_noise:0.1"}),
        ("mixup", "mixup", {"augment": "none"}),
        ("crop:4+mixup:0.2", "mixup", {"augment": "crop:4", "alpha": 0.2}),
        ("cutmix+flip", "cutmix", {"augment": "flip"}),
        ("flip+pani:4", "pani", {"augment": "flip", "neighbours": 4}),
        ("pani", "pani", {"augment": "none"}),
        ("gaussian_noise:0.1+mixup", "mixup", {"augment": "gaussian_noise:0.1"}),
        ("adversarial", "pgd", {"augment": "none"}),
        ("adversarial:8/255+flip", "pgd", {"augment": "flip", "eps": 8 / 255, "step_size": 2 / 255}),
        ("label_noise:0.2+flip", "standard", {"augment": "flip", "label_noise": 0.2}),
        ("mixup+label_noise:1/2", "mixup", {"augment": "none", "label_noise": 0.5}),
        (HERE, "standard", {"augment": HERE}),
        (f"flip+{HERE}", "standard", {"augment": f"flip+{HERE}"}),
    ],
)
def test_a_text_says_recipe_and_settings(text: str, recipe: str, settings: dict[str, Any]) -> None:
    made = strategy(text)
    note = "wrong labels: a harmful control" if "label_noise" in text else ""
    assert made == Strategy(text, recipe, settings, note)
    assert strategy(text, name="mine") == Strategy("mine", recipe, settings, note)
    assert made.recipe_for("digits", None).augment == settings["augment"]


def test_a_function_is_recorded_by_its_place() -> None:
    assert strategy(darker) == Strategy("darker", "standard", {"augment": HERE})
    assert strategy(darker, name="dark").name == "dark"


@pytest.mark.parametrize("preset", ["digits", "mnist", "cifar10"])
@pytest.mark.parametrize("text", ["none", "mixup", "cutmix", "adversarial", "flip+label_noise:0.2"])
def test_all_strategies_share_network_and_schedule(text: str, preset: str) -> None:
    made = strategy(text).recipe_for(preset, None, epochs=7)
    standard = Standard.preset(preset, epochs=7)
    for setting in dataclasses.fields(Standard):
        if setting.name not in ("augment", "label_noise"):
            assert getattr(made, setting.name) == getattr(standard, setting.name)
    assert made.augment == ("flip" if "flip" in text else "none")  # not the preset's crops
    assert json.loads(json.dumps(dataclasses.asdict(made)))["label_noise"] == (0.2 if "label" in text else 0.0)


def test_what_a_recipe_has_of_its_own_comes_from_its_preset_or_the_strategy() -> None:
    mnist = strategy("adversarial").recipe_for("mnist")
    assert isinstance(mnist, PGD)
    assert (mnist.eps, mnist.steps, mnist.step_size) == (0.3, 40, 0.01)
    assert mnist.epochs == Standard.preset("mnist").epochs
    given = strategy("adversarial:0.2").recipe_for("mnist")
    assert isinstance(given, PGD)
    assert (given.eps, given.steps, given.step_size) == (0.2, 40, 0.05)
    mixed = strategy("mixup:0.4").recipe_for("cifar10", "resnet32", learning_rate=0.05)
    assert isinstance(mixed, Mixup)
    assert (mixed.alpha, mixed.architecture, mixed.learning_rate) == (0.4, "resnet32", 0.05)


KNOWN = (
    "none, crop, flip, flip_crop, vertical_flip, shift, cutout, random_erasing, gaussian_noise, blur, rotation, "
    "color_jitter, … (9 more)"
)
TOGETHER = "at most one of mixup, cutmix, pani and adversarial, and one label_noise, can go together"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("flp", "strategy: the name must be known; got 'flp'. Close matches: flip, flip_crop."),
        ("flip+mixp", "strategy: the name must be known; got 'mixp'. Close matches: mixup, cutmix, augmix, flip."),
        ("", f"strategy: the name must be known; got ''. Known: {KNOWN}."),
        ("mixup+cutmix", f"strategy: {TOGETHER}; got 'mixup+cutmix'. Leave one out."),
        ("mixup+mixup", f"strategy: {TOGETHER}; got 'mixup+mixup'. Leave one out."),
        (
            "label_noise:0.1+label_noise:0.2",
            f"strategy: {TOGETHER}; got 'label_noise:0.1+label_noise:0.2'. Leave one out.",
        ),
        (
            "label_noise",
            "strategy: label_noise must have an amount from 0 to 1 (share of labels); got 'label_noise'. "
            'Write, say, "label_noise:0.1".',
        ),
        (
            "adversarial:2",
            "strategy: adversarial must have an amount from 0 to 1 (linf radius, pixels of [0, 1]); "
            "got 'adversarial:2'. Write, say, \"adversarial:0.1\".",
        ),
        (
            "mixup:x",
            "strategy: mixup must have an amount >= 0 (of the Beta distribution); got 'mixup:x'. "
            'Write, say, "mixup:0.1".',
        ),
        (
            "pani:2.5",
            "strategy: pani must have a count of at least 1 (nearest patches); got 'pani:2.5'. Write, say, \"pani:4\".",
        ),
        (
            "cutmix:",
            "strategy: cutmix must have an amount >= 0 (of the Beta distribution); got 'cutmix:'. "
            'Write, say, "cutmix:0.1".',
        ),
        (
            "gaussian_noise:0.1+adversarial",
            "strategy: adversarial needs images in [0, 1], which gaussian_noise leaves; "
            "got 'gaussian_noise:0.1+adversarial'. Leave one out.",
        ),
        ("flip:2", "augmentation: flip must have no amount; got 'flip:2'. Write \"flip\"."),
    ],
)
def test_a_text_that_is_no_strategy_is_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=exactly(said)):
        strategy(text)


class Darker:
    """A function with settings, and no place of its own."""

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return x / 2

    def method(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return x / 2


def test_any_callable_is_a_strategy_once_it_has_a_name() -> None:
    x = torch.rand(3, 1, 4, 4)
    for name, function in (("darker", Darker()), ("halved", lambda x, generator: x / 2), ("part", Darker().method)):
        found = strategy(function, name=name)
        assert (found.name, found.recipe, found.settings) == (name, "standard", {"augment": f"this_process:{name}"})
        assert torch.equal(augmentation(found.settings["augment"])(x, torch.Generator()), x / 2)
    with pytest.raises(ValueError, match=exactly(
        "augmentation: the name of a function must be an identifier; got 'a b'. Take letters, digits and underscores."
    )):  # fmt: skip
        strategy(Darker(), name="a b")
    with pytest.raises(ValueError, match="must exist; got 'this_process:gone' "):
        augmentation("this_process:gone")


def test_a_function_without_a_place_or_a_name_is_refused() -> None:
    must = "strategy: a function that is not reachable as module:function must have a name, as checkpoints record it so"
    do = "Pass name=, or define it with def at the top of a module."

    def inner(x: Tensor, generator: torch.Generator) -> Tensor:
        return x

    name = "test_a_function_without_a_place_or_a_name_is_refused.<locals>.inner"
    for function, place in (
        (inner, name),
        (lambda x, generator: x, name.replace("inner", "<lambda>")),
        (Darker(), "None"),
        (Darker().method, "Darker.method"),
    ):
        with pytest.raises(TypeError, match=exactly(f"{must}; got {__name__}:{place}. {do}")):
            strategy(function)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"epoch": 3},
            "settings must be those that all strategies share; got 'epoch'. Close matches: epochs, decay_epochs.",
        ),
        (
            {"augment": "flip"},
            "settings must be those that all strategies share; got 'augment'. "
            "Write it as a strategy, as in flip or label_noise:0.2.",
        ),
    ],
)
def test_settings_that_strategies_do_not_share_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=exactly(f"strategy: {said}")):
        strategy("mixup").recipe_for("digits", None, **settings)


# --- The plan -------------------------------------------------------------------------------------------------


FULL = """
data = "fashion_mnist"
preset = "mnist"
architecture = "small_conv_mnist"
seeds = [3, 1]
layers = ["2", "5"]
limit = 500
threads = 2
root = "somewhere"

[settings]
epochs = 4
decay_epochs = [2, 3]
normalize = "none"

[strategies]
none = "none"
"crop and mix" = "crop:2+mixup"

[tasks]
parity = {even = [0, 2, 4, 6, 8], odd = [1, 3, 5, 7, 9]}
unseen = {held_out = [8, 9]}
first = {held_out = [0, 8]}

[tasks.other]
data = "mnist"
"""


def test_a_file_is_read_in_full(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text(FULL, encoding="utf-8")
    plan = read_plan(path)
    assert plan == Plan(
        data="fashion_mnist",
        strategies=(strategy("none"), strategy("crop:2+mixup", name="crop and mix")),
        seeds=(3, 1),
        preset="mnist",
        architecture="small_conv_mnist",
        settings={"epochs": 4, "decay_epochs": [2, 3], "normalize": "none"},
        layers=("2", "5"),
        limit=500,
        root=Path("somewhere"),
        threads=2,
        tasks={
            "parity": PlannedTask({"even": (0, 2, 4, 6, 8), "odd": (1, 3, 5, 7, 9)}),
            "unseen": PlannedTask(held_out=(8, 9)),
            "first": PlannedTask(held_out=(0, 8)),
            "other": PlannedTask(data="mnist"),
        },
    )
    assert plan.held_out == (0, 8, 9)
    recipe = plan.recipe(plan.strategies[1])
    assert isinstance(recipe, Mixup)
    assert (recipe.epochs, recipe.decay_epochs, recipe.augment, recipe.batch_size) == (4, (2, 3), "crop:2", 128)
    changed = read_plan(path, {"seeds": 2, "limit": None, "root": tmp_path})
    assert changed == dataclasses.replace(plan, seeds=(0, 1), root=tmp_path)


SMALL: dict[str, Any] = {"data": "digits", "strategies": {"none": "none", "flip": "flip"}}


def test_little_need_be_said() -> None:
    plan = Plan.of(SMALL)
    assert plan == Plan("digits", (strategy("none"), strategy("flip")), (0, 1, 2, 3, 4), "digits")
    assert plan.recipe(plan.strategies[1]) == Standard(augment="flip")
    assert Plan.of({**SMALL, "strategies": {"dark": darker}}).strategies == (strategy(darker, name="dark"),)


def test_the_plan_loads_its_images() -> None:
    plan = Plan.of({**SMALL, "limit": 200, "tasks": {"unseen": {"held_out": [3, 4]}}})
    train, test = plan.images()
    assert train.digest == load_data("digits", split="train", limit=200).digest
    assert test.digest == load_data("digits").digest


@pytest.mark.parametrize(
    ("classes", "got"), [([8, 10], "class 10 that no image has"), ([*range(9)], "0, 1, 2, 3, … (5 more)")]
)
def test_held_out_classes_leave_something_to_learn(classes: list[int], got: str) -> None:
    plan = Plan.of({**SMALL, "tasks": {"unseen": {"held_out": classes}}})
    text = f"plan: held-out classes must leave two of the data's classes; got {got}. Hold out other classes."
    with pytest.raises(ValueError, match=exactly(text)):
        plan.images()


TASK = 'Write, say, t = {low = [0, 1], high = [2]}, {held_out = [8, 9]} or {data = "mnist"}.'
SEEDS = "seeds must be a number >= 1 or different integers >= 0 in the plan"


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        (
            {"seed": 3},
            ValueError,
            "keys must be known in the plan; got 'seed'. Close matches: seeds, size, strategies, preset.",
        ),
        ({"data": ""}, ValueError, 'data must be given in the plan; got none. Write, say, data = "digits".'),
        ({"data": 3}, TypeError, "data must be a text in the plan; got 3. Put it in quotes."),
        (
            {"data": "svhn"},
            ValueError,
            "preset must be given for data 'svhn' in the plan; got none. Write preset = one of digits, mnist, cifar10.",
        ),
        (
            {"preset": "imagenet"},
            ValueError,
            None,
        ),
        ({"architecture": 3}, TypeError, "architecture must be a text in the plan; got 3. Put it in quotes."),
        (
            {"strategies": {}},
            ValueError,
            'strategies must be given in the plan; got none. Write, say, [strategies] and flip = "flip".',
        ),
        (
            {"strategies": "flip"},
            TypeError,
            "strategies must be a table in the plan; got 'flip'. Write [strategies] and its lines.",
        ),
        (
            {"strategies": {"flip": 3}},
            TypeError,
            "strategy 'flip' must be a text or a function in the plan; got 3. Write, say, flip = \"flip\".",
        ),
        ({"seeds": 0}, ValueError, f"{SEEDS}; got 0. Write seeds = 5, or a list of them."),
        ({"seeds": [1, 1]}, ValueError, f"{SEEDS}; got [1, 1]. Write seeds = 5, or a list of them."),
        ({"seeds": [1, -1]}, ValueError, f"{SEEDS}; got [1, -1]. Write seeds = 5, or a list of them."),
        ({"seeds": True}, ValueError, f"{SEEDS}; got True. Write seeds = 5, or a list of them."),
        (
            {"layers": [1]},
            TypeError,
            'layers must be names of layers in the plan; got [1]. Write layers = "layer*" or a list of names.',
        ),
        ({"limit": 0}, ValueError, "limit must be an integer >= 1 in the plan; got 0. Correct it."),
        ({"threads": 1.5}, ValueError, "threads must be an integer >= 1 in the plan; got 1.5. Correct it."),
        (
            {"settings": {"epoch": 3}},
            ValueError,
            None,
        ),
        (
            {"tasks": {"t": {"low": [0, 1]}}},
            ValueError,
            f"task 't' must be groups of classes, held_out or data in the plan; got {{'low': [0, 1]}}. {TASK}",
        ),
        (
            {"tasks": {"t": [1]}},
            ValueError,
            f"task 't' must be groups of classes, held_out or data in the plan; got [1]. {TASK}",
        ),
        (
            {"tasks": {"t": {"low": [0], "high": [0.5]}}},
            ValueError,
            "task 't' must be groups of classes, held_out or data in the plan; got {'low': [0], 'high': [0.5]}. "
            + TASK,
        ),
        (
            {"tasks": {"t": {"low": [0, 1], "high": [1]}}},
            ValueError,
            "task 't' must name at least two classes, each once in the plan; got {'low': [0, 1], 'high': [1]}. "
            "Correct the classes.",
        ),
        (
            {"tasks": {"t": {"held_out": [3]}}},
            ValueError,
            "task 't' must name at least two classes, each once in the plan; got {'held_out': [3]}. "
            "Correct the classes.",
        ),
    ],
)
def test_what_is_wrong_with_a_plan_is_named(change: dict[str, Any], kind: type[Exception], said: str | None) -> None:
    # Where nothing is said here, the recipe or the strategy says it.
    others = {
        "preset": "preset: Standard must have a preset of this name; got 'imagenet'. Close matches: mnist, digits.",
        "settings": "strategy: settings must be those that all strategies share; got 'epoch'. "
        "Close matches: epochs, decay_epochs.",
    }
    text = f"plan: {said}" if said else others[next(iter(change))]
    with pytest.raises(kind, match=exactly(text)):
        Plan.of({**SMALL, **change})


def test_a_file_that_is_no_plan_is_named(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    with pytest.raises(
        FileNotFoundError, match=exactly(f"plan: the strategy file must exist; got {path}. Check the path.")
    ):
        read_plan(path)
    path.write_text("data = digits")
    advice = 'Write, say, data = "digits" and a table [strategies].'
    text = f"plan: {path} must be TOML; got Invalid value (at line 1, column 8). {advice}"
    with pytest.raises(ValueError, match=exactly(text)):
        read_plan(path)
    path.write_bytes(b'data = "\xff"')
    with pytest.raises(ValueError, match=rf"\Aplan: .*study\.toml must be TOML; got .*utf-8.*\. {advice[:10]}"):
        read_plan(path)
    path.write_text('data = "digits"\nsed = 3\n[strategies]\nnone = "none"')
    text = f"plan: keys must be known in {path}; got 'sed'. Close matches: seeds, size, preset, threads."
    with pytest.raises(ValueError, match=exactly(text)):
        read_plan(path)


def test_a_function_of_a_notebook_is_reached_by_the_name_of_the_main_script(monkeypatch: pytest.MonkeyPatch) -> None:
    main = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)
    exec("def mine(x, generator):\n    return x / 2", vars(main))
    made = strategy(main.mine)
    assert made == Strategy("mine", "standard", {"augment": "__main__:mine"})
