"""Measures of the user's own: what a class must say to be one, its name, and the measure of a name."""

import ast
import dataclasses
from collections.abc import Mapping
from typing import Any

from repsim._common.messages import message
from repsim._common.references import users_function
from repsim.metrics.base import Metric


def own_metric(text: str) -> Metric:
    """The measure that "package.module:Mine(setting=1)" names.

    The text must be the caller's own words: importing a module runs it.

    Raises:
        ValueError: A place where no measure is, or settings that it does not have.
    """
    place, bracket, _ = text.strip().partition("(")
    found = users_function(place, "metric", takes="that is a Metric")
    if not (isinstance(found, type) and issubclass(found, Metric)):
        advice = "Name a subclass of repsim.metrics.Metric"
        raise ValueError(message("metric", f"{place} must be a class of measures", f"{found!r}", advice))
    fields = dataclasses.fields(found) if dataclasses.is_dataclass(found) else ()
    defaults = {f.name: None if f.default is dataclasses.MISSING else f.default for f in fields}
    changed = read_settings(text, defaults, call=place) if bracket else {}
    try:
        return found(**{name: value for name, value in changed.items() if value is not defaults[name]})
    except TypeError as error:  # a setting without a default, or an abstract property
        advice = "Give its settings by name, and say all that repsim.metrics.Metric asks for"
        raise ValueError(message("metric", f"{place} must be complete", str(error), advice)) from error


def own_name(metric: Metric) -> str:
    """ "package.module:Mine(setting=1)", with the settings that differ from their defaults."""
    changed = [
        f"{f.name}={getattr(metric, f.name)!r}"
        for f in dataclasses.fields(metric)  # type: ignore[arg-type]  # checked below
        if f.default is dataclasses.MISSING or getattr(metric, f.name) != f.default
    ]
    return _place(type(metric)) + (f"({', '.join(changed)})" if changed else "")


def is_own(name: str) -> bool:
    """Whether a name is that of a measure of the user's own."""
    return ":" in name.partition("(")[0]


def check_own(metric: Metric, known: Mapping[str, Metric]) -> None:
    """Refuses a measure that cannot be named or does not say what it is.

    Args:
        metric: Of the user's own.
        known: The package's.

    Raises:
        ValueError: A class that is called as one of the package is, that is no frozen dataclass, whose settings are no
            plain values, or that lacks a fact.
    """
    own = type(metric)
    if own.__name__ in {*known, *(type(each).__name__ for each in known.values())}:
        must = "a measure of one's own must have a name of its own"
        raise ValueError(message("metric", must, f"{_place(own)}, as repsim has one", "Rename the class"))
    if not dataclasses.is_dataclass(metric) or not own.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        must = f"{own.__name__} must be a frozen dataclass of its settings"
        raise ValueError(message("metric", must, "another class", "Write @dataclass(frozen=True) above it"))
    for setting in dataclasses.fields(metric):
        value = getattr(metric, setting.name)
        if not _is_plain(value):
            must = f"the setting {own.__name__}.{setting.name} must be a plain value"
            raise ValueError(message("metric", must, repr(value), "Take numbers, texts, and tuples of them"))
    try:
        _ = metric.facts
    except AttributeError as error:
        advice = "See repsim.metrics.Metric for what a measure says of itself"
        raise ValueError(message("metric", f"{own.__name__} must say all its facts", str(error), advice)) from error


def read_settings(text: str, defaults: Mapping[str, Any], *, call: str) -> dict[str, Any]:
    """The settings in the brackets of "td(seed=1)"; those that are not named stay as they are.

    Args:
        text: A name with brackets.
        defaults: Setting -> its value; None fits any type.
        call: What stands before the brackets.

    Raises:
        ValueError: No call, an unknown setting, no plain value, or one of another type.
    """
    settings = dict(defaults)
    try:
        node = ast.parse("f" + text.strip().removeprefix(call), mode="eval").body
        assert isinstance(node, ast.Call)
        if node.args:
            raise ValueError("settings need names")
        for keyword in node.keywords:
            name = keyword.arg or "**"
            if name not in defaults:
                raise ValueError(f"no setting {name!r}; there are {', '.join(defaults) or 'none'}")
            try:
                settings[name] = ast.literal_eval(keyword.value)
            except ValueError:
                raise ValueError(f"{name} is no plain value") from None
            default, value = defaults[name], settings[name]
            fits = isinstance(value, type(default)) or (isinstance(default, float) and isinstance(value, int))
            if default is not None and not fits:
                raise ValueError(f"{name} is {type(default).__name__}, not {type(value).__name__}")
    except (SyntaxError, ValueError, AssertionError) as error:
        advice = "Write it as in td(seed=1, penalty=0.01)"
        reason = str(error).partition(" (<")[0] or "no call"
        raise ValueError(message("metric", "settings must be name=value", f"{text!r} ({reason})", advice)) from error
    return settings


def _place(own: type) -> str:
    return f"{own.__module__}:{own.__qualname__}"


def _is_plain(value: Any) -> bool:
    """Whether a text in brackets can say it."""
    return (isinstance(value, tuple) and all(map(_is_plain, value))) or isinstance(value, int | float | str | None)
