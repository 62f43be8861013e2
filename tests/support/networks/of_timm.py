"""Networks of timm."""

from typing import Any

from torch import nn

from tests.support.networks.architecture import Architecture, images


def _timm(
    name: str, side: int = 64, other: int | None = None, *, small: dict[str, Any] | None = None, **wide: Any
) -> Architecture:
    """One network; what `wide` changes makes the build with other widths."""

    def build(size: int, widened: bool) -> nn.Module:
        import timm

        options = {"num_classes": 10, **(small or {}), **(wide if widened else {})}
        try:
            return timm.create_model(name, img_size=(side, other or 2 * side)[size], **options)
        except TypeError:
            return timm.create_model(name, **options)

    return Architecture(name, "timm", build, images(side, other), bool(wide))


def _mixer(name: str) -> Architecture:
    """Blocks that mix tokens; the hidden positions are as many whatever the width."""

    def build(size: int, wide: bool) -> nn.Module:
        from timm.layers.mlp import GatedMlp
        from timm.models import mlp_mixer

        parts: dict[str, dict[str, Any]] = {
            "MlpMixer": {"mlp_ratio": (0.5, 4.0) if wide else (0.75, 4.0)},
            "gMLP": {"block_layer": mlp_mixer.SpatialGatingBlock, "mlp_layer": GatedMlp, "mlp_ratio": 6},
            "ResMLP": {"block_layer": mlp_mixer.ResBlock, "norm_layer": mlp_mixer.Affine, "mlp_ratio": 4},
        }
        width = 48 if wide else 32
        return mlp_mixer.MlpMixer(
            num_classes=10, img_size=32 * (1 + size), patch_size=8, num_blocks=2, embed_dim=width, **parts[name]
        )

    return Architecture(name, "timm", build, images(32), wide=True)


def _convmixer(size: int, wide: bool) -> nn.Module:
    from timm.models.convmixer import ConvMixer

    return ConvMixer(48 if wide else 32, 2, num_classes=10)


def _mvit(size: int, wide: bool) -> nn.Module:
    from timm.models.mvitv2 import MultiScaleVit, MultiScaleVitCfg

    width, heads = (72, 2) if wide else (32, 1)
    config, side = MultiScaleVitCfg(depths=(1, 1, 1, 1), embed_dim=width, num_heads=heads), 64 * (1 + size)
    return MultiScaleVit(config, img_size=(side, side), num_classes=10)


_TRANSFORMERS: dict[str, Any] = {
    "small": {"depth": 2, "embed_dim": 32, "num_heads": 4},
    "embed_dim": 72,
    "num_heads": 6,
}
_SWIN: dict[str, Any] = {"small": {"depths": (2, 2)}, "embed_dim": 60, "num_heads": (2, 4)}
_CONVNEXT: dict[str, Any] = {"dims": (24, 48, 96, 192)}
_FOUR: dict[str, Any] = {"embed_dims": (96, 192, 384, 768), "num_heads": (4, 8, 16, 32)}

TIMM = [
    # Tokens.
    *(_timm(name, **_TRANSFORMERS) for name in ("vit_tiny_patch16_224", "deit3_small_patch16_224")),
    _timm("vit_relpos_small_patch16_224", **_TRANSFORMERS),
    _timm("eva02_tiny_patch14_224", 56, **_TRANSFORMERS),
    _timm("beit_base_patch16_224", **_TRANSFORMERS),
    _timm("convit_tiny", small={"depth": 2, "local_up_to_layer": 1}, embed_dim=18, num_heads=6),
    _timm("cait_xxs24_224", small={"depth": 2}, embed_dim=96, num_heads=6),
    _timm("xcit_nano_12_p16_224", small={"depth": 2}, embed_dim=96, num_heads=6),
    _timm("volo_d1_224"),
    _timm("pit_ti_224", base_dims=(16, 16, 16), heads=(3, 6, 12)),
    _timm("crossvit_9_240", 240, 480, small={"depth": [[1, 1, 0]]}, embed_dim=[144, 288], num_heads=[6, 6]),
    _timm("tnt_s_legacy_patch16_224", small={"depth": 2}, embed_dim=432, inner_dim=36),
    _timm("coat_tiny", small={"parallel_depth": 1}, embed_dims=[96] * 4, num_heads=6, crpe_window={3: 2, 5: 2, 7: 2}),
    _timm("hiera_tiny_224", small={"stages": (1, 1, 1, 1)}, embed_dim=144, num_heads=2),
    _timm("vit_tiny_r_s16_p8_224", small={"depth": 2}, embed_dim=72, num_heads=6),
    # Mixing of tokens.
    *(_mixer(name) for name in ("MlpMixer", "gMLP", "ResMLP")),
    Architecture("ConvMixer", "timm", _convmixer, images(64), wide=True),
    _timm("poolformer_s12"),
    _timm(
        "sequencer2d_s", small={"layers": (1, 1, 1, 1)}, embed_dims=(96, 192, 192, 192), hidden_sizes=(24, 48, 48, 48)
    ),
    # Windows and stages.
    _timm("swin_tiny_patch4_window7_224", 112, **_SWIN),
    _timm("swinv2_tiny_window8_256", 128, **_SWIN),
    _timm(
        "maxvit_rmlp_pico_rw_256",
        64,
        96,
        small={"depths": (1, 1, 1, 1)},
        embed_dim=(48, 96, 192, 384),
        transformer_dim_head=24,
    ),
    _timm("coatnet_nano_rw_224", 64, 96, small={"depths": (1, 1, 1, 1)}),
    Architecture("MViT v2", "timm", _mvit, images(64), wide=True),
    _timm("twins_svt_small", small={"depths": (1, 1, 1, 1)}, **_FOUR),
    _timm("davit_tiny", small={"depths": (1, 1, 1, 1)}, **_FOUR),
    _timm("tiny_vit_5m_224", 64, 128, small={"depths": (1, 1, 1, 1)}, **_FOUR),
    _timm("pvt_v2_b0", embed_dims=(48, 96, 160, 320), num_heads=(2, 3, 4, 10)),
    _timm("nest_tiny", 64, 96),
    _timm("gcvit_xxtiny"),
    _timm("focalnet_tiny_srf"),
    _timm("levit_128s", 64, 96),
    _timm("visformer_tiny"),
    _timm("efficientformerv2_s0", 64, 96),
    _timm("swiftformer_xs"),
    _timm("mobilevit_xxs"),
    _timm("edgenext_xx_small"),
    _timm("efficientvit_b0"),
    _timm("efficientvit_m0"),
    _timm("fastvit_t8"),
    _timm("shvit_s1"),
    # Convolutions.
    *(_timm(name, **_CONVNEXT) for name in ("convnext_atto", "convnextv2_atto")),
    *(_timm(name) for name in ("inception_next_atto", "mambaout_femto", "repvit_m0_9", "starnet_s050", "fasternet_t0")),
    *(_timm(name) for name in ("resnetv2_18", "resnest14d", "skresnet18", "ecaresnet26t", "res2net50_26w_4s", "dpn68")),
    _timm("botnet26t_256", 64, 96),
    *(
        _timm(name)
        for name in ("hrnet_w18_small", "dla34", "cs3darknet_focus_s", "ese_vovnet19b_slim_dw", "hgnetv2_b0")
    ),
    *(
        _timm(name)
        for name in ("ghostnet_050", "repghostnet_050", "rexnet_100", "regnetx_002", "mixnet_s", "tinynet_e")
    ),
    *(_timm(name) for name in ("mobilenetv4_conv_small", "mobilenetv3_small_050", "lcnet_050", "mobileone_s0")),
]
