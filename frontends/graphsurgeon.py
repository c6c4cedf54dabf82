"""onnx-graphsurgeon's ``gs.Graph``, in and out, for scripts that already edit models with it.

What a ``gs.Graph`` has itself lost when it was imported from ONNX (0.6.1) cannot come back here: metadata of model,
graph, nodes, values and tensors, quantization annotations, doc strings of nodes and values, training info, sparse
initializers, device configurations, type denotations, ``value_info`` of tensors that no node touches; external weights
are read into memory. ``to_graphsurgeon`` loses the same, and refuses what ``gs`` would silently change: 4-bit and other
sub-byte weights, which it cannot export again.
"""

from __future__ import annotations

import contextlib
import io
from typing import Any

from olc import ir, storage
from olc.errors import BadInput, Unsupported

NAME = "onnx-graphsurgeon graph"


def accepts(source: Any) -> bool | str:
    """A ``gs.Graph`` (told by its class, so that graphsurgeon is imported only by who has one)."""
    cls = type(source)
    names = {(c.__module__.partition(".")[0], c.__name__) for c in cls.__mro__}
    return True if ("onnx_graphsurgeon", "Graph") in names else "not a gs.Graph"


def load(source: Any) -> ir.Model:
    """The verified model of a ``gs.Graph``, which is left as it is."""
    import onnx_graphsurgeon as gs

    where = f"gs.Graph {source.name!r}"
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            proto = gs.export_onnx(source, do_type_check=False)
    except Exception as error:  # whatever a user's half-edited graph makes gs trip over is the graph's fault
        what = f"onnx-graphsurgeon cannot export it: {error}"
        raise BadInput(what, where=where, hint="try gs.export_onnx yourself, after cleanup().toposort()") from error
    return storage.load_proto(proto, where=where)


def to_graphsurgeon(model: ir.Model) -> Any:
    """A ``gs.Graph`` of the model. External weights are read; sub-byte weights are refused."""
    import onnx_graphsurgeon as gs

    for graph in ir.all_graphs(model):
        for v in graph.initializers.values():
            dtype = v.const_value.dtype if v.const_value is not None else ir.DataType.UNDEFINED
            if dtype not in (ir.DataType.UNDEFINED, ir.DataType.STRING) and dtype.bitwidth < 8:
                hint = "edit the model with olc's own rules, or before its weights are packed"
                raise Unsupported(f"weight {v.name!r} is {dtype.name}, which gs cannot write again", hint=hint)
    return gs.import_onnx(storage.to_proto(model))
