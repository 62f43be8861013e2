"""Do robust and standard networks see the same thing? Every analysis for which there is what it needs."""

import importlib
import json
import pkgutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from repsim._common.checks import check_labels
from repsim._common.files import write_text
from repsim._common.messages import did_you_mean, message, some
from repsim._common.provenance import versions
from repsim.data.image_set import ImageSet, check_image_set
from repsim.metrics.transferred.td import TD
from repsim.networks.network import Network
from repsim.robustness import ThreatModel
from repsim.studies.common.finding import Finding
from repsim.studies.common.group_checks import Networks, check_groups
from repsim.studies.common.groups import features
from repsim.studies.common.inputs import Analysis, Extras, StudyInputs
from repsim.studies.robustness.attack_effects import default_radii


def find_analyses(package: str) -> dict[str, Analysis]:
    """The analyses of a package: every file that has a `NAME`, by that name, in their order.

    Raises:
        TypeError: A file with a name that lacks `needs` or `run`; two of one name.
    """
    files = pkgutil.iter_modules(importlib.import_module(package).__path__)
    pages = [
        importlib.import_module(f"{package}.{file.name}") for file in files if f"{package}.{file.name}" != __name__
    ]
    found: dict[str, Any] = {}
    for page in sorted((p for p in pages if hasattr(p, "NAME")), key=lambda p: (getattr(p, "ORDER", 1000), p.NAME)):
        missing = [name for name in ("needs", "run") if not callable(getattr(page, name, None))]
        if missing:
            must, got = "a file with a NAME must have needs and run", f"{page.__name__} without {' and '.join(missing)}"
            raise TypeError(message("robustness", must, got, "Add them, or take the NAME away"))
        if page.NAME in found:
            got = f"{page.NAME!r} in {found[page.NAME].__name__} and in {page.__name__}"
            raise TypeError(message("robustness", "every analysis must have a name of its own", got, "Rename one"))
        found[page.NAME] = page
    return found


#: All of them by name, in the order in which they are done.
ANALYSES: dict[str, Analysis] = find_analyses(__name__.rpartition(".")[0])


def robustness(
    groups: Networks,
    data: ImageSet,
    *,
    analyses: Sequence[str] | None = None,
    threat: str = "linf",
    eps: Sequence[float] | None = None,
    steps: int = 20,
    layers: Any = None,
    reduction: str = "mean",
    snapshots: Mapping[str, Mapping[int, Network]] | None = None,
    train: ImageSet | None = None,
    sizes: Mapping[str, Mapping[str, Sequence[Network]]] | None = None,
    out: str | Path | None = None,
    dry_run: bool = False,
    progress: bool = True,
) -> list[Finding]:
    """Compares groups of networks, trained as usual and trained to be robust, in every way that is known.

    Within a network (cross_layer), between networks of a group and of different groups (over_seeds, threat_models),
    between clean and attacked images (clean_and_attacked), between epochs and between train and test images (dynamics,
    from snapshots), and between sizes of a network (capacity).

    Args:
        groups: Group -> networks that differ in their seed alone; at least two groups.
        data: Images that none of them was trained on.
        analyses: Names of `ANALYSES`; None takes those for which there is what they need, see `left_out`.
        threat: Norm of the attacks, "linf" or "l2".
        eps: Their radii, in pixel units of [0, 1]; dynamics takes the largest. None: a quarter, half and the whole of
            the radius that the networks' records name, or else the data's preset, or else 8/255; 0.25, 0.5, 1 for l2.
        steps: Of PGD in clean_and_attacked.
        layers: As `extract` takes them; None for the stem, the residual blocks and the last features.
        reduction: As `extract` takes it.
        snapshots: Group -> epoch -> network, for dynamics.
        train: Images that the snapshots were trained on, for dynamics.
        sizes: Kind of training -> size -> networks, for capacity.
        out: Folder for pictures, tables and readings, each part's as soon as it is done; summary.json and reading.txt
            when all are. None writes nothing.
        dry_run: Only check that all of it can be done, which is checked in any case before the work begins.
        progress: Show bars for what takes more than two seconds, as far as an analysis shows any.

    Returns:
        The parts, in the order of `ANALYSES`; none of a dry run.

    Raises:
        ValueError: Fewer than two groups, an unknown analysis or one that lacks what it needs, a copy of a network, two
            architectures in a group, radii out of range; as for the analyses.
        OSError: A file could not be written.

    Source:
        The questions: Cianfarani, Bhagoji, Sehwag, Zhao, Mittal, Zheng 2022, arXiv 2206.09868.

    Cost:
        That of the analyses; the attacks of clean_and_attacked take most of it.
    """
    check_image_set("robustness", data)
    eps = default_radii(threat, (n for networks in groups.values() for n in networks), data) if eps is None else eps
    if not eps:
        raise ValueError(message("robustness", "there must be a radius", "none", "Pass, say, eps=(8/255,)"))
    for radius in eps:
        ThreatModel(threat, radius)  # type: ignore[arg-type]
    check_groups(groups, "robustness")
    if len(groups) < 2:
        must, advice = "there must be at least two groups", "Pass, say, standard and robust networks"
        raise ValueError(message("robustness", must, f"{', '.join(groups)} alone", advice))
    extras = Extras(snapshots, train, sizes)
    lacking = left_out(snapshots=snapshots, train=train, sizes=sizes)
    for name in analyses or ():
        if name not in ANALYSES:
            advice = did_you_mean(name, ANALYSES)
            raise ValueError(message("robustness", "the analysis must be known", repr(name), advice))
        if name in lacking:
            raise ValueError(message("robustness", f"{name} needs more", lacking[name], "Pass it, or leave that out"))
    given = StudyInputs(groups, data, threat, eps, steps, layers, reduction, extras, progress)
    wanted = [name for name in ANALYSES if name not in lacking and name in (analyses or ANALYSES)]
    every = [network for networks in groups.values() for network in networks]
    every += [network for epochs in (snapshots or {}).values() for network in epochs.values()]
    every += [network for kinds in (sizes or {}).values() for networks in kinds.values() for network in networks]
    _rehearse([ANALYSES[name] for name in wanted], every, given)
    if dry_run:
        return []
    parts: list[Finding] = []
    files: dict[str, list[str]] = {}
    for name in wanted:
        parts.append(ANALYSES[name].run(given))
        if out is not None:
            files[name] = [file.name for file in parts[-1].save(out)]
    if out is not None:
        _write(Path(out), parts, files, groups, data, {name: why for name, why in lacking.items() if not analyses})
    return parts


