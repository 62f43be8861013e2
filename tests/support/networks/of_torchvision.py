"""Networks of torchvision."""

from typing import Any

import torch
from torch import nn

from tests.support.networks.architecture import Architecture, images


def _vision(name: str, side: int = 64, **options: Any) -> Architecture:
    def build(size: int, wide: bool) -> nn.Module:
        import torchvision

        return getattr(torchvision.models, name)(weights=None, num_classes=10, **options)

    return Architecture(name, "torchvision", build, images(side))


def _segmenting(size: int, wide: bool) -> nn.Module:
    import torchvision

    options: dict[str, Any] = {"weights": None, "weights_backbone": None, "num_classes": 4}
    return torchvision.models.segmentation.lraspp_mobilenet_v3_large(**options)


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


def _swin_3d(size: int, wide: bool) -> nn.Module:
    from torchvision.models.video.swin_transformer import SwinTransformer3d

    width, heads = (36, [3, 6]) if wide else (16, [2, 4])
    return SwinTransformer3d([2, 4, 4], width, [2, 2], heads, [2, 4, 4], num_classes=10)


def _maxvit(size: int, wide: bool) -> nn.Module:
    from torchvision.models import MaxVit

    stem, widths, head = (24, [24, 48], 12) if wide else (16, [16, 32], 8)
    return MaxVit((64 * (1 + size), 64 * (1 + size)), stem, 4, widths, [1, 1], head, 0.0, num_classes=10)


def _mvit(size: int, wide: bool) -> nn.Module:
    from torchvision.models.video.mvit import MSBlockConfig, MViT

    width, heads = (36, 3) if wide else (16, 2)
    options: dict[str, Any] = {"kernel_q": [3, 3, 3], "kernel_kv": [3, 3, 3], "stride_kv": [1, 2, 2]}
    blocks = [
        MSBlockConfig(heads, width, width, stride_q=[1, 1, 1], **options),
        MSBlockConfig(2 * heads, width, 2 * width, stride_q=[1, 2, 2], **options),
    ]
    side = 32 * (1 + size)
    more: dict[str, Any] = {"residual_pool": True, "residual_with_cls_embed": False, "rel_pos_embed": True}
    return MViT((side, side), 4, blocks, proj_after_attn=True, num_classes=10, **more)


def _convnext(size: int, wide: bool) -> nn.Module:
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    a, b = (24, 40) if wide else (16, 32)
    return ConvNeXt([CNBlockConfig(a, b, 1), CNBlockConfig(b, None, 2)], num_classes=10)


def _films(size: int, n: int) -> torch.Tensor:
    side = 32 * (1 + size)
    return torch.rand(n, 3, 4, side, side)


TORCHVISION = [
    *(_vision(name) for name in ("resnet18", "resnext50_32x4d", "densenet121", "mobilenet_v2", "mobilenet_v3_small")),
    *(_vision(name) for name in ("efficientnet_b0", "efficientnet_v2_s", "squeezenet1_1", "shufflenet_v2_x0_5")),
    *(_vision(name) for name in ("mnasnet0_5", "regnet_x_400mf", "regnet_y_400mf")),
    _vision("googlenet", init_weights=False),
    _vision("inception_v3", 96, init_weights=False),
    _vision("vgg11_bn", 32),
    _vision("alexnet", 96),
    Architecture("lraspp_mobilenet_v3_large", "torchvision", _segmenting, images(64)),
    Architecture("vit", "torchvision", _vit, images(32), wide=True),
    Architecture("swin", "torchvision", _swin, images(32), wide=True),
    Architecture("swin_v2", "torchvision", _swin_v2, images(32), wide=True),
    Architecture("swin3d", "torchvision", _swin_3d, _films, wide=True),
    Architecture("mvit_v2", "torchvision", _mvit, _films, wide=True),
    Architecture("maxvit", "torchvision", _maxvit, images(64), wide=True),
    Architecture("convnext", "torchvision", _convnext, images(32), wide=True),
]
