"""Noises: how they are drawn, and their radii against closed forms, the lemma itself and a linear classifier."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chi, gamma, kstest, laplace, norm
from torch import nn

from repsim import ImageSet
from repsim.robustness import Certificates, certify
from repsim.robustness.noises import Exponential, Gaussian, Laplace, Noise, Uniform, _table, noise_of
from tests.conftest import exactly

P = np.array([0.5, 0.6, 0.9, 0.999])
NOISES = [Gaussian(0.3), Gaussian(0.3, 4), Laplace(0.3), Uniform(0.3), Exponential(0.3)]


def drawn(noise: Noise, n: int = 4000, c: int = 3) -> np.ndarray:
    out = torch.empty(n, c, 2, 2)
    assert noise.draw_(out, torch.Generator().manual_seed(0)) is out
    return out.flatten(1).numpy().astype(float)


def test_noises_have_their_distributions() -> None:
    for noise, law in ((Gaussian(0.3), norm(0, 0.3)), (Laplace(0.3), laplace(0, 0.3))):
        assert kstest(drawn(noise).ravel(), law.cdf).pvalue > 1e-3
    assert kstest(drawn(Uniform(0.3)).ravel(), "uniform", (-0.3, 0.6)).pvalue > 1e-3
    assert kstest(np.abs(drawn(Exponential(0.3))).max(1), gamma(12, scale=0.3).cdf).pvalue > 1e-3
    assert kstest(np.linalg.norm(drawn(Gaussian(0.3, 4)), axis=1) / 0.3, chi(8).cdf).pvalue > 1e-3
    for noise in NOISES:
        z = drawn(noise)
        assert np.abs(z.mean(0)).max() < 5 * z.std() / math.sqrt(4000)
        assert np.std(z.std(0)) < 0.05 * z.std()


def test_radii_are_the_closed_forms() -> None:
    d = 12
    found = {noise: {t: noise.radius(P, t, d) for t in ("l1", "l2", "linf")} for noise in NOISES}
    gaussian, laplacian, uniform, cube = (found[NOISES[i]] for i in (0, 2, 3, 4))
    np.testing.assert_allclose(gaussian["l2"], 0.3 * norm.ppf(P), rtol=1e-12)
    np.testing.assert_allclose(gaussian["l1"], 0.3 * norm.ppf(P), rtol=1e-12)
    np.testing.assert_allclose(gaussian["linf"], 0.3 * norm.ppf(P) / math.sqrt(d), rtol=1e-12)
    np.testing.assert_allclose(laplacian["l1"], -0.3 * np.log(2 * (1 - P)), rtol=1e-12)
    np.testing.assert_allclose(laplacian["l2"], laplacian["l1"] / math.sqrt(d), rtol=1e-12)
    np.testing.assert_allclose(laplacian["linf"], laplacian["l1"] / d, rtol=1e-12)
    np.testing.assert_allclose(uniform["l1"], 0.6 * (P - 0.5), rtol=1e-12)
    np.testing.assert_allclose(uniform["linf"], 0.6 * (1 - (1.5 - P) ** (1 / d)), rtol=1e-9)
    assert (uniform["linf"] >= uniform["l1"] / d - 1e-15).all()
    np.testing.assert_allclose(cube["linf"], 0.3 * np.log(1 / (2 * (1 - P))), rtol=1e-12)
    for radii in found.values():
        for r in radii.values():
            assert r[0] == 0
            assert (np.diff(r) > 0).all()


@pytest.mark.parametrize("pixels", [12, 3072])
def test_the_quadrature_is_gaussian_without_an_exponent_and_never_above(pixels: int) -> None:
    radii, needed = _table(pixels, 0)
    assert np.all((needed - norm.cdf(radii) > 0) & (needed - norm.cdf(radii) < 1e-5))


@pytest.mark.parametrize("k", [3, 9])
def test_the_quadrature_is_the_lemma_on_a_sample(k: int) -> None:
    d, n = 12, 400_000
    random = np.random.default_rng(0)
    z = random.normal(size=(n, d))
    z *= (chi(d - k).rvs(n, random_state=random) / np.linalg.norm(z, axis=1))[:, None]
    radii, needed = _table(d, k)
    for at in (19, 79, 149):
        square, moved = (z**2).sum(1), ((z - np.eye(d)[0] * radii[at]) ** 2).sum(1)
        ratio = np.sort(np.exp(-k / 2 * np.log(moved / square) - (moved - square) / 2))
        wanted = (np.searchsorted(np.cumsum(ratio) / ratio.sum(), 0.5) + 1) / n
        assert needed[at] == pytest.approx(wanted, abs=0.004)
    found = Gaussian(0.5, k).radius(np.array([0.4, 0.9]), "l2", d)
    assert found[0] == 0
    assert found[1] == 0.5 * radii[needed <= 0.9].max()


def linear(classes: int = 2) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, classes))
    with torch.no_grad():
        net[1].bias.zero_()  # type: ignore[union-attr, operator]
    return net.eval()


def images(n: int = 6) -> ImageSet:
    x = torch.rand(n, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    return ImageSet(x, torch.arange(n) % 2, tuple(f"i{k}" for k in range(n)), "made up")


@pytest.mark.parametrize(
    ("noise", "threat"),
    [("laplace:0.2", "l1"), ("uniform:0.4", "l1"), ("gaussian:0.2", "linf"), ("exponential:0.02", "linf")],
)
def test_no_attack_inside_the_radius_changes_the_smoothed_answer_of_a_linear_network(noise: str, threat: str) -> None:
    net, data = linear(), images()
    made = certify(net, data, noise, threat=threat, n=2000, progress=False)  # type: ignore[arg-type]
    assert (made.radius > 0).any()
    w = (net[1].weight[0] - net[1].weight[1]).detach().numpy()  # type: ignore[index]
    z = drawn(noise_of(noise, "test"), 20_000) @ w
    for x, radius, answer in zip(data.images.flatten(1).numpy(), made.radius, made.predicted, strict=True):
        if answer >= 0:
            # The best attack on a linear network: all on the largest weight, or the sign of all.
            far = radius * (np.abs(w).max() if threat == "l1" else np.abs(w).sum())
            side = 1 if answer == 0 else -1
            assert np.mean(side * (x @ w - side * far + z) > 0) > 0.5 - 0.015


class Constant(nn.Module):
    """Answers the first class whatever it sees."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tensor([1.0, 0.0]).expand(len(x), 2)


