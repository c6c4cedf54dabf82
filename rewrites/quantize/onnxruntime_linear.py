"""Rounded linear layers as ONNX Runtime's CPU kernels."""

import numpy as np
from olc.rules import CLOSE, Attrs, Case, Const, Refused, array, dims, f32, i8, rule, u8

matrix = i8["rows", "columns"]
_Q = np.random.default_rng(0).integers(-127, 128, (32, 16)).astype(np.int8)
_S = np.linspace(0.5, 1, 16, dtype=np.float32) / 64


def _vector(b, columns, rank):
    """The constant as a bias for each column; None where it is something else."""
    a = array(b)
    if a is None or a.ndim > rank or a.size not in (1, columns) or a.shape[-1:] not in ((), (1,), (columns,)):
        return None
    return np.ascontiguousarray(np.broadcast_to(a.reshape(-1), (columns,)))


@rule(
    group="quantize-lower", targets=("onnxruntime-cpu",), since=19,
    safety=CLOSE("sums of integers times a product of scales instead of sums of scaled numbers"),
)  # fmt: skip
class DynamicInt8Kernel:
    """A product of an activation rounded as the model runs and an int8 weight is DynamicQuantizeMatMul.

    Sound because the kernel rounds its input by the formula of DynamicQuantizeLinear, and sums in 32-bit integers what the
    QDQ form sums in floats. Three times the speed of float32 where the CPU has int8 dot products.
    """

    def pattern(op, x: f32, q: Const[matrix], scale: Const[f32], zero: Const | None, axis):
        parts = [op.shared(v) for v in op.DynamicQuantizeLinear(x, outputs=3)]
        return op.MatMul(op.shared(op.DequantizeLinear(*parts)), op.shared(op.DequantizeLinear(q, scale, zero, axis=axis)))

    def unless(m):
        d = dims(m.x)
        if d is None or len(d) < 2:
            return "the input is not known to have rank 2 or more"
        if array(m.scale).ndim == 1 and m.axis % 2 != 1:
            return "the scales are not one for each column"

    def rewrite(op, m):
        return op.domain("com.microsoft").DynamicQuantizeMatMul(m.x, m.q, m.scale, m.zero)

    cases = [
        Case("a projection", x=f32["B", "S", 32], q=i8[32, 16], scale=np.linspace(0.5, 1, 16, dtype=np.float32) / 64, zero=None,
             axis=1),
        Case("a zero point", x=f32["N", 32], q=i8[32, 16], scale=np.float32(0.01), zero=np.int8(3), axis=1),
        Case("one scale", x=f32["N", 32], q=i8[32, 16], scale=np.float32(0.01), zero=None, axis=1),
        Refused("scales of rows", x=f32["N", 16], q=i8[16, 16], scale=np.full(16, 0.01, np.float32), zero=None, axis=0,
                because="not one for each column"),
        Refused("a vector", x=f32[16], q=i8[16, 16], scale=np.float32(0.01), zero=None, axis=1, because="rank 2 or more"),
    ]  # fmt: skip


def _bias_for_each_column(m, product):
    """Sets ``m.bias``, or gives the reason why there is none."""
    d = dims(product)
    m.bias = None if d is None or not isinstance(d[-1], int) else _vector(m.b, d[-1], len(d))
    return "the constant is not one number for each column" if m.bias is None else None


_ADDED = CLOSE("the bias is added within the kernel")


@rule(group="quantize-lower", targets=("onnxruntime-cpu",), safety=_ADDED)
class BiasIntoDynamicInt8:
    """A constant added to each column of a DynamicQuantizeMatMul is its bias, which the kernel adds to the same sums."""

    def pattern(op, x: f32, q: i8, scale: f32, zero: i8 | None, b: Const[f32]):
        return op.Add(op.domain("com.microsoft").DynamicQuantizeMatMul(x, q, scale, zero), b)

    def unless(m):
        kernel = m.find("DynamicQuantizeMatMul")
        return _bias_for_each_column(m, kernel.outputs[0])

    def rewrite(op, m):
        return op.domain("com.microsoft").DynamicQuantizeMatMul(m.x, m.q, m.scale, m.zero, m.bias)

    cases = [
        Case("a projection", x=f32["B", "S", 32], q=_Q, scale=_S, zero=None, b=f32[16]),
        Case("a number", x=f32["N", 32], q=_Q, scale=_S, zero=None, b=0.5),
        Refused("a row for each token", x=f32[4, 32], q=_Q, scale=_S, zero=None, b=f32[4, 1],
                because="not one number for each column"),
    ]  # fmt: skip


@rule(group="quantize-lower", targets=("onnxruntime-cpu",), safety=_ADDED)
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
