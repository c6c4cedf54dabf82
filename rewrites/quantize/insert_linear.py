"""Linear layers with rounded weights. A bias stays an Add; the rules of a target take it into their kernel."""

import numpy as np
from olc.quantization import (
    INT7_LIMIT,
    INT8_LIMIT,
    all_finite,
    block_weight,
    int8_weight,
    observed,
    outlier_channels,
    pack,
    prepared,
    quantize_linear_weight,
    shift_form,
    weight_limit,
)
from olc.rules import F32, LOSSY, Case, Const, Refused, array, dims, f32, i8, rule

from ._columns import columns, dequantized, too_small

matrix = f32["rows", "columns"]


def _linear(op, x: f32, w: Const[matrix], b: Const | None, transB):
    return op.either(op.MatMul(x, op.either(w, op.shared(op.Transpose(w, perm=(1, 0))))), op.Gemm(x, w, b, transB=transB))


def _turned(m):
    return bool(m.root.op_type == "Gemm" and m.transB) != (m.find("Transpose") is not None)


def _unfit(m):
    """Why the layer is not rounded, or None; sets ``m.turned``: the weight is stored [columns, rows]."""
    m.turned = _turned(m)
    w = array(m.w)
    small = too_small(dims(m.x), w.shape)
    if small is not None:
        return small
    if not all_finite(w):
        return "the weight holds numbers that are not finite"


def _with_bias(op, m, product):
    return product if m.b is None else op.Add(product, m.b)


def _corrected(op, m, limit):
    """As ``int8-linear`` with a weight in ±limit, its bias corrected where that was prepared (``strategy/bias.py``)."""
    product, shift = _product(op, m.x, *int8_weight(m.w, m.turned, limit)), prepared(m.w, shift_form(limit))
    if shift is None:
        return _with_bias(op, m, product)
    return op.Add(product, shift if m.b is None else array(m.b) + shift)


def _product(op, x, q, scale):
    """Of an activation rounded as the model runs, and a weight with a scale for each column."""
    return op.MatMul(op.DequantizeLinear(*op.DynamicQuantizeLinear(x, outputs=3)), op.DequantizeLinear(q, scale, axis=1))


_cases = [
    Case("a projection", x=f32["B", "S", 32], w=f32[32, 16], b=None, transB=0),
    Case("a classifier", x=f32["N", 16], w=f32[16, 16], b=f32[1, 16], transB=1),
    Case("wide", x=f32["N", 96], w=f32[96, 48], b=None, transB=0),
    Refused("tiny", x=f32["N", 32], w=f32[32, 8], b=None, transB=0, because="too small to gain"),
    Refused("infinite", x=f32["N", 16], w=np.full((16, 16), np.inf, np.float32), b=None, transB=0,
            because="not finite"),
    Refused("a vector", x=f32[16], w=f32[16, 16], b=None, transB=0, because="rank 2 or more"),
]  # fmt: skip


@rule(
    group="quantize", since=19, targets=("onnxruntime-cpu",),
    safety=LOSSY("weights and activations are rounded to 8 bits: cosine about 0.99 to the original"),
)  # fmt: skip
class Int8Linear:
    """A linear layer (MatMul or Gemm with constant weight) whose operands are rounded to 8 bits.

    The weight is rounded once, symmetrically with a scale for each column; the activation when the model runs, by one
    scale and zero point for the whole tensor, so that a token with huge values takes the resolution of all others:
    which layers may act has to be measured. A weight that an embedding shares is stored twice.
    """

    pattern, unless, cases = _linear, _unfit, _cases

    def rewrite(op, m):
        return _corrected(op, m, INT8_LIMIT)


@rule(
    group="quantize", since=19, targets=("onnxruntime-cpu",),
    safety=LOSSY("weights are rounded to 7 bits and activations to 8: cosine about 0.985 to the original"),
)  # fmt: skip
class Int7Linear:
    """A linear layer with its activation rounded as in ``int8-linear`` and its weight to 7 bits, ±64.

    For CPUs whose fast kernel adds two products of 8 bits in 16, which saturates where weights are larger.
    """

    pattern, unless, cases = _linear, _unfit, _cases

    def rewrite(op, m):
        return _corrected(op, m, INT7_LIMIT)


@rule(
    group="quantize", since=19, targets=("onnxruntime-cpu",),
    safety=LOSSY("weights are rounded to 8 bits, activations to 8 bits in the range of each row"),
)  # fmt: skip
class Int8RowLinear:
    """A linear layer in 8 bits whose activation has a scale for each row: rows are brought to the same largest magnitude first.

    Sound because a factor of a row of the activation is one of the same row of the product. What one token's huge values
    take from the resolution of all others in ``int8-linear`` they take from that token alone. A row of zeros is divided by
    the smallest normal number instead of by zero. Where the fast kernel of the CPU saturates, the weight has 7 bits.
    """

    pattern, unless, cases = _linear, _unfit, _cases

    def rewrite(op, m):
        largest = op.Max(op.ReduceMax(op.Abs(m.x), np.array([-1]), keepdims=1), np.finfo(np.float32).tiny)
        product = _product(op, op.Div(m.x, largest), *int8_weight(m.w, m.turned, weight_limit(m.w)))
        return _with_bias(op, m, op.Mul(product, largest))


_FAR = np.ones(32, np.float32)
_FAR[[3, 20]] = 50, 80


