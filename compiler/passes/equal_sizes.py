"""Sizes of inputs that must be equal get one name.

Exporters that know no names give each dim of each input one of its own (Keras and tf2onnx always, torch where a dim is left to be
found out). Then a mask and the tokens that it is for are not known to be of one batch and one length, and what rests on that
does not happen.

Sound for two sizes that a product of matrices sums over, and for the size of heads in a cache and that of the keys that it is
for: with others the model does not run. So it is for the sizes before and after a Reshape to sizes that are all given, unless
one of the others is 0, which is assumed not to be meant (nn.MultiheadAttention splits its heads by the batch of the queries, and
TorchScript by the number of keys of the example). Two that meet element by element
may also differ where one of them is 1 and is stretched; that nobody means this of token ids and masks, nor of a batch of texts
and what a product pairs it with (the sound that a decoder attends to), is assumed (``inputs-agree``). Sizes of other inputs are
left alone: one time step for all images is stretched in earnest.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Set
from functools import reduce

from .. import ir
from ..analysis import dims as d
from ..analysis import shapes
from ..analysis.poly import BROADCAST, MAX, MIN, SYMBOL, atom, make, terms_of
from ..analysis.shape_rules.core import OWN
from ..assumptions import COVERS_KEYS, INPUTS_AGREE
from . import Context
from .edit import branches

NAME = "equal_sizes"
_ROUNDS = 4
_TEXT = frozenset({ir.DataType.INT32, ir.DataType.INT64, ir.DataType.BOOL})
_SUMMED, _PAIRED, _MET, _CUT, _VIEWED = range(5)
"""Where two sizes are found together: in the sum of a product, as its batches, element by element, one cut to the other, before
and after a Reshape."""
_ASSUMES: dict[int, Set[str]] = {
    _SUMMED: frozenset(), _PAIRED: {INPUTS_AGREE}, _MET: {INPUTS_AGREE}, _CUT: {COVERS_KEYS, INPUTS_AGREE},
    _VIEWED: {INPUTS_AGREE},
}  # fmt: skip


def run(model: ir.Model, ctx: Context) -> int:
    """Name the sizes of the main graph's inputs; returns how many names went. The shapes must be known (``shapes.infer``)."""
    before = [v.shape for v in model.graph.inputs]
    if _name_unnamed(model):
        shapes.infer(model)
    allowed = [where for where, assumes in _ASSUMES.items() if ctx.why_not(assumes) is None]
    text = _names(model, text=True) - _names(model, text=False)
    gone = 0
    for _ in range(_ROUNDS):
        found, assumed = _solved(model, text, allowed)
        for graph, _ in branches(model)[1:]:
            more, taken = _solved(model, text, allowed, graph)
            found, assumed = {**found, **more}, assumed | taken
        if not found:
            break
        ctx.relied.update(assumed)
        for name, size in found.items():
            ctx.record(NAME, model.graph.name or "", f"{name} is {size}")
        for value in model.graph.inputs:
            _rename(value, [d.substitute(n, found) for n in shapes.dims(value) or ()])
        for value in _renamed(model):
            value.meta[OWN] = {axis: d.substitute(n, found) for axis, n in value.meta[OWN].items()}
        gone += len(found)
        shapes.infer(model)
    if not gone:
        changed = False
        for value, shape in zip(model.graph.inputs, before, strict=True):
            changed |= value.shape is not shape
            value.shape = shape
        if changed:
            shapes.infer(model)
    return gone


def named(model: ir.Model, always: bool = False) -> ir.Model:
    """The model, or where inputs of text seem to have batches of their own (or ``always``) a copy in which sizes that must be
    equal are."""
    text = [v.shape[0] for v in model.graph.inputs if _is_text(v) and v.shape is not None]
    apart = len({str(n) for n in text}) > 1 or any(n == ir.SymbolicDim(None) for n in text)
    if not always and not apart and not any(_has_cache(node) for node in model.graph):
        return model
    copy = model.clone()
    shapes.infer(copy)
    run(copy, Context())
    return copy


