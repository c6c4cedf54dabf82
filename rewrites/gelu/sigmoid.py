"""Gelu by the sigmoid: ``x * sigmoid(1.702 x)``, another function than Gelu, and any other slope."""

from olc.rules import CLOSE, Case, f32, rule


@rule(group="gelu", safety=CLOSE("the same function, rounded elsewhere"), targets=("onnxruntime-cpu",),
      emits="com.microsoft::QuickGelu")  # fmt: skip
class QuickGelu:
    """``x * sigmoid(a x)`` is ONNX Runtime's QuickGelu with ``alpha = a``.

    Sound because that is its definition, for any slope. It differs from Gelu by up to 0.02, so it never becomes Gelu.
    The kernel is for float32 only.
    """

    def pattern(op, x: f32, a):
        return op.Mul(x, op.Sigmoid(op.product(x, scale=a)))

    def rewrite(op, m):
        return op.domain("com.microsoft").QuickGelu(m.x, alpha=float(m.a))

    cases = [
        Case("CLIP", x=f32["B", "S", 8], a=1.702),
        Case("another slope", x=f32["N"], a=-0.5),
    ]
