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
    by_shape: dict[tuple[object, ...], list[ir.Value]] = {}
    for t in tables:
        by_shape.setdefault(_kind(t), []).append(t)
    changes = 0
    names: Names | None = None
    for copy in large if tables else ():
        if copy in tables:
            continue
        dtype, rows, columns = _kind(copy)
        table = next((t for t in by_shape.get((dtype, columns, rows), ()) if _transposed(t, copy)), None)
        if table is None:
            continue
        names = names if names is not None else Names(model)
        node = ir.make_node("Transpose", [table], {"perm": (1, 0)})
        out = node.outputs[0]
        out.name = names.value(f"{table.name}_transposed")
        node.name = names.node(f"Transpose_{out.name}")
        graph.insert_before(graph[0], node)  # it reads no node, so all may read it
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


def _kind(v: ir.Value) -> tuple[object, ...]:
    """dtype, rows, columns."""
    t = v.const_value
    assert t is not None
    return (t.dtype, *t.shape)


def _bits(v: ir.Value) -> np.ndarray:
    t = v.const_value
    assert t is not None
    return np.asarray(t.numpy()).view(np.dtype(f"u{t.dtype.bitwidth // 8}"))


def _transposed(table: ir.Value, copy: ir.Value) -> bool:
    """Is the copy bit for bit the table transposed? A corner first: a few pages of a mapped file, not a whole column."""
    x, y = _bits(table), _bits(copy)
    if not np.array_equal(x[:_FEW, :_FEW], y[:_FEW, :_FEW].T):
        return False
    return all(np.array_equal(x[i : i + _ROWS], y[:, i : i + _ROWS].T) for i in range(0, x.shape[0], _ROWS))
