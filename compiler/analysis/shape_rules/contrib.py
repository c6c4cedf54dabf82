"""Operators of ONNX Runtime's own domain, which onnx's inference does not know."""

from __future__ import annotations

from ... import ir
from .. import dims as d
from ..dims import Dim
from .core import Dims, Site, Unknown, normal_axis, rule
from .linear import matmul_dims

MS = "com.microsoft"


@rule(
    "BiasDropout", "BiasGelu", "BiasSoftmax", "FastGelu", "Gelu", "Inverse", "QuickGelu", "RotaryEmbedding",
    "GroupNorm", "BiasAdd", "MoE", "QMoE", domain=MS,
)  # fmt: skip
def like_first(s: Site) -> None:
    s.out(0, s.dims(0), dtype=s.dtype(0))


@rule("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", domain=MS)
def skip_layer_normalization(s: Site) -> None:
    x = s.dims(0)
    stat: Dims = (*x[:-1], 1)
    s.out(0, x, dtype=s.dtype(0))
    s.out(1, stat, dtype=ir.DataType.FLOAT)
    s.out(2, stat, dtype=ir.DataType.FLOAT)
    s.out(3, x, dtype=s.dtype(0))


# ONNX Runtime keeps this one in the standard domain.
@rule("SimplifiedLayerNormalization")
def simplified_layer_normalization(s: Site) -> None:
    x = s.dims(0)
    axis = normal_axis(s.attr("axis", -1), len(x))
    s.out(0, x, dtype=s.dtype(0))
    s.out(1, x[:axis] + (1,) * (len(x) - axis), dtype=ir.DataType.FLOAT)


@rule("DynamicQuantizeMatMul", domain=MS)
def dynamic_quantize_matmul(s: Site) -> None:
    s.out(0, matmul_dims(s, s.dims(0), s.dims(1)), dtype=s.dtype(0))


@rule("MatMulIntegerToFloat", domain=MS)
def matmul_integer_to_float(s: Site) -> None:
    s.out(0, matmul_dims(s, s.dims(0), s.dims(1)), dtype=s.dtype(2))


@rule("MatMulInteger16", domain=MS)
def matmul_integer16(s: Site) -> None:
    s.out(0, matmul_dims(s, s.dims(0), s.dims(1)), dtype=ir.DataType.INT32)


@rule("MatMulNBits", "MatMulBnb4", "MatMulFpQ4", domain=MS)
def matmul_nbits(s: Site) -> None:
    s.out(0, (*s.dims(0)[:-1], s.attr("N")), dtype=s.dtype(0))


@rule("FusedMatMul", "FusedMatMulActivation", "TransposeMatMul", domain=MS)
def fused_matmul(s: Site) -> None:
    a, b = s.dims(0), s.dims(1)
    if s.attr("transBatchA", 0) or s.attr("transBatchB", 0):
        raise Unknown
    if s.attr("transA", 0) and len(a) > 1:
        a = (*a[:-2], a[-1], a[-2])
    if s.attr("transB", 0) and len(b) > 1:
        b = (*b[:-2], b[-1], b[-2])
    s.out(0, matmul_dims(s, a, b), dtype=s.dtype(0))


@rule("FusedGemm", domain=MS)
def fused_gemm(s: Site) -> None:
    a, b = s.dims(0), s.dims(1)
    s.out(0, (a[1 if s.attr("transA", 0) else 0], b[0 if s.attr("transB", 0) else 1]), dtype=s.dtype(0))


@rule("FusedConv", domain=MS)
def fused_conv(s: Site) -> None:
    from .windows import _conv

    s.out(0, None, dtype=s.dtype(0))
    _conv(s, 1)


@rule("QLinearAdd", "QLinearMul", domain=MS)
def qlinear_binary(s: Site) -> None:
    s.out(0, s.broadcast((s.dims(0), s.dims(3))), dtype=s.dtype(0))


@rule("QLinearSigmoid", "QLinearLeakyRelu", "QLinearSoftmax", domain=MS)
def qlinear_unary(s: Site) -> None:
    s.out(0, s.dims(0), dtype=s.dtype(0))


@rule("QuantizeLinear", domain=MS)
def quantize_linear(s: Site) -> None:
    s.out(0, s.dims(0), dtype=s.dtype(2) if s.has(2) else ir.DataType.UINT8)


@rule("DequantizeLinear", domain=MS)
def dequantize_linear(s: Site) -> None:
    s.out(0, s.dims(0), dtype=s.dtype(1))


