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
_FEW = 8
_ROWS = 256
"""Rows compared at a time: the transposed copy is read across, so few pages should be in play."""


def run(model: ir.Model, ctx: Context) -> int:
    """Tie the weights of the main graph; returns how many went."""
    graph, pinned = model.graph, annotated(model)
    large = [v for v in graph.initializers.values() if _may(v, pinned)]
    tables = [v for v in large if any(n.op_type == "Gather" and n.domain == "" and i == 0 for n, i in v.uses())]
    changes = 0
    names: Names | None = None
    for copy in large:
        table = next((t for t in tables if t is not copy and _transposed(t, copy)), None)
        if table is None or copy in tables:
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
    return len(t.shape) == 2 and t.nbytes >= SMALLEST and t.dtype.bitwidth in (16, 32, 64) and bool(v.uses())


def _first_user(graph: ir.Graph, value: ir.Value) -> ir.Node:
    """The node of this graph in front of which a value must be made that all users of ``value`` may read."""
    users = {n for n, _ in value.uses()}
    for node in graph:
        if node in users or any(inner in users for body in ir.subgraphs(node) for g in ir.with_bodies(body) for inner in g):
            return node
    raise AssertionError(f"{value.name} has no user")


def _transposed(table: ir.Value, copy: ir.Value) -> bool:
    """Is the copy bit for bit the table transposed? Most that are not differ in the first rows."""
    a, b = table.const_value, copy.const_value
    assert a is not None
    assert b is not None
    if a.dtype != b.dtype or tuple(a.shape) != tuple(reversed(tuple(b.shape))):
        return False
    bits = np.dtype(f"u{a.dtype.bitwidth // 8}")
    x, y = (np.asarray(t.numpy()).view(bits) for t in (a, b))
    if not np.array_equal(x[:_FEW, :_FEW], y[:_FEW, :_FEW].T):  # before the mapped pages of a whole column are read in
        return False
    return all(np.array_equal(x[i : i + _ROWS], y[:, i : i + _ROWS].T) for i in range(0, x.shape[0], _ROWS))
