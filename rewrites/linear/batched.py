"""Heads that share an axis with the batch get their own."""

import numpy as np
from olc.rules import EXACT, Case, Const, Refused, dims, f32, rule

from .. import _layout as layout


@rule(group="linear", safety=EXACT, since=15)
class BatchedHeads:
    """A product of heads that were joined with the batch, ``[batch * heads, ...]``, is that of the heads, joined afterwards.

    Sound because a product treats each matrix alone, whatever axes number them: both operands are proved to be
    ``[batch, heads, ...]``, split off in the same way. Older networks call a product of three axes (``torch.bmm``).
    """

    def pattern(op, q, q_joined: Const, q3: f32, k, k_joined: Const, k3: f32):
        keys = op.Reshape(k, k_joined)
        return op.MatMul(
            op.either(op.Reshape(q, q_joined), q3), op.either(op.Transpose(keys, perm=(0, 2, 1)), keys, k3)
        )

    def unless(m):
        if any(dims(x) is None or len(dims(x)) != 3 for x in m.root.inputs):
            return "the operands are not known to have 3 axes"
        left, right = map(layout.joined, m.root.inputs)
        if left is None or left != right or not isinstance(left[1], int):
            return "the first axis is not known to be batch and heads, of both alike"
        m.heads = left[1]
        return None

    def rewrite(op, m):
        y = op.MatMul(*(layout.split_first(op, x, m.heads) for x in m.root.inputs))
        rows = op.Mul(op.Shape(y, start=0, end=1), op.Shape(y, start=1, end=2))
        return op.Reshape(y, op.Concat(rows, op.Shape(y, start=2, end=4), axis=0))

    cases = [
        Case("BART's scores", q=f32["B", 2, 3, 4], q_joined=np.array([-1, 3, 4]), q3=f32["N", 3, 4],
             k=f32["B", 2, 5, 4], k_joined=np.array([-1, 5, 4]), k3=f32["N", 4, 5]),
        Case("one text", q=f32[1, 2, 3, 4], q_joined=np.array([2, 3, 4]), q3=f32["N", 3, 4],
             k=f32[1, 2, 5, 4], k_joined=np.array([2, 5, 4]), k3=f32["N", 4, 5]),
        Refused("heads of one", q=f32["B", 2, 3, 4], q_joined=np.array([-1, 3, 4]), q3=f32["N", 3, 4],
                k=f32["B", 3, 2, 4, 4], k_joined=np.array([-1, 4, 4]), k3=f32["N", 4, 4], because="of both alike"),
    ]  # fmt: skip
