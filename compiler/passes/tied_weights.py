"""A weight that is stored twice, as it is and transposed, becomes one with a Transpose.

Exporters write the head of a language model as a transposed copy of the embedding that it is tied to: a fifth of the
file. Runtimes transpose the constant when they load the model. Sound because the two are compared bit for bit. Only
tables that a Gather reads are taken for the one to keep, and only those of at least `SMALLEST` bytes.
"""

from __future__ import annotations

import numpy as np

from .. import ir
from ..analysis import shapes
from ..tensors import SparseTensor
from . import Context
from .edit import Names, annotated

NAME = "tied-weights"
SMALLEST = 1 << 20
_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)
_FEW = 8
_ROWS = 256
"""Rows compared at a time: the transposed copy is read across, so few pages should be in play."""


def run(model: ir.Model, ctx: Context) -> int:
    """Tie the weights of the main graph; returns how many went."""
    graph, pinned = model.graph, annotated(model)
    large = [v for v in graph.initializers.values() if _may(v, pinned)]
    tables = [v for v in large if any(n.op_type == "Gather" and n.domain == "" and i == 0 for n, i in v.uses())]
    by_corner: dict[tuple[object, ...], list[ir.Value]] = {}
    for t in tables:
        by_corner.setdefault(_corner(t, False), []).append(t)
    changes = 0
    names: Names | None = None
    for copy in large if tables else ():
        if copy in tables:
            continue
        table = next((t for t in by_corner.get(_corner(copy, True), ()) if _transposed(t, copy)), None)
        if table is None:
            continue
        names = names if names is not None else Names(model)
        node = ir.make_node("Transpose", [table], {"perm": (1, 0)})
        out = node.outputs[0]
        out.name = names.value(f"{table.name}_transposed")
        node.name = names.node(f"Transpose_{out.name}")
        graph.insert_before(_first_user(graph, copy), node)
        shapes.infer_node(node, model)
        copy.replace_all_uses_with(out)
        assert copy.name is not None
        del graph.initializers[copy.name]
        ctx.record(NAME, copy.name, f"is {table.name} transposed")
        changes += 1
    return changes


def _may(v: ir.Value, pinned: set[str]) -> bool:
    t = v.const_value
    if t is None or isinstance(t, SparseTensor) or v.is_graph_input() or v.is_graph_output() or v.name in pinned:
        return False
    return t.dtype in _FLOATS and len(t.shape) == 2 and t.nbytes >= SMALLEST and bool(v.uses())


def _first_user(graph: ir.Graph, value: ir.Value) -> ir.Node:
    """The node of this graph in front of which a value must be made that all users of ``value`` may read."""
    users = {n for n, _ in value.uses()}
    for node in graph:
        if node in users or any(inner in users for body in ir.subgraphs(node) for g in ir.with_bodies(body) for inner in g):
            return node
    raise AssertionError(f"{value.name} has no user")


def _bits(v: ir.Value) -> np.ndarray:
    t = v.const_value
    assert t is not None
    return np.asarray(t.numpy()).view(np.dtype(f"u{t.dtype.bitwidth // 8}"))


def _corner(v: ir.Value, transposed: bool) -> tuple[object, ...]:
    """What two tensors that are each other transposed share; a few pages of a mapped file, not a whole column."""
    a = _bits(v)
    few = a[:_FEW, :_FEW]
    shape = a.shape[::-1] if transposed else a.shape
    return (v.dtype, shape, (few.T if transposed else few).tobytes())


def _transposed(table: ir.Value, copy: ir.Value) -> bool:
    """Is the copy bit for bit the table transposed?"""
    x, y = _bits(table), _bits(copy)
    return all(np.array_equal(x[i : i + _ROWS], y[:, i : i + _ROWS].T) for i in range(0, x.shape[0], _ROWS))