def _rehearse(analyses: Sequence[Analysis], networks: Sequence[Network], given: StudyInputs) -> None:
    """What could be wrong with a network, a layer, a reduction, a radius or the classes is met before the work."""
    if given.steps < 1:
        raise ValueError(message("robustness", "steps must be at least 1", f"{given.steps}", "Leave it at 20"))
    data = given.data
    for radius in given.eps:
        ThreatModel(given.threat, radius).check(data.pixels(slice(0, 1)), "robustness")  # type: ignore[arg-type]
    if any(getattr(analysis, "ASKS_HEADS", False) for analysis in analyses):
        check_labels("TD", data.labels, len(data))
        TD().training_rows({"labels": data.labels})
    few = data.take(sorted({0, len(data) - 1}))
    for network in networks:
        found = features([network], few, layers=given.layers, reduction=given.reduction, progress=False)
        layers = next(iter(found.values())).layers
        for analysis in analyses:
            least = getattr(analysis, "LEAST_LAYERS", 1)
            if len(layers) < least:
                must = f"{analysis.NAME} must have at least {least} layers of each network"
                got, advice = f"{some(layers)} of {network.name!r}", "Choose more layers, or other analyses"
                raise ValueError(message("robustness", must, got, advice))


def left_out(
    *,
    snapshots: Mapping[str, Mapping[int, Network]] | None = None,
    train: ImageSet | None = None,
    sizes: Mapping[str, Mapping[str, Sequence[Network]]] | None = None,
) -> dict[str, str]:
    """Which analyses lack something, and what.

    Args:
        snapshots: As for `robustness`.
        train: As for `robustness`.
        sizes: As for `robustness`.

    Returns:
        Analysis -> what is not there.
    """
    extras = Extras(snapshots, train, sizes)
    lacking = {name: analysis.needs(extras) for name, analysis in ANALYSES.items()}
    return {name: why for name, why in lacking.items() if why}


def _write(
    out: Path,
    parts: Sequence[Finding],
    files: Mapping[str, Sequence[str]],
    groups: Networks,
    data: ImageSet,
    lacking: Mapping[str, str],
) -> None:
    facts = {
        "parts": [
            {"name": p.name, "title": p.title, "reading": list(p.reading), "files": list(files[p.name])} for p in parts
        ],
        "left_out": dict(lacking),
        "groups": {group: [network.name for network in networks] for group, networks in groups.items()},
        "data": {"name": data.name, "n": len(data), "digest": data.digest},
        "versions": versions(),
    }
    write_text(out / "summary.json", json.dumps(facts, indent=2, ensure_ascii=False) + "\n")
    notes = [f"Left out: {name}, {why}." for name, why in lacking.items()]
    write_text(out / "reading.txt", "\n\n".join([*map(str, parts), *notes]) + "\n")
