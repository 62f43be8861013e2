"""Whether this package has its folder to itself: other distributions install a package `repsim` too."""

from pathlib import Path

from repsim._common.messages import message, some

#: What this distribution puts into the package's folder.
ENTRIES = frozenset(
    {
        "__init__.py",
        "__main__.py",
        "_common",
        "cli",
        "data",
        "features",
        "metrics",
        "networks",
        "numerics",
        "plots",
        "probes",
        "recipes",
        "robustness",
        "similarity",
        "studies",
    }
)


def check_alone(folder: Path, *, ours: bool) -> None:
    """Refuses to run where another distribution has put a package of the same name over this one.

    Args:
        folder: Of the package.
        ours: Whether its first page, `__init__.py`, is this distribution's.

    Raises:
        ImportError: In one line, what lies there that is not of this distribution.
    """
    entries = folder.iterdir() if folder.is_dir() else ()  # no folder: inside an archive, which holds one package
    foreign = sorted(
        entry.name
        for entry in entries
        if entry.name not in ENTRIES and (entry.suffix in (".py", ".so") or (entry / "__init__.py").is_file())
    )
    if foreign or not ours:
        listed = some(foreign if ours else ["__init__.py", *foreign])
        advice = "Uninstall one of the two and install the other anew, or keep them in environments of their own"
        must = "the package must stand alone, and another distribution has installed a package repsim too"
        raise ImportError(message("repsim", must, f"its {listed} in {folder}", advice))
