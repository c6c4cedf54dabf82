"""ONNX protos to our graph, keeping every field and judging every number before anything is allocated.

onnx-ir's own reader drops sparse initializers, training info and stray annotations, refuses maps and sparse
attributes, and warns where a file is wrong. This one builds the same classes, keeps what they have no room for in
``meta``, and gathers what is wrong as ``Problem``s, so that the caller can say all of it. What the graph classes
can express, right or wrong (undefined names, order, types), is left to the verifier.

What is kept where:

* ``model.meta["olc.training_info"]``: protos as read.
* ``graph.meta["olc.value_info"]``, ``["olc.quantization"]``: entries for names that the graph does not define, and
  those that contradict the declaration of a graph input.
* ``value.meta["olc.value_info"]``: True where the file listed the value there although it need not.
* a sparse initializer is a value whose ``const_value`` is a ``SparseTensor``.
* ``ProtoType``: a type that onnx-ir has no class for (map, opaque, sequence of unknown).

What is not kept, because it says nothing: the difference between an absent and an empty string or type, an explicit
domain ``ai.onnx`` (written as ``""``), a repeated metadata key (the last one counts), a negative or empty declared
dimension (read as unknown, as ONNX Runtime does), and a ``value_info`` entry that contradicts the declaration of a
graph output.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from . import ir
from .signatures import Problem, short
from .tensor_reader import NotText, TensorReader, plain_text, props

QUANTIZATION = "quant_parameter_tensor_names"  # onnx-ir's own key
VALUE_INFO = "olc.value_info"
STRAY_QUANTIZATION = "olc.quantization"
TRAINING_INFO = "olc.training_info"


@dataclass(frozen=True)
class Limits:
    """What a model may not exceed, far above anything real."""

    nodes: int = 5_000_000
    depth: int = 32


LIMITS = Limits()


class ProtoType:
    """A type that onnx-ir has no class for: kept as its proto, with no element type to reason about."""

    __slots__ = ("denotation", "proto")

    def __init__(self, proto: Any) -> None:
        self.proto = proto
        self.denotation = proto.denotation or None

    @property
    def dtype(self) -> ir.DataType:
        return ir.DataType.UNDEFINED

    @property
    def elem_type(self) -> ir.DataType:
        return ir.DataType.UNDEFINED

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ProtoType) and self.proto == other.proto

    def __hash__(self) -> int:
        return hash(self.proto.SerializeToString(deterministic=True))

    def __repr__(self) -> str:
        return f"ProtoType({self})"

    def __str__(self) -> str:
        return (self.proto.WhichOneof("value") or "untyped").removesuffix("_type")


def from_proto(proto: Any, folder: str | None = None, limits: Limits = LIMITS) -> tuple[ir.Model, list[Problem]]:
    """The model and what is wrong with it. The model refers to ``proto``: hand over one that nobody else changes."""
    reader = _Reader(TensorReader(folder), limits)
    try:
        return reader.model(proto), reader.problems
    except NotText:
        what, hint = "a name or text is not UTF-8", "the file is damaged: download or export it again"
        empty = ir.Model(ir.Graph([], [], nodes=[]), ir_version=1)
        return empty, [Problem("text", what, _find_bytes(proto), hint)]


class _Reader:
    def __init__(self, tensors: TensorReader, limits: Limits) -> None:
        self.tensors = tensors
        self.problems = tensors.problems
        self.limits = limits
        self.nodes = 0

    def complain(self, kind: str, what: str, where: str, hint: str | None = None) -> None:
        self.problems.append(Problem(kind, what, where, hint))

    # models, graphs, functions

    def model(self, proto: Any) -> ir.Model:
        plain_text(proto.producer_name, proto.producer_version, proto.domain, proto.doc_string)
        for c in proto.configuration:
            plain_text(c.name, *c.device)
        graph = self.graph(proto.graph, [], "")
        graph.opset_imports.update(self.opsets(proto.opset_import, "model"))
        functions: dict[Any, ir.Function] = {}
        for f in proto.functions:
            function = self.function(f)
            if function.identifier() in functions:
                name = ":".join(p for p in function.identifier() if p)
                self.complain("duplicate", f"function {name!r} is defined twice", "model", "keep one definition")
            functions[function.identifier()] = function
        model = ir.Model(
            graph,
            ir_version=proto.ir_version,
            producer_name=proto.producer_name or None,
            producer_version=proto.producer_version or None,
            domain=proto.domain or None,
            model_version=proto.model_version if proto.HasField("model_version") else None,
            doc_string=proto.doc_string or None,
            functions=list(functions.values()),
            metadata_props=props(proto.metadata_props),
            device_configurations=tuple(ir.serde.deserialize_model_configuration(c) for c in proto.configuration),
        )
        if proto.training_info:
            model.meta[TRAINING_INFO] = list(proto.training_info)
        return model

    def opsets(self, protos: Iterable[Any], where: str) -> dict[str, int]:
        opsets: dict[str, int] = {}
        for o in protos:
            plain_text(o.domain)
            domain = "" if o.domain == "ai.onnx" else o.domain
            if opsets.setdefault(domain, o.version) != o.version:
                what = f"domain {domain or 'ai.onnx'!r} is imported at versions {opsets[domain]} and {o.version}"
                self.complain("opset", what, where, "keep one import per domain")
        return opsets

    def function(self, proto: Any) -> ir.Function:
        plain_text(proto.domain, proto.name, proto.overload, proto.doc_string)
        plain_text(*proto.input, *proto.output, *proto.attribute)
        where = f"function {short(proto.domain)}:{short(proto.name)}"
        values: dict[str, ir.Value] = {}
        inputs = [ir.Value(name=name) for name in proto.input]
        for v in inputs:
            values.setdefault(v.name or "", v)
        infos = {i.name: i for i in proto.value_info}
        plain_text(*infos)
        for v in inputs:
            if v.name in infos:
                self.info(v, infos.pop(v.name), where)
        nodes, dangling = self.body(proto.node, [values], infos, where)
        outputs = [values.get(name) or dangling.setdefault(name, ir.Value(name=name)) for name in proto.output]
        graph = ir.Graph(
            inputs,
            outputs,
            nodes=nodes,
            doc_string=proto.doc_string or None,
            opset_imports=self.opsets(proto.opset_import, where),
            name=proto.name,
            metadata_props=props(proto.metadata_props),
        )
        if infos:
            graph.meta[VALUE_INFO] = list(infos.values())
        attributes = [a for a in (self.attribute(p, [], where) for p in proto.attribute_proto) if a is not None]
        attributes += [ir.Attr(name, ir.AttributeType.UNDEFINED, None) for name in proto.attribute]
        if len({a.name for a in attributes}) != len(attributes):
            self.complain("duplicate", "an attribute is declared twice", where, "keep one declaration")
        return ir.Function(proto.domain, proto.name, proto.overload, graph=graph, attributes=attributes)

    def graph(self, proto: Any, scopes: list[dict[str, ir.Value]], where: str) -> ir.Graph:
        plain_text(proto.name, proto.doc_string)
        where = f"{where}/{short(proto.name)}" if where else f"graph {short(proto.name)!r}"
        values: dict[str, ir.Value] = {}
        inputs = []
        for i in proto.input:
            v = ir.Value(name=i.name)
            self.info(v, i, where)
            inputs.append(v)
            values.setdefault(i.name, v)
        given = {i.name: i for i in proto.input}
        initializers = self.initializers(proto, values, where)

        infos: dict[str, Any] = {}
        strays = []
        for i in proto.value_info:
            plain_text(i.name)
            if infos.setdefault(i.name, i) is not i:
                strays.append(i)
        for name, v in values.items():
            info = infos.pop(name, None)
            if info is None:
                continue
            if name not in given:
                held = v.type, v.shape
                self.info(v, info, where)
                if v.type is None:
                    v.type, v.shape = held
            elif info != given[name]:
                strays.append(info)
                continue
            v.meta[VALUE_INFO] = True
        nodes, dangling = self.body(proto.node, [*scopes, values], infos, where)
        outputs = []
        for o in proto.output:
            plain_text(o.name)
            found = values.get(o.name)
            if found is None:
                found = dangling.setdefault(o.name, ir.Value(name=o.name))
            if found.producer() is not None and (found.type is not None or found.shape is not None):
                found.meta[VALUE_INFO] = True
            self.info(found, o, where)
            outputs.append(found)
        graph = ir.Graph(
            inputs,
            outputs,
            nodes=nodes,
            initializers=initializers,
            doc_string=proto.doc_string or None,
            name=proto.name or None,
            metadata_props=props(proto.metadata_props),
        )
        strays = [*infos.values(), *strays]  # of several for one name the first stays first
        if strays:
            graph.meta[VALUE_INFO] = strays
        self.annotations(graph, proto.quantization_annotation, values)
        return graph

    def initializers(self, proto: Any, values: dict[str, ir.Value], where: str) -> list[ir.Value]:
        found: dict[str, ir.Value] = {}
        tensors = [(t.name, self.tensors.dense(t, where)) for t in proto.initializer]
        tensors += [(t.values.name, self.tensors.sparse(t, where)) for t in proto.sparse_initializer]
        for name, tensor in tensors:
            if not name:
                self.complain("name", "an initializer has no name", where, "name it, or remove it")
            elif name in found:
                self.complain("duplicate", f"initializer {name!r} is defined twice", where, "keep one of them")
            elif name in values:
                found[name] = values[name]
                found[name].const_value = tensor
            else:
                type_ = ir.TensorType(tensor.dtype)
                found[name] = ir.Value(name=name, type=type_, shape=tensor.shape, const_value=tensor)
                values[name] = found[name]
        return list(found.values())

    def annotations(self, graph: ir.Graph, protos: Iterable[Any], values: dict[str, ir.Value]) -> None:
        strays = []
        for a in protos:
            plain_text(a.tensor_name)
            v, parameters = values.get(a.tensor_name), props(a.quant_parameter_tensor_names)
            if v is None or QUANTIZATION in v.meta:
                strays.append(a)
            else:
                v.meta[QUANTIZATION] = parameters or {}
        if strays:
            graph.meta[STRAY_QUANTIZATION] = strays

    # nodes

    def body(
        self, protos: Iterable[Any], scopes: list[dict[str, ir.Value]], infos: dict[str, Any], where: str
    ) -> tuple[list[ir.Node], dict[str, ir.Value]]:
        """The nodes of one graph, and the names that they read but nothing visible defines.

        All outputs are declared before any input is looked up, so that a body may read what is produced later in an
        outer graph that is out of order.
        """
        protos = list(protos)
        self.nodes += len(protos)
        if self.nodes > self.limits.nodes:
            self.complain("limit", f"the model has more than {self.limits.nodes:,} nodes", where)
            return [], {}
        if len(scopes) > self.limits.depth:
            self.complain("limit", f"bodies are nested deeper than {self.limits.depth}", where)
            return [], {}
        values = scopes[-1]
        outputs = []
        for p in protos:
            plain_text(p.name, p.op_type, p.domain, p.overload, p.doc_string, *p.input, *p.output)
            outs = []
            for name in p.output:
                v = ir.Value(name=name)
                if name:
                    info = infos.pop(name, None)
                    if info is not None:
                        self.info(v, info, where)
                    values.setdefault(name, v)  # a second definition is a value of its own: the verifier names it
                outs.append(v)
            outputs.append(outs)
        dangling: dict[str, ir.Value] = {}
        outward = scopes[::-1]
        nodes = []
        for p, outs in zip(protos, outputs, strict=True):
            inputs: list[ir.Value | None] = []
            for name in p.input:
                read = values.get(name) if name else None
                if read is None and name:
                    read = next((s[name] for s in outward if name in s), None)
                    if read is None:
                        read = dangling.setdefault(name, ir.Value(name=name))
                inputs.append(read)
            nodes.append(self.node(p, inputs, outs, scopes, where))
        return nodes, dangling

    def node(
        self, p: Any, inputs: list[Any], outputs: list[Any], scopes: list[dict[str, ir.Value]], where: str
    ) -> ir.Node:
        attributes = []
        if p.attribute:
            here = f"{where}: node {short(p.name or p.op_type)!r}"
            seen = set()
            for a in p.attribute:
                if a.name in seen:
                    self.complain("duplicate", f"attribute {a.name!r} is given twice", here, "keep one of them")
                seen.add(a.name)
                attribute = self.attribute(a, scopes, here)
                if attribute is not None:
                    attributes.append(attribute)
        devices: tuple[Any, ...] = ()
        if p.device_configurations:
            names = ChainMap(*scopes[::-1])
            for d in p.device_configurations:
                self.device(d, where)
            devices = tuple(
                ir.serde.deserialize_node_device_configuration(d, values=names) for d in p.device_configurations
            )
        return ir.Node(
            p.domain,
            p.op_type,
            inputs,
            attributes,
            overload=p.overload,
            outputs=outputs,
            name=p.name,
            doc_string=p.doc_string or None,
            metadata_props=props(p.metadata_props),
            device_configurations=devices,
        )

    def device(self, p: Any, where: str) -> None:
        """onnx-ir reads a configuration without names, and cannot write it again."""
        plain_text(p.configuration_id, *(s.tensor_name for s in p.sharding_spec))
        for spec in p.sharding_spec:
            plain_text(*(x.dim_param for d in spec.sharded_dim for x in d.simple_sharding))
        if not p.configuration_id or not all(s.tensor_name for s in p.sharding_spec):
            self.complain("name", "a device configuration lacks its name or that of its tensor", where)

    def attribute(self, p: Any, scopes: list[dict[str, ir.Value]], where: str) -> ir.Attr | None:
        plain_text(p.name, p.doc_string, p.ref_attr_name)
        doc = p.doc_string or None
        kind = p.type or _guess_type(p)
        T = ir.AttributeType
        try:
            type_ = T(kind)
        except ValueError:
            self.complain("attribute", f"attribute {p.name!r} has the unknown type {kind}", where)
            return None
        if p.ref_attr_name:
            return ir.Attr(p.name, type_, None, p.ref_attr_name, doc_string=doc)
        value: Any
        if type_ == T.INT:
            value = p.i
        elif type_ == T.FLOAT:
            value = p.f
        elif type_ == T.STRING:
            value = _text(p.s)
        elif type_ == T.INTS:
            value = p.ints
        elif type_ == T.FLOATS:
            value = p.floats
        elif type_ == T.STRINGS:
            value = [_text(s) for s in p.strings]
        elif type_ == T.TENSOR:
            value = self.tensors.dense(p.t, where)
        elif type_ == T.TENSORS:
            value = [self.tensors.dense(t, where) for t in p.tensors]
        elif type_ == T.SPARSE_TENSOR:
            value = self.tensors.sparse(p.sparse_tensor, where)
        elif type_ == T.SPARSE_TENSORS:
            value = [self.tensors.sparse(t, where) for t in p.sparse_tensors]
        elif type_ == T.GRAPH:
            value = self.graph(p.g, scopes, where)
        elif type_ == T.GRAPHS:
            value = [self.graph(g, scopes, where) for g in p.graphs]
        elif type_ == T.TYPE_PROTO:
            value = ir.TypeAndShape(*self.type(p.tp, where))
        elif type_ == T.TYPE_PROTOS:
            value = [ir.TypeAndShape(*self.type(t, where)) for t in p.type_protos]
        else:
            value = None
        return ir.Attr(p.name, type_, value, doc_string=doc)

    # values and types

    def info(self, value: ir.Value, proto: Any, where: str) -> None:
        plain_text(proto.name, proto.doc_string)
        value.type, value.shape = self.type(proto.type, where)
        if proto.metadata_props:
            value.metadata_props.update(props(proto.metadata_props) or {})
        if proto.doc_string:
            value.doc_string = proto.doc_string

    def type(self, proto: Any, where: str) -> tuple[Any, ir.Shape | None]:
        """onnx-ir's form: nested types, with the shape of the innermost tensor beside them."""
        kind = proto.WhichOneof("value")
        denotation = proto.denotation or None
        if denotation:
            plain_text(denotation)
        if kind in ("tensor_type", "sparse_tensor_type"):
            leaf = proto.tensor_type if kind == "tensor_type" else proto.sparse_tensor_type
            shape = _shape(leaf.shape) if leaf.HasField("shape") else None
            if leaf.elem_type == 0 and kind == "tensor_type" and denotation is None:
                return None, shape
            try:
                dtype = ir.DataType(leaf.elem_type)
            except ValueError:
                self.complain("type", f"a value has the unknown element type {leaf.elem_type}", where)
                return None, shape
            cls = ir.TensorType if kind == "tensor_type" else ir.SparseTensorType
            return cls(dtype, denotation=denotation), shape
        if kind in ("sequence_type", "optional_type"):
            elem = proto.sequence_type.elem_type if kind == "sequence_type" else proto.optional_type.elem_type
            inner, shape = self.type(elem, where)
            if inner is None or isinstance(inner, ProtoType):
                return ProtoType(proto), None
            nested = ir.SequenceType if kind == "sequence_type" else ir.OptionalType
            return nested(inner, denotation=denotation), shape
        if kind is not None or denotation:
            return ProtoType(proto), None
        return None, None


