"""Relu and LeakyRelu from Max, and Relu from Clip."""

from olc.rules import CLOSE, Case, Refused, f32, floats, rule


@rule(group="activations", safety=CLOSE("the sign of zero may differ"), since=8)
class ReluOfMax:
    """The larger of x and 0 is Relu, by its definition."""

    def pattern(op, x: floats):
        return op.Max(x, 0.0)

    def rewrite(op, m):
        return op.Relu(m.x)

    cases = [Case("a hidden layer", x=f32["N", 8])]


@rule(group="activations", safety=CLOSE("the sign of zero may differ"), since=12)
class ReluOfClip:
    """Clip between 0 and infinity is Relu, by its definition.

    Where the upper bound is left out it is the largest finite number, at which infinity stops: that is not Relu.
    """

    def pattern(op, x: floats):
        return op.Clip(x, 0.0, float("inf"))

    def rewrite(op, m):
        return op.Relu(m.x)

    cases = [Case("torch.clamp", x=f32["N", 8])]


@rule(group="activations", safety=CLOSE("the same function, rounded elsewhere"), since=8)
class LeakyRelu:
    """The larger of x and ``a x``, with a slope between 0 and 1, is LeakyRelu.

    Sound because ``a x`` is the larger exactly where x is negative. The target's kernel is for float32 only.
    """

    def pattern(op, x: f32, a):
        return op.Max(x, op.product(x, scale=a))

    def unless(m):
        if not 0 < m.a < 1:
            return f"the slope {m.a:.6g} does not lie between 0 and 1"

    def rewrite(op, m):
        return op.LeakyRelu(m.x, alpha=float(m.a))

    cases = [
        Case("a discriminator", x=f32["N", 8], a=0.2),
        Refused("a steep slope", x=f32["N", 8], a=1.5, because="between 0 and 1"),
        Refused("a falling slope", x=f32["N", 8], a=-0.5, because="between 0 and 1"),
    ]
