"""How much Gaussian noise on the input moves each layer: `noise_profile`, without drawing noise or with."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from repsim._common.html import ShownAsTable
from repsim._common.messages import message
from repsim._common.progress import progress_bar
from repsim.data.image_set import ImageSet, check_image_set
from repsim.networks.answers import CPU_ROWS, check_eval, device_of, logits_of
from repsim.networks.network import Network, bare, name_of
from repsim.robustness.noise_moments import input_noise, propagate, trace
from repsim.robustness.noises import MOST_NOISE

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class NoiseProfile(ShownAsTable):
    """What Gaussian noise on the input does at each layer, and to the answer.

    Attributes:
        layers: Names of the modules, in order of execution.
        noise: (L,) variance of the noise, summed over a layer's features, its mean over images.
        signal: (L,) variance between images of the noise's mean, summed over a layer's features.
        predicted: (m,) the class of the largest mean logit.
        radius_estimate: (m,) σ · min over other classes of margin / deviation of the margin, an ℓ2 length in pixel
            units of [0, 1]. It takes the logits for Gaussian and is NO certificate; `certify` gives those.
        sigma: Standard deviation of the noise, in pixel units of [0, 1].
        method: "moments" or "sampled".
        network: What results call the network.
        data: What results call the images.
    """

    layers: tuple[str, ...]
    noise: Float[np.ndarray, " L"]
    signal: Float[np.ndarray, " L"]
    predicted: Int[np.ndarray, " m"]
    radius_estimate: Float[np.ndarray, " m"]
    sigma: float
    method: str
    network: str = "network"
    data: str = field(default="data")

    @property
    def share(self) -> Float[np.ndarray, " L"]:
        """(L,) noise / signal; NaN where images do not differ."""
        return np.divide(self.noise, self.signal, out=np.full(len(self.layers), np.nan), where=self.signal > 0)

    def to_frame(self) -> "pd.DataFrame":
        """One row per layer."""
        import pandas as pd

        columns = {"layer": self.layers, "noise": self.noise, "signal": self.signal, "share": self.share}
        return pd.DataFrame({**columns, "sigma": self.sigma, "method": self.method, "network": self.network})

    def __repr__(self) -> str:
        told = ", ".join(f"{layer} {share:.3g}" for layer, share in zip(self.layers, self.share, strict=True))
        return f"NoiseProfile({self.network} on {self.data}, σ = {self.sigma:g}, {self.method}: {told})"


def noise_profile(
    net: nn.Module,
    data: ImageSet,
    sigma: float,
    *,
    method: Literal["moments", "sampled"] = "moments",
    copies: int = 16,
    seed: int = 0,
    batch_size: int = CPU_ROWS,
    progress: bool = True,
) -> NoiseProfile:
    """How much does Gaussian noise on the input move each layer, beside what tells images apart?

    At each layer the share is tr E[Cov(features | image)] / tr Cov(E[features | image]): noise over signal, the
    deterministic twin of comparing clean and noisy features. "moments" carries means and covariances through the
    network (`noise_moments`), "sampled" draws copies of each image.

    Moments order images and networks well but are too small deep in a network, where the noise of different channels
    at different places goes together: on the digits at σ = 0.25 they are the sampled variance behind the first
    convolution, 0.7 of it two layers on, 0.3 of it before the pool of a ResNet-8 and 0.07 at its logits. Compare
    curves of one method only. As the share is a mean over images, sampling needs few copies: two cost no more than
    the moments.

    Args:
        net: A network in eval mode that takes pixels in [0, 1] and gives (b, k) logits.
        data: At least two images.
        sigma: Standard deviation of the noise, in pixel units of [0, 1]; noise leaves [0, 1].
        method: "moments": convolutions, linear layers, batch normalisation, ReLU, average pools, sums of branches.
            "sampled": any network.
        copies: Of each image, where noise is drawn; at least two.
        seed: Of the noise that is drawn.
        batch_size: Images at once.
        progress: Show a bar when it takes more than two seconds.

    Returns:
        The profile, and the estimated radii.

    Raises:
        ValueError: A network in training mode, a layer whose moments are not known, settings out of range.
        TypeError: Images that are no `ImageSet`.

    Source:
        Zhen, Chakraborty, Singh 2021, arXiv 2104.05888; see `noise_moments` for what is different here.

    Cost:
        "moments" about two forward passes of all images, "sampled" `copies`.
    """
    check_image_set("noise_profile", data)
    check_eval(net, "noise_profile")
    if not 0 <= sigma <= MOST_NOISE:
        advice = "Pixels are in [0, 1]: write 8/255 for 8 grey levels"
        raise ValueError(message("noise_profile", f"sigma must be from 0 to {MOST_NOISE:g}", f"{sigma:g}", advice))
    if method not in ("moments", "sampled"):
        raise ValueError(message("noise_profile", "method must be moments or sampled", repr(method), "Choose one"))
    if len(data) < 2 or copies < 2:
        got = f"{len(data)} images and {copies} copies"
        raise ValueError(message("noise_profile", "there must be two images and two copies", got, "Pass more"))
    moved = _by_moments(net, sigma) if method == "moments" else _by_sampling(net, sigma, copies, seed)
    kind = next((p.dtype for p in net.parameters()), torch.float32)
    layers: dict[str, _Sums] = {}
    predicted, radii = [], []

    def seen(layer: str, mean: Tensor, variance: Tensor) -> None:
        layers.setdefault(layer, _Sums()).add(mean, variance)

    with torch.no_grad(), progress_bar(len(data), f"noise {name_of(net)}", "image", show=progress) as bar:
        for start in range(0, len(data), batch_size):
            x = data.pixels(slice(start, start + batch_size)).to(device_of(net), kind)
            mean, covariance = moved(x, seen)
            classes, radius = _radii(mean.double(), covariance.double(), sigma)
            predicted.append(classes.cpu().numpy())
            radii.append(radius.cpu().numpy())
            bar.update(len(x))
    names = tuple(layers)
    noise, signal = (np.array([getattr(layers[name], kind)() for name in names]) for kind in ("noise", "signal"))
    answers = np.concatenate(predicted), np.concatenate(radii)
    return NoiseProfile(names, noise, signal, *answers, float(sigma), method, name_of(net), data.name)


_Seen = Callable[[str, Tensor, Tensor], None]
_Moved = Callable[[Tensor, _Seen], tuple[Tensor, Tensor]]


def _by_moments(net: nn.Module, sigma: float) -> _Moved:
    """(images, seen) -> mean and covariance of the logits, by propagation."""
    traced, outside = trace(bare(net)), bare(net, until=Network)

    def moved(x: Tensor, seen: _Seen) -> tuple[Tensor, Tensor]:
        std = None
        if isinstance(outside, Network) and outside.normalized:
            x, std = (x - outside.mean) / outside.std, outside.std
        given = input_noise(x, sigma, std)
        answer = propagate(traced, given, lambda layer, at: seen(layer, at.mean, at.variance))
        return answer.mean, answer.covariance

    return moved


def _by_sampling(net: nn.Module, sigma: float, copies: int, seed: int) -> _Moved:
    """(images, seen) -> mean and covariance of the logits, from noisy copies."""
    generator = torch.Generator().manual_seed(seed)
    leaves = {module: name for name, module in bare(net).named_modules() if name and not any(module.children())}

    def moved(x: Tensor, seen: _Seen) -> tuple[Tensor, Tensor]:
        sums: dict[str, tuple[Tensor, Tensor, Tensor]] = {}  # where the first copy is; sums of differences, of squares

        def look(module: nn.Module, _: Any, output: Tensor) -> None:
            layer = leaves[module]
            first, total, squares = sums.get(layer) or (output.double(), *(torch.zeros_like(output).double(),) * 2)
            apart = output.double() - first
            sums[layer] = first, total + apart, squares + apart.square()

        handles = [module.register_forward_hook(look) for module in leaves]
        logits = []
        try:
            for _ in range(copies):
                noise = torch.randn(x.shape, generator=generator).to(x)
                logits.append(logits_of(net, x + sigma * noise, "noise_profile").double())
        finally:
            for handle in handles:
                handle.remove()
        for layer, (first, total, squares) in sums.items():
            variance = (squares - total.square() / copies).clamp_min(0) / (copies - 1)
            seen(layer, first + total / copies, variance.flatten(1).sum(1))
        drawn = torch.stack(logits, 1)
        apart = drawn - drawn.mean(1, keepdim=True)
        return drawn.mean(1), apart.transpose(1, 2) @ apart / (copies - 1)

    return moved


class _Sums:
    """Sums over images of a layer: of the noise's variance, and of the means about the first image's."""

    def __init__(self) -> None:
        self._count, self._noise = 0, 0.0
        self._first = self._total = self._squares = torch.empty(0)

    def add(self, mean: Tensor, variance: Tensor) -> None:
        rows = mean.flatten(1).double()
        if self._count == 0:
            self._first = rows[0]
            self._total = self._squares = torch.zeros_like(rows[0])
        apart = rows - self._first
        self._count += len(rows)
        self._noise += float(variance.double().sum())
        self._total, self._squares = self._total + apart.sum(0), self._squares + apart.square().sum(0)

    def noise(self) -> float:
        return self._noise / self._count

    def signal(self) -> float:
        spread = (self._squares - self._total.square() / self._count).clamp_min(0)
        return float(spread.sum() / (self._count - 1))


def _radii(mean: Tensor, covariance: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    """The class of the largest mean, and the shortest σ · margin / deviation of the margin to another one."""
    best = mean.argmax(1, keepdim=True)
    margin = mean.gather(1, best) - mean
    own = covariance.diagonal(dim1=1, dim2=2)
    beside = covariance.gather(1, best[..., None].expand(-1, 1, mean.shape[1]))[:, 0]
    spread = (own.gather(1, best) + own - 2 * beside).clamp_min(0).sqrt()
    radius = torch.where(spread > 0, sigma * margin / torch.where(spread > 0, spread, 1), torch.inf)
    return best[:, 0], radius.scatter(1, best, torch.inf).amin(1)
