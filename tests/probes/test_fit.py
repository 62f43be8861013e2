"""Linear probes against scikit-learn's optimum, their certificates against an independent gradient, and refusals."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from repsim.probes.fit import DEFAULT_PENALTY, DEFAULT_TOL, LayerProbes, fit_probes
from repsim.probes.folds import stratified_folds
from tests.oracles import td as oracle


def task(n: int, k: int, seed: int = 0) -> np.ndarray:
    """n labels of k classes, all about equally often, in random order."""
    return np.random.default_rng(seed).permutation(np.arange(n) % k)


def layer(labels: np.ndarray, width: int, seed: int, signal: float = 1.0) -> np.ndarray:
    """Features in which the classes overlap."""
    rng = np.random.default_rng(seed)
    centres = signal * rng.standard_normal((int(labels.max()) + 1, width))
    return (centres[labels] + rng.standard_normal((len(labels), width))) * np.linspace(0.5, 2, width) + 3


def masks(labels: np.ndarray, count: int = 3) -> list[np.ndarray]:
    return oracle.folds(labels, count, seed=0)


def fit(x: np.ndarray | Sequence[np.ndarray], tasks: Any, train: Sequence[np.ndarray], **settings: Any) -> Any:
    """`fit_probes` on arrays: one `LayerProbes` for one array, a list for several."""
    layers = [torch.tensor(z) for z in ([x] if isinstance(x, np.ndarray) else x)]
    tasks = tasks if isinstance(tasks, dict) else {"task": tasks}
    tensors = {name: torch.tensor(y) for name, y in tasks.items()}
    found = fit_probes(layers, tensors, torch.tensor(np.array(train)), progress=False, **settings)
    return found[0] if isinstance(x, np.ndarray) else found


def head(probes: LayerProbes, task: str = "task", fold: int = 0, penalty: int = 0) -> oracle.Head:
    w, b = (t.numpy() for t in probes.head(task, fold=fold, penalty=penalty))
    return oracle.Head(w, b - b.mean())


def assert_same_head(found: oracle.Head, expected: oracle.Head, x: np.ndarray, rtol: float) -> None:
    """Coefficients, and intercepts at the features' mean, each in units of the largest entry."""
    size = np.abs(expected.coefficients).max()
    np.testing.assert_allclose(found.coefficients, expected.coefficients, rtol=0, atol=rtol * size)
    at = np.asarray(x, dtype=np.float64).mean(axis=0, keepdims=True)
    a, b = (h.logits(at) - h.logits(at).mean() for h in (found, expected))
    np.testing.assert_allclose(a, b, rtol=0, atol=rtol * max(1.0, float(np.abs(b).max())))


# n, width, classes, λ
PROBLEMS = {
    "narrow": (90, 5, 3, 1e-3),
    "two classes": (60, 4, 2, 1e-3),
    "wide": (45, 120, 3, 1e-2),
    "as wide as long": (40, 40, 2, 1e-2),
    "many classes": (120, 12, 10, 1e-3),
    "light penalty": (200, 3, 3, 1e-5),
    "heavy penalty": (60, 5, 3, 10.0),
    "width one": (60, 1, 3, 1e-3),
}


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("problem", PROBLEMS)
def test_heads_are_scikit_learns(problem: str, dtype: type) -> None:
    n, width, k, penalty = PROBLEMS[problem]
    y = task(n, k)
    x = layer(y, width, 1).astype(dtype)
    train = masks(y)
    probes = fit(x, y, train, penalties=(penalty,))
    assert probes.certificates["task"].converged.all()
    for f, mask in enumerate(train):
        exact = oracle.fit(x, y, mask, penalty)
        assert_same_head(head(probes, fold=f), exact, x, rtol=1e-3)
        held = probes.heldout["task"][0][torch.tensor(~mask)].numpy()
        np.testing.assert_array_equal(held.argmax(axis=1), exact.logits(x[~mask]).argmax(axis=1))


def test_a_small_tolerance_reaches_the_optimum_itself() -> None:
    y = task(90, 3)
    x = layer(y, 5, 1)
    train = masks(y)
    probes = fit(x, y, train, tol=1e-10)
    for f, mask in enumerate(train):
        assert_same_head(head(probes, fold=f), oracle.fit(x, y, mask, DEFAULT_PENALTY), x, rtol=1e-6)


