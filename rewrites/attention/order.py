"""Entries of queries and keys that are put into another order alike."""

import numpy as np
from olc.rules import CLOSE, Case, Const, Many, Refused, Scalar, dims, f32, rule

from .. import _shapes as s


def _in_turn(op, x, sizes, axes, shape):
    """The halves of each head, entry by entry in turn."""
    first, second = op.Split(x, *sizes, axis=3, outputs=2)
    return op.Reshape(op.Concat(op.Unsqueeze(first, axes), op.Unsqueeze(second, axes), axis=4), shape)


@rule(group="attention", safety=CLOSE("summed in another order"), since=13)
class SameOrderOfEntries:
    """Scores of queries and keys whose halves are both put in turn are those of the queries and keys as they were.

    Sound because a score sums over the entries, and both have them in the same order before and after. Keras's rotary
    embedding ends so.
    """

    def pattern(op, q: f32, k, sizes: Many, others: Many, axes: Const, q_shape, k_shape, c: Scalar):
        queries = op.Transpose(_in_turn(op, q, sizes, axes, q_shape), perm=(0, 2, 1, 3))
        keys = op.Transpose(_in_turn(op, k, others, axes, k_shape), perm=(0, 2, 3, 1))
        return op.MatMul(op.either(op.Mul(queries, c), queries), keys)

    def unless(m):
        q, k = dims(m.q), dims(m.k)
        halves = [dims(v) for n in m.nodes if n.op_type == "Split" for v in n.outputs]
        joined = [n for n in m.nodes if n.op_type == "Reshape"]
        if None in (q, k, *halves) or len(q) != 4 or len(k) != 4 or s.odd(m.nodes) or s.whole(m.axes) not in ((4,), (-1,)):
            return "they are not known to be heads of halves"
        if len({h[3] for h in halves}) != 1 or {dims(n.outputs[0]) for n in joined} != {q, k}:
            return "they are not halves that are put in turn"

    def rewrite(op, m):
        queries, keys = op.Transpose(m.q, perm=(0, 2, 1, 3)), op.Transpose(m.k, perm=(0, 2, 3, 1))
        return op.MatMul(queries if m.c is None else op.Mul(queries, m.c), keys)

    cases = [
        Case("Gemma", q=f32["B", "S", 2, 4], k=f32["B", "S", 1, 4], sizes=[np.array([2, 2])], others=[np.array([2, 2])],
             axes=np.array([4]), q_shape=np.array([0, 0, 2, 4]), k_shape=np.array([0, 0, 1, 4]), c=0.5),
        Refused("uneven", q=f32["B", 2, 2, 4], k=f32["B", 2, 2, 4], sizes=[np.array([2, 2])], others=[np.array([2, 2])],
                axes=np.array([4]), q_shape=np.array([0, 1, 2, 8]), k_shape=np.array([0, 1, 2, 8]), c=0.5,
                because="not halves"),
    ]  # fmt: skip
