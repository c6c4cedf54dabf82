"""Heads that share an axis with the batch get their own."""

import numpy as np
from olc.rules import EXACT, Attrs, Case, Const, Many, Refused, Scalar, dims, f32, is_constant, rule

from .. import _layout as layout
from .. import _shapes as s


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


@rule(group="linear", safety=EXACT, since=13)
class ScaleBeforeLayout:
    """A number times what was moved or reshaped, of what a constant matrix gave, is the number times that, moved or reshaped.

    Sound because each element is multiplied alone. The number then goes into the matrix (`scale-after-mat-mul`).
    """

    def pattern(op, x: f32, w: Const, b: Const | None, y, others: Many, c: Scalar, attrs: Attrs):
        product = op.MatMul(x, w)
        moved = op.oneof("Transpose", *s.VIEWS)(op.either(op.Add(product, b), product, y), *others, **attrs)
        return op.Mul(moved, c)

    def unless(m):
        moved = next(v.producer() for v in m.root.inputs if not is_constant(v))
        if len(dims(moved.outputs[0]) or ()) != 3:
            return "what has an axis for its heads leaves its scale to the attention"
        found = layout.chain_of(moved.inputs[0])
        node = None if found is None else found[0].producer()
        if node is not None and node.op_type == "Add" and any(map(is_constant, node.inputs)):
            node = next((v.producer() for v in node.inputs if not is_constant(v)), None)
        if node is None or node.op_type != "MatMul" or not is_constant(node.inputs[1]) or len(dims(node.inputs[1])) != 2:
            return "what is moved is not known to come from a constant matrix"
        m.moved = moved
        return None

    def rewrite(op, m):
        return getattr(op, m.moved.op_type)(op.Mul(m.moved.inputs[0], m.c), *m.others, **m.attrs)

    cases = [
        Case("a scaled query", x=f32["B", "S", 8], w=f32[8, 4], b=f32[4], y=f32["B", "S", 4], others=[], c=0.5,
             attrs={"perm": (1, 0, 2)}),
        Refused("heads", x=f32["B", "S", 3, 8], w=f32[8, 4], b=f32[4], y=f32["B", "S", 3, 4], others=[], c=0.5,
                attrs={"perm": (0, 2, 1, 3)}, because="leaves its scale"),
        Refused("a matrix for each text", x=f32[2, "S", 8], w=f32[2, 8, 4], b=f32[4], y=f32[2, "S", 4], others=[], c=0.5,
                attrs={"perm": (1, 0, 2)}, because="constant matrix"),
    ]  # fmt: skip