def test_the_penalty_is_in_units_of_each_folds_own_training_rows() -> None:
    """Half of the rows are ten times as spread, so that two folds differ in scale by far more than rounding."""
    y = np.tile([0, 1, 2], 20)
    x = layer(y, 4, 1) * np.repeat([[1.0], [10.0]], 30, axis=0)
    train = [np.arange(60) < 30, np.arange(60) >= 30]
    probes = fit(x, y, train, penalties=(0.1,), tol=1e-9)
    for f, mask in enumerate(train):
        assert_same_head(head(probes, fold=f), oracle.fit(x, y, mask, 0.1), x, rtol=1e-5)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("width", [5, 130])
def test_tasks_penalties_and_folds_in_one_call_are_separate_problems(width: int, dtype: type) -> None:
    n = 60
    tasks = {"ten": task(n, 5, 1), "two": task(n, 2, 2), "three": task(n, 3, 3), "other two": task(n, 2, 4)}
    x = layer(tasks["ten"], width, 1).astype(dtype)
    train = masks(tasks["ten"])
    penalties = (1.0, 1e-2, 1e-3)
    together = fit(x, tasks, train, penalties=penalties, tol=1e-6)
    assert list(together.certificates) != []
    for name, y in tasks.items():
        assert together.heldout[name].shape == (3, n, int(y.max()) + 1)
        assert together.certificates[name].gap.shape == (3, 3)
        for level, penalty in enumerate(penalties):
            for f, mask in enumerate(train):
                alone = fit(x, y, [mask], penalties=(penalty,), tol=1e-6)
                # Both are within tol / λ of the optimum, in units of features of size 1.
                logits = alone.heldout["task"][0][torch.tensor(~mask)]
                found = together.heldout[name][level][torch.tensor(~mask)]
                np.testing.assert_allclose(found, logits, rtol=0, atol=20 * 1e-6 / penalty)
                assert_same_head(head(together, name, f, level), head(alone), x, rtol=1e-2)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_layers_in_one_program_are_fitted_as_layers_alone(dtype: type) -> None:
    y = task(60, 3)
    layers = [layer(y, w, i).astype(dtype) for i, w in enumerate((5, 12, 5, 90, 70, 15, 16))]
    train = masks(y)
    alone = fit(layers, y, train, batch_layers=False, penalties=(1e-2, 1e-3), tol=1e-6)
    together = fit(layers, y, train, batch_layers=True, penalties=(1e-2, 1e-3), tol=1e-6)
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_allclose(a.heldout["task"], b.heldout["task"], rtol=0, atol=20 * 1e-6 / 1e-3)
        np.testing.assert_array_equal(a.heldout["task"].argmax(2), b.heldout["task"].argmax(2))
        assert a.certificates["task"].converged.all()
        assert b.certificates["task"].converged.all()


def test_layers_of_both_dtypes_may_share_a_call() -> None:
    y = task(60, 3)
    x = layer(y, 5, 1)
    double, single = fit([x, x.astype(np.float32)], y, masks(y), batch_layers=True)
    assert double.heldout["task"].dtype == single.heldout["task"].dtype == torch.float64
    np.testing.assert_array_equal(double.heldout["task"].argmax(2), single.heldout["task"].argmax(2))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("width", [6, 150])
@pytest.mark.parametrize("tol", [1e-2, 1e-5])
def test_the_certificate_is_the_gradient_of_the_head_that_is_handed_out(width: int, dtype: type, tol: float) -> None:
    """Recomputed in float64 from `head` alone, for features of mean row norm² 1 on the training rows."""
    y = task(60, 4)
    x = layer(y, width, 1).astype(dtype)
    train, penalty = masks(y), 1e-2
    probes = fit(x, y, train, penalties=(penalty,), tol=tol)
    certificate = probes.certificates["task"]
    for f, mask in enumerate(train):
        norm = oracle.gradient_norm(head(probes, fold=f), x, y, mask, penalty)
        # A float32 layer is certified for its own centred and scaled copy, which is 1e-7 away.
        rounding = 1e-12 if dtype is np.float64 else 2e-6
        bound = float((2 * penalty * certificate.gap[f, 0]).sqrt())
        assert bound == pytest.approx(norm, rel=1e-6, abs=rounding)
        # The norm itself may be that for another unit of the features, of all rows rather than these.
        assert float(certificate.gradient_norm[f, 0]) == pytest.approx(norm, rel=0.1, abs=rounding)
        assert bool(certificate.converged[f, 0]) is (float(certificate.gradient_norm[f, 0]) <= tol) is True


