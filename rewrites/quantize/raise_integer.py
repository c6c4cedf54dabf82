"""Integer spellings of tools as arithmetic over dequantized values (QDQ)."""

import numpy as np
from olc.rules import CLOSE, EXACT, F32, LOSSY, Attrs, Case, Const, Refused, Value, array, dims, f32, i8, rule, u8

SMALLEST = 16
"""Rows or columns below which a product is too small to gain anything."""

WHY = CLOSE("sums of scaled numbers instead of sums of integers times a product of scales")


def _dynamic(op, x):
    return [op.shared(v) for v in op.DynamicQuantizeLinear(x, outputs=3)]


def _scaled(op, integers, x_scale, scale):
    """What a tool makes of 32-bit sums: floats, times both scales."""
    y = op.Cast(integers, to=F32)
    return op.either(op.Mul(y, op.shared(op.Mul(x_scale, scale))), op.Mul(op.Mul(y, x_scale), scale))


def _columns(a, size, rank):
    """The constant as one number, or one for each of ``size`` columns of a tensor of that rank; None where it is neither."""
    if a.ndim > rank or (a.size != 1 and (a.size,) != a.shape[-1:]) or a.size not in (1, size):
        return None
    return a.reshape(()) if a.size == 1 else a.reshape(-1)


def _flipped(a):
    """int8 as uint8 or the other way round, 128 more or less."""
    return (a.view(np.uint8) ^ 128).view(np.int8 if a.dtype == np.uint8 else np.uint8)


def _dequantized(op, q, scale, zero=None):
    return op.DequantizeLinear(q, scale, zero, **({"axis": 1} if scale.ndim else {}))


@rule(group="quantize-raise", safety=WHY, since=19)
class DynamicMatMulInteger:
    """A MatMulInteger of an activation rounded as the model runs, scaled, is a MatMul over dequantized operands.

    Sound because integers less their zero points are summed without error, and the scales, one of the activation and one
    of each column, do not depend on what is summed. A uint8 weight becomes int8, for which kernels are faster: it and its
    zero point less 128 give the same numbers.
    """

    def pattern(op, x: f32, w: Const, zero: Const | None, scale: Const[f32]):
        q, s, z = _dynamic(op, x)
        return _scaled(op, op.MatMulInteger(q, w, z, zero), s, scale)

    def unless(m):
        d, w = dims(m.x), array(m.w)
        if d is None or w.ndim != 2:
            return "the weight is not a matrix, or the input's rank is unknown"
        zero = np.zeros((), w.dtype) if m.zero is None else array(m.zero)
        scale = _columns(array(m.scale), w.shape[1], max(len(d), 1))
        zero = _columns(zero, w.shape[1], 1)
        if scale is None or zero is None:
            return "a scale or zero point is not one for each column"
        if scale.ndim != zero.ndim:
            scale, zero = (a.copy() for a in np.broadcast_arrays(scale, zero))
        m.q = None  # the constant as it is
        if w.dtype == np.uint8:
            m.q, zero = _flipped(w), _flipped(zero)
        m.scales, m.zeros = scale, zero if zero.any() else None

    def rewrite(op, m):
        x = op.DequantizeLinear(*m.find("DynamicQuantizeLinear").outputs)
        return op.MatMul(x, _dequantized(op, m.w if m.q is None else m.q, m.scales, m.zeros))

    cases = [
        Case("quantize_dynamic's", x=f32["B", "S", 32], w=i8[32, 16], zero=np.int8(0), scale=np.float32(0.01)),
        Case("each column", x=f32["N", 16], w=i8[16, 3], zero=np.array([0, 3, -7], np.int8),
             scale=np.array([0.01, 0.02, 0.5], np.float32)),
        Case("unsigned", x=f32["N", 16], w=u8[16, 3], zero=np.uint8(130), scale=np.array([0.01, 0.02, 0.5], np.float32)),
        Case("unsigned, no zero point", x=f32["N", 16], w=u8[16, 3], zero=None, scale=np.float32(0.01)),
        Refused("scales of rows", x=f32[3, 16], w=i8[16, 3], zero=None, scale=np.full((3, 1), 0.01, np.float32),
                because="not one for each column"),
        Refused("a stack of weights", x=f32[2, 3, 16], w=i8[2, 16, 3], zero=None, scale=np.float32(0.01),
                because="not a matrix"),
    ]  # fmt: skip


@rule(group="quantize-lower", safety=EXACT, since=10, targets=("onnxruntime-cpu",))
class UnsignedConvInteger:
    """A ConvInteger with an int8 weight has a uint8 one: the weight and its zero point, 128 more.

    Sound because only their difference enters the sums, which are of 32-bit integers. ONNX Runtime has no kernel of its own
    for the signed form and takes three to eight times as long; float Conv over dequantized operands lies between the two.
    """

    def pattern(op, x, w: Const[i8], x_zero: Value | None, zero: Const[i8] | None, attrs: Attrs):
        return op.ConvInteger(x, w, x_zero, zero, **attrs)

    def rewrite(op, m):
        zero = np.zeros((), np.int8) if m.zero is None else array(m.zero)
        return op.ConvInteger(m.x, _flipped(array(m.w)), m.x_zero, _flipped(zero), **m.attrs)

    cases = [
        Case("quantize_dynamic's", x=u8["N", 4, 5, 5], w=i8[6, 4, 3, 3], x_zero=u8[()], zero=np.int8(-3),
             attrs={"pads": [1, 1, 1, 1]}),
        Case("depthwise", x=u8["N", 4, 7], w=i8[4, 1, 3], x_zero=None, zero=None, attrs={"group": 4, "strides": [2]}),
    ]  # fmt: skip


