"""Randomised smoothing: what a network answers under noise, and within which radius that is certain."""

import functools
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import nn

from repsim._common.archive import read_archive, write_archive
from repsim._common.html import ShownAsTable
from repsim._common.messages import message
from repsim._common.provenance import versions
from repsim.data.image_set import ImageSet
from repsim.networks.answers import device_of
from repsim.networks.network import name_of, provenance_of_network
from repsim.numerics.intervals import wilson
from repsim.robustness.noises import MOST_NOISE, Gaussian, Noise, check_norm, noise_of
from repsim.robustness.noisy_answers import noisy_answers

if TYPE_CHECKING:
    import pandas as pd

#: The answer where the draws do not tell which class is the most frequent.
ABSTAIN = -1

#: The last three are missing in files from before there were other noises than Gaussian, and other norms than ℓ2.
_FACTS = ("sigma", "n0", "n", "alpha", "seed", "network", "data", "provenance", "noise", "threat", "pixels")
_ARRAYS = ("labels", "selected", "counts")


@dataclass(frozen=True, eq=False)
class Certificates(ShownAsTable):
    """What was drawn for each image, and what follows for the smoothed network g(x) = argmax_c P(f(x + σε) = c).

    For each image, with probability 1 − alpha over the draws: if `predicted` is a class, g answers it everywhere
    within a distance below `radius` in the norm of the threat. That is said of g, not of the network itself, and of
    each image by itself.

    Attributes:
        ids: m sample ids.
        labels: (m,) true classes.
        selected: (m,) the most frequent answer among the n0 draws.
        counts: (m,) how many of the n other draws were answered by the selected class.
        sigma: Scale of the noise, in pixel units of [0, 1]; of Gaussian noise its standard deviation.
        n0: Draws that select the class.
        n: Draws that estimate its probability.
        alpha: Probability that a certificate is wrong.
        seed: Of the noise.
        network: What results call the network.
        data: What results call the images.
        provenance: Network, digest of the images, versions, device, time.
        noise: Which noise, as `noise_of` takes it; empty for Gaussian noise in ℓ2.
        threat: Norm of the radii: "l1", "l2" or "linf".
        pixels: Numbers per image.
    """

    ids: tuple[str, ...]
    labels: Int[np.ndarray, " m"]
    selected: Int[np.ndarray, " m"]
    counts: Int[np.ndarray, " m"]
    sigma: float
    n0: int
    n: int
    alpha: float
    seed: int = 0
    network: str = "network"
    data: str = "data"
    provenance: Mapping[str, Any] = field(default_factory=dict)
    noise: str = ""
    threat: str = "l2"
    pixels: int = 0

    def __post_init__(self) -> None:
        check_settings("Certificates", self.sigma, self.alpha, n0=self.n0, n=self.n)
        shapes = {name: getattr(self, name).shape for name in _ARRAYS}
        if set(shapes.values()) != {(len(self.ids),)}:
            got = f"{len(self.ids)} ids and {', '.join(f'{name} {shape}' for name, shape in shapes.items())}"
            raise ValueError(message("Certificates", "every image must have one of each", got, "Align them"))
        if not ((self.counts >= 0) & (self.counts <= self.n)).all():
            got = f"{self.counts.min()} to {self.counts.max()}"
            raise ValueError(message("Certificates", f"counts must lie in 0 to {self.n}", got, "Certify again"))

    @functools.cached_property
    def p_lower(self) -> Float[np.ndarray, " m"]:
        """(m,) lower confidence bound of the selected class's probability under noise."""
        from scipy.stats import beta

        # k = 0 has no beta distribution, and nothing is below 0.
        bound = beta.ppf(self.alpha, np.maximum(self.counts, 1), self.n - np.maximum(self.counts, 1) + 1)
        return np.where(self.counts > 0, bound, 0.0)

    @functools.cached_property
    def radius(self) -> Float[np.ndarray, " m"]:
        """(m,) certified radius in the threat's norm, in pixel units of [0, 1]; 0 where it abstains."""
        return self._radius(self.p_lower)

    @functools.cached_property
    def predicted(self) -> Int[np.ndarray, " m"]:
        """(m,) the certified class, or `ABSTAIN` (-1) where the bound is not above 1/2."""
        return np.where(self.p_lower > 0.5, self.selected, ABSTAIN)

    @property
    def radius_cap(self) -> float:
        """The radius when all n draws agree, of Gaussian noise σΦ⁻¹(alpha^(1/n)) in ℓ2. No image can have more."""
        return float(self._radius(np.array([self.alpha ** (1 / self.n)]))[0])

    def _radius(self, p: np.ndarray) -> np.ndarray:
        return noise_of(self.noise or self.sigma, "Certificates").radius(p, self.threat, max(1, self.pixels))

    @property
    def correct(self) -> np.ndarray:
        """(m,) whether the certified class is the label."""
        return self.predicted == self.labels

    @property
    def abstained(self) -> float:
        """Share of images without a certificate."""
        return float((self.predicted == ABSTAIN).mean())

    @property
    def average_certified_radius(self) -> float:
        """Mean of the radii, 0 where the certified class is wrong or there is none (Zhai et al. 2020)."""
        return float(np.where(self.correct, self.radius, 0.0).mean())

    def certified_accuracy(self, radius: float = 0.0) -> float:
        """Share of images certified to be answered right under every change shorter than `radius`."""
        if not radius >= 0:
            must = "radius must be at least 0"
            raise ValueError(message("certified_accuracy", must, f"{radius}", "Pass an ℓ2 length in pixel units"))
        return float((self.correct & (self.radius >= radius)).mean())

    def certified_interval(self, radius: float = 0.0) -> tuple[float, float]:
        """Wilson's 95 % interval of `certified_accuracy`: it covers the choice of images, not the draws."""
        low, high = wilson(torch.tensor(self.certified_accuracy(radius), dtype=torch.float64), len(self.ids))
        return float(low), float(high)

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        found = f"certified accuracy {self.certified_accuracy():.3f} at radius 0, {self.abstained:.1%} abstain"
        average = f"average certified radius {self.average_certified_radius:.3f}"
        kind = f"{self.noise}, {self.threat}" if self.noise else f"σ = {self.sigma:g}"
        settings = f"{kind}, n = {self.n:,}, alpha = {self.alpha:g}, radius cap {self.radius_cap:.4g}"
        return f"Certificates({self.network} on {self.data}, {len(self):,} images, {settings}: {found}, {average})"

    def to_frame(self) -> "pd.DataFrame":
        """One row per image: what was drawn, what is certified, and the settings."""
        import pandas as pd

        table = {"id": self.ids, "label": self.labels, "predicted": self.predicted, "correct": self.correct}
        table |= {name: getattr(self, name) for name in ("radius", "p_lower", "selected", "counts")}
        settings = {name: getattr(self, name) for name in ("n0", "n", "sigma", "alpha", "radius_cap", "network")}
        return pd.DataFrame({**table, **settings})

    def save(self, path: str | Path) -> Path:
        """Writes everything to one .npz without pickle, whole or not at all; `load` reads it back.

        Raises:
            OSError: The file could not be written; what stood there is untouched.
        """
        facts = {"ids": self.ids, **{name: getattr(self, name) for name in _FACTS}}
        write_archive(path, facts, {name: getattr(self, name) for name in _ARRAYS})
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> "Certificates":
        """Reads a file of `save`. Nothing in it is executed; radii are computed anew from the counts.

        Raises:
            FileNotFoundError: No such file.
            ValueError: Not a file of `save`, or a damaged one.
        """

        def made(facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> "Certificates":
            given = {name: facts[name] for name in _FACTS if name in facts}
            return cls(tuple(facts["ids"]), **{name: arrays[name] for name in _ARRAYS}, **given)

        again = "Make it again with certify(...).save(path)"
        return read_archive(path, made, function="Certificates.load", again=again)


def certify(
    net: nn.Module,
    data: ImageSet,
    sigma: float | str | Noise,
    *,
    threat: Literal["l1", "l2", "linf"] = "l2",
    n0: int = 100,
    n: int = 10_000,
    alpha: float = 0.001,
    seed: int = 0,
    batch_size: int = 1024,
    progress: bool = True,
) -> Certificates:
    """How far can each image be moved before the smoothed network's answer may change?

    The class is chosen by n0 noisy copies of the image. Of n other copies, k are answered so, which bounds the class's
    probability from below by p = BetaInv(alpha; k, n − k + 1) (Clopper-Pearson); where p > 1/2 the answer is certain
    within R = σΦ⁻¹(p), with probability 1 − alpha. Noisy copies are not cut to [0, 1]. That is proved for real numbers:
    in floating point a network could tell noise from moved noise by its last digits (Voracek, Hein 2023).

    Args:
        net: A network in eval mode that takes pixels in [0, 1] and gives (b, k) logits.
        data: The images.
        sigma: Standard deviation of Gaussian noise, in pixel units of [0, 1]; or a noise of `repsim.robustness.noises`
            as in "laplace:0.2" or "uniform:0.5" (for l1), "exponential:0.001" (linf) or "gaussian:0.25:8" (l2).
        threat: Norm of the radii; what a noise says of another norm than its own follows from that one.
        n0: Draws that select the class.
        n: Draws that estimate its probability. No radius exceeds σΦ⁻¹(alpha^(1/n)): 2.46σ for 1,000 draws, 3.20σ
            for 10,000, 3.81σ for 100,000 at alpha = 0.001.
        alpha: Probability that a certificate is wrong, for each image by itself.
        seed: Of the noise. Each image has a stream of its own, named by seed and id: its draws do not depend on the
            other images, their order or the batch size. They do depend on the kind of device.
        batch_size: Noisy copies per forward pass. On a CPU passes are split further where that is faster.
        progress: Show a bar when it takes more than two seconds.

    Returns:
        One certificate, or abstention, per image.

    Raises:
        ValueError: A network in training mode or without finite logits for each image; labels that are none of its
            classes; settings out of range, or too few draws to certify anything at alpha.
        TypeError: Images that are no `ImageSet`.

    Source:
        CERTIFY of Cohen, Rosenfeld, Kolter 2019, arXiv 1902.02918; bound: Clopper, Pearson 1934, Biometrika 26.

    Cost:
        (n0 + n) forward passes per image, and one normal number per pixel of each; 64 MiB of noise at most.
    """
    noise = noise_of(sigma, "certify")
    check_settings("certify", noise.scale, alpha, n0=n0, n=n)
    check_norm("certify", threat)
    started = time.time()
    counts = noisy_answers("certify", net, data, noise, (n0, n), seed=seed, batch_size=batch_size, progress=progress)
    classes = counts.shape[2]
    absent = int((data.labels < 0).sum())
    if absent or bool((data.labels >= classes).any()):
        got, advice = (
            f"labels {int(data.labels.min())} to {int(data.labels.max())} for {classes} classes",
            "Map them to 0, 1, …",
        )
        if absent:
            got, advice = f"{absent} images without a label", "Leave them out"
        raise ValueError(message("certify", "labels must be the network's classes", got, advice))
    selected = counts[0].argmax(1)
    provenance = {
        "network": provenance_of_network(net),
        "samples": data.digest,
        "versions": versions(),
        "device": device_of(net).type,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "seconds": round(time.time() - started, 3),
    }
    answered = counts[1][np.arange(len(data)), selected]
    drawn = data.ids, data.labels.numpy(), selected, answered
    kind = "" if noise == Gaussian(noise.scale) and threat == "l2" else str(noise)
    about = name_of(net), data.name, provenance, kind, threat, data.images[0].numel()
    return Certificates(*drawn, float(noise.scale), n0, n, float(alpha), seed, *about)


def predict(
    net: nn.Module,
    data: ImageSet,
    sigma: float,
    *,
    n: int = 1000,
    alpha: float = 0.001,
    seed: int = 0,
    batch_size: int = 1024,
    progress: bool = True,
) -> Int[np.ndarray, " m"]:
    """What does the smoothed network answer? The most frequent class under noise, where the draws can tell.

    A two-sided binomial test asks whether the two most frequent of n answers could be equally likely. This predicts;
    it certifies no radius.

    Args:
        net: As for `certify`.
        data: The images.
        sigma: Standard deviation of the noise, in pixel units of [0, 1].
        n: Draws per image.
        alpha: Probability that an answer is not the smoothed network's, for each image by itself.
        seed: As for `certify`.
        batch_size: As for `certify`.
        progress: Show a bar when it takes more than two seconds.

    Returns:
        (m,) classes, `ABSTAIN` (-1) where the test does not reach alpha.

    Raises:
        ValueError: As `certify`; labels are not asked for.
        TypeError: As `certify`.

    Source:
        PREDICT of Cohen, Rosenfeld, Kolter 2019, arXiv 1902.02918; test: Hung, Fithian 2019, Ann. Statist. 47.

    Cost:
        n forward passes per image.
    """
    from scipy.stats import binomtest

    check_settings("predict", sigma, alpha, n=n, two_sided=True)
    counts = noisy_answers(
        "predict", net, data, Gaussian(sigma), (n,), seed=seed, batch_size=batch_size, progress=progress
    )[0]
    most = counts.argmax(1)
    first, second = np.sort(counts, 1)[:, ::-1][:, :2].T
    p = np.array([binomtest(int(a), int(a + b), 0.5).pvalue for a, b in zip(first, second, strict=True)])
    return np.where(p <= alpha, most, ABSTAIN)


def check_settings(function: str, sigma: float, alpha: float, *, n: int, n0: int = 1, two_sided: bool = False) -> None:
    """Refuses settings with which nothing could be certified, or predicted, however robust the network is.

    Args:
        function: Who asks, for the message.
        sigma: Standard deviation of the noise.
        alpha: Probability of error.
        n: Draws that estimate.
        n0: Draws that select.
        two_sided: The test is two-sided, which takes other numbers.

    Raises:
        ValueError: Which of them must be what.
    """
    if not 0 < sigma < math.inf:
        advice = "Pass the noise's standard deviation in pixels of [0, 1], as in 0.25"
        raise ValueError(message(function, "sigma must be positive and finite", f"{sigma}", advice))
    if sigma > MOST_NOISE:
        advice = f"Pixels are in [0, 1]: write {sigma:g}/255 where you mean {sigma:g} of 255 grey levels"
        raise ValueError(message(function, f"sigma must be at most {MOST_NOISE:g}", f"{sigma:g}", advice))
    if not 0 < alpha < 0.5:
        raise ValueError(message(function, "alpha must be in (0, 0.5)", f"{alpha}", "0.001 is usual"))
    for name, draws in (("n0", n0), ("n", n)):
        if isinstance(draws, bool) or not isinstance(draws, int) or draws < 1:
            raise ValueError(message(function, f"{name} must be a whole number >= 1", repr(draws), "Leave it out"))
    # All draws alike prove more than 1/2 where alpha^(1/n) > 1/2; the two-sided test needs one draw more.
    least = math.floor(-math.log2(alpha)) + 1 if not two_sided else math.ceil(1 - math.log2(alpha))
    if n < least:
        got = f"n = {n} at alpha = {alpha:g}, where even equal answers prove nothing"
        raise ValueError(message(function, "there must be enough draws", got, f"Draw at least {least}"))
