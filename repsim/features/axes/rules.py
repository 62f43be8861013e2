"""Which rule goes with which operator of PyTorch. An operator that is not here makes axes of which nothing is known."""

import re
from functools import cache
from typing import Any

import torch

from repsim.features.axes import moves, sums
from repsim.features.axes.rule import Rule, pointwise, unknown


@cache
def rule_of(func: Any) -> tuple[Rule, list[tuple[str, Any]]]:
    """The rule of an operator, and the names of its arguments with what they are where left out."""
    name = func._schema.name.partition("::")[2]
    name = name[:-1] if name.endswith("_") else name
    rule = _BY_NAME.get(name)
    if rule is None:
        families = (rule for pattern, rule in _BY_PATTERN.items() if re.fullmatch(pattern, name))
        # Only the variants that are not in place are tagged.
        packet = getattr(torch.ops.aten, name, func)
        variants = [getattr(packet, overload) for overload in getattr(packet, "overloads", list)()] + [func]
        tagged = any(torch.Tag.pointwise in variant.tags for variant in variants)
        rule = next(families, pointwise if tagged else unknown)
    return rule, [(a.name, a.default_value) for a in func._schema.arguments]


_NAMES: dict[Rule, str] = {
    moves.same: """clone contiguous _to_copy detach alias lift_fresh to cumsum cumprod logcumsumexp cummax cummin flip
        roll sort dropout native_dropout bernoulli tril triu fill zero index_put _index_put_impl index_add index_copy
        index_fill scatter scatter_add scatter_reduce masked_scatter slice_scatter select_scatter renorm _log_softmax
        _fft_c2c _fft_r2c _fft_c2r _prelu_kernel channel_shuffle native_channel_shuffle quantize_per_tensor dequantize
        rrelu_with_noise fake_quantize_per_tensor_affine_cachemask fake_quantize_per_channel_affine_cachemask
        constant_pad_nd slice split unsafe_split split_with_sizes unsafe_chunk narrow index_select gather topk glu""",
    # Those that do not say of themselves that they are.
    pointwise: """copy hardswish prelu log_sigmoid_forward rsub floor_divide special_ndtr conj real imag polar
        masked_fill smooth_l1_loss""",
    moves.view: "view _unsafe_view reshape _reshape_alias unflatten flatten",
    moves.as_strided: "as_strided",
    moves.permute: "permute",
    moves.transpose: "transpose t",
    moves.squeeze: "squeeze unsqueeze",
    moves.expand: "expand",
    moves.repeat: "repeat",
    moves.select: "select unbind",
    moves.cat: "cat",
    moves.stack: "stack",
    moves.index: "index",
    moves.windows: "unfold",
    moves.im2col: "im2col",
    moves.col2im: "col2im",
    moves.shuffle: "pixel_shuffle pixel_unshuffle",
    moves.complex: "view_as_complex view_as_real",
    moves.grid: "grid_sampler grid_sampler_2d grid_sampler_3d",
    sums.softmax: "_softmax _safe_softmax",
    sums.mm: "mm addmm bmm baddbmm _addmm_activation",
    sums.linear: "linear",
    sums.convolution: "convolution _convolution convolution_overrideable",
    sums.norm_channels: "native_group_norm",
    sums.norm_last: "native_layer_norm _fused_rms_norm",
    sums.fused_layer: "_transformer_encoder_layer_fwd _native_multi_head_attention",
    sums.embedding: "embedding",
}

_BY_NAME = {name: rule for rule, names in _NAMES.items() for name in names.split()}

_BY_PATTERN: dict[str, Rule] = {
    r".*(max|avg)_pool[123]d.*": sums.spatial,
    r"_?(upsample|reflection_pad|replication_pad).*": sums.spatial,
    r".*batch_norm.*": sums.norm_channels,
    r"(mean|sum|nansum|prod|amax|amin|max|min|argmax|argmin|var|std|var_mean|std_mean|norm|linalg_vector_norm"
    r"|logsumexp|any|all|median|mode)": sums.reduce,
    r"_scaled_dot_product.*": sums.attend,
}
