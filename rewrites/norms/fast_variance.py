"""Layer normalisation as JAX's libraries write it: the variance as a difference of two means, a guard for constant rows, the
scale multiplied with the root, means as sums."""

import numpy as np
from olc.rules import CLOSE, Case, Const, Refused, Scalar, array, dims, f16, f32, floats, rule, scalar

from .._helpers import narrow_floats, near
from ._parts import over_root, why_not
from .layer_norm import _norm

LAST = np.array([-1])


def _square(op, x):
    return op.either(op.Pow(x, 2.0), op.Mul(x, x))


@rule(group="norms", safety=CLOSE("the same function, rounded elsewhere"), since=18, emits="LayerNormalization")
class LayerNormOfFastVariance:
    """What is centred over the root of the mean of squares less the square of the mean is LayerNormalization.

    Sound because that difference is the variance: ``E[(x - E[x])^2] = E[x^2] - E[x]^2``. It is never negative but for
    rounding, so that nothing is lost where it is clipped at 0. Flax writes this form, with or without the clip.
    """

    def pattern(op, x: narrow_floats, axes: Const, axes2: Const, eps: Scalar, w: Const | None):
        mean = op.shared(op.ReduceMean(x, axes))
        variance = op.Sub(op.ReduceMean(_square(op, x), axes2), _square(op, mean))
        clipped = op.either(op.Relu(variance), op.Max(variance, 0.0), op.Clip(variance, 0.0), variance)
        return over_root(op, op.Sub(x, mean), op.Add(clipped, eps), w)

    def unless(m):
        return why_not(m, m.axes, m.axes2)

    def rewrite(op, m):
        return _norm(op, m)

    cases = [
        Case("a block", x=f32["B", "S", 8], axes=LAST, axes2=np.array([2]), eps=1e-5, w=f32[8]),
        Case("two axes", x=f32["B", 3, 4], axes=np.array([-1, -2]), axes2=np.array([1, 2]), eps=1e-3, w=f32[4]),
        Case("half precision", x=f16["B", 8], axes=LAST, axes2=LAST, eps=1e-1, w=f16[8]),
        Refused("unequal axes", x=f32["B", 4, 4], axes=LAST, axes2=np.array([1]), eps=1e-5, w=2.0,
                because="different axes"),
        Refused("channels first", x=f32["B", 4, "N"], axes=np.array([1]), axes2=np.array([1]), eps=1e-5, w=2.0,
                because="not over the last axes"),
        Refused("negative epsilon", x=f32["B", 8], axes=LAST, axes2=LAST, eps=-1e-5, w=2.0, because="epsilon"),
    ]  # fmt: skip


@rule(group="norms", safety=CLOSE("0 but for rounding"), since=18)
class CentredConstantRows:
    """What is centred needs no 0 put in for rows whose entries are all alike.

    Sound because the mean of such a row is its entry, so that they are 0 anyway. Equinox guards its LayerNorm so.
    """

    def pattern(op, x: floats, least: Const, most: Const, axes: Const):
        mean = op.shared(op.ReduceMean(x, axes))
        alike = op.Equal(op.ReduceMin(x, least), op.ReduceMax(x, most))
        finite = op.Equal(op.Sub(mean, mean), 0.0)
        return op.Where(op.either(op.And(alike, finite), alike), 0.0, op.Sub(x, mean))

    def unless(m):
        d = dims(m.x)
        if not d:
            return "the input is not known to have an axis"
        least, most, axes = ({int(a) % len(d) for a in array(v).reshape(-1)} for v in (m.least, m.most, m.axes))
        return None if least and least == most == axes else "what is alike is not what the mean is of"

    def rewrite(op, m):
        return op.Sub(m.x, op.ReduceMean(m.x, m.axes))

    cases = [
        Case("Equinox", x=f32["B", "S", 8], least=LAST, most=LAST, axes=np.array([2])),
        Case("two axes", x=f32["B", 3, 4], least=np.array([1, 2]), most=np.array([-1, -2]), axes=np.array([1, 2])),
        Refused("another axis", x=f32["B", 4, 4], least=np.array([1]), most=np.array([1]), axes=LAST, because="is alike"),
    ]


