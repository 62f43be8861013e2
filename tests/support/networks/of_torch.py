"""Networks of plain PyTorch."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from tests.support.networks.architecture import Architecture, ids, images


class _Does(nn.Module):
    def __init__(self, forward: Callable[..., Tensor], **modules: nn.Module) -> None:
        super().__init__()
        self.does = forward
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x: Tensor) -> Tensor:
        return self.does(self, x)


def _torch(name: str, build: Callable[[int, int], nn.Module], data: Callable[[int, int], Tensor]) -> Architecture:
    """`build` takes the size and a factor on all widths."""
    return Architecture(name, "torch", lambda size, wide: build(size, 4 if wide else 2), data, wide=True)


def _tokens(size: int, n: int) -> Tensor:
    return torch.rand(n, 10 + 7 * size, 5)


def _swapped(s: Any, x: Tensor) -> Tensor:
    return s.head(s.layers(s.embed(x).transpose(0, 1))).mean(0)


def _self_attention(s: Any, x: Tensor) -> Tensor:
    x = s.embed(x)
    return s.norm(s.attend(x, x, x)[0])


def _translate(first: bool) -> Callable[[Any, Tensor], Tensor]:
    def forward(s: Any, x: Tensor) -> Tensor:
        x = s.embed(x) if first else s.embed(x).transpose(0, 1)
        return s.head(s.act(s.translate(x, x)))

    return forward


def _words_first(s: Any, x: Tensor) -> Tensor:
    x = s.layers(s.words(x.T))
    return s.head(s.norm(x)[0])


def _u(s: Any, x: Tensor) -> Tensor:
    down = s.a(x)
    return s.head(torch.cat([s.up(s.act(s.b(down))), down], 1))


def _windows(s: Any, x: Tensor) -> Tensor:
    """Attention in windows of 4 × 4 of a map with channels last."""
    x = s.norm(s.embed(x).permute(0, 2, 3, 1))
    n, h, w, c = x.shape
    x = x.view(n, h // 4, 4, w // 4, 4, c).transpose(2, 3).reshape(-1, 16, c)
    x = s.proj(s.attend(x, x, x)[0])
    x = x.view(n, h // 4, w // 4, 4, 4, c).transpose(2, 3).reshape(n, h, w, c)
    return s.head(s.last(x).mean((1, 2)))


TORCH = [
    _torch(
        "TransformerEncoder, samples first",
        lambda size, k: nn.Sequential(
            nn.Linear(5, 8 * k),
            nn.TransformerEncoder(nn.TransformerEncoderLayer(8 * k, k, 12 * k, batch_first=True), 2),
        ),
        _tokens,
    ),
    _torch(
        "TransformerEncoder, tokens first",
        lambda size, k: _Does(
            _swapped,
            embed=nn.Linear(5, 8 * k),
            layers=nn.TransformerEncoder(nn.TransformerEncoderLayer(8 * k, k, 12 * k), 2),
            head=nn.Linear(8 * k, 5 * k),
        ),
        _tokens,
    ),
    _torch(
        "MultiheadAttention",
        lambda size, k: _Does(
            _self_attention,
            embed=nn.Linear(5, 8 * k),
            attend=nn.MultiheadAttention(8 * k, k, batch_first=True),
            norm=nn.LayerNorm(8 * k),
        ),
        _tokens,
    ),
    _torch(
        "LSTM, samples first",
        lambda size, k: _Does(
            lambda s, x: s.head(s.lstm(x)[0]), lstm=nn.LSTM(5, 8 * k, batch_first=True), head=nn.Linear(8 * k, 3 * k)
        ),
        _tokens,
    ),
    _torch(
        "GRU, time first",
        lambda size, k: _Does(
            lambda s, x: s.head(s.gru(x.transpose(0, 1))[0]).mean(0),
            gru=nn.GRU(5, 4 * k, bidirectional=True),
            head=nn.Linear(8 * k, 3 * k),
        ),
        _tokens,
    ),
    _torch(
        "Conv1d",
        lambda size, k: nn.Sequential(
            *(nn.Conv1d(3, 6 * k, 5), nn.BatchNorm1d(6 * k), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(6 * k, 4 * k, 3)),
            *(nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4 * k, 4)),
        ),
        lambda size, n: torch.rand(n, 3, 40 + 8 * size),
    ),
    _torch(
        "Conv3d",
        lambda size, k: nn.Sequential(
            *(nn.Conv3d(2, 3 * k, 3), nn.BatchNorm3d(3 * k), nn.ReLU(), nn.AvgPool3d(2), nn.Conv3d(3 * k, 4 * k, 3)),
        ),
        lambda size, n: torch.rand(n, 2, *(12 + 4 * size,) * 3),
    ),
    _torch(
        "frames folded into samples",
        lambda size, k: _Does(
            lambda s, x: s.head(s.act(s.conv(x.flatten(0, 1)))).mean((2, 3)).unflatten(0, (len(x), -1)).mean(1),
            conv=nn.Conv2d(3, 4 * k, 3),
            act=nn.ReLU(),
            head=nn.Conv2d(4 * k, 5 * k, 1),
        ),
        lambda size, n: torch.rand(n, 4 + 2 * size, 3, 12 + 8 * size, 12 + 8 * size),
    ),
    *(
        _torch(
            f"Transformer, {'samples' if first else 'tokens'} first",
            lambda size, k, first=first: _Does(
                _translate(first),
                embed=nn.Linear(5, 8 * k),
                translate=nn.Transformer(8 * k, k, 1, 1, 12 * k, batch_first=first),
                act=nn.GELU(),
                head=nn.Linear(8 * k, 5 * k),
            ),
            _tokens,
        )
        for first in (True, False)
    ),
    _torch(
        "words, tokens first",
        lambda size, k: _Does(
            _words_first,
            words=nn.Embedding(90, 8 * k),
            layers=nn.TransformerEncoder(nn.TransformerEncoderLayer(8 * k, k, 12 * k), 2),
            norm=nn.LayerNorm(8 * k),
            head=nn.Linear(8 * k, 3),
        ),
        ids,
    ),
    _torch(
        "attention in windows",
        lambda size, k: _Does(
            _windows,
            embed=nn.Conv2d(3, 8 * k, 2, 2),
            norm=nn.LayerNorm(8 * k),
            attend=nn.MultiheadAttention(8 * k, k, batch_first=True),
            proj=nn.Linear(8 * k, 8 * k),
            last=nn.LayerNorm(8 * k),
            head=nn.Linear(8 * k, 3),
        ),
        images(16),
    ),
    _torch(
        "U-Net, nested, normalised weights",
        lambda size, k: _Does(
            _u,
            a=nn.Sequential(nn.Sequential(spectral_norm(nn.Conv2d(3, 4 * k, 3, padding=1)), nn.ReLU())),
            b=nn.Sequential(nn.Conv2d(4 * k, 6 * k, 2, 2), nn.GroupNorm(2, 6 * k)),
            act=nn.SiLU(),
            up=nn.ConvTranspose2d(6 * k, 5 * k, 2, 2),
            head=nn.Conv2d(9 * k, 2, 1),
        ),
        images(16),
    ),
]
