"""Moments of noise: exact where they must be, close to what is drawn where they are not, refused where unknown."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import rankdata
from torch import Tensor, nn

from repsim import ImageSet, load_data, load_model
from repsim.networks.network import Network
from repsim.recipes import train
from repsim.recipes.noise import Noise
from repsim.robustness import certify
from repsim.robustness.noise_moments import Moments, input_noise, propagate, trace
from repsim.robustness.noise_shares import NoiseProfile, noise_profile
from tests.conftest import exactly


def some_images(n: int = 6, c: int = 1, side: int = 8) -> ImageSet:
    x = torch.rand(n, c, side, side, generator=torch.Generator().manual_seed(0))
    return ImageSet(x, torch.arange(n) % 3, tuple(f"i{k}" for k in range(n)), "made up")


def rank(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's correlation."""
    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])


def moments(net: nn.Module, x: Tensor, sigma: float) -> Moments:
    with torch.no_grad():
        return propagate(trace(net.eval()), input_noise(x, sigma), lambda *_: None)


def covariance_of_linear(net: nn.Module, shape: tuple[int, ...], sigma: float) -> np.ndarray:
    """σ² J Jᵀ of a linear network."""
    zero = torch.zeros(1, *shape).double()
    j = torch.autograd.functional.jacobian(lambda v: net(v).flatten(), zero).flatten(1).numpy()
    return sigma**2 * j @ j.T


def test_a_linear_network_is_exact_and_its_radius_is_the_distance_to_the_plane() -> None:
    torch.manual_seed(0)
    net, data = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).double().eval(), some_images()
    found = noise_profile(net, data, 0.3, progress=False)
    w = net[1].weight.detach().numpy()  # type: ignore[union-attr, operator]
    logits = net(data.pixels(slice(None)).double()).detach().numpy()
    for row, radius, best in zip(logits, found.radius_estimate, found.predicted, strict=True):
        assert best == row.argmax()
        others = [k for k in range(3) if k != best]
        wanted = min((row[best] - row[k]) / np.linalg.norm(w[best] - w[k]) for k in others)
        assert radius == pytest.approx(wanted, rel=1e-6)
    assert found.layers == ("0", "1")
    assert found.noise[1] == pytest.approx(0.09 * np.sum(w**2), rel=1e-6)
    assert found.signal[1] == pytest.approx(np.var(logits, axis=0, ddof=1).sum(), rel=1e-9)
    np.testing.assert_allclose(found.share, found.noise / found.signal)


@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (1, 1), (2, 1), (2, "valid")])
def test_a_convolution_of_noise_is_exact_with_its_border_and_so_is_the_mean_of_its_places(
    stride: int, padding: int | str
) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 3, 3, stride, padding).double()
    found = moments(nn.Sequential(conv), torch.zeros(1, 2, 7, 7).double(), 0.5)
    whole = covariance_of_linear(conv, (2, 7, 7), 0.5)
    places = len(whole) // 3
    wanted = np.einsum("apbp->ab", whole.reshape(3, places, 3, places)) / places
    np.testing.assert_allclose(found.covariance[0].numpy(), wanted, rtol=1e-9, atol=1e-12)
    assert float(found.variance) == pytest.approx(np.trace(whole), rel=1e-9)
    if padding != 1:  # without a border all places are alike, and the traces of all distances exact
        side = math.isqrt(places)
        for down in range(-2, 3):
            pairs = [(p, p + down * side) for p in range(places) if 0 <= p + down * side < places]
            at = whole.reshape(3, places, 3, places)
            wanted_trace = np.mean([np.trace(at[:, p, :, q]) for p, q in pairs]) / np.trace(wanted)
            assert float(found.alike[8 + down, 8]) == pytest.approx(wanted_trace, abs=1e-9)


def test_a_linear_layer_behind_flatten_is_exact_for_independent_places() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(32, 4)).double()
    found = moments(net, torch.zeros(1, 2, 4, 4).double(), 0.5)
    np.testing.assert_allclose(found.covariance[0].numpy(), covariance_of_linear(net, (2, 4, 4), 0.5), rtol=1e-9)


