"""Networks that people use, small and with random weights: each can be built for a second input size, some wider."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Architecture:
    """One network in several builds.

    Attributes:
        name: What the table calls it.
        library: "torchvision", "timm", "transformers" or "torch"; it must be installed.
        build: (size, wide) -> network. Size 0 is the one that is asked about, size 1 another one.
        data: (size, n) -> n inputs.
        wide: Whether there is a build with other widths, numbers of heads, and features per head.
        mixed: Globs of layers whose hidden positions follow the width, as in token mixing; not checked by width.
    """

    name: str
    library: str
    build: Callable[[int, bool], nn.Module]
    data: Callable[[int, int], Tensor]
    wide: bool = False
    mixed: tuple[str, ...] = ()


def images(side: int, other: int | None = None) -> Callable[[int, int], Tensor]:
    """Pictures of random pixels."""
    sides = side, other or 2 * side
    return lambda size, n: torch.rand(n, 3, sides[size], sides[size])


def ids(size: int, n: int) -> Tensor:
    """Texts of 12 and 17 words."""
    return torch.randint(3, 90, (n, 12 + 5 * size))


def sound(size: int, n: int) -> Tensor:
    """Waves."""
    return torch.rand(n, 2000 + 600 * size)


# --- torchvision --------------------------------------------------------------------------------------------------


def _vision(name: str, side: int = 64, **options: Any) -> Architecture:
    def build(size: int, wide: bool) -> nn.Module:
        import torchvision

        return getattr(torchvision.models, name)(weights=None, num_classes=10, **options)

    return Architecture(name, "torchvision", build, images(side))


def _vit(size: int, wide: bool) -> nn.Module:
    import torchvision

    heads, width = (3, 36) if wide else (2, 16)
    return torchvision.models.VisionTransformer(32 * (1 + size), 8, 2, heads, width, 2 * width, num_classes=10)


def _swin(size: int, wide: bool) -> nn.Module:
    from torchvision.models.swin_transformer import SwinTransformer

    width, heads = (36, [3, 6]) if wide else (16, [2, 4])
    return SwinTransformer([2, 2], width, [2, 2], heads, [4, 4], num_classes=10)


def _swin_v2(size: int, wide: bool) -> nn.Module:
    from torchvision.models import swin_transformer as swin

    width, heads = (36, [3, 6]) if wide else (16, [2, 4])
    parts: dict[str, Any] = {"block": swin.SwinTransformerBlockV2, "downsample_layer": swin.PatchMergingV2}
    return swin.SwinTransformer([2, 2], width, [2, 2], heads, [4, 4], num_classes=10, **parts)


def _maxvit(size: int, wide: bool) -> nn.Module:
    from torchvision.models import MaxVit

    stem, widths, head = (24, [24, 48], 12) if wide else (16, [16, 32], 8)
    return MaxVit((64 * (1 + size), 64 * (1 + size)), stem, 4, widths, [1, 1], head, 0.0, num_classes=10)


def _convnext(size: int, wide: bool) -> nn.Module:
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    a, b = (24, 40) if wide else (16, 32)
    return ConvNeXt([CNBlockConfig(a, b, 1), CNBlockConfig(b, None, 2)], num_classes=10)


_TORCHVISION = [
    *(_vision(name) for name in ("resnet18", "resnext50_32x4d", "densenet121", "mobilenet_v2", "mobilenet_v3_small")),
    *(_vision(name) for name in ("efficientnet_b0", "efficientnet_v2_s", "squeezenet1_1", "shufflenet_v2_x0_5")),
    *(_vision(name) for name in ("mnasnet0_5", "regnet_x_400mf", "regnet_y_400mf")),
    _vision("googlenet", init_weights=False),
    _vision("inception_v3", 128, init_weights=False),
    _vision("vgg11_bn"),
    _vision("alexnet", 96),
    Architecture("vit", "torchvision", _vit, images(32), wide=True),
    Architecture("swin", "torchvision", _swin, images(32), wide=True),
    Architecture("swin_v2", "torchvision", _swin_v2, images(32), wide=True),
    Architecture("maxvit", "torchvision", _maxvit, images(64), wide=True),
    Architecture("convnext", "torchvision", _convnext, images(32), wide=True),
]

# --- timm -----------------------------------------------------------------------------------------------------------


def _timm(
    name: str,
    side: int = 64,
    other: int | None = None,
    *,
    small: dict[str, Any] | None = None,
    wide: dict[str, Any] | None = None,
    mixed: tuple[str, ...] = (),
) -> Architecture:
    def build(size: int, widened: bool) -> nn.Module:
        import timm

        options = {"num_classes": 10, **(small or {}), **((wide or {}) if widened else {})}
        try:
            return timm.create_model(name, img_size=(side, other or 2 * side)[size], **options)
        except TypeError:
            return timm.create_model(name, **options)

    return Architecture(name, "timm", build, images(side, other), wide is not None, mixed)


_VIT: dict[str, Any] = {
    "small": {"depth": 2, "embed_dim": 32, "num_heads": 4},
    "wide": {"embed_dim": 72, "num_heads": 6},
}

_TIMM = [
    _timm("vit_tiny_patch16_224", **_VIT),
    _timm("deit3_small_patch16_224", **_VIT),
    _timm("eva02_tiny_patch14_224", 56, **_VIT),
    _timm("beit_base_patch16_224", **_VIT),
    _timm("swin_tiny_patch4_window7_224", 112, small={"depths": (2, 2)}, wide={"embed_dim": 60, "num_heads": (2, 4)}),
    _timm("swinv2_tiny_window8_256", 128, small={"depths": (2, 2)}, wide={"embed_dim": 60, "num_heads": (2, 4)}),
    _timm("convnext_atto", wide={"dims": (24, 48, 96, 192)}),
    _timm("convnextv2_atto", wide={"dims": (24, 48, 96, 192)}),
    _timm("maxvit_rmlp_pico_rw_256", 64, 96),
    _timm("mvitv2_tiny"),
    _timm("pit_ti_224"),
    _timm("crossvit_9_240", 240, 480),
    _timm("mixer_s32_224", mixed=("blocks.*.mlp_tokens.*",)),
    _timm("gmlp_ti16_224"),
    _timm("resmlp_12_224"),
    _timm("coatnet_nano_rw_224", 64, 96),
    _timm("coat_tiny"),
    _timm("efficientformerv2_s0", 64, 96),
    _timm("levit_128s", 64, 96),
    _timm("focalnet_tiny_srf"),
    _timm("volo_d1_224"),
    _timm("xcit_nano_12_p16_224"),
    _timm("cait_xxs24_224"),
    _timm("tnt_s_legacy_patch16_224", small={"depth": 2}, wide={"embed_dim": 432, "inner_dim": 36}),
    _timm("twins_svt_small"),
    _timm("pvt_v2_b0"),
    _timm("poolformer_s12"),
    _timm("nest_tiny", 64, 96),
    _timm("visformer_tiny"),
    _timm("mobilevit_xxs"),
    _timm("edgenext_xx_small"),
    _timm("efficientvit_b0"),
    _timm("repvit_m0_9"),
    _timm("fastvit_t8"),
    _timm("davit_tiny"),
    _timm("resnest14d"),
    _timm("skresnet18"),
    _timm("ecaresnet26t"),
    _timm("botnet26t_256", 64, 96),
    _timm("ghostnet_050"),
    _timm("res2net50_26w_4s"),
    _timm("hrnet_w18_small"),
    _timm("dla34"),
    _timm("mobilenetv4_conv_small"),
    _timm("tiny_vit_5m_224", 64, 128),
]

# --- transformers -----------------------------------------------------------------------------------------------------


def _hf(name: str, model: str, config: str, data: Callable[[int, int], Tensor], **options: Any) -> Architecture:
    """Options whose value is a function depend on (size, wide)."""

    def build(size: int, wide: bool) -> nn.Module:
        import transformers

        made = {key: value(size, wide) if callable(value) else value for key, value in options.items()}
        return getattr(transformers, model)(getattr(transformers, config)(**made))

    return Architecture(f"{name} (HF)", "transformers", build, data, wide=True)


def _pick(narrow: Any, wide: Any) -> Callable[[int, bool], Any]:
    return lambda size, widened: wide if widened else narrow


def _side(side: int) -> Callable[[int, bool], int]:
    return lambda size, wide: side * (1 + size)


_SMALL: dict[str, Any] = {
    "hidden_size": _pick(32, 72),
    "num_attention_heads": _pick(4, 6),
    "intermediate_size": _pick(64, 96),
    "num_hidden_layers": 2,
}
_PIXELS: dict[str, Any] = {**_SMALL, "image_size": _side(32), "patch_size": 8}
_WORDS: dict[str, Any] = {**_SMALL, "vocab_size": 100, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
_WAVES: dict[str, Any] = {
    **_SMALL,
    "conv_dim": _pick((16,) * 3, (24,) * 3),
    "conv_stride": (5, 2, 2),
    "conv_kernel": (10, 3, 3),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
_T5: dict[str, Any] = {"d_model": _pick(32, 72), "d_kv": _pick(8, 12), "num_heads": _pick(4, 6), "d_ff": _pick(64, 96)}

_TRANSFORMERS = [
    _hf("ViT", "ViTForImageClassification", "ViTConfig", images(32), **_PIXELS),
    _hf("DeiT", "DeiTModel", "DeiTConfig", images(32), **_PIXELS),
    _hf("DINOv2", "Dinov2Model", "Dinov2Config", images(32), **{k: v for k, v in _PIXELS.items() if "inter" not in k}),
    _hf("CLIP images", "CLIPVisionModel", "CLIPVisionConfig", images(32), **_PIXELS),
    _hf(
        *("Swin", "SwinModel", "SwinConfig", images(64)),
        **{"image_size": _side(64), "embed_dim": _pick(16, 36), "num_heads": _pick([2, 4], [3, 6])},
        **{"depths": [2, 2], "window_size": 4},
    ),
    _hf(
        *("ConvNeXt", "ConvNextModel", "ConvNextConfig", images(32)),
        **{"hidden_sizes": _pick([16, 32], [24, 40]), "depths": [1, 2], "num_stages": 2},
    ),
    _hf(
        *("SegFormer", "SegformerForImageClassification", "SegformerConfig", images(64)),
        **{"hidden_sizes": _pick([16, 32, 32, 64], [24, 48, 60, 96]), "depths": [1, 1, 1, 1]},
        **{"num_attention_heads": _pick([1, 2, 2, 4], [2, 3, 5, 6])},
    ),
    _hf("BERT", "BertForSequenceClassification", "BertConfig", ids, **_WORDS),
    _hf("RoBERTa", "RobertaModel", "RobertaConfig", ids, **{k: v for k, v in _WORDS.items() if "pad" not in k}),
    _hf(
        *("DistilBERT", "DistilBertModel", "DistilBertConfig", ids),
        **{"dim": _pick(32, 72), "n_heads": _pick(4, 6), "hidden_dim": _pick(64, 96), "n_layers": 2, "vocab_size": 100},
    ),
    _hf(
        *("GPT-2", "GPT2LMHeadModel", "GPT2Config", ids),
        **{"n_embd": _pick(32, 72), "n_head": _pick(4, 6), "n_layer": 2, "vocab_size": _pick(100, 120)},
        **{"bos_token_id": None, "eos_token_id": None},
    ),
    _hf("T5 encoder", "T5EncoderModel", "T5Config", ids, **_T5, num_layers=2, vocab_size=100),
    _hf("Llama", "LlamaModel", "LlamaConfig", ids, **_WORDS),
    _hf("CLIP texts", "CLIPTextModel", "CLIPTextConfig", ids, **_WORDS, max_position_embeddings=40),
    _hf("wav2vec 2.0", "Wav2Vec2Model", "Wav2Vec2Config", sound, **_WAVES),
]


# --- plain PyTorch --------------------------------------------------------------------------------------------------


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
    return Architecture(name, "torch", lambda size, wide: build(size, 3 if wide else 2), data, wide=True)


def _tokens(size: int, n: int) -> Tensor:
    return torch.rand(n, 10 + 7 * size, 5)


def _swapped(s: Any, x: Tensor) -> Tensor:
    return s.head(s.layers(s.embed(x).transpose(0, 1))).mean(0)


def _self_attention(s: Any, x: Tensor) -> Tensor:
    x = s.embed(x)
    return s.norm(s.attend(x, x, x)[0])


_TORCH = [
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
]

ARCHITECTURES = [*_TORCHVISION, *_TIMM, *_TRANSFORMERS, *_TORCH]
