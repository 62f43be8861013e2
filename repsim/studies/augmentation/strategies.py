"""An augmentation strategy: what a text such as "flip+gaussian_noise:0.1" or "crop:4+mixup" trains."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from repsim._common.messages import did_you_mean, message
from repsim._common.references import give, users_function
from repsim.recipes import RECIPES, Recipe
from repsim.recipes.standard import Standard
from repsim.recipes.training.augmentations import AUGMENTATIONS, Step, amount, augmentation


@dataclass(frozen=True)
class Strategy:
    """One way of augmenting training images; all else about a training is the study's.

    Attributes:
        name: What tables and files call it.
        recipe: A key of `RECIPES`: "standard", "mixup", "cutmix", "pani" or "pgd".
        settings: What it sets of the recipe: `augment`, and where it says so `label_noise`, `alpha`, `neighbours` or
            `eps`.
        note: What a reader of the results should know; empty for the usual case.
    """

    name: str
    recipe: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""

    def recipe_for(self, preset: str, architecture: str | None = None, **settings: Any) -> Recipe:
        """The recipe that trains a network by this strategy.

        Network and schedule are those of the preset of standard training, whatever the strategy, so that networks
        of different strategies differ in nothing else. Its augmentation is replaced by the strategy's.

        Args:
            preset: "digits", "mnist" or "cifar10".
            architecture: A name that `load_model` knows; None is the preset's.
            **settings: Settings that shall differ from the preset, as in epochs=20.

        Returns:
            The recipe.

        Raises:
            ValueError: An unknown preset, a setting that is none of all recipes or the strategy's own to make.
        """
        base = Standard.preset(preset)
        known = [s.name for s in dataclasses.fields(Recipe) if s.name not in ("augment", "label_noise")]
        for name in settings:
            if name not in known:
                must = "settings must be those that all strategies share"
                advice = did_you_mean(name, known)
                if name in ("augment", "label_noise"):
                    advice = "Write it as a strategy, as in flip or label_noise:0.2"
                raise ValueError(message("strategy", must, repr(name), advice))
        shared = {name: getattr(base, name) for name in known} | settings
        if architecture is not None:
            shared["architecture"] = architecture
        kind = RECIPES[self.recipe]
        own = {n: v for n, v in kind.PRESETS[preset].settings.items() if n not in shared and n != "augment"}
        return kind(**{**own, **shared, **self.settings})


def strategy(spec: str | Step, *, name: str | None = None) -> Strategy:
    """A strategy from a text, or from a function of one's own.

    Args:
        spec: Augmentations as `repsim.augmentations.augmentation` takes them, joined by "+"; among them may be one of
            "mixup:ALPHA", "cutmix:ALPHA", "pani:K" (patches drawn towards the K nearest of other images) and
            "adversarial:EPS" (training on PGD adversarial inputs, steps of a quarter of the radius), and
            "label_noise:SHARE", which is harmful and there for comparison. "none" augments nothing.
            Or any callable (images (b, c, h, w) in [0, 1], generator) -> images. Checkpoints record it as
            module:function; one that is not reachable so, such as a lambda, needs a `name`, by which it is known in
            this process alone: it trains without others, and a later process must make the strategy again.
        name: What tables and files call it; None is the text, or the function's name.

    Returns:
        The strategy.

    Raises:
        ValueError: An unknown name, an amount out of its range, two that cannot go together.
        TypeError: A callable without a place and without a name.

    Example:
        >>> strategy("crop:2+mixup").settings
        {'augment': 'crop:2'}
    """
    text = spec if isinstance(spec, str) else _place(spec, name)
    name = name or (text if isinstance(spec, str) else text.rpartition(":")[2])
    recipe, settings, notes, augments = "standard", dict[str, Any](), list[str](), list[str]()
    for part in (part.strip() for part in text.split("+")):
        kind, _, given = part.partition(":")
        if kind not in _KINDS:
            if kind not in ("none", *AUGMENTATIONS) and ":" not in part:
                advice = did_you_mean(kind, ["none", *AUGMENTATIONS, *_KINDS, "package.module:function"])
                raise ValueError(message("strategy", "the name must be known", repr(kind), advice))
            augments += [part] if part != "none" else []
            continue
        chosen = _KINDS[kind]
        if (chosen.recipe and recipe != "standard") or (not chosen.recipe and chosen.setting in settings):
            must = "at most one of mixup, cutmix, pani and adversarial, and one label_noise, can go together"
            raise ValueError(message("strategy", must, repr(text), "Leave one out"))
        recipe = chosen.recipe or recipe
        settings |= chosen.read(part, given)
        notes += [chosen.note] if chosen.note else []
    settings["augment"] = "+".join(augments) or "none"
    augmentation(settings["augment"])
    if recipe == "pgd" and any(part.startswith("gaussian_noise") for part in augments):
        must = "adversarial needs images in [0, 1], which gaussian_noise leaves"
        raise ValueError(message("strategy", must, repr(text), "Leave one out"))
    return Strategy(name, recipe, settings, "; ".join(notes))


@dataclass(frozen=True)
class _Kind:
    """A part of a strategy that is no augmentation of single images."""

    setting: str  # what its amount sets
    unit: str
    most: float
    recipe: str = ""  # that it needs; any, where empty
    needed: bool = False  # whether there must be an amount
    note: str = ""
    least: int = 0  # of a count, which must be an integer; 0 for amounts

    def read(self, part: str, given: str) -> dict[str, Any]:
        if not given and not self.needed and ":" not in part:
            return {}
        value = amount(given)
        if self.least:
            if not (value >= self.least and value.is_integer()):
                name = part.partition(":")[0]
                must = f"{name} must have a count of at least {self.least} ({self.unit})"
                raise ValueError(message("strategy", must, repr(part), f'Write, say, "{name}:4"'))
            return {self.setting: int(value)}
        if not (0 <= value <= self.most and math.isfinite(value)):
            limits = f"from 0 to {self.most:g}" if math.isfinite(self.most) else ">= 0"
            name = part.partition(":")[0]
            must = f"{name} must have an amount {limits} ({self.unit})"
            raise ValueError(message("strategy", must, repr(part), f'Write, say, "{name}:0.1"'))
        return {self.setting: value} | ({"step_size": value / 4} if self.setting == "eps" else {})


_KINDS = {
    "mixup": _Kind("alpha", "of the Beta distribution", math.inf, "mixup"),
    "cutmix": _Kind("alpha", "of the Beta distribution", math.inf, "cutmix"),
    "pani": _Kind("neighbours", "nearest patches", math.inf, "pani", least=1),
    "adversarial": _Kind("eps", "linf radius, pixels of [0, 1]", 1.0, "pgd"),
    "label_noise": _Kind("label_noise", "share of labels", 1.0, needed=True, note="wrong labels: a harmful control"),
}


#: The first words of all strategies that the package knows.
KINDS = ("none", *AUGMENTATIONS, *_KINDS)


def _place(function: Callable[..., Any], name: str | None) -> str:
    """module:function, from where the function itself is found again; or its name in this process."""
    place = f"{getattr(function, '__module__', None)}:{getattr(function, '__qualname__', None)}"
    try:
        found = users_function(place, "strategy")
    except ValueError:
        found = None
    if found is function:
        return place
    if name is None:
        must = "a function that is not reachable as module:function must have a name, as checkpoints record it so"
        raise TypeError(message("strategy", must, place, "Pass name=, or define it with def at the top of a module"))
    return give(name, function)
