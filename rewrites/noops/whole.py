"""Operators that pad by nothing, repeat once or take all."""

import numpy as np
from olc.rules import EXACT, Attrs, Case, Const, Many, Refused, array, dims, f32, i64, rule

from .. import _shapes as s


@rule(group="noops", safety=EXACT, since=11, keeps_shape=True)
class DropPadOfNothing:
    """A Pad by zero elements everywhere is its input. Sound because it adds nothing, whatever its mode."""

    def pattern(op, x, pads, rest: Many, mode):
        return op.Pad(x, pads, *rest, mode=mode)

    def unless(m):
        pads = s.whole(m.pads)
        if pads is None:
            return "the pads are not known"
        if any(pads):
            return "it pads"

    def rewrite(op, m):
        return m.x

    cases = [
        Case("constant", x=f32["N", 4], pads=np.zeros(4, np.int64), rest=[], mode="constant"),
        Case("reflect", x=f32["N", 4], pads=np.zeros(4, np.int64), rest=[], mode="reflect"),
        Refused("one element", x=f32["N", 4], pads=np.array([0, 0, 0, 1]), rest=[], mode="constant", because="it pads"),
        Refused("unknown pads", x=f32["N", 4], pads=i64[4], rest=[], mode="constant", because="not known"),
    ]


@rule(group="noops", safety=EXACT, keeps_shape=True)
class DropTileOnce:
    """A Tile that repeats once along every axis is its input. Sound by the operator's definition."""

    def pattern(op, x, repeats):
        return op.Tile(x, repeats)

    def unless(m):
        repeats = s.whole(m.repeats)
        if repeats is None:
            return "the repeats are not known"
        if any(n != 1 for n in repeats):
            return "it repeats"

    def rewrite(op, m):
        return m.x

    cases = [
        Case("once", x=f32["N", 4], repeats=np.ones(2, np.int64)),
        Refused("twice", x=f32["N", 4], repeats=np.array([1, 2]), because="it repeats"),
        Refused("unknown", x=f32["N", 4], repeats=i64[2], because="not known"),
    ]


@rule(group="noops", safety=EXACT, since=10)
class DropSliceOfAll:
    """A Slice with steps of 1 that is as long as its input along every axis is its input.

    Sound because no other start than 0 leaves that many elements."""

    def pattern(op, x, starts, ends, axes: Many):
        return op.Slice(x, starts, ends, *axes)

    def unless(m):
        if not s.same_dims(m.x, m.roots[0]):
            return "it is not proved to take all"
        steps = (1,) if len(m.axes) < 2 else s.whole(m.axes[1])
        if steps is None or any(n != 1 for n in steps):
            return "the steps are not all 1"

    def rewrite(op, m):
        return m.x

    cases = [
        Case("to the largest end", x=f32["N", 4], starts=np.array([0]), ends=np.array([s.LAST]), axes=[]),
        Case("to the size", x=f32["N", 4], starts=np.array([-4]), ends=np.array([4]), axes=[np.array([1])]),
        Refused("a part", x=f32["N", 4], starts=np.array([1]), ends=np.array([s.LAST]), axes=[], because="take all"),
        Refused(
            "backwards", x=f32[3], starts=np.array([-1]), ends=np.array([-9]), axes=[np.array([0]), np.array([-1])],
            because="steps",
        ),
    ]  # fmt: skip


@rule(group="noops", safety=EXACT)
class DropGatherOfAll:
    """A Gather of all indices in their order is its input. Sound because each element lands where it was."""

    def pattern(op, x, indices: Const, axis):
        return op.Gather(x, indices, axis=axis)

    def unless(m):
        d, indices = dims(m.x), dims(m.indices)
        if d is None:
            return s.UNKNOWN
        if len(indices) != 1 or indices[0] != d[m.axis]:
            return "it does not take as many as there are"
        given = array(m.indices)
        if not np.array_equal(np.where(given < 0, given + indices[0], given), np.arange(indices[0])):
            return "the indices are not in order"

    def rewrite(op, m):
        return m.x

    cases = [
        Case("rows", x=f32[3, "N"], indices=np.arange(3), axis=0),
        Case("columns, one from the end", x=f32["N", 3], indices=np.array([0, 1, -1]), axis=-1),
        Refused("turned round", x=f32[3, "N"], indices=np.array([2, 1, 0]), axis=0, because="not in order"),
        Refused("fewer", x=f32[3, "N"], indices=np.array([0, 1]), axis=0, because="as many"),
    ]


@rule(group="noops", safety=EXACT, since=11)
class DropResizeToSameSize:
    """A nearest-neighbour Resize to the size that the input has is its input.

    Sound because the scale is 1, where half-pixel and asymmetric coordinates are the integers, exactly. Not so for
    linear and cubic modes: they multiply neighbours by 0, which is not nothing beside an infinity.
    """

    def pattern(op, x: f32, rest: Many, coordinates, rounding):
        return op.Resize(x, *rest, mode="nearest", coordinate_transformation_mode=coordinates, nearest_mode=rounding)

    def unless(m):
        if m.coordinates not in ("half_pixel", "asymmetric"):
            return "its coordinates may be rounded"
        if not s.same_dims(m.x, m.roots[0]):
            return "it is not proved to keep the size"
        scales = m.rest[1] if len(m.rest) > 1 else None
        if scales is not None and dims(scales) != (0,) and not s.every(scales, lambda a: a == 1):
            return "the scales are not all 1"

    def rewrite(op, m):
        return m.x

    cases = [
        Case("to the same size", x=f32[1, 2, 3, 4], rest=[None, None, np.array([1, 2, 3, 4])]),
        Case("scaled by 1", x=f32[1, 2, "H", "W"], rest=[None, np.ones(4, np.float32)]),
        Refused(
            "aligned corners", x=f32[1, 2, 3, 4], rest=[None, np.ones(4, np.float32)],
            coordinates="align_corners", because="may be rounded",
        ),
        Refused(
            "twice the size", x=f32[1, 2, 3, 4], rest=[None, None, np.array([1, 2, 6, 8])],
            because="keep the size",
        ),
        Refused(
            "nearly 1", x=f32[1, 2, 3, 4], rest=[None, np.array([1, 1, 1.1, 1], np.float32)],
            because="not all 1",
        ),
    ]  # fmt: skip


@rule(group="noops", safety=EXACT, keeps_shape=True)
class DropSpaceToDepthOfOne:
    """Moving blocks of one element between space and depth moves nothing. Sound by the operators' definition."""

    def pattern(op, x, attrs: Attrs):
        return op.oneof("SpaceToDepth", "DepthToSpace")(x, blocksize=1, **attrs)

    def rewrite(op, m):
        return m.x

    cases = [Case("blocks of 1", x=f32[1, 2, "H", "W"], attrs={})]


@rule(group="noops", safety=EXACT)
class DropExpandToSameSize:
    """An Expand to the shape that the input has is its input. Sound because nothing is repeated."""

    def pattern(op, x, shape: s.VECTOR):
        return op.Expand(x, shape)

    def unless(m):
        if not s.same_dims(m.x, m.roots[0]):
            return "it is not proved to keep the shape"

    def rewrite(op, m):
        return m.x

    cases = [
        Case("ones", x=f32["N", 4], shape=np.array([1, 1])),
        Case("the same", x=f32[3, 4], shape=np.array([3, 4])),
        Refused("a larger one", x=f32["N", 1], shape=np.array([1, 4]), because="keep the shape"),
        Refused("one that a caller gives", x=f32["N", 1], shape=i64[2], because="keep the shape"),
    ]
