"""SiLU, also called Swish: ``x * sigmoid(x)``."""

from olc.rules import CLOSE, Case, f32, rule


@rule(group="silu", safety=CLOSE("the same function, rounded elsewhere"), targets=("onnxruntime-cpu",))
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
