"""onnx-graphsurgeon's ``gs.Graph``, in and out, for scripts that already edit models with it.

What a ``gs.Graph`` has itself lost when it was imported from ONNX (0.6.1) cannot come back here: metadata of model,
graph, nodes, values and tensors, quantization annotations, doc strings of nodes and values, training info, sparse
initializers, device configurations, type denotations, ``value_info`` of tensors that no node touches; external weights
are read into memory. ``to_graphsurgeon`` loses the same, and refuses what would change what the model computes: weights
of less than a byte (gs cannot write them again), sparse weights, and attributes that gs drops or cannot decode.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from typing import Any

from olc import ir, storage
from olc.errors import BadInput, Unsupported
from olc.tensors import SparseTensor
from olc.verifier import label

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
        with _quiet():
            proto = gs.export_onnx(source, do_type_check=False)
    except Exception as error:  # whatever a user's half-edited graph makes gs trip over is the graph's fault
        what = f"onnx-graphsurgeon cannot export it: {error}"
        raise BadInput(what, where=where, hint="try gs.export_onnx yourself, after cleanup().toposort()") from error
    return storage.load_proto(proto, where=where)


def to_graphsurgeon(model: ir.Model) -> Any:
    """A ``gs.Graph`` of the model. External weights are read.

    Raises:
        Unsupported: the model holds something that gs would drop or change without a word.
    """
    import onnx_graphsurgeon as gs

    for graph in ir.all_graphs(model):
        for v in graph.initializers.values():
            _check_tensor(v.const_value, f"weight {v.name!r}")
        for node in graph:
            for a in node.attributes.values():
                _check_attribute(a, f"attribute {a.name!r} of {label(node)}")
    with _quiet():
        return gs.import_onnx(storage.to_proto(model))


_HINT = "edit the model with olc's own rules instead"
_KINDS = {"FLOAT", "INT", "STRING", "TENSOR", "GRAPH", "FLOATS", "INTS", "STRINGS"}


def _check_tensor(tensor: Any, what: str) -> None:
    if isinstance(tensor, SparseTensor):
        raise Unsupported(f"{what} is sparse, which gs does not read", hint=_HINT)
    if tensor is not None and tensor.dtype != ir.DataType.STRING and tensor.dtype.bitwidth < 8:
        raise Unsupported(f"{what} is {tensor.dtype.name}, which gs cannot write again", hint=_HINT)


def _check_attribute(a: ir.Attr, what: str) -> None:
    if a.type.name not in _KINDS:
        raise Unsupported(f"{what} is of type {a.type.name}, which gs drops", hint=_HINT)
    if a.type == ir.AttributeType.TENSOR and not a.is_ref():
        _check_tensor(a.value, what)
    texts = a.value if a.type == ir.AttributeType.STRINGS else [a.value]
    if any(isinstance(t, bytes) for t in texts or ()):
        raise Unsupported(f"{what} is not UTF-8 text, which gs cannot read", hint=_HINT)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """gs prints its log; what it has to say that matters is an error here."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
