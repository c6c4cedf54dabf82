"""Global pooling."""

import numpy as np
from olc.rules import CLOSE, Attrs, Case, Const, Refused, Value, array, dims, f16, f32, floats, rule


@rule(group="conv", safety=CLOSE("the runtime may sum in another order"), since=18)
class MeanOverImage:
    """The mean over all spatial axes of a convolution's output is GlobalAveragePool (and Squeeze, without keepdims).

    Sound by its definition. It pays only behind a convolution and its activation: ONNX Runtime keeps images between
    convolutions in blocks of channels, which this operator reads and ReduceMean does not. Elsewhere ReduceMean is
    faster, and stays.
    """

    def pattern(op, x, w: f32, b: Value | None, conv: Attrs, axes: Const, lo: Value | None, hi: Value | None, other,
                act: Attrs, keep):  # fmt: skip
        y = op.shared(op.Conv(x, w, b, **conv))
        image = op.either(
            y,
            op.shared(op.Clip(y, lo, hi)),
            op.shared(op.oneof("Relu", "HardSwish", "LeakyRelu")(y, **act)),
            op.shared(op.domain("com.microsoft").QuickGelu(y, **act)),
            op.shared(op.Mul(y, other)),
            op.shared(op.Add(y, other)),
            op.shared(op.Relu(op.shared(op.Add(y, other)))),
        )
        return op.ReduceMean(image, axes, keepdims=keep)

    def unless(m):
        d = dims(m.root.inputs[0])
        if not d or {int(a) % len(d) for a in array(m.axes).reshape(-1)} != set(range(2, len(d))):
            return "the mean is not over all spatial axes and no other"
        if len(d) == 3:
            return "it is no image"
        if m.keep not in (0, 1):
            return "keepdims is neither 0 nor 1"

    def rewrite(op, m):
        mean = op.GlobalAveragePool(m.root.inputs[0])
        return mean if m.keep else op.Squeeze(mean, np.sort(array(m.axes) % len(dims(m.root.inputs[0]))))

    cases = [
        Case("EfficientNet's head", x=f32["N", 2, "H", "W"], w=f32[3, 2, 1, 1], b=f32[3], conv={},
             axes=np.array([-1, -2]), lo=0.0, hi=6.0, other=f32["N", 3, 1, 1], act={}, keep=1),
        Case("without keepdims", x=f32["N", 2, "H", 3], w=f32[3, 2, 1, 1], b=None, conv={}, axes=np.array([3, 2]), lo=0.0,
             hi=None, other=f32["N", 3, "H", 3], act={}, keep=0),
        Refused("sound", x=f32["N", 2, "L"], w=f32[3, 2, 1], b=None, conv={}, axes=np.array([2]), lo=0.0, hi=None,
                other=f32["N", 3, "L"], act={}, keep=0, because="no image"),
        Refused("one axis", x=f32["N", 2, "H", "W"], w=f32[3, 2, 1, 1], b=None, conv={}, axes=np.array([3]), lo=0.0,
                hi=6.0, other=f32["N", 3, 1, 1], act={}, keep=1, because="not over all spatial axes"),
        Refused("channels too", x=f32["N", 2, "H"], w=f32[3, 2, 1], b=None, conv={}, axes=np.array([1, 2]), lo=0.0,
                hi=6.0, other=f32["N", 3, 1], act={}, keep=0, because="not over all spatial axes"),
        Refused("a count", x=f32["N", 2, "H", 3], w=f32[3, 2, 1, 1], b=f32[3], conv={}, axes=np.array([2, 3]), lo=0.0,
                hi=6.0, other=f32["N", 3, 1, 1], act={}, keep=2, because="neither 0 nor 1"),
    ]  # fmt: skip


@rule(group="norms", safety=CLOSE("the runtime may sum in another order"), since=18)
class MeanOfRows:
    """GlobalAveragePool of a tensor of three axes is the mean over the last: how tf2onnx writes a mean that a norm takes.

    Sound by its definition.
    """

    def pattern(op, x: floats):
        return op.GlobalAveragePool(x)

    def unless(m):
        if len(dims(m.x) or ()) != 3:
            return "it is not known to be over the last axis alone"

    def rewrite(op, m):
        return op.ReduceMean(m.x, np.array([-1]), keepdims=1)

    cases = [
        Case("a block", x=f32["B", "S", 8]),
        Case("half precision", x=f16["B", 3, 8]),
        Refused("an image", x=f32["N", 2, "H", "W"], because="the last axis alone"),
    ]
