"""Right for its case, whose permutation is its own inverse."""

from olc.rules import EXACT, Case, f32, rule


@rule(group="wrong", safety=EXACT, since=13)
class TransposeForOneRank:
    """Two equal Transposes cancel, which holds only where the permutation is its own inverse."""

    def pattern(op, x, perm):
        return op.Relu(op.Transpose(op.Transpose(x, perm=perm), perm=perm))

    def rewrite(op, m):
        return op.Relu(m.x)

    cases = [Case("a matrix", x=f32["N", "N", "N"], perm=[1, 0, 2])]
