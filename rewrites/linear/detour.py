"""Linear layers that flatten their input to a matrix and unfold the result."""

import numpy as np
from olc.rules import CLOSE, Attrs, Case, Many, Refused, Value, dims, f32, floats, rule

from .. import _shapes as s


def _unfolds(m):
    """Why the rows are not those of the input again."""
    x, w, y = dims(m.x), dims(m.w), dims(m.roots[0])
    flat = dims(next(n for n in m.nodes if n.op_type in ("Gemm", "MatMul")).inputs[0])
    if None in (x, w, y, flat) or s.odd(m.nodes):
        return s.UNKNOWN
    columns = w[0] if m.transB else w[1]
    if len(x) < 3 or len(flat) != 2 or flat[1] != x[-1] or y != (*x[:-1], columns):
        return "the rows are not those of the input again"
    b = None if m.b is None else dims(m.b)
    if m.b is not None and (b is None or len(b) > 2 or any(n not in (1, columns) for n in b[-1:]) or b[:-1] not in ((), (1,))):
        return "the bias differs from row to row"
    return None


@rule(group="linear", safety=CLOSE("the bias may be added first"), since=13)
class LinearDetour:
    """A product with a matrix, on rows that are flattened before and unfolded after, needs neither.

    Sound because MatMul treats all leading axes as rows: the input keeps its last axis when it is flattened, and the
    result has the input's leading axes again, so row i of one is row i of the other.
    """

    def pattern(op, x: floats, s1, first: Attrs, w, b: Value | None, transB, s2: Many, last: Attrs):
        flat = op.Reshape(x, s1, **first)
        product = op.either(op.Gemm(flat, w, b, transB=transB), op.MatMul(flat, w))
        return op.oneof(*s.VIEWS)(product, *s2, **last)

    unless = _unfolds

    def rewrite(op, m):
        y = op.MatMul(m.x, op.Transpose(m.w, perm=[1, 0]) if m.transB else m.w)
        return y if m.b is None else op.Add(y, m.b)

    cases = [
        Case("GPT-2", x=f32["B", 5, 8], s1=np.array([-1, 8]), w=f32[8, 4], b=f32[4], transB=0, s2=[np.array([-1, 5, 4])]),
        Case("transposed", x=f32["B", 5, 8], s1=np.array([-1, 8]), w=f32[4, 8], b=f32[1, 4], transB=1,
             s2=[np.array([-1, 5, 4])]),
        Case("no bias", x=f32["B", 2, 3, 8], s1=np.array([-1, 8]), w=f32[8, 8], b=None, transB=0,
             s2=[np.array([-1, 2, 3, 8])]),
        Refused("other rows", x=f32["B", 6, 8], s1=np.array([-1, 8]), w=f32[8, 4], b=f32[4], transB=0,
                s2=[np.array([-1, 3, 4])], because="rows"),
        Refused("two features at a time", x=f32["B", 6, 8], s1=np.array([-1, 16]), w=f32[16, 4], b=f32[4], transB=0,
                s2=[np.array([-1, 3, 4])], because="rows"),
    ]  # fmt: skip
