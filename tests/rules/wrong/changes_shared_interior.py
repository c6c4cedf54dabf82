"""Edits an interior value in place that another consumer reads."""

from olc.rules import CLOSE, Case, Const, f32, rule


@rule(group="wrong", safety=CLOSE("the bias is added later"))
class ChangesSharedInterior:
    """Relu after a bias: the bias is dropped and its node wired past, whoever else reads its result."""

    def pattern(op, x, b: Const):
        return op.Relu(op.shared(op.Add(x, b)))

    def rewrite(op, m):
        add = m.nodes[1]
        for user, i in list(add.outputs[0].uses()):
            if user is not m.root:
                user.replace_input_with(i, m.x)
        return op.Max(op.Add(m.x, m.b), 0.0)

    cases = [Case("a layer", x=f32["N", 4], b=f32[4])]
