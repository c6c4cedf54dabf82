"""BatchNormalization after a convolution."""

import numpy as np
from olc.rules import CLOSE, Attrs, Case, Const, Refused, array, f32, rule

from . import _fold


def _unless(m):
    scale, shift, mean, var = (array(v).astype(np.float64) for v in (m.scale, m.shift, m.mean, m.var))
    with np.errstate(all="ignore"):
        factor = scale / np.sqrt(var + m.epsilon)
        bias = (_fold.bias_of(m) - mean) * factor + shift
        return _fold.copied(m) or _fold.set_weights(m, _fold.scaled_out(m, factor), bias)


@rule(group="conv", safety=CLOSE("constants are multiplied beforehand"), since=9)
class ConvBatchNorm:
    """BatchNormalization with stored statistics goes into the weights of the convolution before it.

    Sound because in inference it is ``y * f + (shift - mean * f)`` with ``f = scale / sqrt(var + epsilon)`` for each
    output channel, and a convolution is linear. Its output must have no other user, and the weights must be constant.
    """

    def pattern(op, x, w: Const, b: Const | None, attrs: Attrs, scale: Const, shift: Const, mean: Const, var: Const,
                epsilon, momentum):  # fmt: skip
        y = op.Conv(x, w, b, **attrs)
        return op.BatchNormalization(y, scale, shift, mean, var, epsilon=epsilon, momentum=momentum)

    unless = _unless

    def rewrite(op, m):
        return _fold.rebuilt(op, m)

    # Momentum is not set: below opset 14 onnx's reference evaluator takes it for a sign of training, against the text.
    cases = [
        Case("a block", x=f32["N", 4, 5, 5], w=f32[4, 4, 3, 3], b=None, attrs={"pads": [1, 1, 1, 1]}, scale=f32[4],
             shift=f32[4], mean=f32[4], var=np.linspace(0.5, 2, 4, dtype=np.float32), epsilon=1e-3, momentum=None),
        Case("depthwise with bias", x=f32[1, 4, "L"], w=f32[4, 1, 1], b=f32[4], attrs={"group": 4}, scale=f32[4],
             shift=f32[4], mean=f32[4], var=np.ones(4, np.float32), epsilon=1e-5, momentum=None),
        Case("groups", x=f32[1, 4, 3, 3], w=f32[4, 2, 2, 2], b=f32[4], attrs={"group": 2}, scale=f32[4],
             shift=f32[4], mean=f32[4], var=np.ones(4, np.float32), epsilon=1e-5, momentum=None),
        Refused("negative variance", x=f32["N", 2, 5, 5], w=f32[2, 2, 3, 3], b=None, attrs={}, scale=f32[2],
                shift=f32[2], mean=f32[2], var=-np.ones(2, np.float32), epsilon=1e-3, momentum=None,
                because="a folded weight would be too large"),
    ]  # fmt: skip


@rule(group="conv", safety=CLOSE("constants are multiplied beforehand"), since=9)
class ConvTransposeBatchNorm:
    """BatchNormalization with stored statistics goes into the weights of the transposed convolution before it.

    Sound as for a convolution: an output channel is on axis 1 of the weight, within its group.
    """

    def pattern(op, x, w: Const, b: Const | None, attrs: Attrs, scale: Const, shift: Const, mean: Const, var: Const,
                epsilon, momentum):  # fmt: skip
        y = op.ConvTranspose(x, w, b, **attrs)
        return op.BatchNormalization(y, scale, shift, mean, var, epsilon=epsilon, momentum=momentum)

    unless = _unless

    def rewrite(op, m):
        return _fold.rebuilt(op, m)

    # No groups: onnx's reference evaluator gives every group the bias of the first.
    cases = [
        Case("upsampling", x=f32["N", 3, 4, 4], w=f32[3, 4, 2, 2], b=None, attrs={"strides": [2, 2]}, scale=f32[4],
             shift=f32[4], mean=f32[4], var=np.linspace(0.5, 2, 4, dtype=np.float32), epsilon=1e-3, momentum=None),
        Case("with bias", x=f32[1, 4, "L"], w=f32[4, 2, 1], b=f32[2], attrs={}, scale=f32[2], shift=f32[2],
             mean=f32[2], var=np.ones(2, np.float32), epsilon=1e-5, momentum=None),
        Refused("negative variance", x=f32["N", 2, 5, 5], w=f32[2, 2, 3, 3], b=None, attrs={}, scale=f32[2],
                shift=f32[2], mean=f32[2], var=-np.ones(2, np.float32), epsilon=1e-3, momentum=None,
                because="a folded weight would be too large"),
    ]  # fmt: skip
