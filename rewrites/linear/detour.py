"""Linear layers that flatten their input to a matrix and unfold the result."""

import numpy as np
from olc.analysis import dims as dim
from olc.rules import CLOSE, Attrs, Case, Many, Refused, Scalar, Value, dims, f32, floats, rule

from .. import _shapes as s


def _unfolds(m):
    """Why the rows are not those of the input again; else sets ``m.shape``, the input's with its features on one axis, and
    ``m.split``, the result's with its features on several; None for a shape that is that already."""
    x, w, y = dims(m.x), dims(m.w), dims(m.roots[0])
    flat = dims(next(n for n in m.nodes if n.op_type in ("Gemm", "MatMul")).inputs[0])
    if None in (x, w, y, flat) or s.odd(m.nodes):
        return s.UNKNOWN
    if len(w) != 2:
        return "the weight is not a matrix"
    columns = w[0] if m.transB else w[1]
    rows = next((r for r in range(2, len(x)) if len(flat) == 2 and dim.product(x[r:]) == flat[1]), None)
    if rows is None or y[:rows] != x[:rows] or dim.product(y[rows:]) != columns or len(y) <= rows:
        return "the rows are not those of the input again"
    if not all(isinstance(n, int) and n > 0 for n in (*x[rows:], *y[rows:])) and (len(x), len(y)) != (rows + 1, rows + 1):
        return "the rows are not those of the input again"
    m.shape = None if len(x) == rows + 1 else (*(0,) * rows, flat[1])
    m.split = None if len(y) == rows + 1 else (*(0,) * rows, *y[rows:])
    b = None if m.b is None else dims(m.b)
    if m.b is not None and (b is None or len(b) > 2 or any(n not in (1, columns) for n in b[-1:]) or b[:-1] not in ((), (1,))):
        return "the bias differs from row to row"
    return None


@rule(group="linear", safety=CLOSE("the bias may be added first"), since=13)
class LinearDetour:
    """A product with a matrix, on rows that are flattened before and unfolded after, needs neither.

    Sound because MatMul treats all leading axes as rows: the input keeps its last axes together when it is flattened, and
    the result has the input's leading axes again, so row i of one is row i of the other. Features that lie on several axes,
    in front or behind (heads, where an Einsum is written so), are joined or split in a Reshape of their own.
    """

    def pattern(op, x: floats, s1, first: Attrs, w, b: Value | None, transB, s2: Many, last: Attrs):
        flat = op.shared(op.Reshape(x, s1, **first))
        product = op.either(op.Gemm(flat, w, b, transB=transB), op.MatMul(flat, w))
        return op.oneof(*s.VIEWS)(product, *s2, **last)

    unless = _unfolds

    def rewrite(op, m):
        x = m.x if m.shape is None else op.Reshape(m.x, s.vector(m.shape))
        y = op.MatMul(x, op.Transpose(m.w, perm=[1, 0]) if m.transB else m.w)
        y = y if m.b is None else op.Add(y, m.b)
        return y if m.split is None else op.Reshape(y, s.vector(m.split))

    cases = [
        Case("GPT-2", x=f32["B", 5, 8], s1=np.array([-1, 8]), w=f32[8, 4], b=f32[4], transB=0, s2=[np.array([-1, 5, 4])]),
        Case("transposed", x=f32["B", 5, 8], s1=np.array([-1, 8]), w=f32[4, 8], b=f32[1, 4], transB=1,
             s2=[np.array([-1, 5, 4])]),
        Case("no bias", x=f32["B", 2, 3, 8], s1=np.array([-1, 8]), w=f32[8, 8], b=None, transB=0,
             s2=[np.array([-1, 2, 3, 8])]),
        Case("heads", x=f32["B", 5, 2, 4], s1=np.array([-1, 8]), w=f32[6, 8], b=f32[6], transB=1,
             s2=[np.array([-1, 5, 3, 2, 1])]),
        Refused("other rows", x=f32["B", 6, 8], s1=np.array([-1, 8]), w=f32[8, 4], b=f32[4], transB=0,
                s2=[np.array([-1, 3, 4])], because="rows"),
        Refused("two features at a time", x=f32["B", 6, 8], s1=np.array([-1, 16]), w=f32[16, 4], b=f32[4], transB=0,
                s2=[np.array([-1, 3, 4])], because="rows"),
    ]  # fmt: skip


