"""Rounded operators as the kernels of ONNX Runtime's CPU provider."""

import numpy as np
from olc.quantization import flipped
from olc.rules import CLOSE, EXACT, Attrs, Case, Const, Refused, Value, array, dims, f32, i8, rule, u8

from ._columns import bytes_, columns, dynamic

matrix = bytes_["rows", "columns"]
_Q = np.random.default_rng(0).integers(-127, 128, (32, 16)).astype(np.int8)
_S = np.linspace(0.5, 1, 16, dtype=np.float32) / 64


_SUMS = CLOSE("sums of integers times a product of scales instead of sums of scaled numbers")


@rule(group="quantize-lower", targets=("onnxruntime-cpu",), since=19, safety=_SUMS)
class DynamicInt8Kernel:
    """A product of an activation rounded as the model runs and a weight in bytes is DynamicQuantizeMatMul.

    Sound because the kernel rounds its input by the formula of DynamicQuantizeLinear, and sums in 32-bit integers what the
    QDQ form sums in floats.
    """

    def pattern(op, x: f32, q: Const[matrix], scale: Const[f32], zero: Const | None, axis):
        w = op.shared(op.DequantizeLinear(q, scale, zero, axis=axis))
        return op.MatMul(op.shared(op.DequantizeLinear(*dynamic(op, x))), w)

    def unless(m):
        d = dims(m.x)
        if d is None or len(d) < 2:
            return "the input is not known to have rank 2 or more"
        scale = columns(array(m.scale), array(m.q).shape[1], 1)
        if scale is None or (scale.ndim and m.axis % 2 != 1) or (m.zero is not None and array(m.zero).size != scale.size):
            return "the scales or zero points are not one for each column"

    def rewrite(op, m):
        return op.domain("com.microsoft").DynamicQuantizeMatMul(m.x, m.q, m.scale, m.zero)

    cases = [
        Case("a projection", x=f32["B", "S", 32], q=i8[32, 16], scale=np.linspace(0.5, 1, 16, dtype=np.float32) / 64, zero=None,
             axis=1),
        Case("unsigned", x=f32["N", 32], q=u8[32, 16], scale=np.float32(0.01), zero=np.uint8(130), axis=1),
        Case("a zero point", x=f32["N", 32], q=i8[32, 16], scale=np.float32(0.01), zero=np.int8(3), axis=1),
        Case("one scale", x=f32["N", 32], q=i8[32, 16], scale=np.float32(0.01), zero=None, axis=1),
        Refused("scales of rows", x=f32["N", 16], q=i8[16, 16], scale=np.full(16, 0.01, np.float32), zero=None, axis=0,
                because="not one for each column"),
        Refused("a vector", x=f32[16], q=i8[16, 16], scale=np.float32(0.01), zero=None, axis=1, because="rank 2 or more"),
    ]  # fmt: skip


def _bias_for_each_column(m, product):
    """Sets ``m.bias``, or gives the reason why there is none."""
    d = dims(product)
    bias = None if d is None or not isinstance(d[-1], int) else columns(array(m.b), d[-1], len(d))
    if bias is None:
        return "the constant is not one number for each column"
    m.bias = np.array(np.broadcast_to(bias, d[-1:]))
    return None


_ADDED = CLOSE("the bias is added within the kernel")


@rule(group="quantize-lower", targets=("onnxruntime-cpu",), safety=_ADDED)
class BiasIntoDynamicInt8:
    """A constant added to each column of a DynamicQuantizeMatMul is its bias, or part of the one that it has.

    Sound because the kernel adds the bias to the same sums, and two constants are added to each other first.
    """

    def pattern(op, x: f32, q: bytes_, scale: f32, zero: bytes_ | None, c: Const[f32] | None, b: Const[f32]):
        return op.Add(op.domain("com.microsoft").DynamicQuantizeMatMul(x, q, scale, zero, c), b)

    def unless(m):
        kernel, q, scale = m.find("DynamicQuantizeMatMul"), dims(m.q), dims(m.scale)
        # Of stacks of weights, or of scales, the kernel multiplies the bias by the scale.
        if q is None or len(q) != 2 or scale is None or len(scale) > 1:
            return "the weight is not known to be a matrix with a row of scales"
        return _bias_for_each_column(m, kernel.outputs[0])

    def rewrite(op, m):
        bias = m.bias if m.c is None else array(m.c) + m.bias
        return op.domain("com.microsoft").DynamicQuantizeMatMul(m.x, m.q, m.scale, m.zero, bias)

    cases = [
        Case("a projection", x=f32["B", "S", 32], q=_Q, scale=_S, zero=None, c=None, b=f32[16]),
        Case("a number", x=f32["N", 32], q=_Q, scale=_S, zero=None, c=None, b=0.5),
        Case("beside another", x=f32["B", "S", 32], q=_Q, scale=_S, zero=None, c=f32[16], b=f32[16]),
        Refused("a row for each token", x=f32[4, 32], q=_Q, scale=_S, zero=None, c=None, b=f32[4, 1],
                because="not one number for each column"),
        Refused("weights in a stack", x=f32[1, 32], q=i8[1, 1, 32, 16], scale=_S, zero=None, c=None, b=0.5,
                because="to be a matrix with"),
    ]  # fmt: skip


