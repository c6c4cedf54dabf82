"""Constants in front of a convolution."""

import numpy as np
from olc.rules import CLOSE, Attrs, Case, Const, Refused, array, f32, rule

from . import _fold


def _padded(m):
    """Does the convolution read zeros beyond the edge of its input?"""
    pad = m.attrs.get("auto_pad")
    if pad is not None and pad.value not in ("NOTSET", "VALID"):
        return True
    pads = m.attrs.get("pads")
    return pads is not None and any(pads.value) and (pad is None or pad.value == "NOTSET")


@rule(group="conv", safety=CLOSE("constants are multiplied beforehand"))
class ScaleBeforeConv:
    """A constant factor or divisor for each channel of a convolution's input goes into its weights.

    Sound because a convolution is linear in its input, and the zeros that padding adds stay zeros when they are scaled.
    """

    def pattern(op, x, w: Const, b: Const | None, attrs: Attrs, c: Const, divisor: Const):
        return op.Conv(op.either(op.Mul(x, c), op.Div(x, divisor)), w, b, **attrs)

    def unless(m):
        factor = _fold.per_channel(m.divisor if m.c is None else m.c, array(m.w).ndim, _fold.in_channels(m))
        if factor is None:
            return "the constant is not one for each input channel"
        if not _fold.input_channels_known(m):
            return "the constant may broadcast the input to another shape"
        w = _fold.by_input(m)
        with np.errstate(all="ignore"):
            factor = factor if m.divisor is None else 1 / factor
            scaled = (w * factor.reshape(w.shape[0], 1, w.shape[2], 1)).reshape(array(m.w).shape)
            return _fold.copied(m) or _fold.set_weights(m, scaled)

    def rewrite(op, m):
        m.bias = None
        return _fold.rebuilt(op, m)

    cases = [
        Case("pixels in bytes", x=f32["N", 3, 5, 5], w=f32[2, 3, 3, 3], b=f32[2], attrs={"pads": [1, 1, 1, 1]},
             c=1 / 255, divisor=255.0),
        Case("a factor for each channel", x=f32[1, 4, "L"], w=f32[6, 2, 1], b=None, attrs={"group": 2},
             c=f32[1, 4, 1], divisor=np.linspace(0.5, 2, 4, dtype=np.float32).reshape(4, 1)),
        Refused("a factor for each column", x=f32["N", 4, 4, 4], w=f32[4, 4, 1, 1], b=None, attrs={}, c=f32[4],
                divisor=f32[4], because="not one for each input channel"),
        Refused("one channel becomes many", x=f32["N", 1, 5], w=f32[2, 4, 1], b=None, attrs={}, c=f32[4, 1],
                divisor=f32[4, 1], because="may broadcast"),
        Refused("overflow", x=f32["N", 2, 4], w=np.full((2, 2, 1), 1e30, np.float32), b=None, attrs={}, c=1e30,
                divisor=1e-30, because="a folded weight would be too large"),
    ]  # fmt: skip