@pytest.mark.parametrize("noise", NOISES, ids=str)
@pytest.mark.parametrize("threat", ["l1", "l2", "linf"])
def test_a_network_that_never_changes_hits_the_cap_and_the_file_says_of_what(
    noise: Noise, threat: Any, tmp_path: Any
) -> None:
    made = certify(Constant().eval(), images(2), noise, threat=threat, n=200, progress=False)
    np.testing.assert_allclose(made.radius, made.radius_cap)
    again = Certificates.load(made.save(tmp_path / "certificates.npz"))
    assert (again.noise, again.threat, again.pixels) == (made.noise, threat, 12)
    assert again.radius_cap == made.radius_cap > 0
    assert repr(again) == repr(made)


def test_texts_and_numbers_name_noises() -> None:
    assert noise_of(0.25, "certify") == noise_of("gaussian:1/4", "certify") == Gaussian(0.25)
    for noise in NOISES:
        assert noise_of(str(noise), "certify") == noise
    for text, whole in (
        ("laplac:1", "certify: the noise must be known; got 'laplac'. Close matches: laplace."),
        ("laplace", "certify: a noise must be KIND:SCALE; got 'laplace'. Write, say, \"laplace:0.25\"."),
        ("uniform:0.3:2", "certify: a noise must be KIND:SCALE; got 'uniform:0.3:2'. Write, say, \"uniform:0.25\"."),
    ):
        with pytest.raises(ValueError, match=exactly(whole)):
            certify(linear(), images(), text)
    text = "certify: threat must be l1, l2 or linf; got 'l3'. Choose one."
    with pytest.raises(ValueError, match=exactly(text)):
        certify(linear(), images(), 0.25, threat="l3")  # type: ignore[arg-type]
    text = "certify: k of a noise must be below the 12 numbers of an image; got 12. Choose a smaller one."
    with pytest.raises(ValueError, match=exactly(text)):
        Gaussian(0.3, 12).radius(P, "l2", 12)
