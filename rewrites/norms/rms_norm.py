"""RMSNormalization from its parts, its scale, and its half-precision form."""

import numpy as np
from olc.rules import CLOSE, F16, F32, Attrs, Case, Const, Refused, Scalar, array, f16, f32, rule

from .._helpers import narrow_floats
from ._parts import aligned, mean, over_root, rounded, why_not, why_not_in_half

LAST = np.array([-1])


@rule(group="norms", safety=CLOSE("the same function, rounded elsewhere"), since=23, emits="RMSNormalization")
class RmsNorm:
    """Square, mean, root and quotient over the last axes are RMSNormalization with a scale of ones.

    Sound because those are its definition: the mean is over trailing axes, the exponent is 2, the value that is divided
    is the one whose square is averaged, and epsilon is added under the root. The scale is taken in by another
    rule, also where it multiplies the root.
    """

    def pattern(op, x: narrow_floats, axes: Const, eps: Scalar, w: Const | None):
        square = op.either(op.Pow(x, 2.0), op.Mul(x, x))
        return over_root(op, x, op.Add(mean(op, square, axes), eps), w)

    def unless(m):
        return why_not(m, m.axes)

    def rewrite(op, m):
        ones = op.constant(np.ones(m.shape), m.x.dtype)
        y = op.RMSNormalization(m.x, ones, axis=-len(m.shape), epsilon=m.epsilon)
        return y if m.w is None else op.Mul(y, m.w)

    cases = [
        Case("a block", x=f32["B", "S", 8], axes=LAST, eps=1e-5, w=f32[8]),
        Case("heads", x=f32["B", "S", 2, 4], axes=LAST, eps=1e-6, w=f32[2, 1]),
        Case("two axes", x=f32["B", 3, 4], axes=np.array([-2, -1]), eps=1e-5, w=f32[3, 4]),
        Case("half precision", x=f16["B", 8], axes=LAST, eps=1e-3, w=f16[8]),
        Refused("channels first", x=f32["B", 4, "N"], axes=np.array([1]), eps=1e-5, w=2.0,
                because="not over the last axes"),
        Refused("negative epsilon", x=f32["B", 8], axes=LAST, eps=-1e-5, w=2.0, because="epsilon"),
    ]  # fmt: skip


@rule(group="norms", safety=CLOSE("scale and constant are multiplied beforehand"), since=23)
class ScaleOfRmsNorm:
    """A constant factor after RMSNormalization goes into its scale.

    Sound because the scale is the last factor, and ``c`` varies only along the normalised axes.
    """

    def pattern(op, x, w: Const, c: Const, attrs: Attrs):
        return op.Mul(op.RMSNormalization(x, w, **attrs), c)

    def unless(m):
        factor = aligned(m.c, m)
        if isinstance(factor, str):
            return factor
        m.scale = rounded(array(m.w) * factor, m.w)
        return m.scale if isinstance(m.scale, str) else None

    def rewrite(op, m):
        return op.RMSNormalization(m.x, m.scale, **m.attrs)

    cases = [
        Case("a block", x=f32["B", "S", 8], w=np.ones(8, np.float32), c=f32[8], attrs={"epsilon": 1e-5}),
        Case("leading ones", x=f32["B", "S", 8], w=f32[8], c=f32[1, 8], attrs={"axis": -1}),
        Case("a number", x=f32["B", 8], w=f32[8], c=0.125, attrs={}),
        Refused("a factor for each position", x=f32["B", 5, 8], w=f32[8], c=f32[5, 1], attrs={},
                because="the constant varies along other axes"),
        Refused("unknown size", x=f32["B", "D"], w=np.ones(2, np.float32), c=2.0, attrs={},
                because="not known to have the shape"),
        Refused("overflow", x=f32["B", 2], w=np.full(2, 1e30, np.float32), c=1e30, attrs={},
                because="the combined constant would be too large"),
    ]  # fmt: skip


@rule(group="norms", safety=CLOSE("a product is rounded twice"), since=23)
class RmsNormInHalf:
    """RMSNormalization between casts to float32 and back is RMSNormalization of the half-precision value.

    Sound because the operator computes in float32 anyway (``stash_type=1``) and rounds before the scale, which must be
    exact in half precision; ones are, and exporters put the real scale after the cast back.
    """

    def pattern(op, x: f16, w: Const, attrs: Attrs):
        return op.Cast(op.RMSNormalization(op.Cast(x, to=F32), w, **attrs), to=F16)

    unless = why_not_in_half

    def rewrite(op, m):
        return op.RMSNormalization(m.x, m.scale, **m.attrs)

    cases = [
        Case("Llama's", x=f16["B", "S", 8], w=np.ones(8, np.float32), attrs={"epsilon": 1e-5}),
        Refused("a scale of more digits", x=f16["B", 8], w=np.full(8, 0.1, np.float32), attrs={},
                because="exact in half precision"),
        Refused("computed in half", x=f16["B", 8], w=np.ones(8, np.float32), attrs={"stash_type": 10},
                because="does not compute in float32"),
    ]  # fmt: skip
