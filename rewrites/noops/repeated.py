"""Functions that do nothing the second time, or undo themselves."""

from olc.rules import EXACT, Case, boolean, f32, floats, numbers, rule

INTEGRAL = ("Floor", "Ceil", "Round")


@rule(group="noops", safety=EXACT, keeps_shape=True)
class DropRepeated:
    """A function applied to its own result: Relu and Abs of what is not negative, rounding of what is whole.

    Sound because such a value is a fixed point of the function, zeros of both signs and infinities included.
    """

    def pattern(op, x: floats):
        again = [getattr(op, outer)(op.shared(getattr(op, inner)(x))) for outer in INTEGRAL for inner in INTEGRAL]
        return op.either(op.Relu(op.shared(op.Relu(x))), op.Abs(op.shared(op.Abs(x))), *again)

    def rewrite(op, m):
        return m.root.inputs[0]

    cases = [Case("a row", x=f32["N"])]


@rule(group="noops", safety=EXACT, keeps_shape=True)
class DropReluOfPositive:
    """Relu changes nothing of results of Abs, Exp and Sigmoid. Sound because these are never negative nor -0.0."""

    def pattern(op, x: floats):
        return op.either(*(op.Relu(op.shared(getattr(op, inner)(x))) for inner in ("Abs", "Exp", "Sigmoid")))

    def rewrite(op, m):
        return m.root.inputs[0]

    cases = [Case("a row", x=f32["N"])]


@rule(group="noops", safety=EXACT, keeps_shape=True)
class DropDoubleNeg:
    """Changing the sign twice changes nothing. Sound for integers too, because they wrap."""

    def pattern(op, x: numbers):
        return op.Neg(op.shared(op.Neg(x)))

    def rewrite(op, m):
        return m.x

    cases = [Case("floats", x=f32["N"])]


@rule(group="noops", safety=EXACT, keeps_shape=True)
class DropDoubleNot:
    """Not of Not is the value itself. Sound by the definition of Not."""

    def pattern(op, x: boolean):
        return op.Not(op.shared(op.Not(x)))

    def rewrite(op, m):
        return m.x

    cases = [Case("a mask", x=boolean["B", "S"])]
