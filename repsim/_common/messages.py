"""The one shape of an error message, and the close matches that end one."""

import difflib
from collections.abc import Iterable


class InternalError(RuntimeError, ValueError):
    """A result that the package's own rules forbid: ours to mend, whatever the input was."""


def message(function: str, must: str, got: str, do: str) -> str:
    """One line: what was called, what must hold, what came, what to do."""
    return f"{function}: {must}; got {got}. {do}."


def did_you_mean(name: str, known: Iterable[str], *, count: int = 4) -> str:
    """The known names closest to `name`, as the advice that ends an error message."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=count, cutoff=0.4)
    if close:
        return "Close matches: " + ", ".join(close)
    return "Known: " + some(known, count=12)


def shown(value: object, *, most: int = 80) -> str:
    """A value as an error message shows it: on one line, and not longer than that."""
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}…"


def some(names: Iterable[str], *, count: int = 4) -> str:
    """The first few names, and how many more there are."""
    names = list(names)
    rest = f", … ({len(names) - count} more)" if len(names) > count else ""
    return ", ".join(names[:count]) + rest if names else "none"
