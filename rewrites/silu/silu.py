"""SiLU, also called Swish: ``x * sigmoid(x)``."""

from olc.rules import CLOSE, Case, f32, rule


@rule(group="silu", safety=CLOSE("the same function, rounded elsewhere"), targets=("onnxruntime-cpu",),
      emits="com.microsoft::QuickGelu")  # fmt: skip
class Silu:
    """``x * sigmoid(x)`` is ONNX Runtime's QuickGelu with ``alpha = 1``.

    Sound because that is its definition. The standard Swish (opset 24) has no kernel on this target, and QuickGelu's
    is for float32 only.
    """

    def pattern(op, x: f32):
        return op.Mul(x, op.Sigmoid(x))

    def rewrite(op, m):
        return op.domain("com.microsoft").QuickGelu(m.x, alpha=1.0)

    cases = [Case("a gate", x=f32["B", "S", 8]), Case("an image", x=f32[1, 4, "H", "W"])]


@rule(group="silu", safety=CLOSE("the same function, rounded elsewhere"), since=24, targets=("onnxruntime-cpu",))
class Swish:
    """Swish is ONNX Runtime's QuickGelu with the same ``alpha``.

    Sound because both are ``x * sigmoid(alpha x)``. Swish has no kernel on this target and runs as three operators.
    """

    def pattern(op, x: f32, alpha):
        return op.Swish(x, alpha=alpha)

    def rewrite(op, m):
        return op.domain("com.microsoft").QuickGelu(m.x, alpha=m.alpha)

    cases = [Case("SiLU", x=f32["B", "S", 8], alpha=1.0), Case("another slope", x=f32["N"], alpha=1.702)]