def test_pools_and_batch_normalisation_are_linear() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(2).double().eval()
    norm.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    norm.weight.data.uniform_(0.5, 2)
    for net in (
        nn.Sequential(norm, nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        nn.Sequential(norm, nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    ):
        found = moments(net.double(), torch.rand(1, 2, 8, 8).double(), 0.5)
        bias = net(torch.zeros(1, 2, 8, 8).double()).detach()
        wanted = covariance_of_linear(lambda v: net(v) - bias, (2, 8, 8), 0.5)  # type: ignore[arg-type] # noqa: B023
        np.testing.assert_allclose(found.covariance[0].numpy(), wanted, rtol=1e-9, atol=1e-15)


def test_a_relu_has_the_moments_of_a_million_draws() -> None:
    mean = torch.tensor([[0.3, -0.5, 0.0]]).double()
    root = torch.tensor([[1.0, 0.0, 0.0], [0.6, 0.8, 0.0], [-0.5, 0.2, 0.9]]).double()
    covariance = root @ root.T
    found = moments(nn.Sequential(nn.ReLU()), mean, 0.0)
    given = Moments(mean, covariance[None], torch.zeros(17, 17).double())
    found = propagate(trace(nn.Sequential(nn.ReLU())), given, lambda *_: None)
    draws = F.relu(mean + torch.randn(10**6, 3, generator=torch.Generator().manual_seed(0)).double() @ root.T)
    error = draws.std(0) / 1000
    assert bool(((found.mean[0] - draws.mean(0)).abs() < 3 * error).all())
    drawn = torch.cov(draws.T)
    spread = (draws - draws.mean(0)).square().std(0) / 1000
    assert bool(((found.covariance[0].diagonal() - drawn.diagonal()).abs() < 3 * spread).all())
    assert float((found.covariance[0] - drawn).abs().max()) < 0.02  # third order in the correlation is left out


@pytest.mark.parametrize("name", ["digits_resnet8", "digits_conv", "resnet20", "wrn28_1"])
def test_no_noise_leaves_the_plain_answers(name: str) -> None:
    net = load_model(name, normalize=((0.5,), (0.25,)))
    data = some_images(3, *((1, 8) if name.startswith("digits") else (3, 32)))
    found = noise_profile(net, data, 0.0, progress=False)
    x = (data.pixels(slice(None)) - 0.5) / 0.25
    with torch.no_grad():
        answer = propagate(trace(net.net), input_noise(x, 0.0), lambda *_: None)
        torch.testing.assert_close(answer.mean, net(data.pixels(slice(None))), atol=1e-4, rtol=1e-4)
    assert not found.noise.any()
    assert np.isinf(found.radius_estimate).all()


@pytest.fixture(scope="module")
def trained() -> Network:
    images = load_data("digits", split="train", limit=500), load_data("digits", limit=20)
    recipe = Noise(epochs=8, architecture="digits_conv", learning_rate=0.05, eval_eps=0.0, certify_images=0)
    return train(recipe, *images, seed=0, name="net", progress=False).network


def test_the_profile_is_near_what_is_drawn(trained: Network) -> None:
    data = load_data("digits", limit=40)
    found, drawn = (
        noise_profile(trained, data, 0.25, method=method, copies=40, progress=False)
        for method in ("moments", "sampled")
    )
    assert found.layers == drawn.layers
    np.testing.assert_allclose(found.signal, drawn.signal, rtol=0.1)
    np.testing.assert_allclose(found.noise[0], drawn.noise[0], rtol=0.03)
    ratio = found.noise / drawn.noise
    assert ratio.min() > 0.1
    assert ratio.max() < 1.1
    assert rank(found.radius_estimate, drawn.radius_estimate) > 0.9
    assert list(found.to_frame().columns) == ["layer", "noise", "signal", "share", "sigma", "method", "network"]
    assert repr(found).startswith("NoiseProfile(net on digits/test, σ = 0.25, moments: conv1 ")
    assert isinstance(found, NoiseProfile)


@pytest.mark.slow
def test_radius_estimates_rank_images_as_certificates_do(trained: Network) -> None:
    data = load_data("digits", limit=100)
    found = noise_profile(trained, data, 0.25, progress=False)
    made = certify(trained, data, 0.25, n=20_000, progress=False)
    capped = made.radius < 0.99 * made.radius_cap
    assert rank(found.radius_estimate[capped], made.radius[capped]) > 0.9


def test_what_is_not_known_is_named_and_can_be_sampled() -> None:
    torch.manual_seed(0)
    data = some_images()
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(18, 3)).eval()
    text = (
        "noise_profile: every layer's moments must be known; got '1', a MaxPool2d. "
        'Pass method="sampled", which draws noise instead.'
    )
    with pytest.raises(ValueError, match=exactly(text)):
        noise_profile(net, data, 0.1, progress=False)
    found = noise_profile(net, data, 0.1, method="sampled", progress=False)
    assert found.layers == ("0", "1", "2", "3")
    assert (found.noise > 0).all()


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"sigma": -0.1}, "sigma must be from 0 to 5; got -0.1. Pixels are in [0, 1]: write 8/255 for 8 grey levels."),
        ({"sigma": 8.0}, "sigma must be from 0 to 5; got 8. Pixels are in [0, 1]: write 8/255 for 8 grey levels."),
        ({"sigma": 0.1, "copies": 1}, "there must be two images and two copies; got 6 images and 1 copies. Pass more."),
        ({"sigma": 0.1, "method": "exact"}, "method must be moments or sampled; got 'exact'. Choose one."),
    ],
)
def test_settings_out_of_range_are_named(settings: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=exactly(f"noise_profile: {text}")):
        noise_profile(load_model("digits_conv"), some_images(), **settings)  # type: ignore[arg-type]
