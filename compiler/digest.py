"""A hash of what a graph is: operators, attributes, contents of constants, and how they are wired.

Equal for graphs that differ only in names of values, nodes and dims, in the order of nodes that do not depend on each
other, in how a tensor is stored (raw, typed, external), and in documentation and metadata. Different for anything else,
dead nodes and unused initializers included: the digest is of the structure, not of the function computed.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from typing import Any

from . import ir
from .tensors import MappedTensor


def digest(model: ir.Model, shapes: bool = True) -> str:
    """32 hex digits. ``shapes``: the declared shapes of inputs and outputs count too; exporters disagree on how much
    they say there of one and the same graph."""
    run = _Digest(shapes)
    functions = sorted(run.function(f) for f in model.functions.values())
    return _hash(b"model", run.opsets(model.opset_imports), run.graph(model.graph, b"main"), *functions).hex()


def tensor_digest(tensor: Any) -> bytes:
    """A hash of type, shape and content; external data is read in pieces."""
    h = hashlib.blake2b(digest_size=16)
    h.update(repr((int(tensor.dtype), tuple(tensor.shape.numpy()))).encode())
    if isinstance(tensor, MappedTensor):
        for chunk in tensor.chunks():
            h.update(chunk)
    elif tensor.dtype == ir.DataType.STRING:
        held = tensor.string_data() if isinstance(tensor, ir.StringTensor) else tensor.numpy().reshape(-1).tolist()
        for s in held:
            raw = s if isinstance(s, bytes) else str(s).encode()
            h.update(struct.pack("<Q", len(raw)) + raw)
    else:
        h.update(tensor.tobytes())
    return h.digest()


def _hash(*parts: bytes) -> bytes:
    h = hashlib.blake2b(digest_size=16)
    for p in parts:
        h.update(struct.pack("<Q", len(p)))
        h.update(p)
    return h.digest()


def _text(value: Any) -> bytes:
    return repr(value).encode()


class _Digest:
    def __init__(self, shapes: bool) -> None:
        self.shapes = shapes
        self.values: dict[ir.Value, bytes] = {}
        self.dims: dict[str, int] = {}
        self.tensors: dict[int, bytes] = {}

    def opsets(self, opsets: dict[str, int]) -> bytes:
        return _text(sorted(opsets.items()))

    def function(self, f: ir.Function) -> bytes:
        attributes = [
            self.attribute(a) if a.value is not None else _text(a.name)
            for a in sorted(f.attributes.values(), key=lambda a: a.name)
        ]
        body = self.graph(f.graph, b"function")
        return _hash(_text(f.identifier()), self.opsets(f.opset_imports), body, *attributes)

    def graph(self, graph: ir.Graph, kind: bytes) -> bytes:
        values = self.values
        for i, v in enumerate(graph.inputs):
            default = self.tensor(v.const_value) if v.const_value is not None and v.is_initializer() else b""
            values[v] = _hash(kind, _text(("input", i)), self.type(v), default)
        inputs = [values[v] for v in graph.inputs]
        constants = []
        for v in graph.initializers.values():
            if not v.is_graph_input():
                values[v] = _hash(b"constant", self.tensor(v.const_value))
                constants.append(values[v])
        nodes = [(node, self.node(node)) for node in graph]
        by_node = dict(nodes)
        shapes = []
        for node, own in nodes:  # with who reads each output, so that one shared node differs from two equal ones
            readers = [
                _hash(*sorted(_hash(by_node.get(u.node, b"inner"), _text(u.idx)) for u in v.uses()))
                for v in node.outputs
            ]
            shapes.append(_hash(own, *readers))
        outputs = [_hash(values.get(v, b"unknown"), self.type(v)) for v in graph.outputs]
        return _hash(kind, *inputs, b"|", *sorted(constants), b"|", *sorted(shapes), b"|", *outputs)

    def node(self, node: ir.Node) -> bytes:
        inputs = [b"" if v is None else self.values.get(v, b"unknown") for v in node.inputs]
        attributes: Iterable[ir.Attr] = sorted(node.attributes.values(), key=lambda a: a.name)
        head = _text((node.domain, node.op_type, node.overload, len(node.outputs)))
        own = _hash(head, *inputs, b"|", *(self.attribute(a) for a in attributes))
        for i, v in enumerate(node.outputs):
            self.values[v] = _hash(own, _text(i))
        return own

    def attribute(self, a: ir.Attr) -> bytes:
        head = _text((a.name, int(a.type), a.ref_attr_name))
        T, value = ir.AttributeType, a.value
        if a.is_ref():
            return head
        if a.type == T.GRAPH:
            return _hash(head, self.graph(value, b"body"))
        if a.type == T.GRAPHS:
            return _hash(head, *(self.graph(g, b"body") for g in value))
        if a.type in (T.TENSOR, T.SPARSE_TENSOR):
            return _hash(head, self.tensor(value))
        if a.type in (T.TENSORS, T.SPARSE_TENSORS):
            return _hash(head, *(self.tensor(t) for t in value))
        if a.type in (T.TYPE_PROTO, T.TYPE_PROTOS):
            types = [value] if a.type == T.TYPE_PROTO else value
            return _hash(head, *(_hash(_text(t.type), self.shape(t.shape)) for t in types))
        if a.type in (T.FLOAT, T.FLOATS):
            floats = [value] if a.type == T.FLOAT else value
            return _hash(head, struct.pack(f"<{len(floats)}d", *floats))
        return _hash(head, _text(value))

    def tensor(self, tensor: Any) -> bytes:
        if tensor is None:
            return b"no data"
        found = self.tensors.get(id(tensor))
        if found is None:
            found = self.tensors[id(tensor)] = tensor_digest(tensor)
        return found

    def type(self, v: ir.Value) -> bytes:
        return _hash(_text(v.type), self.shape(v.shape) if self.shapes else b"")

    def shape(self, shape: ir.Shape | None) -> bytes:
        """Named dims by the order in which they first appear: their names are for people."""
        if shape is None:
            return b"?"
        dims: list[Any] = []
        for d in shape:
            name = None if isinstance(d, int) else d.value
            dims.append(d if isinstance(d, int) else name and f"d{self.dims.setdefault(name, len(self.dims))}")
        return _text(dims)
