"""A model with float16 values as another that the CPU computes with all of float16's rounding.

ONNX Runtime's CPU provider has few kernels of float16. Where there is none it casts to float32, and then takes out pairs of
casts between neighbours: what is computed is rounded here and there, and nothing overflows. A Clip without bounds, which it
has a kernel for, after each value of float16 keeps the casts apart. It is what accuracy is judged on where a machine lacks
what the model is compiled for.
"""

from __future__ import annotations

import os

from . import ir, storage
from .analysis import shapes
from .passes.edit import Names

CLIPS_FLOAT16 = 12
"""First opset at which Clip takes float16 and has no bounds as attributes."""


def stand_in(path: str | os.PathLike[str]) -> ir.Model | None:
    """The model that stands in for the one in that file; None where nothing of it is computed in float16.

    Raises:
        BadInput: the file is no model.
    """
    model = storage.load(path)
    if (ir.opset_of(model) or 1) < CLIPS_FLOAT16:
        return None
    shapes.infer(model)
    names = Names(model)
    made = sum(_hold_apart(graph, names) for graph in ir.all_graphs(model, functions=False))
    return model if made else None


def _hold_apart(graph: ir.Graph, names: Names) -> int:
    made = 0
    for node in list(graph):
        for v in node.outputs:
            if v.dtype != ir.DataType.FLOAT16 or not (v.uses() or v.is_graph_output()):
                continue
            clip = ir.make_node("Clip", [v], name=names.node("olc_float16"))
            out = clip.outputs[0]
            out.name, out.type, out.shape = names.value(f"{v.name}_rounded"), v.type, v.shape
            graph.insert_after(node, clip)
            ir.replace_value(v, out)
            clip.replace_input_with(0, v)
            v.name = v.name or names.value(f"{out.name}_float16")
            made += 1
    return made
