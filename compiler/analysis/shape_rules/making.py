"""Operators that make a tensor out of sizes: constants, ranges, one-hot rows, random numbers."""

from __future__ import annotations

import math
from typing import Any

from ... import ir
from .. import dims as d
from ..dims import Dim
from .core import INTEGERS, MOST, Dims, Site, Unknown, rule
from .elementwise import _dtype_of


@rule("Constant")
def constant(s: Site) -> None:
    t = ir.tensor(s.outputs[0])
    if t is not None:
        s.out(0, tuple(int(n) for n in t.shape), dtype=t.dtype)
        return
    sparse = s.node.attributes.get("sparse_value")
    if sparse is None or sparse.is_ref():
        raise Unknown
    s.out(0, tuple(int(n) for n in sparse.value.shape), dtype=sparse.value.dtype)


@rule("ConstantOfShape")
def constant_of_shape(s: Site) -> None:
    held = s.attr("value")
    dtype = ir.DataType.FLOAT if held is None else held.dtype
    try:
        shape: Dims = s.vector(0)
    except Unknown:
        length = s.dims(0)
        if len(length) != 1 or not isinstance(length[0], int):
            s.out(0, None, dtype=dtype)
            return
        shape = tuple(s.fresh() for _ in range(length[0]))
    if any(isinstance(n, int) and n < 0 for n in shape):
        raise Unknown
    items: list[Dim] | None = None
    count = d.product(shape)
    if isinstance(count, int) and count <= MOST and dtype in INTEGERS:
        items = [int(held.numpy().reshape(-1)[0])] * count
    s.out(0, shape, items, dtype=dtype)


@rule("EyeLike")
def eye_like(s: Site) -> None:
    s.out(0, s.dims(0), dtype=_dtype_of(s.attr("dtype")) or s.dtype(0))


@rule("RandomNormal", "RandomUniform")
def random(s: Site) -> None:
    s.out(0, s.attr("shape"), dtype=_dtype_of(s.attr("dtype", 1)))


@rule("Multinomial")
def multinomial(s: Site) -> None:
    s.out(0, (s.dims(0)[0], s.attr("sample_size", 1)), dtype=_dtype_of(s.attr("dtype", 6)))


@rule("BlackmanWindow", "HammingWindow", "HannWindow")
def window(s: Site) -> None:
    s.out(0, (s.vector(0)[0],), dtype=_dtype_of(s.attr("output_datatype", 1)))


@rule("Range")
def range_(s: Site) -> None:
    if s.dtype(0) not in INTEGERS and s.dtype(0) is not None:
        _float_range(s)
        return
    start, limit, step = (s.vector(i)[0] for i in range(3))
    if not isinstance(step, int) or step == 0:
        s.out(0, (s.fresh(),))
        return
    span = d.sub(limit, start) if step > 0 else d.sub(start, limit)
    count = d.ceildiv(span, abs(step))
    if not s.nonnegative(span):
        count = d.maximum(count, 0)
    items: Any = None
    if isinstance(count, int) and count <= MOST:
        items = [d.add(start, i * step) for i in range(count)]
    s.out(0, (count,), items)


def _float_range(s: Site) -> None:
    held = [ir.scalar(s.value(i)) for i in range(3)]
    first, last, by = held
    if first is not None and last is not None and by:
        s.out(0, (max(0, math.ceil((last - first) / by)),))
        return
    exact = [s.reals(i) for i in range(3)]
    if all(e is not None and e[0][1] == 1 and e[0][2] for e in exact):
        start, limit, step = (e[0][0] for e in exact if e is not None)
        if isinstance(step, int) and step > 0:
            s.out(0, (d.maximum(d.ceildiv(d.sub(limit, start), step), 0),))
            return
    s.out(0, (s.fresh(),))


@rule("OneHot")
def one_hot(s: Site) -> None:
    known = s.dims(0)
    axis = s.attr("axis", -1)
    axis = axis + len(known) + 1 if axis < 0 else axis
    if not 0 <= axis <= len(known):
        raise Unknown
    s.out(0, (*known[:axis], _depth(s), *known[axis:]))


def _depth(s: Site) -> Dim:
    number = ir.scalar(s.value(1))
    if number is not None:
        return int(number)
    try:
        depth = s.vector(1)[0]
    except Unknown:
        return s.fresh()
    return depth


@rule("MelWeightMatrix")
def mel_weight_matrix(s: Site) -> None:
    bins, length = s.vector(0)[0], s.vector(1)[0]
    s.out(0, (d.add(d.floordiv(length, 2), 1), bins), dtype=_dtype_of(s.attr("output_datatype", 1)))


@rule("Det")
def det(s: Site) -> None:
    s.out(0, s.dims(0)[:-2])


@rule("NonMaxSuppression")
def non_max_suppression(s: Site) -> None:
    s.out(0, (s.fresh(), 3))


@rule("RoiAlign")
def roi_align(s: Site) -> None:
    height, width = s.attr("output_height", 1), s.attr("output_width", 1)
    s.out(0, (s.dims(1)[0], s.dims(0)[1], height, width))


@rule("MaxRoiPool")
def max_roi_pool(s: Site) -> None:
    s.out(0, (s.dims(1)[0], s.dims(0)[1], *s.attr("pooled_shape")))


@rule("StringSplit")
def string_split(s: Site) -> None:
    known = s.dims(0)
    s.out(0, (*known, s.fresh()))
    s.out(1, known)
