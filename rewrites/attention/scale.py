"""The scale of an Attention, written out and rounded once."""

import numpy as np
from olc.rules import CLOSE, Attrs, Case, Many, Refused, attr, dims, f32, rule

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
