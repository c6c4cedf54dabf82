"""LayerNormalization from its parts, then its scale and its bias."""

import numpy as np
from olc.rules import CLOSE, F16, F32, Attrs, Case, Const, Refused, Scalar, array, f16, f32, rule

from .._helpers import narrow_floats
from ._parts import aligned, inverse_root, mean, over_root, rounded, why_not, why_not_in_half

LAST = np.array([-1])


def _norm(op, m):
    ones = op.constant(np.ones(m.shape), m.x.dtype)
    y = op.LayerNormalization(m.x, ones, axis=-len(m.shape), epsilon=m.epsilon)
    return y if m.w is None else op.Mul(y, m.w)


@rule(group="norms", safety=CLOSE("the same function, rounded elsewhere"), since=18, emits="LayerNormalization")
class LayerNorm:
    """Centre, square, mean, root and quotient over the last axes are LayerNormalization with a scale of ones.

    Sound because those are its definition: both means are over the same trailing axes, the exponent is 2, the value
    that is divided is the one whose square is averaged, and epsilon is added under the root. Scale and bias, where the
    model has them, are taken in by two other rules.
    """

    def pattern(op, x: narrow_floats, axes: Const, axes2: Const, eps: Scalar, w: Const | None):
        centred = op.Sub(x, op.ReduceMean(x, axes))
        square = op.either(op.Pow(centred, 2.0), op.Mul(centred, centred))
        return over_root(op, centred, op.Add(mean(op, square, axes2), eps), w)

    def unless(m):
        return why_not(m, m.axes, m.axes2)

    def rewrite(op, m):
        return _norm(op, m)

    cases = [
        Case("a block", x=f32["B", "S", 8], axes=LAST, axes2=LAST, eps=1e-5, w=f32[8]),
        Case("two axes", x=f32["B", 3, 4], axes=np.array([-1, -2]), axes2=np.array([1, 2]), eps=1e-12, w=f32[1]),
        Case("half precision", x=f16["B", 8], axes=LAST, axes2=LAST, eps=1e-3, w=f16[8]),
        Refused("unequal axes", x=f32["B", 4, 4], axes=LAST, axes2=np.array([1]), eps=1e-5, w=2.0,
                because="different axes"),
        Refused("channels first", x=f32["B", 4, "N"], axes=np.array([1]), axes2=np.array([1]), eps=1e-5, w=2.0,
                because="not over the last axes"),
        Refused("negative epsilon", x=f32["B", 8], axes=LAST, axes2=LAST, eps=-1e-5, w=2.0, because="epsilon"),
    ]  # fmt: skip


@rule(group="norms", safety=CLOSE("the same function, rounded elsewhere"), since=18, emits="LayerNormalization")
class LayerNormApart:
    """The input and its mean, each multiplied by the inverse root, are LayerNormalization: how TensorFlow writes it.

    Sound because ``x r + (b - mean r) = (x - mean) r + b``, where ``r`` is the inverse root, times the scale if there is one;
    and the rest is as in layer-norm. Two norms of one input, as layers side by side have them, share mean and root.
    """

    def pattern(op, x: narrow_floats, axes: Const, axes2: Const, eps: Scalar, w: Const | None, b: Const | None):
        mean = op.shared(op.ReduceMean(x, axes))
        centred = op.shared(op.Sub(x, mean))
        square = op.either(op.shared(op.Pow(centred, 2.0)), op.shared(op.Mul(centred, centred)))
        inverse = inverse_root(op, op.shared(op.Add(op.shared(op.ReduceMean(square, axes2)), eps)), op.shared)
        r = op.either(inverse, op.Mul(inverse, w))
        moved = op.Mul(op.shared(op.Neg(mean)), r)
        shift = op.either(moved, op.Add(moved, b), op.Sub(b, op.Mul(mean, r)))
        return op.either(op.Add(op.Mul(x, r), shift), op.Sub(op.Mul(x, r), op.Mul(mean, r)))

    def unless(m):
        return why_not(m, m.axes, m.axes2)

    def rewrite(op, m):
        y = _norm(op, m)
        return y if m.b is None else op.Add(y, m.b)

    cases = [
        Case("Keras", x=f32["B", "S", 8], axes=LAST, axes2=LAST, eps=1e-5, w=f32[8], b=f32[8]),
        Case("two axes", x=f32["B", 3, 4], axes=np.array([-1, -2]), axes2=np.array([1, 2]), eps=1e-12, w=f32[1], b=f32[4]),
        Case("half precision", x=f16["B", 8], axes=LAST, axes2=LAST, eps=1e-3, w=f16[8], b=f16[8]),
        Refused("unequal axes", x=f32["B", 4, 4], axes=LAST, axes2=np.array([1]), eps=1e-5, w=2.0, b=1.0,
                because="different axes"),
    ]  # fmt: skip


