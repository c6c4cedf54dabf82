"""GroupNormalization for targets that have no kernel of it."""

import numpy as np
from olc.rules import CLOSE, Case, Refused, dims, f32, rule

_UNUSUAL = "the number of groups is not known to divide that of the channels"


@rule(group="norms", safety=CLOSE("the same function, rounded elsewhere"), since=21,
      targets=("onnxruntime-cpu", "onnxruntime-cuda"))  # fmt: skip
class GroupNormParts:
    """GroupNormalization is a centring of its groups, and one factor and one offset for each channel.

    Sound because that is its definition, the scale of a channel and the root of its group's variance being one factor. The
    runtime has no kernel of it, and runs the standard's body, which is slower (olc targets measure --operator
    GroupNormalization) and, as InstanceNormalization of the groups would, rounds the variance of numbers far from 0 away.
    """

    def pattern(op, x: f32, scale: f32, bias: f32, num_groups, epsilon):
        return op.GroupNormalization(x, scale, bias, num_groups=num_groups, epsilon=epsilon)

    def unless(m):
        d = dims(m.x)
        if d is None or len(d) < 3 or not isinstance(d[1], int):
            return "the input is not known to have channels and places"
        if m.num_groups < 1 or d[1] % m.num_groups:
            return _UNUSUAL
        m.channels, m.places = d[1], len(d) - 2
        if any(dims(v) != (d[1],) for v in (m.scale, m.bias)):
            return "the scale or the offset is not known to be one for each channel"

    def rewrite(op, m):
        groups, last = m.num_groups, np.array([2])
        flat = op.Reshape(m.x, np.array([0, groups, -1]))
        centred = op.Sub(flat, op.ReduceMean(flat, last))
        variance = op.ReduceMean(op.Mul(centred, centred), last)
        root = op.Sqrt(op.Add(variance, np.float32(m.epsilon)))
        factor = op.Div(op.Reshape(m.scale, np.array([1, groups, m.channels // groups])), root)
        ones = [1] * m.places
        each = op.Reshape(factor, np.array([0, m.channels, *ones]))
        return op.Add(op.Mul(op.Reshape(centred, op.Shape(m.x)), each), op.Reshape(m.bias, np.array([m.channels, *ones])))

    cases = [
        Case("pictures", x=f32["N", 8, "H", "W"], scale=f32[8], bias=f32[8], num_groups=2, epsilon=1e-3),
        Case("sound", x=f32["N", 6, "T"], scale=f32[6], bias=f32[6], num_groups=6, epsilon=1e-5),
        Refused("of the whole", x=f32["N", 8, "T"], scale=f32[8], bias=f32[()], num_groups=2, epsilon=1e-5,
                because="one for each channel"),
        Refused("three groups", x=f32["N", 8, "T"], scale=f32[8], bias=f32[8], num_groups=3, epsilon=1e-5, because="divide"),
        Refused("no places", x=f32["N", 8], scale=f32[8], bias=f32[8], num_groups=2, epsilon=1e-5, because="channels and places"),
    ]  # fmt: skip
