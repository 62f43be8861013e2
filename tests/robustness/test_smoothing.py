"""Certificates by randomised smoothing, held against exact binomial sums and closed forms of linear networks."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from repsim import ImageSet, Network, load_model
from repsim.robustness.noises import Gaussian
from repsim.robustness.noisy_answers import noisy_answers
from repsim.robustness.smoothing import ABSTAIN, Certificates, certify, predict
from tests.conftest import exactly
from tests.oracles import smoothing as oracle

SHAPE = (1, 4, 4)


def pictures(n: int = 6, seed: int = 0, labels: Any = None, shape: tuple[int, int, int] = SHAPE) -> ImageSet:
    images = torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed))
    y = torch.arange(n) % 2 if labels is None else torch.as_tensor(labels)
    return ImageSet(images, y, tuple(f"image/{k}" for k in range(n)), "pictures")


def linear(seed: int = 0, classes: int = 2, pixels: int = math.prod(SHAPE)) -> nn.Sequential:
    net = nn.Sequential(nn.Flatten(), nn.Linear(pixels, classes))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return net.eval()


class Constant(nn.Module):
    """Answers one class, whatever it is shown."""

    def __init__(self, answer: int = 1, classes: int = 3) -> None:
        super().__init__()
        self.answer, self.classes = answer, classes
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.one_hot(torch.full((len(x),), self.answer), self.classes).float()


class Recorder(Constant):
    """Keeps what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.clone())
        return super().forward(x)


def made(counts: list[int], n: int = 1000, alpha: float = 0.001, sigma: float = 0.25, **changes: Any) -> Certificates:
    m = len(counts)
    labels, selected = np.zeros(m, dtype=int), np.zeros(m, dtype=int)
    whole: dict[str, Any] = {"ids": tuple(map(str, range(m))), "labels": labels, "selected": selected, **changes}
    return Certificates(counts=np.array(counts), sigma=sigma, n0=100, n=n, alpha=alpha, **whole)


def alike(a: Certificates, b: Certificates) -> bool:
    return np.array_equal(a.selected, b.selected) and np.array_equal(a.counts, b.counts)


