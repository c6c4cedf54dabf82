"""Reductions and products: Reduce*, ArgMax, MatMul, Gemm, Einsum."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce as fold

from .. import dims as d
from ..dims import Dim
from .core import Dims, Site, Unknown, normal_axis, rule

_OVER: dict[str, Callable[[Dim, Dim], Dim]] = {
    "ReduceProd": d.mul,
    "ReduceSum": d.add,
    "ReduceMax": d.maximum,
    "ReduceMin": d.minimum,
}


@rule(
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
    "ReduceSum", "ReduceSumSquare",
)  # fmt: skip
def reduction(s: Site) -> None:
    known = s.dims(0)
    op = s.node.op_type
    keep = s.attr("keepdims", 1)
    try:
        axes = s.axes("axes", 1, from_input=13 if op == "ReduceSum" else 18)
    except Unknown:
        if keep:
            s.out(0, tuple(s.fresh() for _ in known))
            return
        counted = s.dims(1)
        if len(counted) != 1 or not isinstance(counted[0], int) or not 0 < counted[0] <= len(known):
            raise
        s.out(0, tuple(s.fresh() for _ in range(len(known) - counted[0])))
        return
    if not axes:
        if s.attr("noop_with_empty_axes", 0):
            s.out(0, known)
            return
        axes = tuple(range(len(known)))
    over = {normal_axis(a, len(known)) for a in axes}
    out: Dims = tuple((1 if i in over else n) for i, n in enumerate(known) if keep or i not in over)
    join = _OVER.get(op)
    held = s.elements(0) if join is not None and len(known) == 1 else None
    items = [fold(join, held)] if join is not None and held else None
    s.out(0, out, items)


@rule("ArgMax", "ArgMin")
def arg_reduction(s: Site) -> None:
    known = s.dims(0)
    axis = normal_axis(s.attr("axis", 0), len(known))
    keep: Dims = (1,) if s.attr("keepdims", 1) else ()
    s.out(0, known[:axis] + keep + known[axis + 1 :])


def matmul_dims(s: Site, a: Dims, b: Dims) -> Dims:
    """The shape of ``a @ b``."""
    if not a or not b:
        raise Unknown
    if len(a) == 1 and len(b) == 1:
        return ()
    if len(a) == 1:
        return b[:-2] + b[-1:]
    if len(b) == 1:
        return a[:-1]
    lead = a[:-2] if len(b) == 2 else s.broadcast((a[:-2], b[:-2]))
    return (*lead, a[-2], b[-1])


@rule("MatMul", "MatMulInteger")
def matmul(s: Site) -> None:
    s.out(0, matmul_dims(s, s.dims(0), s.dims(1)))


@rule("QLinearMatMul")
def qlinear_matmul(s: Site) -> None:
    s.out(0, matmul_dims(s, s.dims(0), s.dims(3)), dtype=s.dtype(7))


@rule("Gemm")
def gemm(s: Site) -> None:
    a, b = s.dims_or_none(0), s.dims_or_none(1)
    m = s.fresh() if a is None else a[1 if s.attr("transA", 0) else 0]
    n = s.fresh() if b is None else b[0 if s.attr("transB", 0) else 1]
    s.out(0, (m, n))


@rule("Einsum")
def einsum(s: Site) -> None:
    equation = s.attr("equation").replace(" ", "")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    if len(terms) != len(s.inputs):
        raise Unknown
    sizes: dict[str, Dim] = {}
    spread: Dims = ()
    for i, term in enumerate(terms):
        known = s.dims(i)
        head, dots, tail = term.partition("...")
        if not dots and len(known) != len(term):
            raise Unknown
        middle = known[len(head) : len(known) - len(tail)] if dots else ()
        if dots and len(known) < len(head) + len(tail):
            raise Unknown
        spread = s.broadcast((spread, middle))
        named = zip(head + tail, known[: len(head)] + known[len(known) - len(tail) :] if dots else known, strict=True)
        for letter, n in named:
            (sizes[letter],) = s.broadcast(((sizes.get(letter, 1),), (n,)))
    if not arrow:
        letters = "".join(terms).replace("...", "")
        right = ("..." if "..." in left else "") + "".join(sorted(k for k in set(letters) if letters.count(k) == 1))
    head, dots, tail = right.partition("...")
    if any(k not in sizes for k in head + tail):
        raise Unknown
    s.out(0, (*(sizes[k] for k in head), *(spread if dots else ()), *(sizes[k] for k in tail)))
