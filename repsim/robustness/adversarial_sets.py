"""Adversarial sets: made once against one network, kept row by row beside the images they were made from."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from repsim._common.messages import message
from repsim._common.progress import progress_bar
from repsim._common.random_numbers import seeded
from repsim.data.image_set import Images, ImageSet, check_image_set
from repsim.networks.answers import answers, check_eval
from repsim.networks.network import name_of, provenance_of_network
from repsim.robustness.checked import AttackFunction, attack
from repsim.robustness.gradient import pgd
from repsim.robustness.libraries import library_of
from repsim.robustness.threat import ThreatModel, check_inside

#: How `extract(attack=...)` may be told what to do: a threat model, its text, or a function that makes the set.
Condition = ThreatModel | str | Callable[[nn.Module, ImageSet], ImageSet]


def adversarial(
    net: nn.Module,
    data: ImageSet,
    threat: ThreatModel | str,
    *,
    function: AttackFunction | Callable[..., Any] | None = None,
    steps: int = 20,
    step_size: float | None = None,
    restarts: int = 1,
    targets: Int[Tensor, " n"] | None = None,
    seed: int = 0,
    batch_size: int = 64,
    rounded: bool = False,
    progress: bool = True,
) -> ImageSet:
    """The images of a set, moved against a network inside a threat model; the same samples under another condition.

    The result has the labels, the ids and the digest of `data`, so features of the one can be compared with features
    of the other, row by row: of one network on clean and on attacked images, or of another network on images made
    against the first. Its condition, in the name of every side that is extracted on it, says what it is.

    Args:
        net: The source: takes pixels in [0, 1], gives logits (n, k); in eval mode, in float32 or float64.
        data: The clean images.
        threat: The ball, or its text, as in "linf:8/255".
        function: Any attack that `attack` takes, held to the ball; None is `pgd` with the settings below.
        steps: Gradient evaluations per restart of `pgd`.
        step_size: Length of a step, in pixel units; None is 2.5 ε / steps, which reaches every point of the ball.
        restarts: Of `pgd`; each image keeps its worst.
        targets: (n,) classes that the network shall answer; None moves away from the labels.
        seed: Of the random starts. With `pgd` an image's start depends on the seed and its id alone; another function
            finds PyTorch's own random numbers started from the seed and the batch.
        batch_size: Images per attack.
        rounded: Keep grey levels (uint8), rounded towards the clean image so that the ball holds; `data` must be uint8.
        progress: Show a bar when it takes more than two seconds.

    Returns:
        The set, float32 in [0, 1] or uint8. Its `record` holds the threat, all settings, the source network, and the
        accuracy before and after, measured on the very pixels it holds; `pixel_digest` is theirs.

    Raises:
        ValueError: As for `attack` and `pgd`; targets of another length, a network in half precision, rounding asked of
            images that are not uint8, settings of `pgd` for another function.
        TypeError: As for `attack`; images that are no `ImageSet`, targets that are no tensor.

    Source:
        Madry, Makelov, Schmidt, Tsipras, Vladu 2018, arXiv 1706.06083, also for the length of a step.

    Cost:
        The attack and three forward passes; memory for one more copy of the images in float32.
    """
    threat = ThreatModel.of(threat, "adversarial")
    if function is not None and (steps, step_size, restarts) != (20, None, 1):
        advice = "Bind its settings to the function itself"
        raise ValueError(message("adversarial", "steps, step_size and restarts are of pgd", "a function", advice))
    check_eval(net, "adversarial")
    _check_data(data, targets, batch_size, rounded)
    device, kind = _where(net)
    step = 2.5 * threat.eps / max(steps, 1) if step_size is None else step_size
    moved, right, right_after, hit = [], 0, 0, 0
    with progress_bar(len(data), f"attack {name_of(net)}", "image", show=progress) as bar:
        for first in range(0, len(data), batch_size):
            rows = slice(first, first + batch_size)
            x, labels = data.pixels(rows), data.labels[rows].to(device)
            aim = labels if targets is None else targets[rows].to(device)
            settings = {"steps": steps, "step_size": step, "restarts": restarts, "targeted": targets is not None}
            generators = data.generators(rows, seed, "adversarial")
            with seeded(generators[0].initial_seed(), [device] if device.type == "cuda" else []):
                made = attack(
                    net,
                    x.to(device, kind),
                    aim,
                    function or (lambda n, x, y, s=settings, g=generators: pgd(n, x, y, threat, generator=g, **s)),
                    threat,
                    targeted=targets is not None,
                )
            kept = made.images.float().cpu()
            kept = _towards(kept, data.images[rows]) if rounded else kept
            pixels = kept.float().div(255) if rounded else kept
            check_inside(x, pixels, threat, "adversarial", None)
            # The check's own answers hold for the pixels that are kept, unless these were rounded or made narrower.
            same = not rounded and kind == torch.float32
            after = made.after if same else answers(net, pixels.to(device, kind), "adversarial")
            moved.append(kept)
            right += int((made.before == labels).sum())
            right_after += int((after == labels).sum())
            hit += int((after == aim).sum())
            bar.update(len(x))
    called = f"pgd-{steps}" if function is None else _called(function)
    record: dict[str, Any] = {
        "threat": str(threat),
        "attack": called,
        "targeted": targets is not None,
        "source": {"network": name_of(net), **provenance_of_network(net)},
        "n": len(data),
        "rounded": rounded,
        "seed": seed,
        "clean_accuracy": right / len(data),
        "adversarial_accuracy": right_after / len(data),
    }
    if function is None:
        record |= {"steps": steps, "step_size": step, "restarts": restarts}
    if library := library_of(function):
        record |= {"library": library, "settings": repr(function)}
    if targets is not None:
        record["share_on_target"] = hit / len(data)
    said = [name_of(net), str(threat)]
    said += ["targeted"] if targets is not None else []
    said += [f"{restarts} restarts"] if restarts > 1 else []
    said += [f"steps of {step_size:g}"] if step_size is not None else []
    return data.derived(torch.cat(moved), f"{called}({', '.join(said)})", record)


def under(net: nn.Module, data: object, condition: Condition, *, progress: bool = True) -> ImageSet:
    """A set under the input condition that `extract(attack=...)` asks for.

    Args:
        net: The network that the attack is made against.
        data: An `ImageSet`.
        condition: A threat model or its text, for `adversarial` with its defaults; or a function (network, ImageSet) ->
            ImageSet, such as `functools.partial(adversarial, threat="l2:0.5", steps=50)`.
        progress: Show a bar when it takes more than two seconds.

    Raises:
        TypeError: Data without labels and ids, or a function that returns no `ImageSet`.
        ValueError: As for `adversarial`; a function that returns other samples.
    """
    if not isinstance(data, ImageSet):
        advice = "Make one of images, labels and ids: repsim.ImageSet(images, labels, ids, name)"
        raise TypeError(message("extract", "an attack needs an ImageSet", type(data).__name__, advice))
    if isinstance(condition, ThreatModel | str):
        return adversarial(net, data, condition, progress=progress)
    if library := library_of(condition):
        advice = "Pass functools.partial(adversarial, threat=..., function=...) with it"
        raise TypeError(message("extract", "attack must make an ImageSet", f"an object of {library}", advice))
    made = condition(net, data)
    if not isinstance(made, ImageSet):
        advice = 'Pass a text such as "linf:8/255", or functools.partial(adversarial, threat=...)'
        raise TypeError(message("extract", "attack must make an ImageSet", type(made).__name__, advice))
    if made.digest != data.digest:
        advice = "Make it with data.derived(images, condition, record)"
        raise ValueError(message("extract", "attack must keep the samples", "a set with another digest", advice))
    return made


def _check_data(data: ImageSet, targets: Tensor | None, batch_size: int, rounded: bool) -> None:
    check_image_set("adversarial", data)
    if targets is not None and not isinstance(targets, Tensor):
        advice = "Convert it with torch.as_tensor"
        raise TypeError(message("adversarial", "targets must be a tensor", type(targets).__name__, advice))
    if batch_size < 1:
        raise ValueError(message("adversarial", "batch_size must be at least 1", f"{batch_size}", "Leave it out"))
    if targets is not None and (targets.shape != (len(data),) or targets.dtype != torch.int64):
        got = f"{str(targets.dtype).removeprefix('torch.')} of shape {tuple(targets.shape)}"
        raise ValueError(message("adversarial", f"targets must be ({len(data)},) int64", got, "One class per image"))
    if rounded and data.images.dtype != torch.uint8:
        got = f"rounded=True for {str(data.images.dtype).removeprefix('torch.')} images"
        raise ValueError(message("adversarial", "rounding needs images of grey levels", got, "Leave rounded out"))


def _where(net: nn.Module) -> tuple[torch.device, torch.dtype]:
    """The device and type that the network takes."""
    parameter = next(net.parameters(), torch.empty(0))
    if parameter.dtype not in (torch.float32, torch.float64):
        got = str(parameter.dtype).removeprefix("torch.")
        advice = "Attack net.float(), and extract with the narrow network"
        raise ValueError(message("adversarial", "the network must be in float32 or float64", got, advice))
    return parameter.device, parameter.dtype


def _towards(moved: Images, clean: Tensor) -> Tensor:
    """Grey levels of moved images, each rounded towards the clean one, so that no change grows."""
    grey = clean.to(torch.float64)
    change = moved.double() * 255 - grey
    # A change of whole levels may lie below its number by the rounding of float32 pixels, and counts as whole.
    levels = (change.abs() + 255 * torch.finfo(torch.float32).eps).floor()
    return (grey + levels * change.sign()).to(torch.uint8)


def _called(function: AttackFunction) -> str:
    inside = function.func if isinstance(function, functools.partial) else function
    name = getattr(inside, "__name__", None) or type(inside).__name__
    return "attack" if name == "<lambda>" else name