# --- The bound ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "alpha"), [(10, 0.001), (37, 0.01), (1000, 0.001), (2000, 0.2)])
def test_the_bound_is_where_the_exact_tail_is_alpha(n: int, alpha: float) -> None:
    counts = sorted({0, 1, 2, n // 2, n // 2 + 1, (3 * n) // 4, n - 1, n})
    found = made(counts, n=n, alpha=alpha)
    assert found.p_lower == pytest.approx([oracle.clopper_pearson_lower(k, n, alpha) for k in counts], abs=1e-9)
    assert found.radius == pytest.approx([oracle.radius(k, n, alpha, 0.25) for k in counts], abs=1e-8)
    assert found.p_lower[-1] == pytest.approx(alpha ** (1 / n), rel=1e-12)


def test_the_bound_holds_as_often_as_it_says() -> None:
    """Exactly, by summing over all counts: P(bound > p) <= alpha, and not much less."""
    n, alpha = 60, 0.05
    bound = made(list(range(n + 1)), n=n, alpha=alpha).p_lower
    for p in (0.5, 0.51, 0.7, 0.9, 0.99):
        chances = [math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]
        wrong = math.fsum(c for c, b in zip(chances, bound, strict=True) if b > p)
        assert wrong <= alpha + 1e-12
        assert wrong > alpha / 5 or p > 0.95


@pytest.mark.parametrize(("n", "times"), [(1000, 2.463), (10_000, 3.199), (100_000, 3.811)])
def test_the_cap_is_the_radius_of_draws_that_all_agree(n: int, times: float) -> None:
    found = made([n, n - 1], n=n, sigma=0.5)
    assert found.radius_cap == pytest.approx(0.5 * times, abs=5e-4)
    assert found.radius[0] == pytest.approx(found.radius_cap, rel=1e-12)
    assert found.radius[1] < found.radius_cap
    assert f"radius cap {found.radius_cap:.4g}" in repr(found)


def test_no_bound_above_a_half_is_no_certificate() -> None:
    n = 100
    counts = [0, 50, 60, 66, 67, 100]
    found = made(counts, n=n)
    expected = [oracle.radius(k, n, 0.001, 0.25) for k in counts]
    assert [r > 0 for r in expected] == [False, False, False, True, True, True]
    assert found.predicted.tolist() == [ABSTAIN, ABSTAIN, ABSTAIN, 0, 0, 0]
    assert (found.radius == 0).tolist() == [True, True, True, False, False, False]
    assert found.abstained == 0.5


# --- CERTIFY --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("distance", [-1.5, -0.7, 0.4, 1.0, 1.5])
def test_a_linear_network_is_certified_up_to_its_boundary(sigma: float, distance: float) -> None:
    """A half-space's smoothed answer is its own, and flips at the distance |wᵀx + b| / ‖w‖ to the plane."""
    net, data = linear(), pictures(1)
    layer = net[1]
    assert isinstance(layer, nn.Linear)
    with torch.no_grad():  # the plane is moved to this many sigma from the picture, where the draws tell most
        w = layer.weight[1] - layer.weight[0]
        layer.bias[1] = layer.bias[0] + distance * sigma * w.norm() - w @ data.images.flatten()
    found = certify(net, data, sigma, n=20_000, seed=1)
    assert found.predicted.tolist() == [int(distance > 0)]
    true = abs(distance) * sigma
    assert true - 0.07 * sigma <= found.radius[0] <= true


def test_a_constant_network_reaches_the_cap_and_no_further() -> None:
    data = pictures(3, labels=[1, 1, 0])
    found = certify(Constant(1), data, 0.25, n=1000)
    assert found.counts.tolist() == [1000] * 3
    assert found.radius == pytest.approx(0.25 * 2.4630, abs=1e-4)
    assert found.radius == pytest.approx(found.radius_cap)
    assert found.certified_accuracy() == pytest.approx(2 / 3)
    assert found.certified_accuracy(found.radius_cap * 1.0001) == 0


def test_selection_and_estimation_draws_are_all_different_and_normal() -> None:
    net, data = Recorder(), pictures(2, shape=(1, 8, 8))
    certify(net, data, 0.3, n0=300, n=2500, batch_size=50)
    shown = torch.cat(net.seen).flatten(1)
    assert shown.shape == (2 * 2800, 64)
    assert len(shown.unique(dim=0)) == len(shown)
    noise = (shown.view(2, 2800, 64) - data.images.flatten(1)[:, None]) / 0.3
    assert abs(float(noise.mean())) < 4 / math.sqrt(noise.numel())
    assert float(noise.square().mean()) == pytest.approx(1, abs=4 * math.sqrt(2 / noise.numel()))
    assert float(noise.abs().max()) > 4
    # No pixel, draw or image follows another.
    for a, b in ((noise[0], noise[1]), (noise[:, 1:], noise[:, :-1]), (noise[..., 1:], noise[..., :-1])):
        assert abs(float((a * b).mean())) < 4 / math.sqrt(a.numel())
    assert float(shown.min()) < 0 < 1 < float(shown.max())  # noisy copies are not cut


def test_the_selected_class_comes_from_the_first_draws_alone() -> None:
    class Turns(Constant):
        """Answers class 2 while its class is selected, class 0 afterwards."""

        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.answer = 2 if self.calls < 100 else 0
            self.calls += len(x)
            return super().forward(x)

    found = certify(Turns(), pictures(1, labels=[0]), 0.25, n0=100, n=200, batch_size=20)
    assert found.selected.tolist() == [2]
    assert found.counts.tolist() == [0]
    assert found.predicted.tolist() == [ABSTAIN]


def test_draws_depend_on_neither_batch_size_order_nor_company() -> None:
    # Normal numbers are made 16 at a time, so only other numbers of pixels show where draws were parted.
    net, data = linear(3, classes=4, pixels=25), pictures(7, shape=(1, 5, 5))
    whole = certify(net, data, 0.4, n0=20, n=1500, seed=5)
    for batch_size in (1, 7, 4096):
        assert alike(whole, certify(net, data, 0.4, n0=20, n=1500, seed=5, batch_size=batch_size))
    order = [4, 0, 6]
    part = certify(net, data.take(order), 0.4, n0=20, n=1500, seed=5)
    assert part.selected.tolist() == whole.selected[order].tolist()
    assert part.counts.tolist() == whole.counts[order].tolist()
    assert not alike(whole, certify(net, data, 0.4, n0=20, n=1500, seed=6))


def test_large_images_are_drawn_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("repsim.robustness.noisy_answers._NUMBERS", 16 * 5)
    net, data = Recorder(), pictures(2)
    certify(net, data, 0.25, n0=3, n=12, batch_size=64)
    assert [len(x) for x in net.seen] == [3, 5, 5, 2] * 2
    assert len(torch.cat(net.seen).unique(dim=0)) == 30


def test_the_network_is_left_as_it_was_and_gets_no_gradient(digits: ImageSet) -> None:
    net = load_model("digits_resnet8", name="untrained")
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = torch.random.get_rng_state()
    found = certify(net, digits.take(range(2)), 0.25, n0=10, n=50)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
    assert torch.equal(state, torch.random.get_rng_state())
    assert found.network == "untrained"
    assert found.data == digits.name
    assert found.provenance["samples"] == digits.take(range(2)).digest
    assert found.provenance["network"]["architecture"] == "digits_resnet8"


@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16])
def test_networks_of_other_types_are_given_their_own(kind: torch.dtype) -> None:
    found = certify(linear().to(kind), pictures(2), 0.1, n0=10, n=50)
    assert found.counts.max() <= 50