@rule("Attention", domain=MS)
def attention(s: Site) -> None:
    """Input [batch, length, in], weights [in, q + k + v]; past and present [2, batch, heads, total, size]."""
    x, w = s.dims(0), s.dims(1)
    sizes = s.attr("qkv_hidden_sizes")
    hidden: Dim = sizes[2] if sizes else d.floordiv(w[1], 3)
    s.out(0, (x[0], x[1], hidden), dtype=s.dtype(0))
    heads = s.attr("num_heads")
    if len(s.outputs) > 1 and heads and not sizes:
        past = s.dims_or_none(4)
        total = x[1] if not s.has(4) else (s.fresh() if past is None else d.add(past[3], x[1]))
        if not s.attr("past_present_share_buffer", 0):
            s.out(1, (2, x[0], heads, total, d.floordiv(hidden, heads)), dtype=s.dtype(0))


@rule("MultiHeadAttention", domain=MS)
def multi_head_attention(s: Site) -> None:
    """Query [batch, length, hidden]; key and value 3-D, or 4-D [batch, heads, length, size]."""
    q = s.dims(0)
    if len(q) != 3 or not s.has(1) or not s.has(2):
        raise Unknown
    k, v = s.dims(1), s.dims(2)
    heads = s.attr("num_heads")
    if len(k) not in (3, 4) or len(v) != len(k):
        raise Unknown
    hidden = v[2] if len(v) == 3 else d.mul(v[1], v[3])
    s.out(0, (q[0], q[1], hidden), dtype=s.dtype(0))
    if len(s.outputs) < 2 or not heads:
        return
    own = k[1] if len(k) == 3 else k[2]
    past = s.dims_or_none(6)
    total = own if not s.has(6) else (s.fresh() if past is None else d.add(past[2], own))
    if s.attr("past_present_share_buffer", 0) or s.has(8):
        total = s.fresh()
    size = d.floordiv(k[2], heads) if len(k) == 3 else k[3]
    s.out(1, (q[0], heads, total, size), dtype=s.dtype(0))
    s.out(2, (q[0], heads, total, d.floordiv(hidden, heads)), dtype=s.dtype(0))


@rule("GroupQueryAttention", domain=MS)
def group_query_attention(s: Site) -> None:
    """Query [batch, length, heads*size], packed with key and value where those are omitted."""
    q = s.dims(0)
    heads, few = s.attr("num_heads"), s.attr("kv_num_heads")
    if not heads or not few or len(q) != 3:
        raise Unknown
    packed = not s.has(1)
    size = d.floordiv(q[2], heads + 2 * few) if packed else d.floordiv(q[2], heads)
    s.out(0, (q[0], q[1], d.mul(size, heads)), dtype=s.dtype(0))
    for i in (1, 2):
        s.out(i, (q[0], few, s.fresh(), size), dtype=s.dtype(0))


@rule("GatherBlockQuantized", domain=MS)
def gather_block_quantized(s: Site) -> None:
    s.out(0, None, dtype=s.dtype(2))


@rule("EmbedLayerNormalization", domain=MS)
def embed_layer_normalization(s: Site) -> None:
    for i, dtype in enumerate((s.dtype(2), ir.DataType.INT32, s.dtype(2))):
        s.out(i, None, dtype=dtype)
    ids, words = s.dims(0), s.dims(2)
    s.out(0, (*ids, words[1]), dtype=s.dtype(2))
    s.out(1, (ids[0],), dtype=ir.DataType.INT32)
    s.out(2, (*ids, words[1]), dtype=s.dtype(2))


@rule("CropAndResize", domain=MS)
def crop_and_resize(s: Site) -> None:
    h, w = s.vector(3)
    s.out(0, (s.dims(1)[0], s.dims(0)[1], h, w), dtype=s.dtype(0))


@rule("ExpandDims", domain=MS)
def expand_dims(s: Site) -> None:
    known, (axis,) = s.dims(0), s.ints(1)
    axis = normal_axis(axis, len(known) + 1)
    s.out(0, (*known[:axis], 1, *known[axis:]), dtype=s.dtype(0))


@rule("Trilu", domain=MS)
def trilu(s: Site) -> None:
    s.out(0, s.dims(0), dtype=s.dtype(0))


@rule("NGramRepeatBlock", domain=MS)
def ngram_repeat_block(s: Site) -> None:
    s.out(0, s.dims(1), dtype=s.dtype(1))
