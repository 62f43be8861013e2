"""Networks of transformers."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tests.support.networks.architecture import Architecture, ids, images, sound


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

_TWO_STAGES: dict[str, Any] = {
    "image_size": _side(64),
    "embed_dim": _pick(16, 36),
    "num_heads": _pick([2, 4], [3, 6]),
    "depths": [2, 2],
    "window_size": 4,
}
_FOUR_STAGES: dict[str, Any] = {
    "hidden_sizes": _pick([16, 32, 32, 64], [24, 48, 60, 96]),
    "depths": [1, 1, 1, 1],
    "num_attention_heads": _pick([1, 2, 2, 4], [2, 3, 5, 6]),
}
_CONVOLUTIONS: dict[str, Any] = {"hidden_sizes": _pick([16, 32], [24, 48]), "depths": [1, 2]}
_PADDED: dict[str, Any] = {**_WORDS, "pad_token_id": 1}


def _without(options: dict[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in options.items() if key not in names}


def _films(size: int, n: int) -> Tensor:
    side = 32 * (1 + size)
    return torch.rand(n, 4, 3, side, side)


_IMAGES = [
    _hf("ViT", "ViTForImageClassification", "ViTConfig", images(32), **_PIXELS),
    _hf("DeiT", "DeiTModel", "DeiTConfig", images(32), **_PIXELS),
    _hf("BEiT", "BeitModel", "BeitConfig", images(32), **_PIXELS),
    _hf("DINOv2", "Dinov2Model", "Dinov2Config", images(32), **_without(_PIXELS, "intermediate_size")),
    _hf("DINOv3", "DINOv3ViTModel", "DINOv3ViTConfig", images(32), **_PIXELS),
    _hf("I-JEPA", "IJepaModel", "IJepaConfig", images(32), **_PIXELS),
    _hf("CLIP images", "CLIPVisionModel", "CLIPVisionConfig", images(32), **_PIXELS),
    _hf("SigLIP images", "SiglipVisionModel", "SiglipVisionConfig", images(32), **_PIXELS),
    _hf("BLIP images", "BlipVisionModel", "BlipVisionConfig", images(32), **_PIXELS),
    _hf("Swin", "SwinModel", "SwinConfig", images(64), **_TWO_STAGES),
    _hf("Swin v2", "Swinv2Model", "Swinv2Config", images(64), **_TWO_STAGES),
    _hf("SegFormer", "SegformerForImageClassification", "SegformerConfig", images(64), **_FOUR_STAGES),
    _hf("PVT", "PvtModel", "PvtConfig", images(64), **_FOUR_STAGES, image_size=_side(64)),
    _hf(
        "PoolFormer", "PoolFormerModel", "PoolFormerConfig", images(64), **_without(_FOUR_STAGES, "num_attention_heads")
    ),
    _hf(
        *("SAM images", "SamVisionModel", "SamVisionConfig", images(64)),
        **{**_without(_PIXELS, "image_size", "intermediate_size"), "image_size": _side(64), "window_size": 4},
        **{"global_attn_indexes": [1], "output_channels": _pick(16, 24), "mlp_dim": _pick(64, 96)},
    ),
    _hf(
        *("LeViT", "LevitModel", "LevitConfig", images(64)),
        **{"image_size": _side(64), "hidden_sizes": _pick([32, 48, 64], [48, 72, 96]), "depths": [1, 1, 1]},
        **{"num_attention_heads": _pick([2, 3, 4], [3, 4, 6]), "key_dim": _pick([8] * 3, [12] * 3)},
    ),
    _hf(
        *("MobileViT", "MobileViTModel", "MobileViTConfig", images(64)),
        **{"image_size": _side(64), "hidden_sizes": _pick([32, 48, 64], [48, 72, 96])},
        **{"neck_hidden_sizes": _pick([8, 16, 16, 24, 32, 32, 64], [12, 24, 24, 36, 48, 48, 96])},
        **{"num_attention_heads": _pick(4, 6)},
    ),
    _hf(
        *("MobileViT v2", "MobileViTV2Model", "MobileViTV2Config", images(64)),
        **{"image_size": _side(64), "width_multiplier": _pick(0.5, 0.75), "n_attn_blocks": [1, 1, 1]},
    ),
    _hf("ConvNeXt", "ConvNextModel", "ConvNextConfig", images(32), **_CONVOLUTIONS, num_stages=2),
    _hf("ConvNeXt v2", "ConvNextV2Model", "ConvNextV2Config", images(32), **_CONVOLUTIONS, num_stages=2),
    _hf("ResNet", "ResNetModel", "ResNetConfig", images(64), **_CONVOLUTIONS, embedding_size=_pick(8, 12)),
    _hf("SwiftFormer", "SwiftFormerModel", "SwiftFormerConfig", images(64), depths=[1, 1, 1, 1]),
    _hf("VideoMAE", "VideoMAEModel", "VideoMAEConfig", _films, **_PIXELS, num_frames=4),
    _hf("TimeSformer", "TimesformerModel", "TimesformerConfig", _films, **_PIXELS, num_frames=4),
]
_TEXTS = [
    _hf("BERT", "BertForSequenceClassification", "BertConfig", ids, **_WORDS),
    _hf("RoBERTa", "RobertaModel", "RobertaConfig", ids, **_without(_WORDS, "pad_token_id")),
    _hf("ALBERT", "AlbertModel", "AlbertConfig", ids, **_WORDS, embedding_size=_pick(16, 24)),
    _hf("ELECTRA", "ElectraModel", "ElectraConfig", ids, **_WORDS, embedding_size=_pick(16, 24)),
    _hf("MPNet", "MPNetModel", "MPNetConfig", ids, **_PADDED),
    _hf("FNet", "FNetModel", "FNetConfig", ids, **_WORDS),
    _hf("ModernBERT", "ModernBertModel", "ModernBertConfig", ids, **_PADDED, cls_token_id=1, sep_token_id=2),
    _hf(
        *("DeBERTa v2", "DebertaV2Model", "DebertaV2Config", ids),
        **{**_PADDED, "relative_attention": True, "position_buckets": 8, "max_relative_positions": 32},
        pos_att_type=["p2c", "c2p"],
    ),
    _hf(
        *("MobileBERT", "MobileBertModel", "MobileBertConfig", ids),
        **{**_PADDED, "embedding_size": _pick(32, 72), "intra_bottleneck_size": _pick(32, 72)},
    ),
    _hf(
        *("DistilBERT", "DistilBertModel", "DistilBertConfig", ids),
        **{"dim": _pick(32, 72), "n_heads": _pick(4, 6), "hidden_dim": _pick(64, 96), "n_layers": 2, "vocab_size": 100},
    ),
    _hf(
        *("XLNet", "XLNetModel", "XLNetConfig", ids),
        **{"d_model": _pick(32, 72), "n_head": _pick(4, 6), "d_inner": _pick(64, 96), "n_layer": 2, "vocab_size": 100},
    ),
    _hf(
        *("GPT-2", "GPT2LMHeadModel", "GPT2Config", ids),
        **{"n_embd": _pick(32, 72), "n_head": _pick(4, 6), "n_layer": 2, "vocab_size": _pick(100, 120)},
        **{"bos_token_id": None, "eos_token_id": None},
    ),
    _hf("GPT-NeoX", "GPTNeoXModel", "GPTNeoXConfig", ids, **_WORDS),
    _hf(
        *("OPT", "OPTModel", "OPTConfig", ids),
        **{**_without(_SMALL, "intermediate_size"), "ffn_dim": _pick(64, 96), "word_embed_proj_dim": _pick(32, 72)},
        vocab_size=100,
    ),
    _hf(
        *("BLOOM", "BloomModel", "BloomConfig", ids),
        **{"hidden_size": _pick(32, 72), "n_head": _pick(4, 6), "n_layer": 2, "vocab_size": 100},
    ),
    _hf("T5 encoder", "T5EncoderModel", "T5Config", ids, **_T5, num_layers=2, vocab_size=100),
    _hf("Llama", "LlamaModel", "LlamaConfig", ids, **_WORDS),
    _hf("Mistral", "MistralModel", "MistralConfig", ids, **_WORDS, num_key_value_heads=2),
    _hf("Mixtral", "MixtralModel", "MixtralConfig", ids, **_WORDS, num_key_value_heads=2, num_local_experts=4),
    _hf(
        *("Mamba", "MambaModel", "MambaConfig", ids),
        **{"hidden_size": _pick(32, 72), "num_hidden_layers": 2, "state_size": _pick(8, 12), "vocab_size": 100},
    ),
    _hf(
        "CLIP texts",
        "CLIPTextModel",
        "CLIPTextConfig",
        ids,
        **{**_WORDS, "eos_token_id": 2},
        max_position_embeddings=40,
    ),
]
_SOUNDS = [
    _hf("wav2vec 2.0", "Wav2Vec2Model", "Wav2Vec2Config", sound, **_WAVES),
    _hf("HuBERT", "HubertModel", "HubertConfig", sound, **_WAVES),
    _hf(
        *("AST", "ASTModel", "ASTConfig", lambda size, n: torch.rand(n, 32 + 32 * size, 16)),
        **{**_without(_PIXELS, "image_size"), "frequency_stride": 8, "time_stride": 8, "num_mel_bins": 16},
        max_length=lambda size, wide: 32 + 32 * size,
    ),
]
TRANSFORMERS = [*_IMAGES, *_TEXTS, *_SOUNDS]
