"""LeakyRelu from Max. (Relu from Max and from Clip is in `chains/clips.py`.)"""

from olc.rules import CLOSE, Case, Refused, f32, rule


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
