"""Padding with zeros in front of a convolution."""

import numpy as np
from olc.rules import CLOSE, Attrs, Case, Const, Refused, Value, array, dims, f32, floats, rule, scalar


@rule(group="conv", safety=CLOSE("the runtime may sum in another order"), since=11)
class PadIntoConv:
    """A Pad with zeros goes into the padding of the convolution after it.

    Sound because a convolution reads zeros beyond the edges: more of them change nothing but the sizes that the Pad
    gave. It must pad the spatial axes only, and add, not crop. (Pooling is another matter: its padding is not zeros.)
    """

    def pattern(op, x: floats, pads: Const, value: Const | None, axes: Const | None, mode, w, b: Value | None,
                attrs: Attrs):  # fmt: skip
        return op.Conv(op.Pad(x, pads, value, axes, mode=mode), w, b, **attrs)

    def unless(m):
        if m.mode != "constant":
            return "it pads with copies, not with zeros"
        if m.value is not None and scalar(m.value) != 0:
            return "it pads with another number than 0"
        auto = m.attrs["auto_pad"].value if "auto_pad" in m.attrs else "NOTSET"
        if auto not in ("NOTSET", "VALID"):
            return "the convolution chooses its own padding"
        amounts = array(m.pads).reshape(-1).tolist()
        count = len(amounts) // 2
        axes = range(count) if m.axes is None else array(m.axes).reshape(-1).tolist()
        if min(amounts, default=0) < 0:
            return "it crops"
        shape = dims(m.x) or dims(m.w)
        if shape is None:
            return "it may pad the batch or the channels"
        before, after = [0] * len(shape), [0] * len(shape)
        for i, axis in enumerate(axes):
            before[axis], after[axis] = amounts[i], amounts[count + i]
        if any(before[:2] + after[:2]):
            return "it may pad the batch or the channels"
        m.total = before[2:] + after[2:]
        if auto == "NOTSET" and "pads" in m.attrs:
            m.total = [p + q for p, q in zip(m.total, m.attrs["pads"].value, strict=True)]

    def rewrite(op, m):
        others = {k: a for k, a in m.attrs.items() if k not in ("pads", "auto_pad")}
        return op.Conv(m.x, m.w, m.b, **others, pads=m.total)

    cases = [
        Case("asymmetric", x=f32["N", 2, 5, 5], pads=np.array([0, 0, 0, 0, 0, 0, 1, 1]), value=0.0, axes=None,
             mode="constant", w=f32[3, 2, 3, 3], b=f32[3], attrs={"strides": [2, 2]}),
        Case("padding twice", x=f32["N", 2, 5, "W"], pads=np.array([0, 0, 2, 1, 0, 0, 0, 3]), value=None, axes=None,
             mode="constant", w=f32[3, 2, 3, 3], b=None, attrs={"pads": [1, 0, 0, 1]}),
        Case("axes", x=f32["N", 2, 5, "W"], pads=np.array([1, 2]), value=0.0, axes=np.array([-2]), opset=18,
             mode="constant", w=f32[3, 2, 3, 3], b=None, attrs={"auto_pad": "VALID"}),
        Refused("reflection", x=f32["N", 2, 5], pads=np.array([0, 0, 1, 0, 0, 1]), value=None, axes=None,
                mode="reflect", w=f32[3, 2, 3], b=None, attrs={}, because="it pads with copies"),
        Refused("ones", x=f32["N", 2, 5], pads=np.array([0, 0, 1, 0, 0, 1]), value=1.0, axes=None, mode="constant",
                w=f32[3, 2, 3], b=None, attrs={}, because="another number than 0"),
        Refused("channels", x=f32["N", 1, 5], pads=np.array([0, 1, 1, 0, 0, 1]), value=0.0, axes=None, mode="constant",
                w=f32[3, 2, 3], b=None, attrs={}, because="the batch or the channels"),
        Refused("cropping", x=f32["N", 2, 5], pads=np.array([0, 0, -1, 0, 0, 1]), value=0.0, axes=None, mode="constant",
                w=f32[3, 2, 3], b=None, attrs={}, because="it crops"),
        Refused("the same size", x=f32["N", 2, 5], pads=np.array([0, 0, 1, 0, 0, 1]), value=0.0, axes=None,
                mode="constant", w=f32[3, 2, 3], b=None, attrs={"auto_pad": "SAME_UPPER"},
                because="chooses its own padding"),
    ]  # fmt: skip