def _is_text(value: ir.Value) -> bool:
    return value.dtype in _TEXT and value.shape is not None and len(value.shape) > 1


def _names(model: ir.Model, text: bool) -> set[str]:
    """The symbols in the shapes of inputs of text, or of the others."""
    values = [v for v in model.graph.inputs if _is_text(v) == text]
    return {name for v in values for n in shapes.dims(v) or () for name in d.symbols(n)}


def _rename(value: ir.Value, dims: list[d.Dim]) -> None:
    if value.shape is not None and dims != list(shapes.dims(value) or ()):
        new = [n if a == b else b if isinstance(b, int) else str(b)
               for n, a, b in zip(value.shape, shapes.dims(value) or (), dims, strict=True)]  # fmt: skip
        value.shape = ir.Shape(new)


def _name_unnamed(model: ir.Model) -> bool:
    """Give dims of inputs that no name is known of one that can be written, where an input of text has such; True where one
    was given."""
    unnamed = [
        (v, i) for v in model.graph.inputs for i, n in enumerate(shapes.dims(v) or ())
        if v.shape is not None and isinstance(n, d.Poly) and str(n).startswith("?")
    ]  # fmt: skip
    if not any(_is_text(v) for v, _ in unnamed):
        return False
    taken = _names(model, True) | _names(model, False)
    for value, axis in unnamed:
        assert value.shape is not None
        base = name = re.sub(r"\W", "_", f"{value.name}_{axis}")
        base = name = base if base[0].isalpha() else f"d_{base}"
        while name in taken:
            name += "_"
        taken.add(name)
        value.shape = ir.Shape([name if i == axis else n for i, n in enumerate(value.shape)])
    return True


def _renamed(model: ir.Model) -> list[ir.Value]:
    """Masks of branches, whose sizes have names of their own (``branch_sizes``)."""
    nodes = [n for graph, _ in branches(model)[1:] for n in graph]
    return [n.outputs[0] for n in nodes if n.op_type == "Identity" and OWN in n.outputs[0].meta]


def _solved(
    model: ir.Model, text: set[str], allowed: Collection[int], branch: ir.Graph | None = None
) -> tuple[dict[str, d.Dim], set[str]]:
    """Symbols of inputs that equal something else: name -> what; and what was assumed. Of a branch: its own."""
    names = list(dict.fromkeys(str(n) for v in model.graph.inputs for n in shapes.dims(v) or ()
                               if isinstance(n, d.Poly) and str(n) in d.symbols(n)))  # fmt: skip
    found: dict[str, d.Dim] = {}
    assumed: set[str] = set()
    held = [n for v in _renamed(model) if branch is not None and ir.graph_of(v) is branch for n in v.meta[OWN].values()]
    own = [str(n) for n in held if str(n) in d.symbols(n) - set(names)]
    if branch is not None and not own:
        return {}, set()
    solved, names, text = own or names, [*names, *own], text | set(own)
    for a, b, where in _equations(model.graph if branch is None else branch):
        if where not in allowed or (where == _CUT and branch is None):
            continue
        gap = d.substitute(d.sub(a, b), found)
        for name in reversed(solved):  # the first input's names stay
            if name in found or (where not in (_SUMMED, _VIEWED) and name not in text):
                continue
            size = _solve(gap, name, names)
            if isinstance(size, int) and where not in (_SUMMED, _VIEWED):
                continue
            if size is not None and (where != _MET or d.symbols(size) <= text):
                found = {k: d.substitute(v, {name: size}) for k, v in found.items()} | {name: size}
                assumed |= _ASSUMES[where]
                break
    return found, assumed