def _same_batches(m, a, b, y):
    """Are the products of flattened batches those of the batches? ``a``, ``b``, ``y``: shapes before, and of the result."""
    flat = [dims(v) for v in m.find("MatMul").inputs]
    if None in (a, b, y, *flat) or s.odd(m.nodes):
        return s.UNKNOWN
    alike = len(a) == len(b) and all(len(f) == 3 and f[1:] == d[-2:] for f, d in zip(flat, (a, b), strict=True))
    if len(a) < 4 or not alike or a[:-2] != b[:-2]:
        return "the batches are not flattened alike"
    if y != (*a[:-1], b[-1]):
        return "the result does not have the batches of the operands"
    return None


@rule(group="linear", safety=CLOSE("another kernel may sum in another order"), since=13)
class BatchDetour:
    """A product of matrices whose batch axes are flattened before and unfolded after needs neither.

    Sound because MatMul multiplies the matrices of all batch axes pairwise: both operands are flattened alike, and the
    result has their batch axes again.
    """

    def pattern(op, x: floats, s1, first: Attrs, y, s2, second: Attrs, s3: Many, last: Attrs):
        product = op.MatMul(op.shared(op.Reshape(x, s1, **first)), op.shared(op.Reshape(y, s2, **second)))
        return op.oneof(*s.VIEWS)(product, *s3, **last)

    def unless(m):
        return _same_batches(m, dims(m.x), dims(m.y), dims(m.roots[0]))

    def rewrite(op, m):
        return op.MatMul(m.x, m.y)

    cases = [
        Case("heads", x=f32["B", 2, 3, 5], s1=np.array([-1, 3, 5]), y=f32["B", 2, 5, 4], s2=np.array([-1, 5, 4]),
             s3=[np.array([-1, 2, 3, 4])]),
        Refused("rows moved", x=f32["B", 2, 3, 5], s1=np.array([-1, 6, 5]), y=f32["B", 2, 5, 4], s2=np.array([-1, 5, 4]),
                s3=[np.array([-1, 2, 3, 4])], because="flattened alike"),
        Refused("other batches", x=f32[2, 3, 4, 5], s1=np.array([6, 4, 5]), y=f32[3, 2, 5, 4], s2=np.array([6, 5, 4]),
                s3=[np.array([2, 3, 4, 4])], because="flattened alike"),
    ]  # fmt: skip


def _wide(shape):
    """The axes of a shape that are not 1, the first left out."""
    return [n for n in shape[1:] if n != 1]


_BETWEEN = frozenset({"Add", "Div", "Mul", "Where", *s.VIEWS})
"""What may stand between a product and the softmax of an Attention; others (a softcap's Tanh) keep it in parts."""


def _near_softmax(y, x, most=6):
    """Is ``y`` what a softmax weighs, or ``x`` what it gave of a product, with nothing between that an Attention lacks? Where the
    model itself gives ``y`` nothing says that it is not."""

    def above(value, left):
        node = value.producer()
        if node is None or left == 0:
            return None
        if node.op_type in ("MatMul", "Softmax"):
            return node
        inputs = node.inputs if node.op_type in _BETWEEN else ()
        return next((found for v in inputs if v is not None and (found := above(v, left - 1)) is not None), None)

    def below(value, left):
        return left > 0 and any(
            n.op_type == "Softmax" or (n.op_type in _BETWEEN and below(n.outputs[0], left - 1)) for n, _ in value.uses()
        )

    made = above(x, most)
    weighed = made is not None and made.op_type == "Softmax" and above(made.inputs[0], most) is not None
    return weighed or y.is_graph_output() or below(y, most)