@rule(group="conv", safety=CLOSE("constants are multiplied and added beforehand"))
class ShiftBeforeConv:
    """A constant for each channel added to a convolution's input goes into its bias, where there is no padding.

    Sound because a convolution is linear: the constant adds, for each output channel, the sum of its products with the
    weights of the whole kernel. With padding the kernel would meet zeros instead of the constant at the edges.
    """

    def pattern(op, x, w: Const, b: Const | None, attrs: Attrs, c: Const, minus: Const):
        return op.Conv(op.either(op.Add(x, c), op.Sub(x, minus)), w, b, **attrs)

    def unless(m):
        shift = _fold.per_channel(m.minus if m.c is None else m.c, array(m.w).ndim, _fold.in_channels(m))
        if shift is None:
            return "the constant is not one for each input channel"
        if not _fold.input_channels_known(m):
            return "the constant may broadcast the input to another shape"
        if _padded(m):
            return "the convolution is padded with zeros, not with the constant"
        w = _fold.by_input(m)
        with np.errstate(all="ignore"):
            shift = shift if m.minus is None else -shift
            added = (w * shift.reshape(w.shape[0], 1, w.shape[2], 1)).sum((2, 3)).reshape(-1)
            return _fold.set_weights(m, None, _fold.bias_of(m) + added)

    def rewrite(op, m):
        return _fold.rebuilt(op, m)

    cases = [
        Case("centred pixels", x=f32["N", 3, 5, 5], w=f32[2, 3, 3, 3], b=f32[2], attrs={"strides": [2, 2]},
             c=f32[3, 1, 1], minus=f32[1, 3, 1, 1]),
        Case("a number", x=f32[1, 4, "L"], w=f32[6, 2, 1], b=None, attrs={"group": 2, "auto_pad": "VALID"}, c=0.5,
             minus=0.5),
        Refused("padding", x=f32["N", 3, 5, 5], w=f32[2, 3, 3, 3], b=f32[2], attrs={"pads": [0, 0, 1, 1]}, c=0.5,
                minus=0.5, because="padded with zeros"),
        Refused("padding to the same size", x=f32["N", 3, 5], w=f32[2, 3, 3], b=f32[2], c=0.5, minus=0.5,
                attrs={"auto_pad": "SAME_UPPER"}, because="padded with zeros"),
        Refused("a number for each column", x=f32["N", 4, 4, 4], w=f32[4, 4, 1, 1], b=None, attrs={}, c=f32[4],
                minus=f32[4], because="not one for each input channel"),
        Refused("one channel becomes many", x=f32["N", 1, 5], w=f32[2, 4, 1], b=None, attrs={}, c=f32[4, 1],
                minus=f32[4, 1], because="may broadcast"),
    ]  # fmt: skip


@rule(group="conv", safety=CLOSE("constants are multiplied beforehand"), since=9)
class BatchNormBeforeConv:
    """BatchNormalization with stored statistics goes into the weights and bias of the convolution after it, where that
    has no padding.

    Sound because in inference it is a factor and a constant for each channel; as for those, padding would put zeros
    where the constant should be.
    """

    def pattern(op, x, w: Const, b: Const | None, attrs: Attrs, scale: Const, shift: Const, mean: Const, var: Const,
                epsilon, momentum):  # fmt: skip
        y = op.BatchNormalization(x, scale, shift, mean, var, epsilon=epsilon, momentum=momentum)
        return op.Conv(y, w, b, **attrs)

    def unless(m):
        scale, shift, mean, var = (array(v).astype(np.float64) for v in (m.scale, m.shift, m.mean, m.var))
        w = _fold.by_input(m)
        with np.errstate(all="ignore"):
            factor = scale / np.sqrt(var + m.epsilon)
            constant = shift - mean * factor
            if _padded(m) and constant.any():
                return "the convolution is padded with zeros, not with the constant"
            shape = (w.shape[0], 1, w.shape[2], 1)
            weight = (w * factor.reshape(shape)).reshape(array(m.w).shape)
            bias = _fold.bias_of(m) + (w * constant.reshape(shape)).sum((2, 3)).reshape(-1)
            return _fold.copied(m) or _fold.set_weights(m, weight, bias)

    def rewrite(op, m):
        return _fold.rebuilt(op, m)

    cases = [
        Case("DenseNet's", x=f32["N", 4, 5, 5], w=f32[6, 4, 1, 1], b=None, attrs={}, scale=f32[4], shift=f32[4],
             mean=f32[4], var=np.linspace(0.5, 2, 4, dtype=np.float32), epsilon=1e-3, momentum=None),
        Case("groups", x=f32["N", 4, "L"], w=f32[4, 2, 3], b=f32[4], attrs={"group": 2}, scale=f32[4], shift=f32[4],
             mean=f32[4], var=np.ones(4, np.float32), epsilon=1e-3, momentum=None),
        Refused("padding", x=f32["N", 2, 5, 5], w=f32[2, 2, 3, 3], b=None, attrs={"pads": [1, 1, 1, 1]}, scale=f32[2],
                shift=f32[2], mean=f32[2], var=np.ones(2, np.float32), epsilon=1e-3, momentum=None,
                because="padded with zeros"),
        Refused("negative variance", x=f32["N", 2, 5, 5], w=f32[2, 2, 3, 3], b=None, attrs={}, scale=f32[2],
                shift=f32[2], mean=f32[2], var=-np.ones(2, np.float32), epsilon=1e-3, momentum=None,
                because="a folded weight would be too large"),
    ]  # fmt: skip