@pytest.mark.parametrize("width", [6, 150])
@pytest.mark.parametrize(
    "stop", [{"tol": 1e-1}, {"tol": 1e-2}, {"tol": 1e-4}, {"max_iter": 1}, {"max_iter": 3}], ids=str
)
def test_the_gap_bounds_what_is_left_to_gain(width: int, stop: dict[str, Any]) -> None:
    y = task(60, 4)
    x = layer(y, width, 1)
    train = masks(y)
    penalties = (1e-1, 1e-3)
    probes = fit(x, y, train, penalties=penalties, **stop)
    certificate = probes.certificates["task"]
    for level, penalty in enumerate(penalties):
        for f, mask in enumerate(train):
            found = oracle.loss(head(probes, fold=f, penalty=level), x, y, mask, penalty)
            best = oracle.loss(oracle.fit(x, y, mask, penalty), x, y, mask, penalty)
            gap = float(certificate.gap[f, level])
            assert -1e-9 <= found - best <= gap + 1e-9
            assert gap < 1e4 * (found - best) + 1e-9
            assert float(certificate.relative_gap[f, level]) == pytest.approx(gap / found, rel=1e-6)


def test_a_fit_that_is_cut_short_says_so() -> None:
    y = task(60, 3)
    for dtype in (np.float64, np.float32):
        x = layer(y, 6, 1).astype(dtype)
        certificate = fit(x, y, masks(y), max_iter=1).certificates["task"]
        assert not certificate.converged.any()
        assert (certificate.gradient_norm > DEFAULT_TOL).all()
        # A float32 fit that stops short gets as many steps again in float64.
        assert (certificate.iterations == (1 if dtype is np.float64 else 2)).all()


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_float32_reaches_tolerances_below_its_own_rounding(dtype: type) -> None:
    y = task(200, 3)
    certificate = fit(layer(y, 8, 1).astype(dtype), y, masks(y), tol=1e-9).certificates["task"]
    assert certificate.converged.all()
    assert (certificate.gradient_norm <= 1e-9).all()


def test_labels_of_held_out_rows_have_no_influence() -> None:
    y = task(60, 3)
    x = layer(y, 6, 1)
    train = masks(y)
    before = fit(x, y, train)
    changed = y.copy()
    changed[~train[0]] = (changed[~train[0]] + 1) % 3
    after = fit(x, changed, train)
    np.testing.assert_allclose(head(before).coefficients, head(after).coefficients, rtol=0, atol=1e-12)
    held = torch.tensor(~train[0])
    np.testing.assert_allclose(before.heldout["task"][:, held], after.heldout["task"][:, held], rtol=0, atol=1e-12)
    assert np.abs(head(before, fold=1).coefficients - head(after, fold=1).coefficients).max() > 0.01


@pytest.mark.parametrize(
    ("dtype", "distance"),
    [(np.float64, 10.0), (np.float64, 1e3), (np.float64, 1e5), (np.float32, 10.0), (np.float32, 1e3)],
)
def test_features_of_held_out_rows_have_no_influence(dtype: type, distance: float) -> None:
    """However far away a held-out row lies, a head that counts as converged is that of the training rows."""
    y = task(60, 3)
    x = layer(y, 6, 1)
    train = masks(y)[:1]
    x[np.flatnonzero(~train[0])[0], 2] += distance
    x = x.astype(dtype)
    penalty = 1e-2
    probes = fit(x, y, train, penalties=(penalty,))
    certificate = probes.certificates["task"]
    assert bool(certificate.converged.all()) or distance > 1e3
    if certificate.converged.all():
        # The loss then lies at most tol² / 2λ above its minimum, as the tolerance promises.
        assert float(certificate.gap) <= DEFAULT_TOL**2 / (2 * penalty) * (1 + 1e-6)
        # A float32 layer is centred in float32, where the far row's share in the mean is rounded.
        rounding = 0 if dtype is np.float64 else 1e-7 * distance
        assert_same_head(head(probes), oracle.fit(x, y, train[0], penalty), x[train[0]], rtol=1e-3 + rounding)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(
    "kind", ["narrow", "wide", "wide, duplicate rows", "wide, low rank", "wide, constant columns", "narrow, low rank"]
)
def test_heads_give_the_held_out_logits(kind: str, dtype: type) -> None:
    y = np.tile(task(20, 4), 2)
    x = layer(y, 7 if kind.startswith("narrow") else 90, 1)
    if "duplicate" in kind:
        x[20:30] = x[:10]
    if "low rank" in kind:
        rng = np.random.default_rng(0)
        x = x[:, :3] @ rng.standard_normal((3, x.shape[1]))
    if "constant" in kind:
        x[:, ::2] = 5.0
    x = x.astype(dtype)
    train = masks(y)
    probes = fit(x, y, train, penalties=(1e-2,))
    for f, mask in enumerate(train):
        w, b = (t.numpy() for t in probes.head("task", fold=f))
        logits = x[~mask].astype(np.float64) @ w.T + b
        expected = probes.heldout["task"][0][torch.tensor(~mask)].numpy()
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-9 if dtype is np.float64 else 1e-4)


