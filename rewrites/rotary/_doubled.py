"""Values whose last axis says everything twice, as cosines and sines of angles for both halves of a head do."""

import numpy as np
from olc.rules import array, attr, dims, elements, is_constant

from .._shapes import permutation

_DEEPEST = 12
_LARGEST = 1 << 24
"""Elements of a table that is looked at."""


def doubled(x, left=_DEEPEST, at=-1):
    """Is the second half of an axis, counted from the end, proved to be the first?"""
    shape = dims(x)
    if left == 0 or not shape or len(shape) < -at or not isinstance(shape[at], int) or shape[at] % 2:
        return False
    if is_constant(x):
        a = array(x)
        return a.size <= _LARGEST and np.array_equal(*np.split(a, 2, axis=at))
    node = x.producer()
    if node is None or node.domain != "":
        return False
    op, given = node.op_type, node.inputs
    place = len(shape) + at
    if op == "Concat":
        if attr(node, "axis") not in (at, place):
            return all(doubled(v, left - 1, at) for v in given)
        half = len(given) // 2  # of several parts where positions of several kinds (Qwen2-VL) have sections of their own
        return len(given) == 2 * half and all(a is b for a, b in zip(given[:half], given[half:], strict=True))
    if op in ("Cos", "Sin", "Cast", "Identity", "Neg"):
        return doubled(given[0], left - 1, at)
    before = dims(given[0])
    if op == "Transpose":
        order = permutation(attr(node, "perm"), len(shape))
        return before is not None and doubled(given[0], left - 1, order[place] - len(shape))
    if op in ("Mul", "Div", "Add"):
        others = [v for v in given if (d := dims(v)) is not None and len(d) >= -at and d[at] != 1]
        return len(others) == 1 and all(dims(v) is not None for v in given) and doubled(others[0], left - 1, at)
    if op == "Slice":
        axes = elements(given[3]) if len(given) > 3 and given[3] is not None else None
        return axes is not None and not {at, place} & set(axes) and doubled(given[0], left - 1, at)
    if at != -1:
        return False
    if op == "Gather":
        # the axes of the indices take the place of one that is not the last
        axis = attr(node, "axis", 0)
        return before is not None and axis % len(before) != len(before) - 1 and doubled(given[0], left - 1)
    if op in ("Reshape", "Unsqueeze", "Squeeze", "Expand"):
        return bool(before) and before[-1] == shape[-1] and doubled(given[0], left - 1)
    return False