@rule(
    group="quantize", since=19, targets=("onnxruntime-cpu",),
    safety=LOSSY("weights and activations are rounded to 8 bits but for the channels that stand out"),
)  # fmt: skip
class Int8OutlierLinear:
    """``int8-linear`` with the few channels of the activation that stand out computed in float, beside it.

    Sound because a product is the sum of the products of its channels, however they are divided in two. Which channels
    stand out is what calibration saw (``quantization/outliers.py``): the same ones in all inputs, so the others keep a range
    that does not follow them. Where the fast kernel of the CPU saturates, the weight has 7 bits.
    """

    pattern = _linear

    def unless(m):
        why = _unfit(m)
        if why is not None:
            return why
        seen = observed(m.x)
        if seen is None or seen.channels is None:
            return "no calibration range of each channel"
        m.matrix = array(m.w).T if m.turned else array(m.w)
        m.apart = outlier_channels(seen.channels)
        if len(seen.channels) != len(m.matrix):
            return "the calibration is not of these channels"
        if not m.apart.size:
            return "no channel of the activation stands out"

    def rewrite(op, m):
        kept = np.ones(len(m.matrix), np.float32)
        kept[m.apart] = 0
        q, scale = quantize_linear_weight(m.matrix * kept[:, None], weight_limit(m.w))
        product = _with_bias(op, m, _product(op, op.Mul(m.x, kept), q, scale))
        return op.Add(product, op.MatMul(op.Gather(m.x, m.apart, axis=-1), np.ascontiguousarray(m.matrix[m.apart])))

    cases = [
        Case("a projection", observed={"x": (-3, 3, _FAR)}, x=f32["B", "S", 32], w=f32[32, 16], b=None, transB=0),
        Case("a classifier", observed={"x": (-3, 3, _FAR)}, x=f32["N", 32], w=f32[32, 32], b=f32[1, 32], transB=1),
        Refused("not calibrated", x=f32["N", 32], w=f32[32, 16], b=None, transB=0, because="no calibration range"),
        Refused("even", observed={"x": (-3, 3, np.ones(32, np.float32))}, x=f32["N", 32], w=f32[32, 16], b=None, transB=0,
                because="no channel of the activation stands out"),
        Refused("other channels", observed={"x": (-3, 3, _FAR[:21])}, x=f32["N", 32], w=f32[32, 16], b=None, transB=0,
                because="not of these channels"),
        Refused("tiny", observed={"x": (-3, 3, _FAR)}, x=f32["N", 32], w=f32[32, 8], b=None, transB=0,
                because="too small to gain"),
    ]  # fmt: skip


def _blocked(op, m, bits):
    w = block_weight(m.w, bits, m.turned)
    (k, n), held = w.q.shape, pack(w)
    product = op.domain("com.microsoft").MatMulNBits(
        m.x, held.weight, held.scale, held.zero, K=k, N=n, bits=bits, block_size=w.block, accuracy_level=4
    )
    return _with_bias(op, m, product)


@rule(
    group="quantize", targets=("onnxruntime-cpu", "onnxruntime-cuda"),
    safety=LOSSY("weights are rounded to 8 bits in blocks, activations to 8 bits in each row's blocks"),
)  # fmt: skip
class Int8BlockLinear:
    """A linear layer with its weight in 8 bits, a scale and zero point for each 64 rows of a column.

    Close, since activations too have a scale for each block of a row (the kernel's accuracy level 4). It gains where
    few rows are multiplied, as in decoding, which reads each weight once.
    """

    pattern, unless, cases = _linear, _unfit, _cases

    def rewrite(op, m):
        return _blocked(op, m, 8)


@rule(
    group="quantize", targets=("onnxruntime-cpu", "onnxruntime-cuda"),
    safety=LOSSY("weights are rounded to 4 bits in blocks, activations to 8 bits in each row's blocks"),
)  # fmt: skip
class Int4BlockLinear:
    """A linear layer with its weight in 4 bits, a scale and zero point for each 64 rows of a column.

    An eighth of the weight's size: what a decoder's speed is made of, since each step reads all weights once.
    """

    pattern, unless, cases = _linear, _unfit, _cases

    def rewrite(op, m):
        return _blocked(op, m, 4)


@rule(group="quantize", since=19, targets=("onnxruntime-cpu",),
      safety=LOSSY("activations are rounded to 8 bits: cosine about 0.99 to the original"))  # fmt: skip
class StoredInt8Linear:
    """A linear layer whose weight is stored as int8 and widened by Cast and Mul has its activation rounded to 8 bits too.

    The weight stays as it was rounded. Spelling only the weight as DequantizeLinear would not be exact: ONNX Runtime makes
    MatMulNBits of it, which rounds activations.
    """

    def pattern(op, x: f32, w: Const[i8["rows", "columns"]], scale: Const[f32]):
        return op.MatMul(x, op.shared(op.Mul(op.shared(op.Cast(w, to=F32)), scale)))

    def unless(m):
        w = array(m.w)
        small = too_small(dims(m.x), w.shape)
        if small is not None:
            return small
        m.scales = columns(array(m.scale), w.shape[1], 2)
        if m.scales is None:
            return "the scale is not one for each column"

    def rewrite(op, m):
        x = op.DequantizeLinear(*op.DynamicQuantizeLinear(m.x, outputs=3))
        return op.MatMul(x, dequantized(op, m.w, m.scales))

    cases = [
        Case("each column", x=f32["B", "S", 32], w=i8[32, 16], scale=np.linspace(0.5, 1, 16, dtype=np.float32)[None] / 64),
        Case("one scale", x=f32["N", 16], w=i8[16, 16], scale=np.float32(0.01)),
        Refused("scales of rows", x=f32["N", 16], w=i8[16, 32], scale=np.full((16, 1), 0.01, np.float32),
                because="not one for each column"),
        Refused("tiny", x=f32["N", 16], w=i8[16, 8], scale=np.float32(0.01), because="too small to gain"),
        Refused("a vector", x=f32[16], w=i8[16, 16], scale=np.float32(0.01), because="rank 2 or more"),
    ]  # fmt: skip
