"""A model with float16 values as another that the CPU computes with all of float16's rounding.

ONNX Runtime's CPU provider has few kernels of float16. Where there is none it casts to float32, and then takes out pairs of
casts between neighbours: what is computed is rounded here and there, and nothing overflows. Two operators that move numbers
and have kernels of float16, after each value of it, keep the casts apart; a single one would be moved to float32 as well. It
is what accuracy is judged on where a machine lacks what the model is compiled for.
"""

from __future__ import annotations

import os

import numpy as np

from . import ir, storage
from .analysis import shapes
from .passes.edit import Names, constant

AXES_AS_INPUT = 13
"""First opset at which Unsqueeze and Squeeze take their axes as an input."""


def stand_in(path: str | os.PathLike[str]) -> ir.Model | None:
    """The model that stands in for the one in that file; None where nothing of it is computed in float16.

    Raises:
        BadInput: the file is no model.
    """
    model = storage.load(path)
    if not _has_float16(model):
        return None
    shapes.infer(model)
    names = Names(model)
    axes = constant(model.graph, names, "axes", np.zeros(1, np.int64)) if (ir.opset_of(model) or 1) >= AXES_AS_INPUT else None
    made = sum(_hold_apart(graph, names, axes) for graph in ir.all_graphs(model, functions=False))
    return model if made else None


def _has_float16(model: ir.Model) -> bool:
    """May something be computed in float16? What is comes from an input or a constant, or an attribute says so."""
    half = ir.DataType.FLOAT16
    for graph in ir.all_graphs(model):
        if any(v.dtype == half for v in (*graph.inputs, *graph.initializers.values())):
            return True
        for node in graph:
            if any(a.type == ir.AttributeType.TENSOR and a.value.dtype == half for a in node.attributes.values()):
                return True
            if any(ir.attr(node, name, 0) == int(half) for name in ("to", "dtype", "output_dtype")):
                return True
    return False


def _hold_apart(graph: ir.Graph, names: Names, axes: ir.Value | None) -> int:
    made = 0
    for node in list(graph):
        for v in node.outputs:
            if v.type != ir.TensorType(ir.DataType.FLOAT16) or not (v.uses() or v.is_graph_output()):
                continue
            up = _moving("Unsqueeze", v, names, axes)
            down = _moving("Squeeze", up.outputs[0], names, axes)
            graph.insert_after(node, [up, down])
            out = down.outputs[0]
            out.type, out.shape = v.type, v.shape
            ir.replace_value(v, out)
            up.replace_input_with(0, v)
            v.name = v.name or names.value(f"{out.name}_float16")
            made += 1
    return made


def _moving(op: str, v: ir.Value, names: Names, axes: ir.Value | None) -> ir.Node:
    inputs: list[ir.Value | None] = [v] if axes is None else [v, axes]
    node = ir.make_node(op, inputs, {"axes": [0]} if axes is None else {}, name=names.node(f"olc_{op}"))
    node.outputs[0].name, node.outputs[0].type = names.value(f"{v.name}_{op.lower()}"), v.type
    return node