def _solve(gap: d.Dim, name: str, names: list[str]) -> d.Dim | None:
    """What the symbol is where ``gap`` is 0: a number, or a sum of other symbols of inputs, such as can be written as a dim; None
    where that does not follow. Not the smaller or larger of two: what is cut from a table of one row for all (``min(S, 1)``) is
    stretched in earnest."""
    a = atom(SYMBOL, name)
    slope = {m: c for m, c in terms_of(gap) if any(a in x.leaves for x in m)}
    if list(slope) != [(a,)] or any(c % slope[(a,)] for _, c in terms_of(gap)):
        return None
    size = make({m: -c // slope[(a,)] for m, c in terms_of(gap) if m != (a,)})
    if isinstance(size, int):
        return size if size > 0 else None
    if any(len(m) > 1 or c < 1 for m, c in size.terms) or not d.all_names(size) <= set(names):
        return None
    if any(x.kind in (MIN, MAX, BROADCAST) for m, _ in size.terms for x in m):
        return None
    return size if str(size) in names or d.parse(str(size)) == size else None


def _equations(graph: ir.Graph) -> Iterator[tuple[d.Dim, d.Dim, int]]:
    """Pairs of sizes that are equal, and where they were found."""
    seen: set[tuple[d.Dim, int]] = set()
    for node in graph:
        where = _MET
        if node.op_type == "MatMul" and node.domain == "":
            where = _PAIRED
            left, right = (None if v is None else shapes.dims(v) for v in node.inputs)
            if left and right and left[-1] != right[-min(2, len(right))]:
                yield left[-1], right[-min(2, len(right))], _SUMMED
                yield from _summed(left[-1], right[-min(2, len(right))])
        if node.op_type == "Reshape" and node.domain == "":
            yield from _viewed(node)
        if _has_cache(node):
            yield from _of_cache(node)
        for value in node.outputs:
            for n in shapes.dims(value) or ():
                if isinstance(n, d.Poly) and (n, where) not in seen:
                    seen.add((n, where))
                    yield from ((a, b, where) for a, b in _stretched(n))


def _viewed(node: ir.Node) -> Iterator[tuple[d.Dim, d.Dim, int]]:
    """What a Reshape is given and what it makes have as many elements: without the factors that both numbers have."""
    before, after = (None if v is None else shapes.dims(v) for v in (node.inputs[0], node.outputs[0]))
    if before is None or after is None:
        return
    gap = terms_of(d.sub(d.product(before), d.product(after)))
    shared = reduce(lambda a, b: a & b, (Counter(m) for m, _ in gap), Counter(gap[0][0])) if gap else Counter()
    if gap:
        yield make({tuple((Counter(m) - shared).elements()): c for m, c in gap}), 0, _VIEWED


def _has_cache(node: ir.Node) -> bool:
    return (node.domain, node.op_type) == ("com.microsoft", "GroupQueryAttention") and len(node.inputs) > 4


def _of_cache(node: ir.Node) -> Iterator[tuple[d.Dim, d.Dim, int]]:
    """The last size of past keys and values is that of the heads which the operator gives out."""
    for past, present in zip(node.inputs[3:5], node.outputs[1:3], strict=False):
        held, given = (None if v is None else shapes.dims(v) for v in (past, present))
        if held and given and len(held) == len(given) == 4 and held[3] != given[3]:
            yield held[3], given[3], _SUMMED


def _summed(n: d.Dim, keys: d.Dim) -> Iterator[tuple[d.Dim, d.Dim, int]]:
    """What a sum over as many as there are keys says of a size that is stretched to that many."""
    for a, b in _stretched(n) if isinstance(n, d.Poly) else ():
        if keys in (a, b):
            other = b if a == keys else a
            yield other, keys, _PAIRED
            cut = [a for m, _ in terms_of(other) for a in m if a.kind == MIN and keys in a.args]
            yield from ((x, keys, _CUT) for a in cut for x in a.args if x != keys)


def _stretched(n: d.Poly) -> Iterator[tuple[d.Dim, d.Dim]]:
    for a in dict.fromkeys(a for m, _ in n.terms for a in m):
        if a.kind == BROADCAST:
            yield from ((a.args[0], other) for other in a.args[1:])
        for inner in a.args:
            if isinstance(inner, d.Poly):
                yield from _stretched(inner)
