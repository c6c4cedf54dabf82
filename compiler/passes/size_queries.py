"""One way to ask for a size: of the first input of the model that has it, by one Shape, shared by all who ask.

Exporters ask whatever tensor is near, anew for each use, through Shape, Gather, Unsqueeze and casts. A value that is
proved to hold sizes of the model's inputs (or sums and products of such) is computed straight from these inputs:

* a size: ``Shape(input, start=i, end=i+1)``, with a Squeeze where a scalar is wanted;
* several that are neighbours in one input: one Shape;
* other vectors: a Concat of these and constants; other polynomials: Add, Mul and Div of these, in a fixed order.

Sound because the shape analysis proves what the value holds, and equal names of sizes of inputs are equal sizes by
the model's own declaration. Exports of one model that differ in whom they ask become the same graph.

In a branch of an If only inputs are asked that the branch reads itself: callers give what they like for those that only
the other branch reads (a merged decoder's caches of nothing at its first step). For the same reason the main graph asks none
that only bodies read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import ir
from ..analysis import dims as d
from ..analysis import shapes
from . import Context
from .edit import Names, branches, redirect

NAME = "size_queries"
SINCE = 15
"""The opset since which Shape can ask for a part of the shape."""
_MOST = 12
"""Nodes that the expression of one value may have."""
_TYPES = (ir.DataType.INT64, ir.DataType.INT32)

Key = tuple[Any, ...]
"""An expression: ``("Shape", input, start, end)``, ``("Const", numbers)``, or an operator and its operands. Add and Mul
have any number of them, in a fixed order, whatever the order and nesting in the graph."""


class Inexpressible(Exception):
    """What is asked for is not made of sizes of the model's inputs, or takes too many nodes."""


def run(model: ir.Model, ctx: Context) -> int:
    """Rewrite the size queries of the main graph and of branches; returns how many values have a new source."""
    if (model.opset_imports.get("") or 0) < SINCE:
        return 0
    names = Names(model)
    return sum(Queries(model, ctx, graph, names).run() for graph, _ in branches(model))


