"""Proofs about shapes, and the one spelling that cleaning gives to operators that only change a shape.

Reshape, Flatten, Squeeze and Unsqueeze are *views*: they keep the elements in their order. A view is fixed by the
shapes before and after, so each pair of shapes has one spelling (`view`), whatever chain of operators led there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from olc.analysis import dims as dim
from olc.rules import array, attr, dims, elements, i64, is_constant

VIEWS = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
LAST = (1 << 63) - 1
VECTOR = i64["R"]
"""A target of Expand or ConstantOfShape: runtimes do not agree on what one of another rank means."""
UNKNOWN = "the shape is not known"
OTHERS = "another output is in use"
SPELLED = "it is in canonical form already"

Form = tuple[str, tuple[int, ...]]


def whole(value: Any) -> tuple[int, ...] | None:
    """The numbers that a small integer or boolean vector holds, where all are known."""
    found = None if value is None else elements(value)
    return found if found is not None and all(isinstance(n, int) for n in found) else None  # type: ignore[return-value]


def vector(numbers: Sequence[int]) -> np.ndarray:
    return np.array(numbers, dtype=np.int64)


def same_dims(a: Any, b: Any) -> bool:
    """Are the shapes of two values proved equal?"""
    x, y = dims(a), dims(b)
    return x is not None and x == y


def view(src: Sequence[Any], dst: Sequence[Any], inferred: int | None = None) -> Form | str:
    """How to spell the view from one shape to the other, or why there is no spelling without a computed target.

    Squeeze or Unsqueeze where sizes of 1 only go or come, else Reshape to constants: 0 for a symbolic dim that is the
    input's dim of the same index, -1 for at most one other. ONNX can infer that one only where the other dims are not
    0: they are proved positive, or it is dim ``inferred``, which the original left to be inferred too.
    """
    src, dst = tuple(src), tuple(dst)
    if src == dst:
        return "same", ()
    added = _added(src, dst)
    if added is not None:
        return "Unsqueeze", added
    gone = _added(dst, src)
    if gone is not None:
        return "Squeeze", gone
    target: list[int] = []
    open_at: int | None = None
    for i, d in enumerate(dst):
        copied = i < len(src) and src[i] == d
        if isinstance(d, int) and (d > 0 or copied):
            target.append(d)
        elif copied:
            target.append(0)
        elif isinstance(d, int):
            return "a size of 0 cannot be written"
        elif open_at is None:
            open_at = i
            target.append(-1)
        else:
            return f"the sizes {dst[open_at]} and {d} are both known at run time only"
    others = [d for i, d in enumerate(dst) if i != open_at]
    if open_at not in (None, inferred) and not all(map(dim.is_positive, others)):
        return f"the size {dst[open_at]} cannot be inferred, should another be 0"
    return "Reshape", tuple(target)


def _added(short: tuple[Any, ...], long: tuple[Any, ...]) -> tuple[int, ...] | None:
    """The indices in ``long`` of the 1s that it has and ``short`` lacks, where that is all the difference."""
    axes: list[int] = []
    at = 0
    for i, d in enumerate(long):
        if at < len(short) and short[at] == d:
            at += 1
        elif d == 1:
            axes.append(i)
        else:
            return None
    return tuple(axes) if at == len(short) else None


def inferred_dim(node: Any) -> int | None:
    """Which dim a Reshape leaves to be inferred by a -1 in its target."""
    if node.op_type != "Reshape":
        return None
    target = elements(node.inputs[1])
    return next((i for i, n in enumerate(target or ()) if n == -1), None)


def view_of(node: Any) -> Form | None:
    """The spelling that a view node has now, where its numbers are constants."""
    if node.op_type == "Flatten" or len(node.inputs) < 2 or not is_constant(node.inputs[1]) or attr(node, "allowzero"):
        return None
    numbers = whole(node.inputs[1])
    return None if numbers is None else (node.op_type, numbers)


def odd(nodes: Any) -> bool:
    """Does a Reshape have an ``allowzero`` other than 0 and 1? Runtimes do not agree on what that means."""
    return any(attr(n, "allowzero", 0) not in (0, 1) for n in nodes)


def write(op: Any, x: Any, form: Form) -> Any:
    """The node that a spelling stands for; ``x`` itself where nothing changes."""
    kind, numbers = form
    return x if kind == "same" else getattr(op, kind)(x, vector(numbers))


def reshaped(op: Any, x: Any, src: Sequence[Any], dst: Sequence[Any]) -> Any:
    """A view from one shape to the other; where no constants spell it, sizes known at run time only are read from ``x``."""
    form = view(src, dst)
    if not isinstance(form, str):
        return write(op, x, form)
    sizes = [vector([n]) if isinstance(n, int) else op.Shape(x, start=(i := list(src).index(n)), end=i + 1) for n in dst]
    return op.Reshape(x, op.Concat(*sizes, axis=0), allowzero=1)  # a size read may be 0


def has_view(src: Sequence[Any], dst: Sequence[Any]) -> bool:
    """Can `reshaped` write it? It takes opset 15."""
    return all(isinstance(n, int) or n in src for n in dst)


def permutation(perm: Sequence[int] | None, rank: int | None) -> tuple[int, ...] | None:
    """A Transpose's permutation; without the attribute it reverses the dims."""
    if perm is not None:
        return tuple(perm)
    return None if rank is None else tuple(range(rank))[::-1]


def axes_of(numbers: Sequence[int] | None, rank: int) -> tuple[int, ...] | None:
    """Axes counted from the front; None where one is out of range or given twice."""
    if numbers is None:
        return None
    axes = tuple(a + rank if a < 0 else a for a in numbers)
    return axes if all(0 <= a < rank for a in axes) and len(set(axes)) == len(axes) else None


def reduced_axes(node: Any, rank: int) -> tuple[int, ...] | None:
    """The axes that a Reduce node reduces, of the attribute or the input; all of them where none is given."""
    given = attr(node, "axes")
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        given = whole(node.inputs[1])
        if given is None:
            return None
    if not given:
        return () if attr(node, "noop_with_empty_axes", 0) else tuple(range(rank))
    return axes_of(given, rank)


def others_used(node: Any) -> bool:
    """Is another output than the first in use?"""
    return any(o.uses() or o.is_graph_output() for o in node.outputs[1:])


def every(value: Any, test: Any) -> bool:
    """Does every element of a constant pass the test? Looks at one element first: most constants fail there."""
    a = array(value)
    if a is None or a.size == 0:
        return False
    return bool(test(a.reshape(-1)[:1]).all()) and bool(test(a).all())


def part(first: int, end: int, axis: int) -> list[np.ndarray]:
    """The inputs of a Slice of one axis."""
    return [vector([n]) for n in (first, end, axis)]


def cut(numbers: Sequence[Any], shape: Sequence[Any]) -> tuple[int, int, int] | None:
    """(axis, first, end) of a Slice with these inputs behind its data: one axis of known size, counted from the front,
    step 1. None for any other."""
    held = [whole(v) for v in numbers]
    if len(held) not in (3, 4) or any(h is None or len(h) != 1 for h in held) or (len(held) == 4 and held[3] != (1,)):
        return None
    start, end, axis = (h[0] for h in held[:3])  # type: ignore[index]
    axis %= len(shape)
    size = shape[axis]
    return (axis, start, min(end, size)) if isinstance(size, int) and 0 <= start <= min(end, size) else None
