"""Equal initializers become one, by content and never by name.

Sound because a constant initializer (one that is not also a graph input, so no caller overrides it) is its dtype,
shape and bytes; -0.0 and 0.0 differ, and a NaN equals only the same NaN. An initializer of a body that equals one
of a graph around it gives way to that. Large ones of two bodies that do not see each other (the branches of an If, for
which a rule has made the same weight anew) become one of the innermost graph that both see: else what the branches of a merged
decoder share would be stored twice. Those that are graph outputs, or that a quantization annotation names, stay
but may stand in for others. The unused ones are removed here.

Cost: tensors are read only where another of the same dtype and shape is visible, and large ones first by a sample
of 12 KiB. External tensors that share their bytes in the file are equal without reading; others are hashed as a
stream, in constant memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from math import inf, prod
from typing import Any

from .. import ir
from ..tensors import SparseTensor
from . import Context
from .contents import content, place, sample
from .edit import Names, annotated, defined, inherit

NAME = "dedupe-initializers"
LIFTED = 1024
"""Bytes from which equal initializers of separate bodies move out: axes and shapes stay where runtimes look for them."""

_QUANTIZED = frozenset((ir.DataType.INT4, ir.DataType.INT8, ir.DataType.UINT4, ir.DataType.UINT8))

_Kind = tuple[ir.DataType, tuple[Any, ...]]


def run(model: ir.Model, ctx: Context, most: float = inf) -> int:
    """Merge equal initializers of at most so many elements in the graph and all bodies; returns how many went."""
    kinds: Counter[_Kind] = Counter(_kind(v) for g in ir.all_graphs(model) for v in _candidates(g))
    shared = {kind for kind, count in kinds.items() if count > 1 and prod(kind[1]) <= most}
    if not shared:
        return 0
    merger = _Merger(shared, annotated(model), ctx)
    changes = merger.graph(model.graph, [])
    for function in model.functions.values():
        changes += merger.graph(function.graph, [])
    return changes + merger.lift(model)


def _kind(value: ir.Value) -> _Kind:
    tensor = value.const_value
    assert tensor is not None
    return tensor.dtype, tuple(tensor.shape)


def _candidates(graph: ir.Graph) -> list[ir.Value]:
    # A sparse initializer is left alone: it would have to be made dense to be compared.
    return [
        v
        for v in graph.initializers.values()
        if v.const_value is not None and not v.is_graph_input() and not isinstance(v.const_value, SparseTensor)
    ]


class _Scope:
    """The constants of a graph met so far: by place in a file, by sample, and by digest once two samples are equal."""

    def __init__(self, graph: ir.Graph) -> None:
        self.places: dict[Hashable, ir.Value] = {}
        self.samples: dict[Hashable, ir.Value] = {}
        self.digests: dict[Hashable, ir.Value] = {}
        self.names = frozenset(v.name for v in defined(graph) if v.name)


class _Merger:
    def __init__(self, shared: set[_Kind], pinned: set[str], ctx: Context) -> None:
        self.shared = shared
        self.pinned = pinned
        self.ctx = ctx
        self.known: dict[ir.Value, bytes] = {}

    def digest(self, value: ir.Value) -> bytes:
        """Of the content; each tensor is read once, however many scopes look for it."""
        if value not in self.known:
            self.known[value] = content(value.const_value)
        return self.known[value]

    def graph(self, graph: ir.Graph, outer: list[_Scope]) -> int:
        scopes = [*outer, _Scope(graph)]
        changes = 0
        for value in _candidates(graph):
            kind = _kind(value)
            if kind not in self.shared:
                continue
            equal = self.find(kind, value, scopes)
            if equal is None or value.is_graph_output() or value.name in self.pinned:
                continue
            value.replace_all_uses_with(equal)
            inherit(equal, value)
            assert value.name is not None
            del graph.initializers[value.name]
            self.ctx.record(NAME, value.name, f"same content as {equal.name}")
            changes += 1
        for node in graph:
            for body in ir.subgraphs(node):
                changes += self.graph(body, scopes)
        return changes

    def lift(self, model: ir.Model) -> int:
        """Move what several bodies hold to the innermost graph that all of them see."""
        paths: dict[ir.Graph, tuple[ir.Graph, ...]] = {model.graph: (model.graph,)}
        for graph in ir.all_graphs(model, functions=False):  # outer ones first
            paths.update({body: (*paths[graph], body) for node in graph for body in ir.subgraphs(node)})
        alike: dict[Hashable, list[tuple[ir.Graph, ir.Value]]] = {}
        for graph in paths:
            if graph is not model.graph:
                for value in _candidates(graph):
                    if _kind(value) in self.shared and self.may_move(value):
                        alike.setdefault((_kind(value), sample(value.const_value)), []).append((graph, value))
        changes = 0
        names: Names | None = None
        for group in alike.values():
            equal: dict[bytes, list[tuple[ir.Graph, ir.Value]]] = {}
            for graph, value in group if len(group) > 1 else ():
                equal.setdefault(self.digest(value), []).append((graph, value))
            for (graph, first), *others in equal.values():
                if not others:
                    continue
                names = names if names is not None else Names(model)
                del graph.initializers[first.name or ""]
                names.own(first)
                homes = zip(*(paths[home] for home in (graph, *(home for home, _ in others))), strict=False)
                [level for level in homes if len(set(level)) == 1][-1][0].register_initializer(first)
                for home, value in others:
                    value.replace_all_uses_with(first)
                    inherit(first, value)
                    del home.initializers[value.name or ""]
                    self.ctx.record(NAME, value.name, f"same content as {first.name}, of another body")
                    changes += 1
        return changes

    def may_move(self, value: ir.Value) -> bool:
        tensor = value.const_value
        assert tensor is not None
        target = self.ctx.target
        if target is not None and target.beside and tensor.dtype in _QUANTIZED:
            return False
        return tensor.nbytes >= LIFTED and not value.is_graph_output() and value.name not in self.pinned

    def find(self, kind: _Kind, value: ir.Value, scopes: list[_Scope]) -> ir.Value | None:
        """An equal visible initializer; where there is none, ``value`` is entered for those to come."""
        where = (kind, place(value.const_value) or id(value.const_value))
        likeness = (kind, sample(value.const_value))
        for depth in range(len(scopes) - 1, -1, -1):
            scope = scopes[depth]
            found = scope.places.get(where)
            if found is None and likeness in scope.samples:
                first = scope.samples[likeness]
                scope.digests.setdefault((kind, self.digest(first)), first)
                found = scope.digests.get((kind, self.digest(value)))
            # A body that defines the name itself (illegal, but files do it) hides the outer value.
            if found is not None and not any(found.name in s.names for s in scopes[depth + 1 :]):
                return found
        here = scopes[-1]
        here.places.setdefault(where, value)
        if likeness in here.samples:
            here.digests.setdefault((kind, self.digest(value)), value)
        else:
            here.samples[likeness] = value
        return None
