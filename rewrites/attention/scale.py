"""The scale of an Attention, written out and rounded once."""

import numpy as np
from olc.rules import CLOSE, Attrs, Case, Many, Refused, Scalar, attr, dims, f32, rule, scalar

from ._scale import snapped


@rule(group="attention", safety=CLOSE("the scale is rounded once instead of several times"), since=23)
class AttentionScale:
    """Attention's scale is written out, and is the reciprocal root of the size of a head where it is that up to rounding.

    Sound because that is what a missing scale stands for; exporters that split the scale in two roots lose its last digit.
    """

    def pattern(op, q: f32, others: Many, attrs: Attrs):
        return op.Attention(q, *others, **attrs)

    def unless(m):
        q, heads = dims(m.q), attr(m.root, "q_num_heads", 0)
        size = None if q is None or len(q) not in (3, 4) else q[-1]
        if not isinstance(size, int) or not size or (len(q) == 3 and (not heads or size % heads)):
            return "the size of a head is unknown"
        if len(m.root.outputs) > 1:
            return "it has other outputs"
        given = attr(m.root, "scale")
        m.scale = snapped(given, size // heads if len(q) == 3 else size)
        return "the scale is written out" if m.scale == given else None

    def rewrite(op, m):
        return op.Attention(m.q, *m.others, **{**m.attrs, "scale": m.scale})

    cases = [
        Case("none", q=f32["B", 2, "S", 4], others=[f32["B", 2, "T", 4], f32["B", 2, "T", 4]], attrs={}),
        Case("almost", q=f32["B", "S", 24], others=[f32["B", "T", 24], f32["B", "T", 24]],
             attrs={"scale": float(np.nextafter(np.float32(12**-0.5), np.float32(1))), "q_num_heads": 2, "kv_num_heads": 2}),
        Refused("another", q=f32["B", 2, "S", 4], others=[f32["B", 2, "T", 4], f32["B", 2, "T", 4]], attrs={"scale": 0.4},
                because="written out"),
        Refused("it", q=f32["B", 2, "S", 4], others=[f32["B", 2, "T", 4], f32["B", 2, "T", 4]], attrs={"scale": 0.5},
                because="written out"),
    ]  # fmt: skip


@rule(group="attention", safety=CLOSE("the product is scaled after it is summed"), since=23)
class AttentionScaledQueries:
    """A number that multiplies or divides the queries of an Attention, moved or not, goes into its scale.

    Sound because every score is a sum of products with entries of one query.
    """

    def pattern(op, q: f32, c: Scalar, perm, others: Many, attrs: Attrs):
        scaled = op.either(op.Mul(q, c), op.Div(q, c))
        return op.Attention(op.either(op.Transpose(scaled, perm=perm), scaled), *others, **attrs)

    def unless(m):
        given, number = attr(m.root, "scale"), float(scalar(m.c))
        if given is None:
            return "the scale is not written out"
        with np.errstate(all="ignore"):
            scale = float(np.float32(given * number if m.find("Div") is None else np.divide(given, number)))
        if not 0 < scale < np.inf:
            return "the scale would not be a positive number"
        if len(m.root.outputs) > 1:
            return "it has other outputs"
        q = dims(m.root.inputs[0])
        m.scale = snapped(scale, q[3] if q is not None and len(q) == 4 else None)
        return None

    def rewrite(op, m):
        q = m.q if m.find("Transpose") is None else op.Transpose(m.q, perm=m.find("Transpose").attributes["perm"].value)
        return op.Attention(q, *m.others, **{**m.attrs, "scale": m.scale})

    cases = [
        Case("Flax", q=f32["B", "S", 2, 4], c=0.5, perm=(0, 2, 1, 3), others=[f32["B", 2, "T", 4], f32["B", 2, "T", 4]],
             attrs={"scale": 1.0}),
        Refused("a negative one", q=f32["B", "S", 2, 4], c=-0.5, perm=(0, 2, 1, 3),
                others=[f32["B", 2, "T", 4], f32["B", 2, "T", 4]], attrs={"scale": 1.0}, because="positive"),
        Refused("none", q=f32["B", "S", 2, 4], c=0.5, perm=(0, 2, 1, 3), others=[f32["B", 2, "T", 4], f32["B", 2, "T", 4]],
                attrs={}, because="written out"),
    ]  # fmt: skip
