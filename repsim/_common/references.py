"""Functions that a text names: "package.module:function", and those that have a name in this process only.

Who wrote a text decides what it may name. A caller's text may name code, which is imported and so run. A file's text
may name what the package knows and nothing else: every reader of files asks `known_name`.
"""

import functools
import importlib
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

from repsim._common.messages import did_you_mean, message, shown

#: What a reference to a function begins with that has a name in this process alone.
THIS_PROCESS = "this_process:"

_GIVEN: dict[str, Callable[..., Any]] = {}


def give(name: str, function: Callable[..., Any]) -> str:
    """Makes a function known by a name in this process, where it has no place of its own, as a lambda has none.

    Args:
        name: An identifier; a function of that name that was given before is replaced.
        function: What the name shall mean.

    Returns:
        What `users_function` knows it by; another process must give it again.

    Raises:
        ValueError: A name that is no identifier.
    """
    if not name.isidentifier():
        advice = "Take letters, digits and underscores"
        raise ValueError(message("augmentation", "the name of a function must be an identifier", repr(name), advice))
    _GIVEN[name] = function
    return THIS_PROCESS + name


def known_name(
    text: Any, known: Collection[str], function: str, *, what: str, path: str | Path, caller: str = ""
) -> str:
    """A name that a file holds, if the package knows it: importing what a file names would run code from a file.

    Args:
        text: What the file says, of whatever type.
        known: The names that it may be.
        function: Who asks, for messages.
        what: What the name is of, as in "architecture".
        path: The file.
        caller: How a caller names something else, for the advice.

    Raises:
        ValueError: Anything but one of the names.
    """
    if isinstance(text, str) and text in known:
        return text
    advice = did_you_mean(text, known) if isinstance(text, str) and ":" not in text else "Nothing was imported"
    if caller:
        advice = f"{caller}; {advice[0].lower()}{advice[1:]}" if ":" in str(text) else f"{advice}. {caller}"
    must = f"the {what} that a file names must be one that repsim knows"
    raise ValueError(message(function, must, f"{shown(text)} in {path}", advice))


def users_function(reference: str, function: str, *, known: Iterable[str] = (), takes: str = "") -> Callable[..., Any]:
    """A function of the user's own, by its place, "package.module:function".

    The text must be the caller's own words: importing a module runs it.

    Args:
        reference: The place.
        function: Who asks, for messages.
        known: Names that could have been meant where the text is no place at all.
        takes: What the function must take and return, for messages.

    Raises:
        ValueError: A text that is no such place, or a place where no function is.
    """
    module, _, attribute = reference.partition(":")
    if reference.startswith(THIS_PROCESS) and attribute in _GIVEN:
        return _GIVEN[attribute]
    if not all(name.isidentifier() for name in (*module.split("."), *attribute.split("."))):
        advice = did_you_mean(module, [*known, "package.module:function"])
        raise ValueError(message(function, "the name must be known", repr(module), advice))
    try:
        found = functools.reduce(getattr, attribute.split("."), importlib.import_module(module))
    except (ImportError, AttributeError) as error:
        advice = "Check the name; the module must be importable from where you run"
        must = "package.module:function must exist"
        raise ValueError(message(function, must, f"{reference!r} ({error})", advice)) from error
    if not callable(found):
        must = f"{reference} must be a function {takes}".rstrip()
        raise ValueError(message(function, must, type(found).__name__, "Name a function"))
    return found
