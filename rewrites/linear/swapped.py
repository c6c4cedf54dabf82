"""Products whose operands, and so whose result, lie the other way round."""

from olc.rules import CLOSE, Case, Refused, dims, f32, floats, rule

from .. import _shapes as s


@rule(group="linear", safety=CLOSE("another kernel may sum in another order"), since=13)
class SwappedProduct:
    """A product of two transposed matrices that is then moved is that of the matrices the other way round, moved otherwise.

    Sound because ``A^T B^T = (B A)^T``. JAX gives values and weights to an attention's second product in this order. Where the
    product is only transposed again, `transpose-of-product` acts.
    """

    def pattern(op, x: floats, first, y, last, perm):
        return op.Transpose(op.MatMul(op.Transpose(x, perm=first), op.Transpose(y, perm=last)), perm=perm)

    def unless(m):
        x, y = dims(m.x), dims(m.y)
        if x is None or y is None or len(x) != len(y) or len(x) < 3:
            return "the operands are not known to have as many axes, three or more"
        n = len(x)
        m.swap = (*range(n - 2), n - 1, n - 2)
        m.order, m.out = s.permutation(m.first, n), s.permutation(m.perm, n)
        if s.permutation(m.last, n) != m.swap or m.order[-1] == n - 1:
            return "the operands are not both transposed"
        return "no more is moved than the last two axes" if m.out in (m.swap, tuple(range(n))) else None

    def rewrite(op, m):
        order = tuple(m.order[i] for i in m.swap)
        out = tuple(m.swap[i] for i in m.out)
        x = m.x if order == tuple(range(len(order))) else op.Transpose(m.x, perm=order)
        return op.Transpose(op.MatMul(m.y, x), perm=out)

    cases = [
        Case("weights and values", x=f32["B", "T", 2, 4], first=(0, 2, 3, 1), y=f32["B", 2, "S", "T"], last=(0, 1, 3, 2),
             perm=(0, 3, 1, 2)),
        Refused("one of them", x=f32["B", "T", 2, 4], first=(0, 2, 1, 3), y=f32["B", 2, "S", 4], last=(0, 1, 3, 2),
                perm=(0, 3, 1, 2), because="both transposed"),
        Refused("transposed again", x=f32["B", "T", 2, 4], first=(0, 2, 3, 1), y=f32["B", 2, "S", "T"], last=(0, 1, 3, 2),
                perm=(0, 1, 3, 2), because="no more is moved"),
    ]  # fmt: skip


_SWAP = (0, 1, 3, 2)


@rule(group="linear", safety=CLOSE("another kernel may sum in another order"), since=13)
class WeightsFirst:
    """Values times transposed weights of an attention are the weights times the values, transposed: ``V P^T = (P V^T)^T``.

    Sound by that. Networks whose channels lie in front of positions (CoAtNet, BoTNet) multiply so. An Attention takes the place
    of what is transposed here; where none does, the values are moved in place of the weights, of which there are no fewer.
    """

    def pattern(op, v, scores: f32, perm):
        return op.MatMul(v, op.Transpose(op.Softmax(scores, axis=-1), perm=perm))

    def unless(m):
        v, scores = dims(m.v), dims(m.scores)
        if v is None or scores is None or not len(v) == len(scores) == 4:
            return "values and weights are not known to have 4 axes"
        if s.permutation(m.perm, 4) != _SWAP:
            return "other axes are moved than the last two"
        if isinstance(v[2], int) and isinstance(scores[2], int) and v[2] > scores[2]:
            return "there are more values to move than weights"
        if m.v.producer() is not None and m.v.producer().op_type == "Softmax":
            return "the values are weights, too"  # they would go first in turn

    def rewrite(op, m):
        return op.Transpose(op.MatMul(op.Softmax(m.scores, axis=-1), op.Transpose(m.v, perm=_SWAP)), perm=_SWAP)

    cases = [
        Case("CoAtNet", v=f32["B", 2, 4, "T"], scores=f32["B", 2, "S", "T"], perm=(0, 1, 3, 2)),
        Refused("heads last", v=f32["B", 4, 3, 3], scores=f32["B", 3, 4, 3], perm=(0, 2, 3, 1), because="other axes"),
        Refused("one head", v=f32["B", 4, "T"], scores=f32["B", "S", "T"], perm=(0, 2, 1), because="4 axes"),
        Refused("few queries", v=f32["B", 2, 4, "T"], scores=f32["B", 2, 3, "T"], perm=(0, 1, 3, 2), because="more values"),
    ]  # fmt: skip
