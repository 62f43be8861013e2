"""Networks that were trained already, found by a pattern of file names for each strategy."""

import dataclasses
import glob
import json
import re
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path

from repsim._checks import message, some
from repsim.checkpoints import read_checkpoint
from repsim.models import Network
from repsim.recipes import RECIPES


def trained_networks(patterns: Mapping[str, str], load: Callable[[Path], Network]) -> dict[str, list[Network]]:
    """Loads the networks of each strategy.

    Args:
        patterns: Strategy -> a glob of weight files.
        load: Makes a network of a file.

    Returns:
        Strategy -> its networks, by number and name.

    Raises:
        FileNotFoundError: A pattern that no file matches.
        ValueError: Fewer than two files of a strategy, or unequally many: pairs of networks and their standard errors
            could not be held against each other.
    """
    files = {name: _files(name, pattern) for name, pattern in patterns.items()}
    _check_equal(files)
    networks = {}
    for strategy, paths in files.items():
        stems = [path.stem for path in paths]
        names = stems if len(set(stems)) == len(stems) else [f"{path.parent.name}/{path.stem}" for path in paths]
        networks[strategy] = [load(path) for path in paths]
        for network, name in zip(networks[strategy], names, strict=True):
            network.name = name
    return networks


def _files(strategy: str, pattern: str) -> list[Path]:
    found = [Path(name) for name in glob.glob(pattern, recursive=True) if Path(name).is_file()]
    if not found:
        must = f"--checkpoints {strategy}=… must name weight files"
        raise FileNotFoundError(message("augment", must, f"none by {pattern}", "Check the pattern; quote its stars"))
    return sorted(found, key=lambda path: [int(t) if t.isdigit() else t for t in re.split(r"(\d+)", str(path))])


def _check_equal(files: Mapping[str, list[Path]]) -> None:
    counts = {strategy: len(paths) for strategy, paths in files.items()}
    listed = ", ".join(f"{count} of {strategy!r}" for strategy, count in counts.items())
    if min(counts.values()) < 2:
        advice = "One network has no pair to differ in; train more seeds"
        raise ValueError(message("augment", "every strategy must have two networks", listed, advice))
    if len(set(counts.values())) == 1:
        return
    stems = {path.stem: None for paths in files.values() for path in paths}
    lacking = [
        (paths[0], paths[0].with_stem(stem))
        for paths in files.values()
        for stem in stems
        if len(paths) < max(counts.values()) and stem not in {path.stem for path in paths}
    ]
    advice = "Train the missing ones, or name equally many"
    if lacking:
        listed += f"; missing: {some([str(path) for _, path in lacking])}"
        advice = f"Train them, as in: {_command(*lacking[0])}"
    raise ValueError(message("augment", "every strategy must have equally many networks", listed, advice))


def _command(sibling: Path, missing: Path) -> str:
    """How to train a network like one that is there."""
    record = read_checkpoint(sibling).record
    number = re.search(r"\d+$", missing.stem)
    if record.get("recipe") not in RECIPES or number is None:
        return f"the training of {sibling}, with another seed"
    kind = RECIPES[record["recipe"]]
    usual = {setting.name: setting.default for setting in dataclasses.fields(kind)}
    changed = {name: value for name, value in record["settings"].items() if _plain(usual.get(name)) != value}
    words = ["repsim", "train", record["recipe"]]
    source = str(record.get("data", {}).get("train", "DATA")).removesuffix("/train")
    threads = record.get("cost", {}).get("threads", 1)
    words += ["--data", source, "--preset", "digits"]
    for name, value in changed.items():
        words += ["--set", f"{name}={value if isinstance(value, str) else json.dumps(value)}"]
    words += ["--threads", f"{threads}", "--seed", f"{int(number.group())}", "--out", str(missing)]
    return shlex.join(words)


def _plain(value: object) -> object:
    """As a file gives it back."""
    return list(value) if isinstance(value, tuple) else value
