"""Linear layers and convolutions in symmetric integers, as TensorRT wants them: zero points of 0, one scale for an activation.

A bias stays float, and so does the result: what follows is fused into the kernel in float, and rounding between would only
lose. The scales are numbers of float16, so that they stay what they are where the rest of the model becomes float16.
"""

import numpy as np
from olc.quantization import BLOCK, all_finite, half_scale, int4_blocks, int8_weight, observed, quantize_linear_weight
from olc.rules import EXACT, F32, LOSSY, Attrs, Case, Const, Refused, array, dims, f32, i8, rule

from ._columns import columns
from .insert_linear import _linear, _unfit, _with_bias

_ROUNDED = LOSSY("weights and activations are rounded to 8 bits: cosine about 0.99 to the original")


_LARGEST = 127 * float(np.finfo(np.float16).max)


def _scale(m):
    """Sets ``m.scale``, the activation's, or gives the reason why there is none."""
    seen = observed(m.x)
    if seen is None:
        return "no calibration range"
    if not max(abs(seen.low), abs(seen.high)) <= _LARGEST:
        return "the calibration range is beyond float16"
    if not np.abs(array(m.w)).max(initial=0) <= _LARGEST:
        return "the weight is beyond float16"
    m.scale = half_scale(max(abs(seen.low), abs(seen.high)))


def _rounded(op, m):
    zero = np.int8(0)
    return op.DequantizeLinear(op.QuantizeLinear(m.x, m.scale, zero), m.scale, zero)


@rule(group="quantize", targets=("tensorrt",), since=19, safety=_ROUNDED)
class SymmetricInt8Linear:
    """A linear layer (MatMul or Gemm with constant weight) with its operands in int8, a scale for each column of the weight."""

    pattern = _linear

    def unless(m):
        return _unfit(m) or _scale(m)

    def rewrite(op, m):
        q, scale = int8_weight(m.w, m.turned, half=True)
        return _with_bias(op, m, op.MatMul(_rounded(op, m), op.DequantizeLinear(q, scale, np.zeros(len(scale), np.int8), axis=1)))

    cases = [
        Case("a projection", observed={"x": (-3, 2)}, x=f32["B", "S", 32], w=f32[32, 16], b=None, transB=0),
        Case("a classifier", observed={"x": (-1, 4)}, x=f32["N", 16], w=f32[16, 16], b=f32[1, 16], transB=1),
        Refused("not calibrated", x=f32["N", 32], w=f32[32, 16], b=None, transB=0, because="no calibration range"),
        Refused("huge", observed={"x": (-3e7, 2)}, x=f32["N", 32], w=f32[32, 16], b=None, transB=0, because="beyond float16"),
        Refused("tiny", observed={"x": (-3, 2)}, x=f32["N", 32], w=f32[32, 8], b=None, transB=0, because="too small to gain"),
    ]  # fmt: skip


@rule(group="quantize", targets=("tensorrt",), since=21,
      safety=LOSSY("weights are rounded to 4 bits in blocks"))  # fmt: skip
class SymmetricInt4Linear:
    """A linear layer whose weight is read in 4 bits, a scale for each 64 rows of a column; its activation stays as it is.

    It gains where few rows are multiplied, as in decoding, which reads each weight once.
    """

    pattern = _linear

    def unless(m):
        why = _unfit(m)
        if why is not None:
            return why
        w = array(m.w).T if m.turned else array(m.w)
        if len(w) % BLOCK:
            return f"{len(w)} rows are no blocks of {BLOCK}"
        if not np.abs(w).max(initial=0) <= _LARGEST / 32:
            return "the weight is beyond float16"
        m.matrix = w

    def rewrite(op, m):
        q, scale = int4_blocks(m.matrix)
        return _with_bias(op, m, op.MatMul(m.x, op.DequantizeLinear(q, scale, axis=0, block_size=BLOCK)))

    cases = [
        Case("a projection", x=f32["B", "S", 128], w=f32[128, 16], b=None, transB=0),
        Case("a classifier", x=f32["N", 64], w=f32[64, 64], b=f32[1, 64], transB=1),
        Refused("odd", x=f32["N", 32], w=f32[32, 16], b=None, transB=0, because="no blocks of 64"),
        Refused("huge", x=f32["N", 64], w=np.full((64, 16), 1e9, np.float32), b=None, transB=0, because="beyond float16"),
    ]  # fmt: skip


@rule(group="quantize", targets=("tensorrt",), since=19, safety=_ROUNDED)
class SymmetricInt8Conv:
    """A convolution with its operands in int8, a scale for each output channel of the weight."""

    def pattern(op, x: f32, w: Const[f32], b: f32 | None, attrs: Attrs):
        return op.Conv(x, w, b, **attrs)

    def unless(m):
        if not all_finite(array(m.w)):
            return "the weight is not finite"
        return _scale(m)

    def rewrite(op, m):
        w = array(m.w)
        q, scale = quantize_linear_weight(w.reshape(len(w), -1).T, half=True)
        held = op.DequantizeLinear(np.ascontiguousarray(q.T).reshape(w.shape), scale, np.zeros(len(scale), np.int8), axis=0)
        return op.Conv(_rounded(op, m), held, m.b, **m.attrs)

    cases = [
        Case("a block", observed={"x": (-3, 3)}, x=f32["N", 4, 5, 5], w=f32[6, 4, 3, 3], b=f32[6], attrs={"pads": [1, 1, 1, 1]}),
        Case("depthwise", observed={"x": (-3, 3)}, x=f32["N", 4, 7], w=f32[4, 1, 3], b=None, attrs={"group": 4, "strides": [2]}),
        Refused("not calibrated", x=f32["N", 4, 7], w=f32[4, 4, 3], b=None, attrs={}, because="no calibration range"),
        Refused("infinite", observed={"x": (-3, 3)}, x=f32["N", 1, 7], w=np.full((1, 1, 3), np.inf, np.float32), b=None,
                attrs={}, because="not finite"),
        Refused("huge", observed={"x": (-3, 3)}, x=f32["N", 1, 7], w=np.full((1, 1, 3), 1e9, np.float32), b=None, attrs={},
                because="the weight is beyond float16"),
    ]  # fmt: skip


@rule(group="quantize-lower", targets=("tensorrt",), since=13, safety=EXACT)
class StoredInt8:
    """A weight that is stored as int8 and widened by Cast and Mul is a DequantizeLinear.

    Sound because that is its definition, its zero point being 0. TensorRT reads integers of 8 bits nowhere else.
    """

    def pattern(op, q: Const[i8], scale: Const[f32]):
        return op.Mul(op.Cast(q, to=F32), scale)

    def unless(m):
        size = dims(m.q)[-1:]
        m.scales = columns(array(m.scale), *size, len(dims(m.q))) if size else None
        if m.scales is None:
            return "the scale is not one number, or one for each column"
        if not (m.scales > 0).all():
            return "a scale is not above 0"

    def rewrite(op, m):
        zero, axis = np.zeros(m.scales.shape, np.int8), {"axis": len(dims(m.q)) - 1} if m.scales.ndim else {}
        return op.DequantizeLinear(m.q, m.scales, zero, **axis)

    cases = [
        Case("each column", q=i8[32, 16], scale=np.linspace(0.5, 1, 16, dtype=np.float32)[None] / 64),
        Case("one scale", q=i8[4, 16], scale=np.float32(0.01)),
        Refused("scales of rows", q=i8[16, 32], scale=np.full((16, 1), 0.01, np.float32), because="for each column"),
        Refused("negative", q=i8[4, 16], scale=np.float32(-0.01), because="not above 0"),
    ]  # fmt: skip
