"""Heads that share an axis with the batch get their own."""

import numpy as np
from olc.rules import CLOSE, EXACT, Attrs, Case, Const, Many, Refused, Scalar, array, dims, f32, floats, is_constant, rule

from .. import _layout as layout
from .. import _shapes as s


def _unscaled(x, number):
    """What a pattern's ``either(Mul(x, number), x)`` took for x."""
    return x if number is None else next(v for v in x.producer().inputs if v is not number)


def _split(op, m, x):
    """[batch * heads, ...] as [batch, heads, ...]: in front of a Transpose, where others may use what that moves."""
    node = x.producer()
    if node in m.nodes and node.op_type == "Transpose":
        return op.Transpose(layout.split_first(op, node.inputs[0], m.heads), perm=(0, 1, 3, 2))
    return layout.split_first(op, x, m.heads)


@rule(group="linear", safety=EXACT, since=15)
class BatchedHeads:
    """A product of heads that were joined with the batch, ``[batch * heads, ...]``, is that of the heads, joined afterwards.

    Sound because a product treats each matrix alone, whatever axes number them: both operands are proved to be
    ``[batch, heads, ...]``, split off in the same way. Older networks call a product of three axes (``torch.bmm``). A number
    that multiplies an operand multiplies each entry, whatever axes number them.
    """

    def pattern(op, q, q_joined: Const, q3: f32, k, k_joined: Const, k3: f32, turned: f32, c: Scalar, e: Scalar):
        queries, keys = op.either(op.Reshape(q, q_joined), q3), op.shared(op.Reshape(k, k_joined))
        keys = op.either(op.Transpose(op.either(keys, turned), perm=(0, 2, 1)), keys, k3)
        return op.MatMul(op.either(op.Mul(queries, c), queries), op.either(op.Mul(keys, e), keys))

    def unless(m):
        if any(dims(x) is None or len(dims(x)) != 3 for x in m.root.inputs):
            return "the operands are not known to have 3 axes"
        m.sides = [_unscaled(x, n) for x, n in zip(m.root.inputs, (m.c, m.e), strict=True)]
        left, right = map(layout.joined, m.sides)
        if left is None or left != right or not isinstance(left[1], int):
            return "the first axis is not known to be batch and heads, of both alike"
        m.heads = left[1]
        return None

    def rewrite(op, m):
        parts = (_split(op, m, x) for x in m.sides)
        y = op.MatMul(*(x if n is None else op.Mul(x, n) for x, n in zip(parts, (m.c, m.e), strict=True)))
        rows = op.Mul(op.Shape(y, start=0, end=1), op.Shape(y, start=1, end=2))
        return op.Reshape(y, op.Concat(rows, op.Shape(y, start=2, end=4), axis=0))

    cases = [
        Case("BART's scores", q=f32["B", 2, 3, 4], q_joined=np.array([-1, 3, 4]), q3=f32["N", 3, 4],
             k=f32["B", 2, 5, 4], k_joined=np.array([-1, 5, 4]), k3=f32["N", 4, 5], turned=f32["N", 5, 4], c=0.5, e=0.5),
        Case("one text", q=f32[1, 2, 3, 4], q_joined=np.array([2, 3, 4]), q3=f32["N", 3, 4],
             k=f32[1, 2, 5, 4], k_joined=np.array([2, 5, 4]), k3=f32["N", 4, 5], turned=f32["N", 5, 4], c=0.5, e=0.5),
        Refused("heads of one", q=f32["B", 2, 3, 4], q_joined=np.array([-1, 3, 4]), q3=f32["N", 3, 4],
                k=f32["B", 3, 2, 4, 4], k_joined=np.array([-1, 4, 4]), k3=f32["N", 4, 4], turned=f32["N", 4, 4], c=0.5, e=0.5,
                because="of both alike"),
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


@rule(group="linear", safety=EXACT)
class ScaleAfterHeads:
    """Heads that are moved to the front are multiplied by a number afterwards, where the attention can take it.

    Sound because each element is multiplied alone.
    """

    def pattern(op, x: f32, numbers: Many, attrs: Attrs, b: Const, c: Scalar, perm):
        heads = op.oneof(*s.VIEWS, "Transpose")(x, *numbers, **attrs)
        return op.Transpose(op.Mul(op.either(heads, op.Add(heads, b)), c), perm=perm)

    def unless(m):
        if len(dims(m.roots[0]) or ()) != 4 or m.perm not in ((0, 2, 1, 3), (0, 2, 3, 1)):
            return "it is not heads that are moved to the front"

    def rewrite(op, m):
        scaled = next(v for v in m.find("Mul").inputs if not is_constant(v))
        return op.Mul(op.Transpose(scaled, perm=m.perm), m.c)

    cases = [
        Case("Keras's keys", x=f32["B", "S", 8], numbers=[np.array([0, 0, 2, 4])], attrs={}, b=f32[2, 4], c=0.5,
             perm=(0, 2, 1, 3)),
        Refused("channels", x=f32["B", "S", 8], numbers=[np.array([0, 0, 2, 4])], attrs={}, b=f32[2, 4], c=0.5,
                perm=(0, 3, 1, 2), because="not heads"),
    ]  # fmt: skip


@rule(group="linear", safety=EXACT, since=13)
class HeadsBeforeTranspose:
    """Features that are moved in front of positions and then split into heads are split before they are moved.

    Sound because both put entry j of head i of position s at ``[i, j, s]``, wherever the axes of text and position go.
    """

    def pattern(op, x: f32, numbers: Const, perm):
        return op.Reshape(op.Transpose(x, perm=perm), numbers)

    def unless(m):
        d, out = dims(m.x), dims(m.roots[0])
        if d is None or out is None or len(out) != 4 or len(d) != 3:
            return "the features are not split into heads"
        perm = s.permutation(m.perm, 3)
        at = perm.index(2)
        moved = [d[i] for i in perm]
        if at == 2 or (*out[:at], *out[at + 2 :]) != (*moved[:at], *moved[at + 1 :]):
            return "the features are not split into heads"
        if not all(isinstance(n, int) and n > 0 for n in out[at : at + 2]) or out[at] * out[at + 1] != d[2]:
            return "the features are not split into heads"
        m.heads = s.vector([0, 0, out[at], out[at + 1]])
        m.order = (*perm[: at + 1], 3, *perm[at + 1 :])

    def rewrite(op, m):
        return op.Transpose(op.Reshape(m.x, m.heads), perm=m.order)

    cases = [
        Case("Keras's keys of an image", x=f32["B", 5, 8], numbers=np.array([0, 2, 4, 5]), perm=(0, 2, 1)),
        Case("keys of a layer that has positions in front", x=f32[5, 2, 8], numbers=np.array([2, 2, 4, 5]), perm=(1, 2, 0)),
        Case("first of all", x=f32[5, 3, 8], numbers=np.array([2, 4, 5, 3]), perm=(2, 0, 1)),
        Refused("positions too", x=f32["B", 6, 4], numbers=np.array([0, 8, 3]), perm=(0, 2, 1), because="not split"),
        Refused("rows", x=f32["B", 6, 4], numbers=np.array([0, 2, 2, 6, 1]), perm=(0, 2, 1), because="not split"),
        Refused("positions", x=f32[6, 2, 4], numbers=np.array([2, 4, 2, 3]), perm=(1, 2, 0), because="not split"),
        Refused("they stay last", x=f32[5, 2, 8], numbers=np.array([2, 5, 2, 4]), perm=(1, 0, 2), because="not split"),
    ]


@rule(group="linear", safety=EXACT, since=13)
class BiasBeforeHeads:
    """A bias of heads, added after the features were split into these, is added before: to what the linear layer gives.

    Sound because it is the same number for each feature, in the same order.
    """

    def pattern(op, x, w: Const, numbers: Many, attrs: Attrs, b: Const):
        return op.Add(op.oneof(*s.VIEWS)(op.MatMul(x, w), *numbers, **attrs), b)

    def unless(m):
        product = dims(m.find("MatMul").outputs[0])
        view = next(n for n in m.nodes if n.op_type in s.VIEWS)
        out, whole = dims(view.outputs[0]), dims(m.roots[0])
        if product is None or out is None or out != whole or s.odd(m.nodes) or len(product) < 2:
            return s.UNKNOWN
        rows = len(product) - 1
        if product[:rows] != out[:rows] or not all(isinstance(n, int) and n > 0 for n in out[rows:]) or len(out) < rows + 2:
            return "the features are not split into heads"
        b, split = array(m.b), out[rows:]
        extra = b.ndim - len(split)
        if extra > 0 and b.shape[:extra] != (1,) * extra:
            return "the bias differs from row to row"
        m.flat = np.broadcast_to(b.reshape(b.shape[max(extra, 0) :]), split).reshape(-1)
        m.view = view

    def rewrite(op, m):
        y = op.Add(op.MatMul(m.x, m.w), m.flat)
        return getattr(op, m.view.op_type)(y, *m.numbers, **m.attrs)

    cases = [
        Case("Keras's queries", x=f32["B", "S", 8], w=f32[8, 6], numbers=[np.array([0, 0, 2, 3])], b=f32[2, 3]),
        Case("one for each head", x=f32["B", "S", 8], w=f32[8, 6], numbers=[np.array([0, 0, 2, 3])], b=f32[1, 2, 1]),
        Refused("positions", x=f32["B", 5, 8], w=f32[8, 6], numbers=[np.array([0, 5, 2, 3])], b=f32[5, 1, 3],
                because="from row to row"),
        Refused("rows", x=f32["B", 4, 8], w=f32[8, 6], numbers=[np.array([0, 2, 2, 6])], b=f32[6], because="not split into"),
    ]  # fmt: skip


@rule(group="linear", safety=CLOSE("another kernel may sum in another order"))
class TransposeOfProduct:
    """A product whose last two axes are swapped is the product of its operands swapped, last first: ``(A B)^T = B^T A^T``.

    Sound by that. Done where an operand comes from a Transpose, which the new one becomes one with: Keras multiplies keys by
    queries. Factors go on multiplying what they did.
    """

    def pattern(op, a: floats, b, moved, c: Scalar, e: Scalar, f: Scalar, perm):
        left, right = op.shared(op.Transpose(a, perm=moved)), op.shared(op.Transpose(b, perm=moved))
        product = op.either(
            op.MatMul(op.either(op.Mul(left, c), left), op.either(op.Mul(b, e), b)),
            op.MatMul(op.either(op.Mul(a, c), a), op.either(op.Mul(right, e), right)),
        )
        return op.Transpose(op.either(op.Mul(product, f), product), perm=perm)

    def unless(m):
        m.sides = [_unscaled(x, n) for x, n in zip(m.find("MatMul").inputs, (m.c, m.e), strict=True)]
        ranks = {None if dims(x) is None else len(dims(x)) for x in m.sides}
        if len(ranks) != 1 or None in ranks:
            return "the operands are not known to have the same number of axes"
        rank = ranks.pop()
        m.swap = (*range(rank - 2), rank - 1, rank - 2)
        if rank < 2 or s.permutation(m.perm, rank) != m.swap:
            return "other axes are moved than the last two"
        if s.permutation(m.moved, rank)[-1] == rank - 1:
            return "the Transpose of the operand leaves its last axis, and takes up none"
        if any(x.producer() is not None and x.producer().op_type == "Softmax" for x in m.sides):
            return "weights stay in front of the values"

    def rewrite(op, m):
        a, b = (op.Transpose(x, perm=m.swap) for x in m.sides)
        y = op.MatMul(b if m.e is None else op.Mul(b, m.e), a if m.c is None else op.Mul(a, m.c))
        return y if m.f is None else op.Mul(y, m.f)

    cases = [
        Case("Keras's scores", a=f32["B", 2, "S", 4], b=f32["B", 2, "S", 4], moved=(0, 1, 3, 2), c=0.5, e=0.25, f=2.0,
             perm=(0, 1, 3, 2)),
        Refused("heads last", a=f32["B", 2, 3, 4], b=f32["B", 2, 3, 4], moved=(0, 1, 3, 2), c=0.5, e=0.25, f=2.0,
                perm=(0, 2, 3, 1), because="other axes"),
        Refused("a weight", a=f32["B", 4, 4], b=f32[4, 4], moved=(), c=0.5, e=0.25, f=2.0, perm=(0, 2, 1),
                because="same number of axes"),
    ]  # fmt: skip
