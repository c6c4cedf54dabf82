"""Operators that ask for sizes or pick elements: Shape, Gather, Slice, Concat, Split and their like."""

from __future__ import annotations

from typing import Any

import numpy as np

from ... import ir
from .. import dims as d
from ..dims import Dim
from .core import MOST, Dims, Site, Unknown, elements, grid, normal_axis, rule, static

# Slice ends at or beyond this mean "to the end": what tf2onnx writes for it, the least of those met.
_ENDLESS = 10**9


@rule("Shape")
def shape(s: Site) -> None:
    known = s.dims_or_none(0)
    if known is None:
        s.out(0, (s.fresh(),))
        return
    rank = len(known)
    start, end = s.attr("start", 0), s.attr("end")
    first = max(0, min(rank, start + rank if start < 0 else start))
    last = rank if end is None else max(0, min(rank, end + rank if end < 0 else end))
    picked = known[first:last]
    s.out(0, (len(picked),), picked)


@rule("Size")
def size(s: Site) -> None:
    s.out(0, (), (d.product(s.dims(0)),))


@rule("Gather")
def gather(s: Site) -> None:
    data, at = s.dims(0), s.dims(1)
    axis = normal_axis(s.attr("axis", 0), len(data))
    out = data[:axis] + at + data[axis + 1 :]
    items: Any = None
    if len(out) <= 2:
        held = s.elements(0)
        where = s.elements(1) if held is not None else None
        if held is not None and where is not None and all(isinstance(i, int) for i in where):
            if len(data) == 1:
                items = [held[i] for i in where]  # type: ignore[index]
            else:
                picked = grid(where, at).astype(np.int64)
                items = np.take(grid(held, data), picked, axis).reshape(-1).tolist()
        elif held is None and len(data) == 1:
            items = _of_range(s, data[0])
    s.out(0, out, items)


def _of_range(s: Site, count: Dim) -> list[Dim] | None:
    """The entries that a Gather picks from a Range of any length: the last position is the length less 1."""
    made = s.inputs[0].producer() if s.inputs[0] is not None else None
    where = s.elements(1)
    if made is None or made.op_type != "Range" or made.domain != "" or where is None:
        return None
    start, _, step = (None if v is None else elements(v) for v in made.inputs)
    if start is None or step is None or not all(isinstance(i, int) for i in where):
        return None
    return [d.add(start[0], d.mul(i if i >= 0 else d.add(count, i), step[0])) for i in where if isinstance(i, int)]


@rule("GatherElements")
def gather_elements(s: Site) -> None:
    s.out(0, s.dims(1))


@rule("GatherND")
def gather_nd(s: Site) -> None:
    data, at = s.dims(0), s.dims(1)
    depth = at[-1]
    batch = s.attr("batch_dims", 0)
    if not isinstance(depth, int):
        raise Unknown
    lead = tuple(_one_of(a, b) for a, b in zip(data[:batch], at[:batch], strict=True))
    s.out(0, lead + at[batch:-1] + data[batch + depth :])


def _one_of(a: Dim, b: Dim) -> Dim:
    """Two dims that the operator requires to be equal: the simpler one."""
    return a if isinstance(a, int) or (not isinstance(b, int) and len(str(a)) <= len(str(b))) else b


@rule("Compress")
def compress(s: Site) -> None:
    axis = s.attr("axis")
    if axis is None:
        s.out(0, (s.fresh(),))
        return
    out = list(s.dims(0))
    out[normal_axis(axis, len(out))] = s.fresh()
    s.out(0, tuple(out))


_COUNTED = 1 << 12
"""Elements of a constant whose entries are counted."""


@rule("NonZero")
def non_zero(s: Site) -> None:
    known = s.dims_or_none(0)
    if known is None:
        s.out(0, (s.fresh(), s.fresh()))
        return
    made = s.inputs[0].producer() if s.inputs[0] is not None else None
    if made is not None and made.op_type == "ConstantOfShape" and made.domain == "":
        value = made.attributes.get("value")
        held = 0 if value is None or value.is_ref() else value.value.numpy().reshape(-1)[0]
        if held != 0:
            s.out(0, (len(known), d.product(known)))  # none of the entries is left out
            return
    tensor = ir.tensor(s.inputs[0])
    small = tensor is not None and tensor.size <= _COUNTED and tensor.dtype != ir.DataType.STRING
    count = int(np.count_nonzero(tensor.numpy())) if small and tensor is not None else s.fresh()
    s.out(0, (len(known), count))