@rule(group="linear", safety=CLOSE("another kernel may sum in another order"), since=15)
class RowsDetour:
    """Queries of several heads that are joined as the rows of one product, for they share a head of keys, stay apart.

    Sound because a product treats each row alone: the rows are those of ``[batch, heads, queries, size]``, and what they are
    multiplied by is the same for all heads of a group; it is repeated for these where there are several groups.
    """

    def pattern(op, x: f32, s1, first: Attrs, k, s2: Many, last: Attrs):
        return op.oneof(*s.VIEWS)(op.MatMul(op.shared(op.Reshape(x, s1, **first)), k), *s2, **last)

    def unless(m):
        flat, x, k, out = dims(m.find("MatMul").inputs[0]), dims(m.x), dims(m.k), dims(m.roots[0])
        if None in (flat, x, k, out) or s.odd(m.nodes):
            return s.UNKNOWN
        if len(flat) not in (3, 4) or len(k) != len(flat) or k[:-2] != flat[:-2] or not flat[0] == x[0] == out[0]:
            return "it is no product for each text"
        *groups, heads, queries, size = before = _wide(x) if len(_wide(x)) > 2 else [0, 0, 0]
        if tuple(groups) != k[1:-2] or _wide(out) != [*before[:-1], k[-1]] or (size, k[-2]) != (flat[-1], flat[-1]):
            return "the rows are not those of heads"
        if not all(isinstance(n, int) for n in (*groups, heads)):
            return "the number of heads is not known"
        if groups and not _near_softmax(m.roots[0], m.x):
            return "repeating keys and values pays in an attention alone"
        m.times, m.groups = heads, groups
        all_heads = dim.product((*groups, heads))
        m.shapes = x, (x[0], all_heads, queries, size), (x[0], all_heads, queries, k[-1]), out
        return None if s.has_view(*m.shapes[:2]) and s.has_view(*m.shapes[2:]) else s.UNKNOWN

    def rewrite(op, m):
        repeated = np.repeat(np.arange(m.groups[0]), m.times) if m.groups else None
        k = op.Unsqueeze(m.k, np.array([1])) if repeated is None else op.Gather(m.k, repeated, axis=1)
        return s.reshaped(op, op.MatMul(s.reshaped(op, m.x, *m.shapes[:2]), k), *m.shapes[2:])

    cases = [
        Case("Gemma's scores", x=f32["B", 1, 2, 3, 4], s1=np.array([0, -1, 4]), k=f32["B", 4, 5],
             s2=[np.array([0, 1, 2, 3, 5])]),
        Case("two groups", x=f32["B", 2, 3, 5, 4], s1=np.array([-1, 2, 15, 4]), k=f32["B", 2, 4, 6],
             s2=[np.array([-1, 2, 3, 5, 6])]),
        Refused("two heads of keys", x=f32["B", 2, 2, 3, 4], s1=np.array([0, -1, 4]), k=f32["B", 4, 5],
                s2=[np.array([0, 2, 2, 3, 5])], because="not those of heads"),
        Refused("one text for all", x=f32[2, 1, 2, 3, 4], s1=np.array([2, 6, 4]), k=f32[1, 4, 5],
                s2=[np.array([2, 2, 3, 5])], because="for each text"),
    ]  # fmt: skip


@rule(group="attention", safety=CLOSE("the product is scaled after it is summed"), since=13)
class FlatScores:
    """Scores of flattened heads, with something added, are unfolded before it is added.

    Sound because adding is done entry by entry, and the product is that of the heads themselves (see batch-detour). What
    is added is proved to have the shape of the product, so it is unfolded the same way.
    """

    def pattern(op, q: f32, s1, first: Attrs, k, s2, second: Attrs, c: Scalar, bias, s3, last: Attrs):
        k_t = op.Transpose(op.shared(op.Reshape(k, s2, **second)), perm=(0, 2, 1))
        product = op.MatMul(op.shared(op.Reshape(q, s1, **first)), op.either(op.Mul(k_t, c), k_t))
        return op.Reshape(op.Add(product, bias), s3, **last)

    def unless(m):
        q, k, added, product = dims(m.q), dims(m.k), dims(m.bias), dims(m.find("MatMul").outputs[0])
        if None in (q, k, added, product) or added != product:
            return "what is added is not known to have the shape of the product"
        if len(k) != 4:
            return "the batches are not flattened alike"
        return _same_batches(m, q, (*k[:2], k[3], k[2]), dims(m.roots[0]))

    def rewrite(op, m):
        scores = op.MatMul(m.q, op.Transpose(m.k, perm=[0, 1, 3, 2]))
        return op.Add(scores if m.c is None else op.Mul(scores, m.c), op.Reshape(m.bias, m.s3, **m.last))

    cases = [
        Case("DeBERTa", q=f32[2, 2, 3, 4], s1=np.array([-1, 3, 4]), k=f32[2, 2, 5, 4], s2=np.array([-1, 5, 4]), c=0.25,
             bias=f32[4, 3, 5], s3=np.array([-1, 2, 3, 5])),
        Refused("one for all heads", q=f32[2, 2, 3, 4], s1=np.array([-1, 3, 4]), k=f32[2, 2, 5, 4], s2=np.array([-1, 5, 4]),
                c=0.25, bias=f32[1, 3, 5], s3=np.array([-1, 2, 3, 5]), because="the shape of the product"),
    ]  # fmt: skip
