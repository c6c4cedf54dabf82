"""Products whose operands, and so whose result, lie the other way round."""

from olc.rules import CLOSE, Case, Refused, dims, f32, floats, rule

from .. import _shapes as s


@rule(group="linear", safety=CLOSE("another kernel may sum in another order"), since=13)
class SwappedProduct:
    """A product of two transposed matrices is that of the matrices the other way round, transposed.

    Sound because ``A^T B^T = (B A)^T``. JAX gives values and weights to an attention's second product in this order.
    """

    def pattern(op, x: floats, first, y, last):
        return op.MatMul(op.Transpose(x, perm=first), op.Transpose(y, perm=last))

    def unless(m):
        x, y = dims(m.x), dims(m.y)
        if x is None or y is None or len(x) != len(y) or len(x) < 2:
            return "the operands are not known to have as many axes"
        n = len(x)
        m.swap = (*range(n - 2), n - 1, n - 2)
        m.perm = s.permutation(m.first, n)
        if s.permutation(m.last, n) != m.swap or m.perm[-1] == n - 1:
            return "the operands are not both transposed"
        return None

    def rewrite(op, m):
        perm = tuple(m.perm[i] for i in m.swap)
        x = m.x if perm == tuple(range(len(perm))) else op.Transpose(m.x, perm=perm)
        return op.Transpose(op.MatMul(m.y, x), perm=m.swap)

    cases = [
        Case("weights and values", x=f32["B", "T", 2, 4], first=(0, 2, 3, 1), y=f32["B", 2, "S", "T"], last=(0, 1, 3, 2)),
        Case("matrices", x=f32[3, "N"], first=(1, 0), y=f32[4, 3], last=(1, 0)),
        Refused("one of them", x=f32["B", "T", 2, 4], first=(0, 2, 1, 3), y=f32["B", 2, "S", 4], last=(0, 1, 3, 2),
                because="both transposed"),
    ]  # fmt: skip