@rule("Unique")
def unique(s: Site) -> None:
    count = s.fresh()
    axis = s.attr("axis")
    for i in (1, 3):
        s.out(i, (count,))
    if axis is None:
        s.out(2, (d.product(s.dims(0)),))
        s.out(0, (count,))
        return
    out = list(s.dims(0))
    axis = normal_axis(axis, len(out))
    s.out(2, (out[axis],))
    out[axis] = count
    s.out(0, tuple(out))


@rule("TopK")
def top_k(s: Site) -> None:
    out = list(s.dims(0))
    axis = normal_axis(s.attr("axis", -1), len(out))
    k = s.attr("k", None) if s.version < 10 else s.vector(1)[0]
    out[axis] = s.fresh() if k is None else k
    for i in (0, 1):
        s.out(i, tuple(out))


# ------------------------------------------------------------------------------------------------------- Slice


@rule("Slice")
def slice_(s: Site) -> None:
    data = s.dims(0)
    if s.version < 10:
        starts, ends = s.attr("starts"), s.attr("ends")
        axes, steps = s.attr("axes"), None
    else:
        axes = s.ints(3) if s.has(3) else None
        steps = s.ints(4) if s.has(4) else None
        count = len(axes) if axes is not None else _length(s, 1, len(data))
        starts, ends = _bounds(s, 1, count), _bounds(s, 2, count)
    axes = tuple(range(len(starts))) if axes is None else tuple(normal_axis(a, len(data)) for a in axes)
    steps = (1,) * len(axes) if steps is None else steps
    out = list(data)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        if step == 0:
            raise Unknown
        out[axis] = _sliced(s, data[axis], start, end, step)
    items: Any = None
    held = s.elements(0) if len(data) <= 2 else None
    if held is not None and all(isinstance(n, int) for n in (*starts, *ends)):
        index: list[slice | None] = [slice(None)] * len(data)
        for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
            index[axis] = _python_slice(static(data)[axis], start, end, step)
        if None not in index:
            items = grid(held, data)[tuple(index)].reshape(-1).tolist()
    s.out(0, tuple(out), items)


def _length(s: Site, i: int, rank: int) -> int:
    known = s.dims_or_none(i)
    if known is None or len(known) != 1 or not isinstance(known[0], int) or known[0] > rank:
        raise Unknown
    return known[0]


def _bounds(s: Site, i: int, count: int) -> tuple[Dim | None, ...]:
    try:
        found = s.vector(i)
    except Unknown:
        return (None,) * count
    return found if len(found) == count else (None,) * count


def _python_slice(n: int, start: int, end: int, step: int) -> slice | None:
    """The Python slice that ONNX's start and end mean on an axis of n elements.

    None for a backward slice from before the first element: by ONNX's text, and in ONNX Runtime, it begins at the
    first; numpy, and so onnx's reference evaluator, takes nothing.
    """
    if step > 0:
        return slice(start, end, step)
    start = min(start + n if start < 0 else start, n - 1)
    end = end + n if end < 0 else end
    if start < 0:
        return slice(0, 0, 1) if end >= 0 or n == 0 else None
    return slice(start, end if end >= 0 else None, step)


def _sliced(s: Site, n: Dim, start: Dim | None, end: Dim | None, step: int) -> Dim:
    """How many elements a slice of n takes."""
    if start is None or end is None:
        return s.fresh()
    if isinstance(n, int) and isinstance(start, int) and isinstance(end, int):
        taken = _python_slice(n, start, end, step)
        return s.fresh() if taken is None else len(range(n)[taken])
    if step < 0:
        return _reversed(s, n, start, end, step)
    # a start beyond the end needs no clamping: nothing is left either way
    low = start if s.nonnegative(start) else _clamped(s, n, start)
    high = n if isinstance(end, int) and end >= _ENDLESS else _clamped(s, n, end)
    if low is None or high is None:
        return s.fresh()
    return d.ceildiv(_at_least_zero(s, d.gap(high, low)), step)


