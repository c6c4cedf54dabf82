"""Integer spellings of tools as arithmetic over dequantized values (QDQ)."""

import numpy as np
from olc.rules import CLOSE, F32, Case, Const, Refused, array, dims, f32, i8, rule, u8

from ._columns import columns, dequantized, dynamic

WHY = CLOSE("sums of scaled numbers instead of sums of integers times a product of scales")


def _scaled(op, integers, x_scale, scale):
    """What a tool makes of 32-bit sums: floats, times both scales."""
    y = op.Cast(integers, to=F32)
    return op.either(op.Mul(y, op.shared(op.Mul(x_scale, scale))), op.Mul(op.Mul(y, x_scale), scale))


@rule(group="quantize-raise", safety=WHY, since=19)
class DynamicMatMulInteger:
    """A MatMulInteger of an activation rounded as the model runs, scaled, is a MatMul over dequantized operands.

    Sound because integers less their zero points are summed without error, and the scales, one of the activation and one
    of each column, do not depend on what is summed.
    """

    def pattern(op, x: f32, w: Const, zero: Const | None, scale: Const[f32]):
        q, s, z = dynamic(op, x)
        return _scaled(op, op.MatMulInteger(q, w, z, zero), s, scale)

    def unless(m):
        d, w = dims(m.x), array(m.w)
        if d is None or w.ndim != 2:
            return "the weight is not a matrix, or the input's rank is unknown"
        zero = np.zeros((), w.dtype) if m.zero is None else array(m.zero)
        scale = columns(array(m.scale), w.shape[1], max(len(d), 1))
        zero = columns(zero, w.shape[1], 1)
        if scale is None or zero is None:
            return "a scale or zero point is not one for each column"
        if scale.ndim != zero.ndim:
            scale, zero = (a.copy() for a in np.broadcast_arrays(scale, zero))
        m.scales, m.zeros = scale, zero if zero.any() else None

    def rewrite(op, m):
        x = op.DequantizeLinear(*m.find("DynamicQuantizeLinear").outputs)
        return op.MatMul(x, dequantized(op, m.w, m.scales, m.zeros))

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