@rule(group="norms", safety=CLOSE("scale and constant are multiplied beforehand"), since=17)
class ScaleOfLayerNorm:
    """A constant factor after LayerNormalization goes into its scale, and into its bias if it has one.

    Sound because ``(n * w + b) * c = n * (w c) + b c``, where ``c`` varies only along the normalised axes. A norm without scale
    that others use too stays for these: two norms of one input are two operators.
    """

    def pattern(op, x, w: Const, b: Const | None, c: Const, attrs: Attrs):
        return op.Mul(op.shared(op.LayerNormalization(x, w, b, **attrs)), c)

    def unless(m):
        norm = m.find("LayerNormalization").outputs[0]
        if (len(norm.uses()) > 1 or norm.is_graph_output()) and (m.b is not None or not (array(m.w) == 1).all()):
            return "others use the norm with the scale and bias that it has"
        factor = aligned(m.c, m)
        if isinstance(factor, str):
            return factor
        m.scale = rounded(array(m.w) * factor, m.w)
        m.bias = None if m.b is None else rounded(array(m.b) * factor, m.b)
        return next((text for text in (m.scale, m.bias) if isinstance(text, str)), None)

    def rewrite(op, m):
        return op.LayerNormalization(m.x, m.scale, m.bias, **m.attrs)

    cases = [
        Case("a block", x=f32["B", "S", 8], w=np.ones(8, np.float32), b=None, c=f32[8], attrs={"epsilon": 1e-5}),
        Case("with bias", x=f32["B", "S", 8], w=f32[8], b=f32[8], c=f32[1, 1, 8], attrs={"axis": -1}),
        Case("a number", x=f32["B", 8], w=f32[8], b=f32[8], c=0.125, attrs={}),
        Refused("a factor for each position", x=f32["B", 5, 8], w=f32[8], b=None, c=f32[5, 1], attrs={},
                because="the constant varies along other axes"),
        Refused("unknown size", x=f32["B", "D"], w=np.ones(2, np.float32), b=None, c=2.0, attrs={},
                because="not known to have the shape"),
        Refused("overflow", x=f32["B", 2], w=np.full(2, 1e30, np.float32), b=None, c=1e30, attrs={},
                because="the combined constant would be too large"),
    ]  # fmt: skip


@rule(group="norms", safety=CLOSE("two constants may be added beforehand"), since=17)
class BiasOfLayerNorm:
    """A constant added after LayerNormalization becomes its bias, or is added to the bias that it has.

    Sound because the bias is added last, and ``c`` varies only along the normalised axes.
    """

    def pattern(op, x, w: Const, b: Const | None, c: Const, attrs: Attrs):
        return op.Add(op.LayerNormalization(x, w, b, **attrs), c)

    def unless(m):
        bias = aligned(m.c, m)
        if isinstance(bias, str):
            return bias
        m.bias = rounded(bias if m.b is None else bias + array(m.b), m.c)
        return m.bias if isinstance(m.bias, str) else None

    def rewrite(op, m):
        return op.LayerNormalization(m.x, m.w, m.bias, **m.attrs)

    cases = [
        Case("a block", x=f32["B", "S", 8], w=f32[8], b=None, c=f32[8], attrs={"epsilon": 1e-5}),
        Case("with bias", x=f32["B", "S", 8], w=f32[8], b=f32[8], c=f32[1, 1, 8], attrs={"axis": 2}),
        Case("a number", x=f32["B", 8], w=f32[8], b=None, c=0.5, attrs={}),
        Refused("a position embedding", x=f32["B", 5, 8], w=f32[8], b=None, c=f32[5, 8], attrs={},
                because="the constant varies along other axes"),
        Refused("unknown size", x=f32["B", "D"], w=np.ones(2, np.float32), b=None, c=2.0, attrs={},
                because="not known to have the shape"),
        Refused("overflow", x=f32["B", 2], w=f32[2], b=np.full(2, 3e38, np.float32), c=3e38, attrs={},
                because="the combined constant would be too large"),
    ]  # fmt: skip


@rule(group="norms", safety=CLOSE("a zero may lose its sign"), since=17)
class LayerNormWithoutBias:
    """A bias of zeros is no bias.

    Sound because adding 0 changes nothing but the sign of a zero.
    """

    def pattern(op, x, w, b: Const, attrs: Attrs):
        return op.LayerNormalization(x, w, b, **attrs)

    def unless(m):
        return "the bias is not all zeros" if array(m.b).any() else None

    def rewrite(op, m):
        return op.LayerNormalization(m.x, m.w, **m.attrs)

    cases = [
        Case("zeros", x=f32["B", "S", 8], w=f32[8], b=np.zeros(8, np.float32), attrs={"axis": -1}),
        Refused("a bias", x=f32["B", "S", 2], w=f32[2], b=np.array([0, 1], np.float32), attrs={}, because="not all zeros"),
    ]


@rule(group="norms", safety=CLOSE("a product is rounded twice"), since=17)
class LayerNormInHalf:
    """LayerNormalization without bias between casts to float32 and back is that of the half-precision value.

    Sound because the operator computes in float32 anyway (``stash_type=1``); its scale must be exact in half precision.
    """

    def pattern(op, x: f16, w: Const, attrs: Attrs):
        return op.Cast(op.LayerNormalization(op.Cast(x, to=F32), w, **attrs), to=F16)

    unless = why_not_in_half

    def rewrite(op, m):
        return op.LayerNormalization(m.x, m.scale, **m.attrs)

    cases = [
        Case("mixed precision", x=f16["B", "S", 8], w=np.ones(8, np.float32), attrs={"epsilon": 1e-5}),
        Refused("a scale of more digits", x=f16["B", 8], w=np.full(8, 0.1, np.float32), attrs={},
                because="exact in half precision"),
        Refused("computed in half", x=f16["B", 8], w=np.ones(8, np.float32), attrs={"stash_type": 10},
                because="does not compute in float32"),
    ]  # fmt: skip