def test_rows_that_no_fold_holds_out_have_no_logits() -> None:
    y = task(60, 3)
    train = masks(y)[:2]
    heldout = fit(layer(y, 6, 1), y, train).heldout["task"]
    never = torch.tensor(train[0] & train[1])
    assert heldout[:, never].isnan().all()
    assert heldout[:, ~never].isfinite().all()


@pytest.mark.parametrize("value", [0.0, 7.3, -1e30])
def test_a_constant_layer_answers_with_the_class_frequencies(value: float) -> None:
    y = np.array([0] * 30 + [1] * 20 + [2] * 10)
    train = masks(y)
    for width in (4, 100):
        probes = fit(np.full((60, width), value), y, train)
        assert probes.constant
        assert probes.certificates["task"].converged.all()
        for mask in train:
            chance = probes.heldout["task"][0][torch.tensor(~mask)].softmax(1)
            share = np.bincount(y[mask]) / mask.sum()
            np.testing.assert_allclose(chance, np.broadcast_to(share, chance.shape), atol=1e-9)
    assert not fit(layer(y, 4, 1), y, train).constant


def test_features_that_are_constant_on_the_training_rows_are_no_error() -> None:
    y = task(30, 3)
    x = np.zeros((30, 4))
    x[0] = 5
    train = masks(y)
    for dtype in (np.float64, np.float32):
        probes = fit(x.astype(dtype), y, train)
        assert probes.heldout["task"].isfinite().all()


def test_the_same_call_twice_gives_the_same_numbers() -> None:
    y = task(60, 3)
    x = layer(y, 6, 1).astype(np.float32)
    first, second = (fit(x, y, masks(y)).heldout["task"] for _ in range(2))
    assert torch.equal(first, second)


def test_layers_labels_and_masks_are_not_changed() -> None:
    y = task(60, 3)
    given: list[Tensor] = [torch.tensor(layer(y, w, 1)) for w in (6, 100)]
    labels, train = torch.tensor(y), torch.tensor(np.array(masks(y)))
    kept = [t.clone() for t in (*given, labels, train)]
    fit_probes(given, {"task": labels}, train, progress=False)
    assert all(torch.equal(a, b) for a, b in zip((*given, labels, train), kept, strict=True))


