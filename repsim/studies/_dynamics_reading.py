"""What the numbers of `dynamics` say, sentence by sentence."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from repsim.metrics import Metric, metric_name
from repsim.studies._gaps import Answered, gap, growth, settled

if TYPE_CHECKING:
    from pandas import DataFrame

#: A similarity to the trained network above which a layer counts as settled.
SETTLED = 0.9

Heads = Mapping[str, Mapping[int, Sequence[Answered]]]


def reading(
    table: "DataFrame", scores: Sequence[Mapping[str, Any]], answered: Heads, metric: Metric
) -> tuple[str, ...]:
    """Sentences on each group and on each pair of them; what lies inside its uncertainty is called that."""
    sentences = []
    for group, epochs in answered.items():
        own: Any = table[table.group == group]
        layers = list(own.sort_values("place").layer.unique())
        sentences.append(_networks(group, [score for score in scores if score["group"] == group][-1]))
        if metric.kind == "similarity":
            sentences.append(_settling(group, own, layers, metric_name(metric)))
        sentences.append(_gaps(group, max(epochs), layers, epochs[max(epochs)]))
    groups = list(answered)
    for k, one in enumerate(groups):
        for other in groups[k + 1 :]:
            sentences += _against(one, other, *(answered[name][max(answered[name])] for name in (one, other)))
    some = next(iter(next(iter(answered.values())).values()))[0]
    sentences.append(
        f"Train: {len(some.train):,} images that the networks were trained on, which also fit the heads. Test: "
        f"{len(some.test):,} others. There is one training per group: intervals are 95 %, each for one comparison "
        "alone, and cover the choice of images that these heads are asked about, not of those they were fitted on, nor "
        "of trainings."
    )
    return tuple(sentences)


def _networks(group: str, score: Mapping[str, Any]) -> str:
    text = f"{group}: the network after epoch {score['epoch']} is right on {score['train']:.3f} of the train images "
    text += f"and {score['test']:.3f} of the test images"
    if "train_attacked" not in score:
        return f"{text}."
    attacked = score["train_attacked"], score["test_attacked"]
    return f"{text}; under attack {attacked[0]:.3f} and {attacked[1]:.3f}, a gap of {attacked[0] - attacked[1]:+.3f}."


def _settling(group: str, own: Any, layers: Sequence[str], metric: str) -> str:
    epochs = sorted(own.epoch.unique())
    places = []
    for place in range(len(layers)):
        values = own[own.place == place].sort_values("epoch").to_final
        places.append(settled(list(values), SETTLED))
    named = ", ".join(
        f"{'no number' if at is None else epochs[at]} at {layer}" for layer, at in zip(layers, places, strict=True)
    )
    found = [at for at in places if at is not None]
    if len(set(found)) < 2:
        order = "these epochs do not tell layers apart"
    elif found == sorted(found):
        order = "earlier layers no later than deeper ones"
    elif found == sorted(found, reverse=True):
        order = "deeper layers no later than earlier ones"
    else:
        order = "not in the order of depth"
    return f"{group}: {metric} to the end stays above {SETTLED:g} from epoch {named}: {order}."


def _gaps(group: str, epoch: int, layers: Sequence[str], heads: Sequence[Answered]) -> str:
    start = f"{group}, heads after epoch {epoch}, train less test accuracy: "
    without = next((head.reason for head in heads if head.reason), "")
    if without:
        return f"{start}no number for all layers, {without}."
    found = [gap(head) for head in heads]
    largest = max(range(len(found)), key=lambda k: found[k].value)
    text = f"{start}{found[0]} at {layers[0]}, {found[-1]} at {layers[-1]}, largest at {layers[largest]} "
    text += f"({found[largest]}, picked after looking at all)"
    change = growth(heads[0], heads[-1])
    if change.is_zero:
        verdict = "inside its uncertainty"
    else:
        verdict = f"larger at {layers[-1] if change.value > 0 else layers[0]}"
    return f"{text}; growth from {layers[0]} to {layers[-1]} {change}: {verdict}."


def _against(one: str, other: str, first: Sequence[Answered], second: Sequence[Answered]) -> list[str]:
    """Whether the gap grows more from the first layer to the last in one training than in another."""
    ends = first[0], first[-1], second[0], second[-1]
    if any(head.reason for head in ends):
        return []
    change = growth(*ends[:2], less=ends[2:])
    verdict = "inside its uncertainty" if change.is_zero else f"more in {one if change.value > 0 else other}"
    return [f"Growth of that gap from the first layer to the last, {one} less {other}: {change}: {verdict}."]
