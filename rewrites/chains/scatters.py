"""Writing to a range of a value: what exporters make of an assignment to a slice."""

import numpy as np
from olc.analysis import dims as dim
from olc.analysis.functions import Condition, Functions, coordinate
from olc.rules import EXACT, Case, Refused, array, attr, dims, f32, i64, is_constant, rule


def _offset(indices, shape, axis, functions):
    """By how much places [..., axis] of a block are moved along an axis; None where not all are, alike."""
    at = tuple(0 if n == 1 else coordinate(i) for i, n in enumerate(shape))
    if not is_constant(indices):
        place = functions.at(indices, (*at, axis))
        return None if isinstance(place, Condition) else dim.sub(place, at[axis])
    moved = array(indices)[..., axis] - np.indices(shape)[axis]
    return int(moved.flat[0]) if moved.size and (moved == moved.flat[0]).all() else None


def _range(indices, axes):
    """(axis, offset) of indices [..., axes] that name each place of a block once: the axis along which it is moved."""
    shape = dims(indices)[:-1]
    functions, found = Functions(shape), (0, 0)
    for axis in range(axes):
        offset = _offset(indices, shape, axis, functions)
        if not isinstance(offset, int) or offset < 0 or (offset and found[1]):
            return None
        if offset:
            found = axis, offset
    return None if functions.assumed else found


@rule(group="chains", safety=EXACT, since=11)
class ScatterOfRange:
    """ScatterND over a range of one axis is what lies before it, what is written and what lies behind.

    Sound because each index is proved to be its own place, moved along that axis: each is written once.
    """

    def pattern(op, data, indices: i64, updates):
        return op.ScatterND(data, indices, updates)

    def unless(m):
        whole, part, at = dims(m.data), dims(m.updates), dims(m.indices)
        if attr(m.root, "reduction", "none") != "none":
            return "it adds to what is there"
        if whole is None or part is None or at is None or len(part) != len(whole) or not 0 < at[-1] == len(at) - 1:
            return "the shapes are not known to be those of a range"
        found = _range(m.indices, at[-1])
        if found is None:
            return "the indices are not proved to be a range"
        differ = [i for i, (a, b) in enumerate(zip(whole, part, strict=True)) if a != b]
        m.axis, m.start = (differ or [found[0]])[0], found[1]
        if differ[1:] or (m.start and m.axis != found[0]) or m.axis >= at[-1]:
            return "the range is not one of one axis"
        m.all = not differ and not m.start
        if m.all:
            return None
        m.end, m.size = dim.add(m.start, part[m.axis]), whole[m.axis]
        if not isinstance(m.end, int) or not isinstance(m.size, int) or m.end > m.size:
            return "the size is not known"
        return None

    def rewrite(op, m):
        if m.all:
            return m.updates
        parts, axis = [m.updates], np.array([m.axis])
        if m.start > 0:
            parts.insert(0, op.Slice(m.data, np.array([0]), np.array([m.start]), axis))
        if m.end < m.size:
            parts.append(op.Slice(m.data, np.array([m.end]), np.array([m.size]), axis))
        return op.Concat(*parts, axis=m.axis)

    cases = [
        Case("in the middle", data=f32[8, "N"], indices=np.array([[2], [3], [4]]), updates=f32[3, "N"]),
        Case("the first", data=f32[8, 2, 3], indices=np.array([[0], [1]]), updates=f32[2, 2, 3]),
        Case("all", data=f32[3, "N"], indices=np.array([[0], [1], [2]]), updates=f32[3, "N"]),
        Case("all of both axes", data=f32[1, 3], indices=np.stack(np.mgrid[0:1, 0:3], axis=-1), updates=f32[1, 3]),
        Case("of the second axis", data=f32[2, 5], indices=np.stack(np.mgrid[0:2, 2:5], axis=-1), updates=f32[2, 3]),
        Refused("turned", data=f32[8, "N"], indices=np.array([[3], [2]]), updates=f32[2, "N"],
                because="not proved to be a range"),
        Refused("from the end", data=f32[8, "N"], indices=np.array([[-2], [-1]]), updates=f32[2, "N"],
                because="not proved to be a range"),
        Refused("moved along both", data=f32[3, 5], indices=np.stack(np.mgrid[1:3, 2:5], axis=-1), updates=f32[2, 3],
                because="not proved to be a range"),
        Refused("some of the other axis", data=f32[3, 5], indices=np.stack(np.mgrid[0:2, 2:5], axis=-1), updates=f32[2, 3],
                because="not one of one axis"),
    ]  # fmt: skip
