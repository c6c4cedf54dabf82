"""Constants for each channel added to or multiplied with a convolution's output."""

import numpy as np
from olc.rules import CLOSE, Attrs, Case, Const, Refused, array, f32, rule

from . import _fold


@rule(group="conv", safety=CLOSE("two constants may be added beforehand"))
class ConvBias:
    """A constant for each channel, added to a convolution's output or subtracted from it, becomes its bias.

    Sound because the bias is such a constant, added last. The constant has one element, or one for each output channel
    on the channel axis, so it does not broadcast the output to another shape.
    """

    def pattern(op, x, w: Const, b: Const | None, attrs: Attrs, c: Const, minus: Const):
        y = op.oneof("Conv", "ConvTranspose")(x, w, b, **attrs)
        return op.either(op.Add(y, c), op.Sub(y, minus))

    def unless(m):
        c = _fold.per_channel(m.minus if m.c is None else m.c, array(m.w).ndim, _fold.out_channels(m))
        if c is None:
            return "the constant is not one for each output channel"
        return _fold.set_weights(m, None, _fold.bias_of(m) + (c if m.minus is None else -c))

    def rewrite(op, m):
        return _fold.rebuilt(op, m)

    cases = [
        Case("Paddle's", x=f32["N", 4, 5, 5], w=f32[4, 4, 3, 3], b=None, attrs={"pads": [1, 1, 1, 1]},
             c=f32[1, 4, 1, 1], minus=f32[4, 1, 1]),
        Case("a second bias", x=f32[1, 4, "L"], w=f32[4, 2, 1], b=f32[4], attrs={"group": 2}, c=0.5, minus=f32[4, 1]),
        Refused("a bias for each column", x=f32["N", 4, 4, 4], w=f32[4, 4, 1, 1], b=None, attrs={}, c=f32[4],
                minus=f32[4], because="not one for each output channel"),
        Refused("it broadcasts the output", x=f32["N", 1, 4, 4], w=f32[1, 1, 1, 1], b=None, attrs={}, c=f32[4, 1, 1],
                minus=f32[4, 1, 1], because="not one for each output channel"),
        Refused("overflow", x=f32["N", 2, 4], w=f32[2, 2, 1], b=np.full(2, 3e38, np.float32), attrs={}, c=3e38,
                minus=-3e38, because="a folded weight would be too large"),
    ]  # fmt: skip


@rule(group="conv", safety=CLOSE("constants are multiplied beforehand"))
class ConvScale:
    """A constant factor or divisor for each channel of a convolution's output goes into its weights and bias.

    Sound because a convolution is linear in weights and bias, and the constant does not broadcast its output to another
    shape.
    """

    def pattern(op, x, w: Const, b: Const | None, attrs: Attrs, c: Const, divisor: Const):
        y = op.oneof("Conv", "ConvTranspose")(x, w, b, **attrs)
        return op.either(op.Mul(y, c), op.Div(y, divisor))

    def unless(m):
        factor = _fold.per_channel(m.divisor if m.c is None else m.c, array(m.w).ndim, _fold.out_channels(m))
        if factor is None:
            return "the constant is not one for each output channel"
        with np.errstate(all="ignore"):
            factor = factor if m.divisor is None else 1 / factor
            bias = None if m.b is None else _fold.bias_of(m) * factor
            return _fold.copied(m) or _fold.set_weights(m, _fold.scaled_out(m, factor), bias)

    def rewrite(op, m):
        return _fold.rebuilt(op, m)

    cases = [
        Case("layer scale", x=f32["N", 4, 5, 5], w=f32[4, 4, 3, 3], b=f32[4], attrs={"pads": [1, 1, 1, 1]},
             c=f32[1, 4, 1, 1], divisor=np.linspace(0.5, 2, 4, dtype=np.float32).reshape(4, 1, 1)),
        Case("a number", x=f32[1, 4, "L"], w=f32[4, 2, 1], b=None, attrs={"group": 2}, c=0.5, divisor=4.0),
        Refused("a factor for each column", x=f32["N", 4, 4, 4], w=f32[4, 4, 1, 1], b=None, attrs={}, c=f32[4],
                divisor=f32[4], because="not one for each output channel"),
        Refused("overflow", x=f32["N", 2, 4], w=np.full((2, 2, 1), 1e30, np.float32), b=None, attrs={}, c=1e30,
                divisor=1e-30, because="a folded weight would be too large"),
    ]  # fmt: skip