def test_the_smoothed_answer_is_certain_inside_the_radius() -> None:
    """Within the radius of a curved network's certificate no change may turn the smoothed answer."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 2)).eval()
    data = pictures(4)
    found = certify(net, data, 0.5, n=5000)
    held = [k for k in range(4) if found.predicted[k] != ABSTAIN]
    assert held
    generator = torch.Generator().manual_seed(0)
    for k in held:
        x = data.images[k : k + 1].clone().requires_grad_()
        noise = 0.5 * torch.randn(2000, *SHAPE, generator=generator)
        wrong = net(x + noise).softmax(1)[:, 1 - int(found.predicted[k])].mean()
        (way,) = torch.autograd.grad(wrong, x)
        moved = x.detach() + way / way.norm() * 0.99 * float(found.radius[k])
        answers = net(moved + 0.5 * torch.randn(20_000, *SHAPE, generator=generator)).argmax(1)
        assert float((answers == int(found.predicted[k])).float().mean()) > 0.5 - 3 * 0.5 / math.sqrt(20_000)


# --- PREDICT --------------------------------------------------------------------------------------------------


def test_predictions_follow_the_exact_binomial_test() -> None:
    net, data = linear(2, classes=4), pictures(40)
    for alpha in (0.001, 0.3):
        found = predict(net, data, 3.0, n=400, alpha=alpha, seed=2)
        counts = noisy_answers("test", net, data, Gaussian(3.0), (400,), seed=2, batch_size=64, progress=False)[0]
        assert counts.sum(1).tolist() == [400] * 40
        for answer, row in zip(found, counts.tolist(), strict=True):
            a, b, *_ = sorted(row, reverse=True)
            assert answer == (row.index(a) if oracle.two_sided_p(a, b) <= alpha else ABSTAIN)
    strict = predict(net, data, 3.0, n=400, alpha=0.001, seed=2)
    assert 0 < (strict == ABSTAIN).sum() < 40


def test_predictions_of_sure_networks_are_theirs() -> None:
    assert predict(Constant(2), pictures(3), 0.25, n=50).tolist() == [2, 2, 2]
    net, data = linear(), pictures(20)
    assert (predict(net, data, 0.01, n=100) == net(data.images).argmax(1).numpy()).mean() > 0.9


# --- What follows from the counts -----------------------------------------------------------------------------


def several() -> Certificates:
    labels = np.array([0, 0, 1, 0, 0])
    return made([1000, 900, 1000, 510, 700], labels=labels, network="net", data="pictures", seed=3)


def test_certified_accuracy_counts_the_right_and_the_certain() -> None:
    found = several()
    radii = [oracle.radius(k, 1000, 0.001, 0.25) for k in (1000, 900, 1000, 510, 700)]
    assert found.predicted.tolist() == [0, 0, 0, ABSTAIN, 0]
    assert found.certified_accuracy() == pytest.approx(3 / 5)
    assert found.certified_accuracy(float(found.radius[4])) == pytest.approx(3 / 5)  # holds up to and with it
    assert found.certified_accuracy(radii[4] + 1e-6) == pytest.approx(2 / 5)
    assert found.certified_accuracy(radii[1] + 1e-6) == pytest.approx(1 / 5)
    assert found.certified_accuracy(1e9) == 0
    average = oracle.average_certified_radius(found.predicted.tolist(), radii, found.labels.tolist())
    assert found.average_certified_radius == pytest.approx(average, abs=1e-9)
    over = [found.certified_accuracy(r) for r in np.linspace(0, 1, 50)]
    assert over == sorted(over, reverse=True)


def test_the_interval_is_wilsons() -> None:
    found = made([1000] * 50 + [0] * 50)
    assert found.certified_accuracy() == 0.5
    assert found.certified_interval() == pytest.approx((0.4038, 0.5962), abs=5e-5)
    assert found.certified_interval(9.0) == pytest.approx((0, 0.0370), abs=5e-5)


def test_the_text_and_the_table_say_it_all() -> None:
    found = several()
    assert repr(found) == (
        "Certificates(net on pictures, 5 images, σ = 0.25, n = 1,000, alpha = 0.001, radius cap 0.6158: "
        "certified accuracy 0.600 at radius 0, 20.0% abstain, average certified radius "
        f"{found.average_certified_radius:.3f})"
    )
    table = found.to_frame()
    assert table["id"].tolist() == ["0", "1", "2", "3", "4"]
    assert table["predicted"].tolist() == [0, 0, 0, -1, 0]
    assert table["correct"].tolist() == [True, True, False, False, True]
    assert table["radius"].tolist() == found.radius.tolist()
    assert table["counts"].tolist() == [1000, 900, 1000, 510, 700]
    assert set(table["radius_cap"]) == {found.radius_cap}


# --- Files ----------------------------------------------------------------------------------------------------


def test_files_give_back_what_was_saved(tmp_path: Path) -> None:
    net = Network(linear(), name="lin").eval()
    found = certify(net, pictures(), 0.3, n0=10, n=100, seed=4)
    back = Certificates.load(found.save(tmp_path / "c.npz"))
    assert alike(found, back)
    for name in ("ids", "sigma", "n0", "n", "alpha", "seed", "network", "data", "provenance"):
        assert getattr(back, name) == getattr(found, name), name
    assert repr(back) == repr(found)
    assert back.radius.tolist() == found.radius.tolist()


def test_files_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "c.npz"
    text = f"Certificates.load: the file must exist; got {path}. Check the path."
    with pytest.raises(FileNotFoundError, match=exactly(text)):
        Certificates.load(path)
    text = (
        f"Certificates.load: the file must be one that save wrote; got {path} (damaged, or something else). "
        "Make it again with certify(...).save(path)."
    )
    whole = several().save(path).read_bytes()
    for damaged in (b"", b"text", whole[: len(whole) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=exactly(text)):
            Certificates.load(path)
    np.savez(path, counts=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match=exactly(text)):
        Certificates.load(path)


def test_a_file_cannot_claim_more_than_its_counts(tmp_path: Path) -> None:
    text = "Certificates: counts must lie in 0 to 1000; got 1001 to 1001. Certify again."
    with pytest.raises(ValueError, match=exactly(text)):
        made([1001])
    text = "Certificates: every image must have one of each; got 2 ids and labels (2,), selected (2,), counts (1,). "
    with pytest.raises(ValueError, match=exactly(text + "Align them.")):
        made([1], ids=("a", "b"), labels=np.zeros(2, dtype=int), selected=np.zeros(2, dtype=int))


# --- What is refused ------------------------------------------------------------------------------------------


def test_a_network_in_training_mode_is_refused() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(16, 2)).eval()
    net[1].train()
    for function in (certify, predict):
        text = (
            f"{function.__name__}: the network must be in eval mode; got training mode in '1'. Call net.eval() first."
        )
        with pytest.raises(ValueError, match=exactly(text)):
            function(net, pictures(), 0.25)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"n": 9}, "there must be enough draws; got n = 9 at alpha = 0.001, where even equal answers prove nothing. "
         "Draw at least 10."),
        ({"n": 4, "alpha": 0.05}, "there must be enough draws; got n = 4 at alpha = 0.05, where even equal answers "
         "prove nothing. Draw at least 5."),
        ({"n": 0}, "n must be a whole number >= 1; got 0. Leave it out."),
        ({"n0": 0}, "n0 must be a whole number >= 1; got 0. Leave it out."),
        ({"n": 1e4}, "n must be a whole number >= 1; got 10000.0. Leave it out."),
        ({"alpha": 0.0}, "alpha must be in (0, 0.5); got 0.0. 0.001 is usual."),
        ({"alpha": 0.5}, "alpha must be in (0, 0.5); got 0.5. 0.001 is usual."),
        ({"batch_size": 0}, "batch_size must be at least 1; got 0. Leave it out."),
    ],
)  # fmt: skip
def test_settings_that_make_no_sense(given: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=exactly(f"certify: {text}")):
        certify(linear(), pictures(), 0.25, **given)


def test_as_many_draws_as_the_message_asks_for_are_enough() -> None:
    for alpha in (0.001, 0.05, 0.25, 0.3):
        least = next(n for n in range(1, 99) if alpha ** (1 / n) > 0.5)
        assert certify(Constant(), pictures(1), 0.25, n0=1, n=least, alpha=alpha).abstained == 0
        if least > 1:
            with pytest.raises(ValueError, match=f"Draw at least {least}"):
                certify(Constant(), pictures(1), 0.25, n0=1, n=least - 1, alpha=alpha)
        least = next(n for n in range(1, 99) if oracle.two_sided_p(n, 0) <= alpha)
        assert predict(Constant(), pictures(1), 0.25, n=least, alpha=alpha).tolist() == [1]
        with pytest.raises(ValueError, match=f"Draw at least {least}"):
            predict(Constant(), pictures(1), 0.25, n=least - 1, alpha=alpha)


@pytest.mark.parametrize("sigma", [0.0, -0.25, math.inf, math.nan])
def test_noise_without_a_size_is_refused(sigma: float) -> None:
    text = (
        f"certify: sigma must be positive and finite; got {sigma}. "
        "Pass the noise's standard deviation in pixels of [0, 1], as in 0.25."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        certify(linear(), pictures(), sigma)


def test_noise_in_grey_levels_is_met_with_the_unit() -> None:
    text = (
        "certify: sigma must be at most 5; got 64. "
        "Pixels are in [0, 1]: write 64/255 where you mean 64 of 255 grey levels."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        certify(linear(), pictures(), 64)


def test_labels_must_be_the_networks_classes() -> None:
    start = "certify: labels must be the network's classes; got"
    for labels, got in (
        ([0, 2], "labels 0 to 2 for 2 classes. Map them to 0, 1, …."),
        ([0, -1], "1 images without a label. Leave them out."),
    ):
        text = f"{start} {got}"
        with pytest.raises(ValueError, match=exactly(text)):
            certify(linear(), pictures(2, labels=labels), 0.25, n0=5, n=20)


def test_answers_that_are_no_logits_are_refused() -> None:
    class Odd(nn.Module):
        def __init__(self, answer: Any) -> None:
            super().__init__()
            self.answer = answer
            self.eval()

        def forward(self, x: Tensor) -> Any:
            return self.answer(x)

    odd: list[tuple[Any, str]] = [
        (lambda x: {"answer": x}, "dict"),
        (lambda x: x.flatten(1)[:, :1], "shape (5, 1)"),
        (lambda x: x.flatten(1)[:3], "shape (3, 16)"),
        (lambda x: x, "shape (5, 1, 4, 4)"),
    ]
    for answer, got in odd:
        text = f"certify: the network must answer (5, classes); got {got}. Wrap it in a module that returns the logits."
        with pytest.raises(ValueError, match=exactly(text)):
            certify(Odd(answer), pictures(), 0.25, n0=5, n=20)
    text = "certify: logits must be finite; got NaN or infinity for image/0. Look for a diverged network."
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match=exactly(text)):
            certify(Odd(lambda x, bad=bad: x.flatten(1) + bad), pictures(), 0.25, n0=5, n=20)


def test_a_radius_below_zero_is_none() -> None:
    text = "certified_accuracy: radius must be at least 0; got -0.1. Pass an ℓ2 length in pixel units."
    with pytest.raises(ValueError, match=exactly(text)):
        several().certified_accuracy(-0.1)