@rule(group="quantize-lower", safety=WHY, since=19, targets=("onnxruntime-cpu",))
class DynamicInt8Gemm:
    """A Gemm of an activation rounded as the model runs and an int8 weight is DynamicQuantizeMatMul, its bias included.

    Sound because Gemm with its default factors is the product plus the bias, and the kernel rounds its input by the formula
    of DynamicQuantizeLinear.
    """

    def pattern(op, x: f32["rows", "depth"], w: Const[i8[None, None]], scale: Const[f32], zero: Const[i8] | None,
                b: Const[f32] | None, axis, transB):  # fmt: skip
        w = op.shared(op.DequantizeLinear(w, scale, zero, axis=axis))
        return op.Gemm(op.shared(op.DequantizeLinear(*_dynamic(op, x))), w, b, transB=transB)

    def unless(m):
        m.q = array(m.w).T if m.transB else array(m.w)
        m.scales = _columns(array(m.scale), m.q.shape[1], 1)
        if m.scales is None or (m.scales.ndim and m.axis % 2 == bool(m.transB)):
            return "the scale is not one for each column"
        m.zeros = None if m.zero is None else array(m.zero).reshape(m.scales.shape)
        m.bias = None if m.b is None else _columns(array(m.b), m.q.shape[1], 2)
        if m.b is not None and m.bias is None:
            return "the bias is not one number for each column"

    def rewrite(op, m):
        bias = None if m.bias is None else np.array(np.broadcast_to(m.bias, m.q.shape[1:]))
        q = np.ascontiguousarray(m.q) if m.transB else m.w
        return op.domain("com.microsoft").DynamicQuantizeMatMul(m.x, q, m.scales, m.zeros, bias)

    cases = [
        Case("a classifier", x=f32["N", 16], w=i8[16, 3], scale=np.array([0.01, 0.02, 0.5], np.float32), zero=None,
             b=f32[3], axis=1, transB=0),
        Case("stored by rows", x=f32["N", 16], w=i8[3, 16], scale=np.array([0.01, 0.02, 0.5], np.float32),
             zero=np.array([1, 0, -9], np.int8), b=f32[1, 3], axis=0, transB=1),
        Case("one scale, one bias", x=f32["N", 16], w=i8[16, 3], scale=np.float32(0.01), zero=np.int8(3), b=f32[1], axis=1,
             transB=0),
        Refused("scales of rows", x=f32["N", 3], w=i8[3, 16], scale=np.array([0.01, 0.02, 0.5], np.float32), zero=None,
                b=None, axis=0, transB=0, because="not one for each column"),
        Refused("a bias of rows", x=f32[3, 16], w=i8[16, 3], scale=np.float32(0.01), zero=None, b=f32[3, 1], axis=1,
                transB=0, because="the bias is not one number for each column"),
    ]  # fmt: skip


@rule(group="quantize", since=19, safety=LOSSY("activations are rounded to 8 bits: cosine about 0.99 to the original"))
class StoredInt8Linear:
    """A linear layer whose weight is stored as int8 and widened by Cast and Mul has its activation rounded to 8 bits too.

    The weight stays as it was rounded. Spelling only the weight as DequantizeLinear would not be exact: ONNX Runtime makes
    MatMulNBits of it, which rounds activations.
    """

    def pattern(op, x: f32, w: Const[i8["rows", "columns"]], scale: Const[f32]):
        return op.MatMul(x, op.shared(op.Mul(op.shared(op.Cast(w, to=F32)), scale)))

    def unless(m):
        d, w = dims(m.x), array(m.w)
        if d is None or len(d) < 2:
            return "the input is not known to have rank 2 or more"
        if min(w.shape) < SMALLEST:
            return f"the weight is {w.shape[0]} x {w.shape[1]}, too small to gain"
        m.scales = _columns(array(m.scale), w.shape[1], 2)
        if m.scales is None:
            return "the scale is not one for each column"

    def rewrite(op, m):
        x = op.DequantizeLinear(*op.DynamicQuantizeLinear(m.x, outputs=3))
        return op.MatMul(x, _dequantized(op, m.w, m.scales))

    cases = [
        Case("each column", x=f32["B", "S", 32], w=i8[32, 16], scale=np.linspace(0.5, 1, 16, dtype=np.float32)[None] / 64),
        Case("one scale", x=f32["N", 16], w=i8[16, 16], scale=np.float32(0.01)),
        Refused("scales of rows", x=f32["N", 16], w=i8[16, 32], scale=np.full((16, 1), 0.01, np.float32),
                because="not one for each column"),
        Refused("tiny", x=f32["N", 16], w=i8[16, 8], scale=np.float32(0.01), because="too small to gain"),
        Refused("a vector", x=f32[16], w=i8[16, 16], scale=np.float32(0.01), because="rank 2 or more"),
    ]  # fmt: skip