@rule(group="norms", safety=CLOSE("two factors are multiplied in another order"), since=13)
class ScaleAfterRoot:
    """What is multiplied by a reciprocal root and by a constant is multiplied by the constant last.

    Sound because a product may be taken in any order. What a norm's scale multiplies may be what is centred.
    """

    def pattern(op, x: floats, y, w: Const):
        root = op.Sqrt(y)
        inverse = op.either(op.Reciprocal(root), op.Div(1.0, root))
        return op.either(op.Mul(op.Mul(x, w), inverse), op.Div(op.Mul(x, w), root))

    def unless(m):
        x, root = dims(m.x), dims(m.y)
        if x is None or root is None or len(root) != len(x) or not x:
            return "the root is not known to be one for each row"
        if root[-1] != 1 or x[-1] == 1 or any(n not in (1, d) for n, d in zip(root, x, strict=True)):
            return "the root is not known to be one for each row"
        w = array(m.w).shape
        fits = len(w) <= len(x) and all(n in (1, d) for n, d in zip(w[::-1], x[::-1], strict=False))
        return None if fits else "the constant may widen the result"

    def rewrite(op, m):
        return op.Mul(op.Mul(m.x, op.Reciprocal(op.Sqrt(m.y))), m.w)

    cases = [
        Case("a scale", x=f32["B", "S", 8], y=f32["B", "S", 1], w=f32[8]),
        Case("a number", x=f32["B", 8], y=f32["B", 1], w=2.0),
        Refused("a root for each entry", x=f32["B", 8], y=f32["B", 8], w=f32[8], because="one for each row"),
        Refused("wider", x=f32["B", 3], y=f32["B", 1], w=f32[2, 1, 3], because="widen"),
    ]


@rule(group="norms", safety=CLOSE("the same mean, divided before or after"), since=18)
class SumAsMean:
    """A sum, or a sum of squares, over as many entries as it is divided by is a mean.

    Sound because that is what a mean is.
    """

    def pattern(op, x: floats, axes: Const, squared: Const, keep, n: Scalar):
        total = op.either(op.ReduceSum(x, axes, keepdims=keep), op.ReduceSumSquare(x, squared, keepdims=keep))
        return op.either(op.Mul(total, n), op.Div(total, n))

    def unless(m):
        d, number = dims(m.x), float(scalar(m.n))
        if not d:
            return "the input is not known to have an axis"
        m.over = m.axes if m.squared is None else m.squared
        if m.keep not in (0, 1) or array(m.n).ndim > len(dims(m.nodes[1].outputs[0]) or ()):
            return "the result has other axes than the sum"
        sizes = [d[i] for i in {int(a) % len(d) for a in array(m.over).reshape(-1)}]
        if not sizes or not all(isinstance(n, int) and n > 0 for n in sizes):
            return "how many are summed is not known"
        divisor = number if m.root.op_type == "Div" else 1 / number if number else np.inf
        return None if near(divisor, float(np.prod(sizes)), m.n.dtype, 1e-6) else "it is not divided by how many are summed"

    def rewrite(op, m):
        x = m.x if m.squared is None else op.Mul(m.x, m.x)
        return op.ReduceMean(x, m.over) if m.keep else op.ReduceMean(x, m.over, keepdims=0)

    cases = [
        Case("Flax", x=f32["B", "S", 8], axes=np.array([2]), squared=np.array([2]), keep=0, n=8.0),
        Case("a factor", x=f32["B", 3, 4], axes=np.array([-1, 1]), squared=np.array([1, 2]), keep=1, n=1 / 12),
        Refused("of some", x=f32["B", 8], axes=np.array([1]), squared=np.array([1]), keep=1, n=7.0, because="divided by"),
        Refused("of how many", x=f32["B", 8], axes=np.array([0]), squared=np.array([0]), keep=1, n=2.5, because="how many are"),
    ]
