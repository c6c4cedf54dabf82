"""An optional input is dropped."""

from olc.rules import CLOSE, Case, Const, Value, f32, rule


@rule(group="wrong", safety=CLOSE("one node less"), since=13)
class DropsBias:
    """Gemm is MatMul, if there is a bias or not."""

    def pattern(op, x, w: Const, b: Value | None):
        return op.Relu(op.Gemm(x, w, b))

    def rewrite(op, m):
        return op.Relu(op.MatMul(m.x, m.w))

    cases = [Case("no bias", x=f32["N", 3], w=f32[3, 4], b=None), Case("a bias", x=f32["N", 3], w=f32[3, 4], b=f32[4])]
