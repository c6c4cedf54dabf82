"""HardSigmoid and HardSwish from their parts."""

from olc.rules import CLOSE, Case, Refused, f32, rule

from .. import _helpers as h

SIXTH = 1 / 6


@rule(group="silu", safety=CLOSE("the same function, rounded elsewhere"), since=14)
class HardSwish:
    """``x * clip(x + 3, 0, 6) / 6`` is HardSwish.

    Sound because HardSwish is ``x * max(0, min(1, x/6 + 1/2))``, and the factors are those six times as large.
    """

    def pattern(op, x: h.narrow_floats):
        return op.product(x, op.Clip(op.Add(x, 3.0), 0.0, 6.0), scale=SIXTH)

    def rewrite(op, m):
        return op.HardSwish(m.x)

    cases = [Case("Paddle's", x=f32[1, 4, "H", "W"])]


@rule(group="silu", safety=CLOSE("the same function, rounded elsewhere"), since=14)
class HardSwishOfHardSigmoid:
    """``x * hard_sigmoid(x)`` with slope 1/6 and offset 1/2 is HardSwish, by its definition."""

    def pattern(op, x: h.narrow_floats, alpha):
        return op.Mul(x, op.HardSigmoid(x, alpha=alpha, beta=0.5))

    def unless(m):
        if not h.near(m.alpha, SIXTH, m.x.dtype, 1e-5):
            return f"the slope is {m.alpha:.6g}, not 1/6"

    def rewrite(op, m):
        return op.HardSwish(m.x)

    cases = [
        Case("MobileNetV3's", x=f32[1, 4, "H", "W"], alpha=SIXTH),
        Refused("Paddle's slope", x=f32["N"], alpha=0.2, because="the slope is 0.2, not 1/6"),
    ]


@rule(group="silu", safety=CLOSE("the same function, rounded elsewhere"), since=11)
class HardSigmoid:
    """``clip(x + 3, 0, 6) / 6`` is HardSigmoid with slope 1/6 and offset 1/2.

    Sound because HardSigmoid is ``max(0, min(1, x/6 + 1/2))``: numerator and bounds divided by six. Below opset 14 it
    also stands for HardSwish, which is then this times x.
    """

    def pattern(op, x: f32):
        return op.product(op.Clip(op.Add(x, 3.0), 0.0, 6.0), scale=SIXTH)

    def rewrite(op, m):
        return op.HardSigmoid(m.x, alpha=SIXTH, beta=0.5)

    cases = [Case("squeeze and excite", x=f32[1, 4, 1, 1])]


@rule(group="silu", safety=CLOSE("the same function, rounded elsewhere"), since=11, until=13)
class HardSwishBeforeOpset14:
    """``x * clip(x + 3, 0, 6) / 6`` is ``x * hard_sigmoid(x)``: HardSwish where the opset does not have it yet."""

    def pattern(op, x: f32):
        return op.product(x, op.Clip(op.Add(x, 3.0), 0.0, 6.0), scale=SIXTH)

    def rewrite(op, m):
        return op.Mul(m.x, op.HardSigmoid(m.x, alpha=SIXTH, beta=0.5))

    cases = [Case("Paddle's", x=f32[1, 4, "H", "W"], opset=12)]
