"""Dependence of errors beyond accuracy: details of TD against counts, and constant where the accuracy alone changes."""

import numpy as np
import pytest
import torch
from scipy import stats

from repsim.metrics import TD
from repsim.metrics.transferred.base import Fit
from repsim.metrics.transferred.td import HardPredictions
from repsim.numerics.tetrachoric import tetrachoric

FIT = Fit(0.0, 0.0, 1, True, "")
NAMES = ("error_correlation", "error_correlation_low", "error_correlation_high")


def answers(labels: np.ndarray, predicted: np.ndarray, classes: int) -> HardPredictions:
    m = len(labels)
    given = torch.arange(m), torch.from_numpy(labels), torch.from_numpy(predicted)
    return HardPredictions(*given, torch.empty(0, m, dtype=torch.long), torch.arange(classes), FIT)


def drawn(
    rng: np.random.Generator, n: int, rho: float, errors: tuple[float, float], classes: int
) -> list[HardPredictions]:
    """Probit model: errors by a latent normal pair; two wrong answers are the same one with probability 0.4."""
    labels = rng.integers(classes, size=n)
    u = rng.standard_normal(n)
    v = rho * u + np.sqrt(1 - rho**2) * rng.standard_normal(n)
    slip = rng.integers(1, classes, size=n)
    other = (slip - 1 + rng.integers(1, classes - 1, size=n)) % (classes - 1) + 1
    second = np.where(rng.uniform(size=n) < 0.4, slip, other)
    moves = [np.where(z > -stats.norm.ppf(e), s, 0) for z, e, s in ((u, errors[0], slip), (v, errors[1], second))]
    return [answers(labels, (labels + move) % classes, classes) for move in moves]


def test_they_are_counts_of_the_answers() -> None:
    rng = np.random.default_rng(0)
    a, b = drawn(rng, 500, 0.6, (0.2, 0.3), 5)
    c, _ = drawn(np.random.default_rng(0), 500, 0.6, (0.1, 0.3), 5)
    found = TD(resamples=0).compared([a, c], [b]).details
    for i, one in enumerate((a, c)):
        wrong = [(s.predicted != s.labels).numpy() for s in (one, b)]
        both = wrong[0] & wrong[1]
        same = (one.predicted == b.predicted).numpy() & both
        assert found["agree_when_both_wrong"][i, 0] == pytest.approx(same.sum() / both.sum())
        expected = tetrachoric(*(np.array(w.mean()) for w in (both, *wrong)), n=500)
        assert [found[name][i, 0].item() for name in NAMES] == pytest.approx([float(x) for x in expected])


def test_neither_moves_with_accuracy_and_the_ratio_does() -> None:
    rng = np.random.default_rng(1)
    rho, same, ratio = [], [], []
    for error in (0.5, 0.2, 0.05, 0.01):
        details = TD(resamples=0).compared(*([s] for s in drawn(rng, 400_000, 0.7, (error, error), 10))).details
        rho.append(details["error_correlation"].item())
        same.append(details["agree_when_both_wrong"].item())
        ratio.append(details["td_ratio"].item())
    np.testing.assert_allclose(rho, 0.7, atol=0.02)
    np.testing.assert_allclose(same, 0.4, atol=0.02)
    assert max(ratio) - min(ratio) > 0.1


def test_a_head_with_itself_and_heads_that_make_no_errors() -> None:
    a, b = drawn(np.random.default_rng(2), 300, 0.5, (0.2, 0.2), 4)
    perfect = answers(a.labels.numpy(), a.labels.numpy(), 4)
    found = TD(resamples=0).compared([a, perfect], [a, b, perfect]).details
    assert found["error_correlation"][0, 0] == 1
    assert found["error_correlation_high"][0, 0] == 1
    assert 0.8 < found["error_correlation_low"][0, 0] < 1
    assert found["agree_when_both_wrong"][0, 0] == 1
    for name in (*NAMES, "agree_when_both_wrong"):
        assert torch.isnan(found[name][1]).all()
        assert torch.isnan(found[name][:, 2]).all()
