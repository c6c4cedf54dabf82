"""Transposes that do nothing, follow each other, or move only dims of 1."""

import numpy as np
from olc.rules import EXACT, Case, Const, Refused, Scalar, any_type, dims, f32, rule, scalar

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


@rule(group="chains", safety=EXACT)
class ConcatOfTransposes:
    """A Concat of Transposes that move dims alike is a Transpose of the Concat.

    Sound because the axis of the Concat is moved like the others. It moves all at once, and may meet another Transpose.
    """

    def pattern(op, x: any_type[...], y: any_type[...], perm, axis):
        return op.Concat(op.Transpose(x, perm=perm), op.Transpose(y, perm=perm), axis=axis)

    def rewrite(op, m):
        perm = _perm(m, m.perm)
        return op.Transpose(op.Concat(m.x, m.y, axis=perm[m.axis]), perm=perm)

    cases = [
        Case("heads", x=f32["B", "S", 2, 4], y=f32["B", "S", 2, 3], perm=(0, 2, 1, 3), axis=3),
        Case("reversed", x=f32["B", "S", 4], y=f32["B", "T", 4], axis=-2),
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


@rule(group="chains", safety=EXACT)
class GatherBeforeTranspose:
    """Entries that are picked along an axis of what was transposed are picked before, and transposed.

    Sound because a vector of indices leaves the axes where they are; it pays because no more is moved than was picked. Where
    the last axis is moved it is done in any case.
    """

    def pattern(op, x, perm, i: Const, axis):
        return op.Gather(op.shared(op.Transpose(x, perm=perm)), i, axis=axis)

    def unless(m):
        d, i, moved = dims(m.x), dims(m.i), m.root.inputs[0]
        if moved.is_graph_output() or any(n.op_type != "Gather" for n, _ in moved.uses()):
            return "what was transposed is used as a whole, too"
        if d is None or i is None or len(i) != 1:
            return "the indices are not a vector, or the axes are not known"
        m.order = s.permutation(m.perm, len(d))
        m.at = m.order[m.axis % len(d)]
        last = len(d) - 1
        if m.order[-1] != last and last not in (m.at, m.axis % len(d)):
            return None  # so are the keys of an attention transposed, whose heads may be repeated
        return None if isinstance(d[m.at], int) and i[0] <= d[m.at] else "as much may be picked as there is, and more"

    def rewrite(op, m):
        return op.Transpose(op.Gather(m.x, m.i, axis=m.at), perm=m.order)

    cases = [
        Case("Falcon's keys", x=f32["B", "S", 6, 4], perm=(2, 0, 1, 3), i=np.array([-2]), axis=0),
        Case("some of the last", x=f32["B", 4, 3], perm=(1, 0, 2), i=np.array([2, 0]), axis=2),
        Refused("one, without its axis", x=f32["B", 4], perm=(1, 0), i=np.array(1), axis=0, because="not a vector"),
        Case("grouped keys", x=f32["B", 2, "S", 4], perm=(0, 1, 3, 2), i=np.array([0, 0, 1, 1]), axis=1),
        Refused("each twice", x=f32["B", 2, 4], perm=(1, 0, 2), i=np.array([0, 1, 1]), axis=0, because="and more"),
        Refused("each of the last twice", x=f32["B", 2, "S"], perm=(0, 2, 1), i=np.array([0, 0, 1, 1]), axis=2,
                because="and more"),
    ]


@rule(group="chains", safety=EXACT)
class TransposeBeforeRepeat:
    """Entries that are repeated along an axis, then transposed, are transposed and repeated.

    Sound because a vector of indices leaves the axes where they are; it pays because less is moved. Where the last axis is
    moved it is done for entries that come to lie there, which ``repeat-of-last`` repeats.
    """

    def pattern(op, x, i: Const, axis, perm):
        return op.Transpose(op.Gather(x, i, axis=axis), perm=perm)

    def unless(m):
        d, i = dims(m.x), dims(m.i)
        if d is None or i is None or len(i) != 1:
            return "the indices are not a vector, or the axes are not known"
        m.order = s.permutation(m.perm, len(d))
        at = m.axis % len(d)
        m.at = m.order.index(at)
        if m.order[-1] != len(d) - 1 and m.at != len(d) - 1:
            return "the last axis is moved"
        return None if isinstance(d[at], int) and i[0] > d[at] else "no more is picked than there is"

    def rewrite(op, m):
        return op.Gather(op.Transpose(m.x, perm=m.order), m.i, axis=m.at)

    cases = [
        Case("Keras's keys", x=f32["B", "S", 2, 4], i=np.array([0, 0, 1, 1]), axis=2, perm=(0, 2, 1, 3)),
        Case("Cohere's angles", x=f32["B", 2, "S"], i=np.array([0, 0, 1, 1]), axis=1, perm=(0, 2, 1)),
        Refused("one, without its axis", x=f32["B", 4, 2], i=np.array(1), axis=1, perm=(1, 0), because="not a vector"),
        Refused("each once", x=f32["B", 2, 4], i=np.array([1, 0]), axis=1, perm=(1, 0, 2), because="no more"),
        Refused("keys for a product", x=f32["B", "S", 2, 4], i=np.array([0, 0, 1, 1]), axis=2, perm=(0, 2, 3, 1),
                because="last axis"),
    ]


@rule(group="chains", safety=EXACT)
class GatherBetweenTransposes:
    """Entries that are picked between two Transposes are picked behind one.

    Sound because a vector of indices leaves the axes where they are. torch brings the axis whose entries it repeats to the
    front, and back.
    """

    def pattern(op, x, first, i: Const, axis, second):
        return op.Transpose(op.Gather(op.Transpose(x, perm=first), i, axis=axis), perm=second)

    def unless(m):
        d, i = dims(m.x), dims(m.i)
        if d is None or i is None or len(i) != 1:
            return "the indices are not a vector, or the axes are not known"
        m.order = [s.permutation(m.first, len(d))[j] for j in s.permutation(m.second, len(d))]
        m.at = s.permutation(m.second, len(d)).index(m.axis % len(d))

    def rewrite(op, m):
        return op.Gather(op.Transpose(m.x, perm=m.order), m.i, axis=m.at)

    cases = [
        Case("there and back", x=f32["B", "S", 3], first=(2, 1, 0), i=np.array([0, 0, 1, 1, 2, 2]), axis=0, second=(2, 1, 0)),
        Case("elsewhere", x=f32["B", "S", 3, 2], first=(2, 3, 0, 1), i=np.array([2, -3]), axis=-4, second=(1, 0, 3, 2)),
        Refused("one, without its axis", x=f32["B", 4, 2], first=(1, 0, 2), i=np.array(1), axis=0, second=(1, 0),
                because="not a vector"),
    ]  # fmt: skip


@rule(group="chains", safety=EXACT, since=13)
class UnsqueezeBeforeTranspose:
    """Axes that are put in front of a matrix whose rows became columns are put in before.

    Sound because a dim of 1 may be put in anywhere. The keys of one text, or of one head, are then transposed as those of many
    are.
    """

    def pattern(op, x, perm, axes: Const):
        return op.Unsqueeze(op.Transpose(x, perm=perm), axes)

    def unless(m):
        d, given = dims(m.x), s.whole(m.axes)
        if d is None or len(d) < 2 or given is None:
            return "the axes are not known"
        order, rank = s.permutation(m.perm, len(d)), len(d) + len(given)
        if order[-1] == len(d) - 1:
            return "the last axis stays"
        axes = s.axes_of(given, rank)
        if axes is None or any(a >= rank - 2 for a in axes):
            return "an axis is not put in front"
        others = [i for i in range(rank) if i not in axes]
        moved = dict(zip(others, (others[i] for i in order), strict=True))
        m.axes_at, m.order = sorted(axes), tuple(moved.get(i, i) for i in range(rank))

    def rewrite(op, m):
        return op.Transpose(op.Unsqueeze(m.x, s.vector(m.axes_at)), perm=m.order)

    cases = [
        Case("keys", x=f32["S", 2, 4], perm=(1, 2, 0), axes=np.array([0])),
        Case("reversed", x=f32["S", 4], axes=np.array([0])),
        Case("one head", x=f32["B", "S", 4], perm=(0, 2, 1), axes=np.array([1])),
        Case("one text and head", x=f32["S", 4], perm=(1, 0), axes=np.array([-4, 1])),
        Refused("heads", x=f32["S", 2, 4], perm=(1, 0, 2), axes=np.array([0]), because="the last axis stays"),
        Refused("behind", x=f32["S", 2, 4], perm=(1, 2, 0), axes=np.array([3]), because="not put in front"),
    ]


@rule(group="chains", safety=EXACT, since=13)
class SqueezeBeforeTranspose:
    """Axes of 1 that go after a Transpose go before it.

    Sound because a dim of 1 may go anywhere. What was picked of queries, keys and values that share an array is then
    transposed as one that stands alone is.
    """

    def pattern(op, x, perm, axes: Const):
        return op.Squeeze(op.Transpose(x, perm=perm), axes)

    def unless(m):
        d = dims(m.x)
        if d is None:
            return s.UNKNOWN
        perm = s.permutation(m.perm, len(d))
        axes = s.axes_of(s.whole(m.axes), len(d))
        if axes is None:
            return "the axes are out of range"
        m.before = sorted(perm[a] for a in axes)
        left = [i for i in perm if i not in m.before]
        m.order = tuple(sorted(left).index(i) for i in left)

    def rewrite(op, m):
        return op.Transpose(op.Squeeze(m.x, s.vector(m.before)), perm=m.order)

    cases = [
        Case("keys", x=f32[1, "B", 2, 9, 4], perm=(0, 1, 2, 4, 3), axes=np.array([0])),
        Case("moved", x=f32[3, 1, "B", 1], perm=(2, 3, 0, 1), axes=np.array([-1, 1])),
        Refused("twice", x=f32[3, 1, 2], perm=(2, 1, 0), axes=np.array([1, -2]), because="out of range"),
    ]


@rule(group="chains", safety=EXACT)
class TransposeBeforeFactors:
    """Two multiples of one value that are moved alike are multiples of it, moved once.

    Sound because each element is multiplied alone. The two factors of a Gelu are so, where tf2onnx has pushed a change of
    layout through it.
    """

    def pattern(op, x: f32[...], c: Scalar, e: Scalar, perm):
        return op.Transpose(op.Mul(x, c), perm=perm), op.Transpose(op.Mul(x, e), perm=perm)

    def unless(m):
        if scalar(m.c) == scalar(m.e):
            return "they are the same multiple"
        made = m.x.producer()
        while made is not None and made.op_type in ("Add", *s.VIEWS) and made.inputs[0] is not None:
            made = made.inputs[0].producer()
        if made is not None and made.op_type in ("MatMul", "Gemm"):
            return "the factors go into a linear layer"

    def rewrite(op, m):
        x = op.Transpose(m.x, perm=m.perm)
        return op.Mul(x, m.c), op.Mul(x, m.e)

    cases = [
        Case("a Gelu", x=f32["B", 4, "S"], c=0.5, e=-0.7, perm=(0, 2, 1)),
        Refused("one multiple", x=f32["B", 4, "S"], c=0.5, e=0.5, perm=(0, 2, 1), because="the same"),
    ]