def _shape(proto: Any) -> ir.Shape:
    dims: list[Any] = []
    denotations = []
    for d in proto.dim:
        kind = d.WhichOneof("value")
        if kind == "dim_value":
            dims.append(d.dim_value if d.dim_value >= 0 else None)
        else:
            plain_text(d.dim_param)
            dims.append(d.dim_param or None)
        if d.denotation:
            plain_text(d.denotation)
        denotations.append(d.denotation or None)
    return ir.Shape(dims, denotations=denotations, frozen=True)


def _text(raw: bytes) -> str | bytes:
    """A string attribute as text; bytes where it is none (custom operators keep binary data there)."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw


_BY_FIELD = {
    "f": 1, "i": 2, "s": 3, "t": 4, "g": 5, "floats": 6, "ints": 7, "strings": 8, "tensors": 9, "graphs": 10,
    "sparse_tensor": 11, "sparse_tensors": 12, "tp": 13, "type_protos": 14,
}  # fmt: skip


def _guess_type(proto: Any) -> int:
    """Files of IR version 1 state no attribute type: the field that is set tells it."""
    return next((_BY_FIELD[f.name] for f, _ in proto.ListFields() if f.name in _BY_FIELD), 0)


def _find_bytes(message: Any, path: str = "") -> str:
    """Where in a proto a string field holds what is no UTF-8: ``graph.node[3].input[0]``, empty if nowhere."""
    for field, value in message.ListFields():
        many = field.is_repeated
        here = f"{path}.{field.name}" if path else field.name
        for i, part in enumerate(value if many else [value]):
            place = f"{here}[{i}]" if many else here
            if field.type == field.TYPE_STRING and isinstance(part, bytes):
                return place
            found = _find_bytes(part, place) if field.type == field.TYPE_MESSAGE else ""
            if found:
                return found
    return ""
