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
        return len(given) == 2 * half and all(_alike(a, b, left - 1) for a, b in zip(given[:half], given[half:], strict=True))
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


def _alike(a, b, left):
    """Are two values proved to be the same: one, or picked in the same way of two places of what says everything twice?"""
    if a is b:
        return True
    one, two = a.producer(), b.producer()
    if left == 0 or one is None or two is None or (one.domain, one.op_type) != (two.domain, two.op_type) or one.domain != "":
        return False
    if one is two:
        return one.op_type == "Split" and _half_apart(one, a, b, left)
    if one.op_type != "Gather" or attr(one, "axis", 0) != attr(two, "axis", 0):
        return False
    i, j = one.inputs[1], two.inputs[1]
    picked = i is j or (is_constant(i) and is_constant(j) and np.array_equal(array(i), array(j)))
    return picked and _alike(one.inputs[0], two.inputs[0], left - 1)


def _half_apart(node, a, b, left):
    """Do two parts of a Split of the last axis lie at the same place of its two halves?"""
    whole, parts = dims(node.inputs[0]), [dims(v) for v in node.outputs]
    if not whole or None in parts or attr(node, "axis", 0) not in (-1, len(whole) - 1):
        return False
    sizes = [part[-1] for part in parts]
    if not all(isinstance(n, int) for n in sizes) or not doubled(node.inputs[0], left - 1):
        return False
    places = [list(node.outputs).index(v) for v in (a, b)]
    starts = [sum(sizes[:i]) for i in places]
    return sizes[places[0]] == sizes[places[1]] and abs(starts[0] - starts[1]) == whole[-1] // 2
