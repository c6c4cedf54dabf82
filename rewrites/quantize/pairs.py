"""Where bytes become floats: later, or not at all."""

import numpy as np
from olc.rules import EXACT, F32, Case, Const, Refused, Value, array, f32, i8, i64, rule, u8

from ._columns import bytes_


def _same(a, b):
    """Are two optional constants, the second of whom may be left out for 0, the same numbers?"""
    if a is None or b is None:
        return not any(v is not None and array(v).any() for v in (a, b))
    return array(a).dtype == array(b).dtype and np.array_equal(array(a), array(b))


@rule(group="quantize", safety=EXACT, since=19)
class QuantizeOfDequantize:
    """What is dequantized and quantized again, on the same grid, stays as it was.

    Sound because ``(q - z) * s`` is off by at most 2^-24 of itself where neither it nor the scale is denormal or infinite,
    and so is its quotient by the scale: of at most 255 together less than a half, which rounding takes away. Adding the
    zero point gives ``q``, which is within the range.
    """

    def pattern(op, q: bytes_, scale: Const[f32], zero: Const | None, axis, scale_2: Const[f32], zero_2: Const | None, axis_2):
        return op.QuantizeLinear(op.shared(op.DequantizeLinear(q, scale, zero, axis=axis)), scale_2, zero_2, axis=axis_2)

    def unless(m):
        scale = array(m.scale)
        if not np.array_equal(scale, array(m.scale_2)) or not _same(m.zero, m.zero_2):
            return "the scales or zero points differ"
        if scale.ndim and scale.size > 1 and m.axis != m.axis_2:
            return "the axes differ"
        if m.root.outputs[0].dtype != m.q.dtype:
            return "the result has another type"
        with np.errstate(all="ignore"):
            if not ((np.abs(scale) >= np.finfo(np.float32).tiny) & np.isfinite(scale * np.float32(256))).all():
                return "a scale is too small or too large to be exact"

    def rewrite(op, m):
        return m.q

    cases = [
        Case("uint8", opset=21, q=u8["N", 3], scale=np.float32(0.1), zero=np.uint8(7), axis=1, scale_2=np.float32(0.1),
             zero_2=np.uint8(7), axis_2=1),
        Case("int8, each column", opset=21, q=i8["N", 2], scale=np.array([0.3, 7e30], np.float32),
             zero=np.array([3, -7], np.int8), axis=1, scale_2=np.array([0.3, 7e30], np.float32),
             zero_2=np.array([3, -7], np.int8), axis_2=1),
        Case("no zero point", opset=21, q=u8["N", 3], scale=np.float32(1.2e-38), zero=None, axis=1,
             scale_2=np.float32(1.2e-38), zero_2=None, axis_2=1),
        Refused("another scale", opset=21, q=u8["N", 3], scale=np.float32(0.1), zero=None, axis=1, scale_2=np.float32(0.2),
                zero_2=None, axis_2=1, because="the scales or zero points differ"),
        Refused("another zero point", opset=21, q=u8["N", 3], scale=np.float32(0.1), zero=None, axis=1,
                scale_2=np.float32(0.1), zero_2=np.uint8(1), axis_2=1, because="the scales or zero points differ"),
        Refused("another type", opset=21, q=i8["N", 3], scale=np.float32(0.1), zero=None, axis=1, scale_2=np.float32(0.1),
                zero_2=None, axis_2=1, because="the result has another type"),
        Refused("another axis", opset=21, q=u8[2, 2], scale=np.array([0.3, 0.7], np.float32), zero=None, axis=1,
                scale_2=np.array([0.3, 0.7], np.float32), zero_2=None, axis_2=0, because="the axes differ"),
        Refused("a denormal scale", opset=21, q=u8["N", 3], scale=np.float32(1e-44), zero=None, axis=1,
                scale_2=np.float32(1e-44), zero_2=None, axis_2=1, because="too small or too large"),
        Refused("infinite numbers", opset=21, q=u8["N", 3], scale=np.float32(3e38), zero=None, axis=1,
                scale_2=np.float32(3e38), zero_2=None, axis_2=1, because="too small or too large"),
    ]  # fmt: skip


@rule(group="quantize", safety=EXACT, since=13)
class GatherBytes:
    """Rows of a table that is stored in bytes are picked before they become floats, with their scales.

    Sound because each row is widened and scaled by itself. The table would become floats as a whole, on each run or, where
    a runtime folds it, in memory.
    """

    def pattern(op, table: Const[bytes_], scale: Const[f32], zero: Const | None, rows: Value):
        widened = op.shared(op.Mul(op.shared(op.Cast(table, to=F32)), scale))
        return op.Gather(op.either(widened, op.shared(op.DequantizeLinear(table, scale, zero))), rows, axis=0)

    def unless(m):
        scale, shape = array(m.scale), array(m.table).shape
        by_row = m.find("Mul") is not None and scale.shape == (*shape[:1], *(1,) * (len(shape) - 1))
        if not by_row and (scale.size != 1 or scale.ndim > len(shape)):
            return "the scale is not one, or one for each row"
        m.by_row = by_row

    def rewrite(op, m):
        picked = op.Gather(m.table, m.rows, axis=0)
        scale = m.scale if m.by_row else array(m.scale).reshape(())
        if m.find("Mul") is None:
            return op.DequantizeLinear(picked, scale, None if m.zero is None else array(m.zero).reshape(()))
        return op.Mul(op.Cast(picked, to=F32), op.Gather(scale, m.rows, axis=0) if m.by_row else scale)

    cases = [
        Case("an embedding", opset=21, table=i8[2, 3], scale=np.float32(0.1), zero=None, rows=i64["B", "S"]),
        Case("unsigned", opset=21, table=u8[2, 3], scale=np.float32(0.1), zero=np.uint8(7), rows=i64[()]),
        Case("each row", table=i8[2, 3], scale=np.array([[0.1], [3]], np.float32), zero=None, rows=i64["B", "S"]),
        Refused("each column", table=i8[2, 3], scale=np.array([[0.1, 3, 4]], np.float32), zero=None, rows=i64["N"],
                because="not one, or one for each row"),
    ]  # fmt: skip
