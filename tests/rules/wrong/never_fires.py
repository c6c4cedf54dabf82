"""The case does not fit the rule's own guard."""

from olc.rules import EXACT, Case, Refused, f32, i64, rule


@rule(group="wrong", safety=EXACT)
class NeverFires:
    """Relu twice is Relu, but this author meant integers only and gave no such case."""

    def pattern(op, x):
        return op.Relu(op.Relu(x))

    def unless(m):
        return None if m.x.dtype in i64.dtypes else "the input is not of integers"

    def rewrite(op, m):
        return op.Relu(m.x)

    cases = [Case("a vector", x=f32["N"]), Refused("a matrix", x=f32["N", 2], because="not of integers")]
