"""Transposes that do nothing, follow each other, or move only dims of 1."""

from olc.rules import EXACT, Case, Refused, any_type, dims, f32, rule

from .. import _shapes as s


def _perm(m, perm):
    d = dims(m.x)
    return s.permutation(perm, None if d is None else len(d))


@rule(group="chains", safety=EXACT, keeps_shape=True)
class DropTranspose:
    """A Transpose that leaves every dim in its place is its input. Sound because nothing moves."""

    def pattern(op, x, perm):
        return op.Transpose(x, perm=perm)

    def unless(m):
        perm = _perm(m, m.perm)
        if perm is None or perm != tuple(range(len(perm))):
            return "it moves dims"

    def rewrite(op, m):
        return m.x

    cases = [
        Case("in place", x=f32["N", 4, 2], perm=(0, 1, 2)),
        Case("one dim", x=f32["N"]),
        Refused("swapped", x=f32["N", 4], perm=(1, 0), because="it moves dims"),
    ]


@rule(group="chains", safety=EXACT)
class ComposeTransposes:
    """A Transpose of a Transpose is one, or none.

    Sound because dim i of the result is dim ``second[i]`` of the first result, which is dim ``first[second[i]]``.
    """

    def pattern(op, x: any_type[...], first, second):
        return op.Transpose(op.shared(op.Transpose(x, perm=first)), perm=second)

    def rewrite(op, m):
        first, second = _perm(m, m.first), _perm(m, m.second)
        perm = tuple(first[i] for i in second)
        return m.x if perm == tuple(range(len(perm))) else op.Transpose(m.x, perm=perm)

    cases = [
        Case("there and back", x=f32["B", "S", 2, 4], first=(0, 2, 1, 3), second=(0, 2, 1, 3)),
        Case("two steps", x=f32["B", "S", 4], first=(1, 0, 2), second=(0, 2, 1)),
        Case("reversed twice", x=f32["B", "S"]),
        Case("reversed after", x=f32["B", "S", 4], first=(1, 0, 2)),
    ]


@rule(group="chains", safety=EXACT, since=13)
class TransposeOfOnes:
    """A Transpose that moves only dims of 1 is a change of shape.

    Sound because a dim of 1 has one index, so that the elements stay in their order as long as the other dims do.
    """

    def pattern(op, x, perm):
        return op.Transpose(x, perm=perm)

    def unless(m):
        d = dims(m.x)
        if d is None:
            return s.UNKNOWN
        perm = s.permutation(m.perm, len(d))
        moved = [i for i in perm if d[i] != 1]
        if moved != sorted(moved):
            return "it moves a dim that may be larger than 1"
        form = s.view(d, tuple(d[i] for i in perm))
        if isinstance(form, str):
            return form
        m.form = form

    def rewrite(op, m):
        return s.write(op, m.x, m.form)

    cases = [
        Case("a column to a row", x=f32["N", 1], perm=(1, 0)),
        Case("ones about", x=f32[1, 4, 1, "S"], perm=(1, 3, 0, 2)),
        Case("only ones", x=f32[1, 1], perm=(1, 0)),
        Refused("a real one", x=f32["N", 4, 1], perm=(1, 0, 2), because="larger than 1"),
    ]
