"""Sizes of inputs that must be equal get one name.

Exporters that know no names give each dim of each input one of its own (Keras and tf2onnx always, torch where a dim is left to be
found out). Then a mask and the tokens that it is for are not known to be of one batch and one length, and what rests on that
does not happen.

Sound for two sizes that a product of matrices sums over: with others the model does not run. Two that meet element by element
may also differ where one of them is 1 and is stretched; that nobody means this of token ids and masks is assumed
(``inputs-agree``). Sizes of other inputs are left alone: one time step for all images is stretched in earnest.
"""

from __future__ import annotations

from collections.abc import Iterator

from .. import ir
from ..analysis import dims as d
from ..analysis import shapes
from ..analysis.poly import BROADCAST, SYMBOL, atom, make, terms_of
from ..assumptions import INPUTS_AGREE
from . import Context

NAME = "equal_sizes"
_ROUNDS = 4
_TEXT = frozenset({ir.DataType.INT32, ir.DataType.INT64, ir.DataType.BOOL})

Places = list[tuple[ir.Value, int]]


def run(model: ir.Model, ctx: Context) -> int:
    """Name the sizes of the main graph's inputs; returns how many names went. The shapes must be known (``shapes.infer``)."""
    gone = 0
    for _ in range(_ROUNDS):
        found, assumed = _solved(model, allowed=ctx.why_not({INPUTS_AGREE}) is None)
        if not found:
            break
        if assumed:
            ctx.relied.update({INPUTS_AGREE})
        for name, (size, places) in found.items():
            for value, axis in places:
                _rename(value, axis, size)
            ctx.record(NAME, places[0][0].name, f"{name} is {size}")
        gone += len(found)
        shapes.infer(model)
    return gone


def _rename(value: ir.Value, axis: int, size: d.Dim) -> None:
    assert value.shape is not None
    value.shape = ir.Shape([str(size) if i == axis else n for i, n in enumerate(value.shape)])


def _solved(model: ir.Model, allowed: bool) -> tuple[dict[str, tuple[d.Dim, Places]], bool]:
    """Symbols of inputs that equal something else: name -> what, and where they stand; and whether anything was assumed."""
    places: dict[str, Places] = {}
    text: set[str] = set()
    for value in model.graph.inputs:
        for axis, n in enumerate(shapes.dims(value) or ()):
            if not isinstance(n, d.Poly) or str(n) not in d.symbols(n):
                continue
            places.setdefault(str(n), []).append((value, axis))
            if value.dtype in _TEXT and value.shape is not None and len(value.shape) > 1:
                text.add(str(n))
    found: dict[str, d.Dim] = {}
    assumed = False
    if len(places) < 2:
        return {}, False
    for a, b, certain in _equations(model.graph):
        if not certain and not allowed:
            continue
        gap = d.substitute(d.sub(a, b), found)
        names = list(places) if certain else [n for n in places if n in text]
        for name in reversed(names):  # the first input's names stay
            size = None if name in found else _solve(gap, name, places)
            if size is not None:
                found = {k: d.substitute(v, {name: size}) for k, v in found.items()} | {name: size}
                assumed |= not certain
                break
    return {name: (size, places[name]) for name, size in found.items()}, assumed


def _solve(gap: d.Dim, name: str, places: dict[str, Places]) -> d.Dim | None:
    """What the symbol is where ``gap`` is 0: a sum of other symbols of inputs; None where that does not follow."""
    a = atom(SYMBOL, name)
    slope = {m: c for m, c in terms_of(gap) if any(a in x.leaves for x in m)}
    if list(slope) != [(a,)] or any(c % slope[(a,)] for _, c in terms_of(gap)):
        return None
    size = make({m: -c // slope[(a,)] for m, c in terms_of(gap) if m != (a,)})
    if isinstance(size, int) or any(len(m) > 1 or c < 1 for m, c in size.terms) or not d.all_names(size) <= places.keys():
        return None
    return size


def _equations(graph: ir.Graph) -> Iterator[tuple[d.Dim, d.Dim, bool]]:
    """Pairs of sizes that are equal: where products sum (certain), and where tensors are broadcast to one another."""
    seen: set[d.Dim] = set()
    for node in graph:
        if node.op_type == "MatMul" and node.domain == "":
            left, right = (None if v is None else shapes.dims(v) for v in node.inputs)
            if left and right and left[-1] != right[-min(2, len(right))]:
                yield left[-1], right[-min(2, len(right))], True
        for value in node.outputs:
            for n in shapes.dims(value) or ():
                if isinstance(n, d.Poly) and n not in seen:
                    seen.add(n)
                    yield from _stretched(n)


def _stretched(n: d.Poly) -> Iterator[tuple[d.Dim, d.Dim, bool]]:
    for a in dict.fromkeys(a for m, _ in n.terms for a in m):
        if a.kind == BROADCAST:
            for other in a.args[1:]:
                yield a.args[0], other, False
        for inner in a.args:
            if isinstance(inner, d.Poly):
                yield from _stretched(inner)