@rule(group="quantize-lower", targets=("onnxruntime-cpu", "onnxruntime-cuda"), safety=_ADDED)
class BiasIntoBlocks:
    """A constant added to each column of a MatMulNBits is its bias, which the kernel adds to the same sums."""

    def pattern(op, x: f32, q: u8, scale: f32, zero: u8 | None, b: Const[f32], attrs: Attrs):
        return op.Add(op.domain("com.microsoft").MatMulNBits(x, q, scale, zero, **attrs), b)

    def unless(m):
        kernel = m.find("MatMulNBits")
        return _bias_for_each_column(m, kernel.outputs[0])

    def rewrite(op, m):
        return op.domain("com.microsoft").MatMulNBits(m.x, m.q, m.scale, m.zero, None, m.bias, **m.attrs)

    cases = [
        Case("4 bits", x=f32["B", "S", 32], q=np.arange(16 * 16, dtype=np.uint8).reshape(16, 1, 16), scale=_S[:, None],
             zero=None, b=f32[16], attrs={"K": 32, "N": 16, "bits": 4, "block_size": 32}),
        Case("8 bits", x=f32["N", 32], q=np.arange(16 * 32, dtype=np.uint16).astype(np.uint8).reshape(16, 1, 32),
             scale=_S[:, None], zero=np.full((16, 1), 120, np.uint8), b=f32[1, 16],
             attrs={"K": 32, "N": 16, "bits": 8, "block_size": 32}),
        Refused("a row for each token", x=f32[4, 32], q=np.zeros((16, 1, 16), np.uint8), scale=_S[:, None], zero=None,
                b=f32[4, 1], attrs={"K": 32, "N": 16, "bits": 4, "block_size": 32}, because="not one number for each column"),
    ]  # fmt: skip


@rule(group="quantize-lower", safety=EXACT, since=10, targets=("onnxruntime-cpu",))
class UnsignedConvInteger:
    """A ConvInteger with an int8 weight has a uint8 one: the weight and its zero point, 128 more.

    Sound because only their difference enters the sums, which are of 32-bit integers. ONNX Runtime has no kernel of its own
    for the signed form and is much slower with it.
    """

    def pattern(op, x, w: Const[i8], x_zero: Value | None, zero: Const[i8] | None, attrs: Attrs):
        return op.ConvInteger(x, w, x_zero, zero, **attrs)

    def rewrite(op, m):
        zero = np.zeros((), np.int8) if m.zero is None else array(m.zero)
        return op.ConvInteger(m.x, flipped(array(m.w)), m.x_zero, flipped(zero), **m.attrs)

    cases = [
        Case("quantize_dynamic's", x=u8["N", 4, 5, 5], w=i8[6, 4, 3, 3], x_zero=u8[()], zero=np.int8(-3),
             attrs={"pads": [1, 1, 1, 1]}),
        Case("depthwise", x=u8["N", 4, 7], w=i8[4, 1, 3], x_zero=None, zero=None, attrs={"group": 4, "strides": [2]}),
    ]  # fmt: skip


@rule(group="quantize-lower", safety=_SUMS, since=19, targets=("onnxruntime-cpu",))
class DynamicInt8Gemm:
    """A Gemm of an activation rounded as the model runs and a weight in bytes is DynamicQuantizeMatMul, its bias included.

    Sound because Gemm with its default factors is the product plus the bias, and the kernel rounds its input by the formula
    of DynamicQuantizeLinear.
    """

    def pattern(op, x: f32["rows", "depth"], w: Const[bytes_[None, None]], scale: Const[f32], zero: Const[bytes_] | None,
                b: Const[f32] | None, axis, transB):  # fmt: skip
        w = op.shared(op.DequantizeLinear(w, scale, zero, axis=axis))
        return op.Gemm(op.shared(op.DequantizeLinear(*dynamic(op, x))), w, b, transB=transB)

    def unless(m):
        m.q = array(m.w).T if m.transB else array(m.w)
        m.scales = columns(array(m.scale), m.q.shape[1], 1)
        if m.scales is None or (m.scales.ndim and m.axis % 2 == bool(m.transB)):
            return "the scale is not one for each column"
        m.zeros = None if m.zero is None else array(m.zero).reshape(m.scales.shape)
        m.bias = None if m.b is None else columns(array(m.b), m.q.shape[1], 2)
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
