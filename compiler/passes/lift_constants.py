"""Constant nodes become initializers, so that a constant has one form for all later passes.

Sound because an initializer that is not a graph input cannot be overridden: it is the Constant node's value.
Left alone: a Constant whose result is a graph output (an initializer cannot be one in every runtime), one with a
sparse value or an attribute reference, and those of function bodies, which cannot hold initializers.

Models of IR version 3 or older had to list every initializer among the graph inputs too. There the listing says
nothing (ONNX Runtime does not let a caller override them), so it is dropped; from IR version 4 on such an input is
a default that a caller may override and stays.
"""

from __future__ import annotations

from .. import ir
from . import Context
from .edit import erase, inherit

NAME = "lift-constants"

_FREE_INITIALIZERS = 4
"""The IR version from which an initializer need not be a graph input."""


def run(model: ir.Model, ctx: Context) -> int:
    """Lift every Constant node of the graph and its bodies; returns how many constants changed their form."""
    changes = 0
    if model.ir_version < _FREE_INITIALIZERS:
        changes += _unlist_inputs(model.graph, ctx)
        model.ir_version = _FREE_INITIALIZERS
    for graph in ir.all_graphs(model, functions=False):
        changes += _lift(graph)
    if changes:
        ctx.record(NAME, model.graph.name, f"{changes} constants became initializers")
    return changes


def _unlist_inputs(graph: ir.Graph, ctx: Context) -> int:
    listed = [v for v in graph.inputs if v.is_initializer()]
    if listed:
        kept = [v for v in graph.inputs if not v.is_initializer()]
        graph.inputs.clear()
        graph.inputs.extend(kept)
        for value in listed:
            ctx.record(NAME, value.name, "IR version 3 lists initializers as inputs: no input any more")
    return len(listed)


def _lift(graph: ir.Graph) -> int:
    lifted: list[ir.Node] = []
    for node in graph:
        if node.op_type != "Constant" or node.domain != "" or len(node.outputs) != 1:
            continue
        old = node.outputs[0]
        if old.is_graph_output() or not old.name:
            continue
        tensor = ir.tensor(old)
        if tensor is None:
            continue
        # The declared type of an intermediate value may be wrong; the tensor's cannot. The tensor itself moves over:
        # the node goes, so nobody else holds it.
        new = ir.Value(name=old.name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.shape), const_value=tensor)
        inherit(new, old)
        if new.doc_string is None:
            new.doc_string = node.doc_string
        for key, text in node.metadata_props.items():
            new.metadata_props.setdefault(key, text)
        old.replace_all_uses_with(new)
        old.name = None
        tensor.name = new.name
        graph.register_initializer(new)
        lifted.append(node)
    erase(graph, lifted)
    return len(lifted)