class Queries:
    """Sizes of a model's inputs, and the nodes that ask for them, in its main graph or in a branch."""

    def __init__(self, model: ir.Model, ctx: Context, graph: ir.Graph | None = None, names: Names | None = None) -> None:
        self.model = model
        self.ctx = ctx
        self.graph = model.graph if graph is None else graph
        self.names = Names(model) if names is None else names
        self.pinned = self.names.pinned
        self.made: dict[Key, ir.Value] = {}
        self.keys: dict[ir.Value, Key] = {}
        self.inputs: list[tuple[ir.Value, tuple[d.Dim, ...]]] = []
        self.place: dict[d.Dim, tuple[ir.Value, int]] = {}
        self.order = {value: i for i, value in enumerate(model.graph.inputs)}
        main = self.graph is model.graph
        read = set() if main else {v for node in self.graph for v in node.inputs}
        for value in model.graph.inputs:
            shape = None if value.is_initializer() else shapes.dims(value)
            if shape is None or not (_read_here(value, self.graph) if main else value in read):
                continue
            self.inputs.append((value, shape))
            for i, n in enumerate(shape):
                if isinstance(n, d.Poly):
                    self.place.setdefault(n, (value, i))

    def run(self) -> int:
        changes = 0
        for node in list(self.graph):
            for value in node.outputs:
                changes += self.value(node, value)
        return changes

    def value(self, node: ir.Node, value: ir.Value) -> int:
        held = self.held(value)
        if held is None or not self.needed(value) or value.name in self.pinned:
            return 0
        try:
            wanted = self.wanted(value, held)
        except Inexpressible:
            return 0
        if self.key(value) == wanted:
            first = self.made.setdefault(wanted, value)
            if first is value or value.is_graph_output():
                return 0
        elif node.op_type == "Shape" and wanted[0] == "Concat":
            return 0  # one node is not worth several
        new = self.build(wanted, node)
        redirect(value, new, self.pinned)
        self.ctx.record(NAME, value.name or node.name, f"asks for {', '.join(map(str, held))} in one way")
        return 1

    # --- what is wanted ------------------------------------------------------------------------------------------

    def held(self, value: ir.Value) -> tuple[d.Dim, ...] | None:
        """What the value holds, if that is sizes and not all constants."""
        if value.dtype not in _TYPES or ir.is_constant(value):
            return None
        found = shapes.elements(value)
        if found is None or all(isinstance(n, int) for n in found) or not all(map(d.is_size, found)):
            return None
        return found

    def needed(self, value: ir.Value) -> bool:
        """Does anything but size arithmetic read it?"""
        if value.is_graph_output():
            return True
        for user, _ in value.uses():
            if ir.owner(user) is not self.graph or any(shapes.elements(o) is None for o in user.outputs):
                return True
        return False

    def wanted(self, value: ir.Value, held: tuple[d.Dim, ...]) -> Key:
        shape = shapes.dims(value)
        assert shape is not None
        key = self.vector(held)
        if value.dtype == ir.DataType.INT32:
            key = ("Cast", int(ir.DataType.INT32), key)
        key = ("Squeeze", key) if len(shape) == 0 else key
        if _size(key) > _MOST:
            raise Inexpressible
        return key

    def vector(self, held: tuple[d.Dim, ...]) -> Key:
        run = self.neighbours(held)
        if run is not None:
            return run
        if len(held) == 1:
            return self.one(held[0])
        parts: list[Key] = []
        for n in held:
            if not isinstance(n, int):
                parts.append(self.one(n))
            elif parts and parts[-1][0] == "Const":
                parts[-1] = ("Const", (*parts[-1][1], n))
            else:
                parts.append(("Const", (n,)))
        return ("Concat", *parts)

    def neighbours(self, held: tuple[d.Dim, ...]) -> Key | None:
        """One Shape for dims that stand together in an input."""
        if isinstance(held[0], int) and isinstance(held[-1], int) and len(held) < 3:
            return None
        for value, shape in self.inputs:
            for i in range(len(shape) - len(held) + 1):
                if shape[i : i + len(held)] == held:
                    return ("Shape", value, i, i + len(held))
        return None

    def one(self, n: d.Dim) -> Key:
        """A vector of one element that holds a dim."""
        if isinstance(n, int):
            return ("Const", (n,))
        if n in self.place:
            value, i = self.place[n]
            return ("Shape", value, i, i + 1)
        terms = [self.term(m, c) for m, c in n.terms if m]
        constant = dict(n.terms).get((), 0)
        if constant:
            terms.append(("Const", (constant,)))
        return self.joined("Add", terms)

    def term(self, atoms: Sequence[d.Atom], coefficient: int) -> Key:
        factors = [self.atom(a) for a in atoms]
        if coefficient != 1:
            factors.append(("Const", (coefficient,)))
        return self.joined("Mul", factors)

    def joined(self, op: str, parts: Sequence[Key]) -> Key:
        """The sum or product of expressions."""
        flat = [q for p in parts for q in (p[1:] if p[0] == op else (p,))]
        return flat[0] if len(flat) == 1 else (op, *sorted(flat, key=self.rank))

    def rank(self, key: Key) -> tuple[Any, ...]:
        """Where an operand stands: sizes in the order of the inputs, then what is computed, then constants."""
        if key[0] == "Shape":
            return (0, self.order[key[1]], key[2], key[3], "")
        text = repr([self.rank(k) if isinstance(k, tuple) and k and isinstance(k[0], str) else str(k) for k in key[1:]])
        return (2 if key[0] == "Const" else 1, 0, 0, 0, f"{key[0]}{text}")

    def atom(self, a: d.Atom) -> Key:
        if a.kind == d.SYMBOL:
            found = self.place.get(d.symbol(a.name))
            if found is None:
                raise Inexpressible
            return ("Shape", found[0], found[1], found[1] + 1)
        if a.kind == d.FLOOR and isinstance(a.args[1], int) and a.args[1] > 0 and d.is_nonnegative(a.args[0]):
            # Div of integers rounds towards 0, which is down for what is not negative
            return ("Div", self.one(a.args[0]), ("Const", (a.args[1],)))
        raise Inexpressible

    # --- what is there, and what is made -------------------------------------------------------------------------

    def key(self, value: ir.Value) -> Key:
        """The expression by which a value is computed now; what is of another form stands for itself."""
        found = self.keys.get(value)
        if found is None:
            found = self.keys[value] = self._key(value)
        return found

    def _key(self, value: ir.Value) -> Key:
        other: Key = ("?", value)
        if ir.is_constant(value):
            held = shapes.elements(value)
            return other if held is None or shapes.dims(value) == () else ("Const", held)
        node = value.producer()
        if node is None or node.domain != "" or ir.owner(node) is not self.graph:
            return other
        inputs = [v for v in node.inputs if v is not None]
        if len(inputs) != len(node.inputs):
            return other
        if node.op_type == "Shape":
            shape = shapes.dims(inputs[0])
            if not inputs[0].is_graph_input() or shape is None:
                return other
            start, end, _ = slice(ir.attr(node, "start", 0), ir.attr(node, "end")).indices(len(shape))
            return ("Shape", inputs[0], start, end)
        if node.op_type == "Squeeze":
            axes = shapes.elements(inputs[1]) if len(inputs) > 1 else None
            return ("Squeeze", self.key(inputs[0])) if axes == (0,) else other
        if node.op_type == "Cast":
            return ("Cast", ir.attr(node, "to"), self.key(inputs[0]))
        if node.op_type in ("Add", "Mul"):
            return self.joined(node.op_type, [self.key(v) for v in inputs])
        if node.op_type in ("Concat", "Div"):
            return (node.op_type, *map(self.key, inputs))
        return other

    def build(self, key: Key, before: ir.Node) -> ir.Value:
        """The value of an expression: one that is there already, or new nodes in front of ``before``."""
        found = self.made.get(key)
        if found is not None:
            return found
        kind = key[0]
        if kind == "Const":
            return self.constant(key[1])
        if kind == "Shape":
            node = ir.make_node("Shape", [key[1]], {"start": key[2] or None, "end": key[3]})
        elif kind == "Cast":
            node = ir.make_node("Cast", [self.build(key[2], before)], {"to": key[1]})
        elif kind == "Squeeze":
            node = ir.make_node("Squeeze", [self.build(key[1], before), self.constant((0,))])
        elif kind in ("Add", "Mul") and len(key) > 3:
            node = ir.make_node(kind, [self.build(key[:-1], before), self.build(key[-1], before)])
        else:
            operands: list[ir.Value | None] = [self.build(k, before) for k in key[1:]]
            node = ir.make_node(kind, operands, {"axis": 0} if kind == "Concat" else {})
        self.graph.insert_before(before, node)
        out = node.outputs[0]
        out.name = self.names.value("size")
        node.name = self.names.node(f"{kind}_{out.name}")
        shapes.infer_node(node, self.model)
        self.made[key] = out
        self.keys[out] = key
        return out

    def constant(self, numbers: tuple[int, ...]) -> ir.Value:
        key: Key = ("Const", numbers)
        found = self.made.get(key)
        if found is None:
            found = ir.make_constant(np.array(numbers, dtype=np.int64), name=self.names.value("sizes"))
            self.graph.register_initializer(found)
            self.made[key] = found
        return found


def _read_here(value: ir.Value, graph: ir.Graph) -> bool:
    """Does a node of the graph read the value, or no node of any?"""
    uses = ir.uses(value)
    return not uses or any(ir.owner(node) is graph for node, _ in uses)


def _size(key: Key) -> int:
    """Nodes in an expression."""
    if key[0] in ("Const", "Shape", "?"):
        return int(key[0] == "Shape")
    operands = [k for k in key[1:] if isinstance(k, tuple)]
    return (len(operands) - 1 if key[0] in ("Add", "Mul") else 1) + sum(map(_size, operands))