def test_folds_hold_every_row_out_once_and_every_class_alike() -> None:
    y = torch.tensor([0] * 23 + [1] * 17 + [2] * 10)
    train = stratified_folds(y, 5, seed=0)
    assert train.dtype == torch.bool
    assert train.shape == (5, 50)
    assert ((~train).sum(0) == 1).all()
    for k, size in enumerate((23, 17, 10)):
        held = (~train)[:, y == k].sum(1)
        assert held.min() >= size // 5
        assert held.max() <= -(-size // 5)
    assert torch.equal(train, stratified_folds(y, 5, seed=0))
    assert not torch.equal(train, stratified_folds(y, 5, seed=1))


@pytest.mark.parametrize(
    ("labels", "folds", "got"),
    [
        ([0] * 9 + [1] * 3, 5, "class 1 with 3 and 5 folds"),
        ([0] * 4 + [1] * 4 + [2] * 2, 3, "class 2 with 2 and 3 folds"),
        ([0] * 4 + [1] * 4, 1, "class 0 with 4 and 1 folds"),
        ([0] * 4 + [1] * 4, 0, "class 0 with 4 and 0 folds"),
    ],
)
def test_folds_that_cannot_be_made(labels: list[int], folds: int, got: str) -> None:
    with pytest.raises(ValueError, match="stratified_folds") as caught:
        stratified_folds(torch.tensor(labels), folds, 0)
    assert str(caught.value) == (
        f"stratified_folds: every class must have a sample in every fold; got {got}. "
        "Use at least 2 folds and at most as many as the smallest class has samples, or add samples."
    )


X = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
Y = torch.arange(12) % 2
TRAIN = torch.arange(12)[None] < 8
BROKEN = X.clone()
BROKEN[4, 1] = torch.nan
ENDLESS = X.clone()
ENDLESS[4, 1] = -torch.inf
PENALTY = "Without a penalty the optimum need not exist; use a small one, say 1e-6."
LAYER = "Look for a diverged network or unequal sample sets."
MARK = "Mark some rows for fitting and leave some to be predicted."
CLASSES = "Number the classes 0..k-1 without gaps and mark training rows of every class."
ONE_CLASS = "A task with one class has no answer to disagree on; pass other labels or more samples."

# What differs from a good call, and the whole message after "fit_probes: ".
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no penalty": ({"penalties": ()}, f"every penalty must be > 0; got []. {PENALTY}"),
    "a penalty of 0": ({"penalties": (0.1, 0.0)}, f"every penalty must be > 0; got [0.1, 0.0]. {PENALTY}"),
    "a negative penalty": ({"penalties": (-1.0,)}, f"every penalty must be > 0; got [-1.0]. {PENALTY}"),
    "an infinite penalty": ({"penalties": (float("inf"),)}, f"every penalty must be > 0; got [inf]. {PENALTY}"),
    "a penalty that is NaN": ({"penalties": (float("nan"),)}, f"every penalty must be > 0; got [nan]. {PENALTY}"),
    "no tolerance": ({"tol": 0}, "tol must be > 0; got 0. Leave it at 1e-05."),
    "a negative tolerance": ({"tol": -0.5}, "tol must be > 0; got -0.5. Leave it at 1e-05."),
    "another number of rows": (
        {"layers": [X, X[:11]]},
        f"layer 1 must be (12, p), floating point, finite; got (11, 3) torch.float32. {LAYER}",
    ),
    "three axes": (
        {"layers": [X, X[:, :, None]]},
        f"layer 1 must be (12, p), floating point, finite; got (12, 3, 1) torch.float32. {LAYER}",
    ),
    "integers": (
        {"layers": [X.long()]},
        f"layer 0 must be (12, p), floating point, finite; got (12, 3) torch.int64. {LAYER}",
    ),
    "NaN": (
        {"layers": [X, X, BROKEN]},
        f"layer 2 must be (12, p), floating point, finite; got (12, 3) torch.float32 with NaN or infinity. {LAYER}",
    ),
    "infinity": (
        {"layers": [ENDLESS.double()]},
        f"layer 0 must be (12, p), floating point, finite; got (12, 3) torch.float64 with NaN or infinity. {LAYER}",
    ),
    "a mask without folds": (
        {"train": TRAIN[0]},
        "train must be (folds, 12); got shape (12,). One mask of rows per fold.",
    ),
    "a mask of other rows": (
        {"train": TRAIN[:, :11]},
        "train must be (folds, 12); got shape (1, 11). One mask of rows per fold.",
    ),
    "nothing to fit on": (
        {"train": torch.stack([TRAIN[0], torch.zeros(12, dtype=torch.bool)])},
        f"every fold must train on some rows and hold out some; got [8, 0] training rows of 12. {MARK}",
    ),
    "nothing held out": (
        {"train": torch.ones(1, 12, dtype=torch.bool)},
        f"every fold must train on some rows and hold out some; got [12] training rows of 12. {MARK}",
    ),
    "too few labels": (
        {"tasks": {"parity": Y[:11]}},
        "labels must be 12 integers, one per sample; got int64 of shape (11,). Pass one class index per row.",
    ),
    "labels of two axes": (
        {"tasks": {"parity": Y[:, None]}},
        "labels must be 12 integers, one per sample; got int64 of shape (12, 1). Pass one class index per row.",
    ),
    "labels that are no integers": (
        {"tasks": {"parity": Y.float()}},
        "labels must be 12 integers, one per sample; got float32 of shape (12,). Pass one class index per row.",
    ),
    "one class": ({"tasks": {"parity": Y * 0}}, f"labels must hold at least two classes; got 1. {ONE_CLASS}"),
    "a negative class": (
        {"tasks": {"fine": Y, "parity": Y * 3 - 2}},
        "labels of 'parity' must be >= 0; got -2. Number the classes from 0.",
    ),
    "a class that is missing": (
        {"tasks": {"fine": Y, "parity": Y * 2}},
        f"training rows must hold every class; got none of class 1 in fold 0 of 'parity'. {CLASSES}",
    ),
    "a class that a fold lacks": (
        {"train": torch.stack([TRAIN[0], Y == 0])},
        f"training rows must hold every class; got none of class 1 in fold 1 of 'parity'. {CLASSES}",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    given: dict[str, Any] = {"layers": [X], "tasks": {"parity": Y}, "train": TRAIN}
    fit_probes(**given, progress=False)
    change, expected = REFUSED[case]
    with pytest.raises(ValueError, match=r"^fit_probes: ") as caught:
        fit_probes(**{**given, **change}, progress=False)
    assert str(caught.value) == f"fit_probes: {expected}"