def _reversed(s: Site, n: Dim, start: Dim, end: Dim, step: int) -> Dim:
    """Only the flip of a whole axis, from its last element or beyond to before its first."""
    if not isinstance(start, int) or not isinstance(end, int):
        return s.fresh()
    whole = end <= -_ENDLESS and (start == -1 or start >= _ENDLESS)
    return d.ceildiv(n, -step) if whole else s.fresh()


def _clamped(s: Site, n: Dim, at: Dim) -> Dim | None:
    """A bound of a slice as a position in 0..n, or None where its sign is not known."""
    if isinstance(at, int) and at < 0:
        return _at_least_zero(s, d.add(n, at))
    if s.nonnegative(at):
        return at if s.nonnegative(d.sub(n, at)) else d.minimum(n, at)
    if s.nonnegative(d.neg(at)):
        # -0 counts from the front, though what is written as -S counts from the end: `x[-S:]` is all of x where S is 0
        return d.mul(_at_least_zero(s, d.add(n, at)), d.minimum(d.neg(at), 1))
    return None


def _at_least_zero(s: Site, e: Dim) -> Dim:
    return e if s.nonnegative(e) else d.maximum(e, 0)


# ----------------------------------------------------------------------------------------------- Concat and Split


@rule("Concat")
def concat(s: Site) -> None:
    shapes = [s.dims_or_none(i) for i in range(len(s.inputs))]
    known = [x for x in shapes if x is not None]
    if not known:
        raise Unknown
    rank = len(known[0])
    axis = normal_axis(s.attr("axis", 1 if s.version < 4 else None), rank)
    if any(len(x) != rank for x in known):
        raise Unknown
    out = list(known[0])
    for x in known[1:]:
        for i, n in enumerate(x):
            if i != axis:
                out[i] = _one_of(out[i], n)
    out[axis] = d.total(x[axis] for x in known) if len(known) == len(shapes) else s.fresh()
    items: list[Dim] | None = None
    if rank == 1 and isinstance(out[0], int) and out[0] <= MOST:
        held = [s.elements(i) for i in range(len(s.inputs))]
        if any(h is not None for h in held):
            items = []
            for i, h in enumerate(held):
                items.extend(s.vector(i) if h is None else h)
    elif rank == 2:
        _concat_grids(s, known, axis, tuple(out))
        return
    s.out(0, tuple(out), items)


def _concat_grids(s: Site, shapes: list[Dims], axis: int, out: Dims) -> None:
    held = [s.elements(i) for i in range(len(s.inputs))]
    if len(shapes) != len(held) or any(h is None for h in held):
        s.out(0, out)
        return
    joined = np.concatenate([grid(h or (), x) for h, x in zip(held, shapes, strict=True)], axis)
    s.out(0, out, joined.reshape(-1).tolist())


@rule("Split")
def split(s: Site) -> None:
    data = s.dims(0)
    axis = normal_axis(s.attr("axis", 0), len(data))
    n, count = data[axis], len(s.outputs)
    sizes: tuple[Dim, ...]
    if s.version < 13:
        sizes = s.attr("split") or ()
        if not sizes and s.version < 2 and s.has(1):
            sizes = s.vector(1)
    else:
        sizes = _sizes(s, count) if s.has(1) else ()
    if not sizes:
        parts = s.attr("num_outputs", count) if s.version >= 18 else count
        if parts != count:
            raise Unknown
        chunk = d.ceildiv(n, parts)
        if s.version < 18:
            exact = d.divide_exact(n, parts)
            sizes = (chunk if exact is None else exact,) * count
        else:
            sizes = (chunk,) * (count - 1) + (d.sub(n, d.mul(chunk, count - 1)),)
    if len(sizes) != count:
        raise Unknown
    held = s.elements(0) if len(data) == 1 else None
    at: int | None = 0
    for i, k in enumerate(sizes):
        items = None
        at_next = at + k if at is not None and isinstance(k, int) else None
        if held is not None and at_next is not None:
            items = held[at:at_next]
        at = at_next
        s.out(i, (*data[:axis], k, *data[axis + 1 :]), items)


def _sizes(s: Site, count: int) -> tuple[Dim, ...]:
    try:
        return tuple(e if s.nonnegative(e) else s.fresh() for e in s.vector(1))
    except Unknown:
        return tuple(s.fresh() for _ in range(count))
