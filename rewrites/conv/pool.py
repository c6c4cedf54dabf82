"""Global pooling."""

import numpy as np

from olc.rules import CLOSE, Case, Const, Refused, array, dims, f32, rule

_BETWEEN = {"Add", "BatchNormalization", "Clip", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mul", "QuickGelu",
            "Relu", "Sigmoid", "Tanh"}  # fmt: skip
_STEPS = 8


def _after_conv(x):
    """Is the value a convolution's output, elementwise operators aside?"""
    for _ in range(_STEPS):
        node = x.producer()
        if node is None:
            return False
        if node.op_type in ("Conv", "FusedConv"):
            return True
        if node.op_type not in _BETWEEN:
            return False
        x = node.inputs[0]
    return False


@rule(group="conv", safety=CLOSE("the runtime may sum in another order"), since=18)
class MeanOverImage:
    """The mean over all spatial axes of a convolution's output is GlobalAveragePool.

    Sound by its definition. It pays only behind a convolution: ONNX Runtime keeps images between convolutions in blocks
    of channels, which this operator can read and ReduceMean cannot; elsewhere ReduceMean is faster.
    """

    def pattern(op, x: f32, axes: Const):
        return op.ReduceMean(x, axes)

    def unless(m):
        d = dims(m.x)
        if d is None or len(d) < 3:
            return "it is not known to be a mean over images"
        if {int(a) % len(d) for a in array(m.axes).reshape(-1)} != set(range(2, len(d))):
            return "the mean is not over all spatial axes and no other"
        if not _after_conv(m.x):
            return "there is no convolution in front, so ReduceMean is faster"

    def rewrite(op, m):
        return op.GlobalAveragePool(m.x)

    cases = []
