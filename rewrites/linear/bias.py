"""A matrix product and its bias."""

from olc.rules import CLOSE, Case, Const, Refused, array, dims, f32, floats, rule

matrix = floats[None, None]


@rule(group="linear", safety=CLOSE("the bias may be added first"))
class MatMulBias:
    """A product of two matrices plus a constant bias is Gemm.

    Sound because Gemm with its default factors is that sum; both operands are proved to be matrices, and the bias
    broadcasts to the product without making it larger.
    """

    def pattern(op, x: matrix, w: matrix, b: Const):
        return op.Add(op.MatMul(x, w), b)

    def unless(m):
        (rows, _), (_, columns), b = dims(m.x), dims(m.w), array(m.b).shape
        if len(b) > 2 or any(n not in (1, d) for n, d in zip(b[::-1], (columns, rows), strict=False)):
            return "the bias would make the product larger"

    def rewrite(op, m):
        return op.Gemm(m.x, m.w, m.b)

    cases = [
        Case("a classifier", x=f32["N", 8], w=f32[8, 4], b=f32[4]),
        Case("a number", x=f32["N", 8], w=f32[8, "M"], b=0.5),
        Case("a row", x=f32["N", 8], w=f32[8, 4], b=f32[1, 4]),
        Refused("three axes", x=f32["B", "N", 8], w=f32[8, 4], b=f32[4], because="has rank 3"),
        Refused("one output", x=f32["N", 8], w=f32[8, 1], b=f32[4], because="would make the product larger"),
        Refused("rows", x=f32[1, 8], w=f32[8, 2], b=f32[3, 1], because="would make the product larger"),
    ]
