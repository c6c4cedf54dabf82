"""Our graph to ONNX protos: the inverse of ``deserialize``, in one order, so that equal graphs give equal bytes.

Typed and raw storage of a tensor, the order of opset imports, metadata, initializers, functions and nodes stay as read.
``value_info`` and ``quantization_annotation`` follow the order of definition (inputs, initializers, nodes, then entries
for names that the graph does not define).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from . import ir
from .deserialize import QUANTIZATION, STRAY_QUANTIZATION, TRAINING_INFO, VALUE_INFO, ProtoType
from .tensors import MappedTensor, SparseTensor

#: Where a tensor's bytes lie in the data file being written: (location, offset, length); None: in the model itself.
Placement = Callable[[Any], tuple[str, int, int] | None]


def to_proto(model: ir.Model, placement: Placement | None = None) -> Any:
    """The model as an ``onnx.ModelProto``. Without a placement every tensor is in it, external ones too."""
    import onnx

    writer = _Writer(placement or (lambda tensor: None))
    proto = onnx.ModelProto()
    writer.model(proto, model)
    return proto


class _Writer:
    def __init__(self, placement: Placement) -> None:
        self.placement = placement

    def model(self, p: Any, model: ir.Model) -> None:
        p.ir_version = model.ir_version
        if model.model_version is not None:
            p.model_version = model.model_version
        for field in ("producer_name", "producer_version", "domain", "doc_string"):
            value = getattr(model, field)
            if value:
                setattr(p, field, value)
        for domain, version in model.opset_imports.items():
            p.opset_import.add(domain=domain, version=version)
        _props(p.metadata_props, model.metadata_props)
        for c in model.device_configurations:
            p.configuration.add().CopyFrom(ir.serde.serialize_model_configuration(c))
        p.graph.SetInParent()
        self.graph(p.graph, model.graph)
        for f in model.functions.values():
            self.function(p.functions.add(), f)
        for t in model.meta.get(TRAINING_INFO, ()):
            p.training_info.add().CopyFrom(t)

    def function(self, p: Any, f: ir.Function) -> None:
        p.domain, p.name = f.domain, f.name
        if f.overload:
            p.overload = f.overload
        if f.doc_string:
            p.doc_string = f.doc_string
        for domain, version in f.opset_imports.items():
            p.opset_import.add(domain=domain, version=version)
        _props(p.metadata_props, f.metadata_props)
        p.input.extend(v.name for v in f.inputs)
        p.output.extend(v.name for v in f.outputs)
        for a in f.attributes.values():
            if a.value is None:
                p.attribute.append(a.name)
            else:
                self.attribute(p.attribute_proto.add(), a)
        for v in f.inputs:
            if _has_info(v):
                self.value(p.value_info.add(), v)
        for node in f.graph:
            self.node(p.node.add(), node)
            for v in node.outputs:
                if v.name and _has_info(v):
                    self.value(p.value_info.add(), v)
        p.value_info.extend(f.graph.meta.get(VALUE_INFO, ()))

    def graph(self, p: Any, graph: ir.Graph) -> None:
        if graph.name:
            p.name = graph.name
        if graph.doc_string:
            p.doc_string = graph.doc_string
        named: list[ir.Value] = list(graph.inputs)
        for v in graph.inputs:
            self.declare(p.input.add(), v)
            if VALUE_INFO in v.meta:
                self.value(p.value_info.add(), v)
        for v in graph.initializers.values():
            self.initializer(p, v)
            if not v.is_graph_input():
                named.append(v)
        for node in graph:
            self.node(p.node.add(), node)
            for v in node.outputs:
                if not v.name:
                    continue
                named.append(v)
                if (VALUE_INFO in v.meta or not v.is_graph_output()) and _has_info(v):
                    self.value(p.value_info.add(), v)
        for v in graph.outputs:
            self.declare(p.output.add(), v)
        p.value_info.extend(graph.meta.get(VALUE_INFO, ()))
        for v in named:
            parameters = v.meta.get(QUANTIZATION)
            if parameters is not None:
                a = p.quantization_annotation.add(tensor_name=v.name)
                _props(a.quant_parameter_tensor_names, parameters)
        p.quantization_annotation.extend(graph.meta.get(STRAY_QUANTIZATION, ()))
        _props(p.metadata_props, graph.metadata_props)

    def initializer(self, p: Any, v: ir.Value) -> None:
        tensor: Any = v.const_value
        name = v.name or ""
        if isinstance(tensor, SparseTensor):
            self.sparse(p.sparse_initializer.add(), tensor, name)
        else:
            self.tensor(p.initializer.add(), tensor, name)
        if v.is_graph_input():
            return
        plain = (
            isinstance(v.type, ir.TensorType)
            and v.type.dtype == tensor.dtype
            and v.type.denotation is None
            and (v.shape is tensor.shape or v.shape == tensor.shape)
            and not v.metadata_props
            and not v.doc_string
        )
        if VALUE_INFO in v.meta or (not plain and _has_info(v)):
            self.value(p.value_info.add(), v)

    def node(self, p: Any, node: ir.Node) -> None:
        p.op_type = node.op_type
        if node.domain:
            p.domain = node.domain
        if node.name:
            p.name = node.name
        if node.overload:
            p.overload = node.overload
        if node.doc_string:
            p.doc_string = node.doc_string
        p.input.extend([v.name if v is not None else "" for v in node.inputs])
        p.output.extend([v.name or "" for v in node.outputs])
        for a in node.attributes.values():
            self.attribute(p.attribute.add(), a)
        _props(p.metadata_props, node.metadata_props)
        for d in node.device_configurations:
            p.device_configurations.add().CopyFrom(ir.serde.serialize_node_device_configuration(d))

    def attribute(self, p: Any, a: ir.Attr) -> None:
        p.name = a.name
        p.type = int(a.type)
        if a.doc_string:
            p.doc_string = a.doc_string
        if a.is_ref():
            p.ref_attr_name = a.ref_attr_name
            return
        T, value = ir.AttributeType, a.value
        if a.type == T.INT:
            p.i = value
        elif a.type == T.FLOAT:
            p.f = value
        elif a.type == T.STRING:
            p.s = _raw(value)
        elif a.type == T.INTS:
            p.ints.extend(value)
        elif a.type == T.FLOATS:
            p.floats.extend(value)
        elif a.type == T.STRINGS:
            p.strings.extend([_raw(s) for s in value])
        elif a.type == T.TENSOR:
            p.t.SetInParent()
            self.tensor(p.t, value, value.name or "")
        elif a.type == T.TENSORS:
            for t in value:
                self.tensor(p.tensors.add(), t, t.name or "")
        elif a.type == T.SPARSE_TENSOR:
            self.sparse(p.sparse_tensor, value, value.name or "")
        elif a.type == T.SPARSE_TENSORS:
            for t in value:
                self.sparse(p.sparse_tensors.add(), t, t.name or "")
        elif a.type == T.GRAPH:
            p.g.SetInParent()
            self.graph(p.g, value)
        elif a.type == T.GRAPHS:
            for g in value:
                self.graph(p.graphs.add(), g)
        elif a.type == T.TYPE_PROTO:
            p.tp.SetInParent()
            self.type(p.tp, value.type, value.shape)
        elif a.type == T.TYPE_PROTOS:
            for t in value:
                self.type(p.type_protos.add(), t.type, t.shape)

    # tensors

    def tensor(self, p: Any, tensor: Any, name: str) -> None:
        place = self.placement(tensor)
        if place is None and isinstance(tensor, ir.TensorProtoTensor):
            p.CopyFrom(tensor.raw)
            del p.metadata_props[:]
        else:
            p.data_type = int(tensor.dtype)
            p.dims.extend(tensor.shape.numpy())
            if tensor.doc_string:
                p.doc_string = tensor.doc_string
            if place is not None:
                p.data_location = 1  # TensorProto.EXTERNAL
                extra = tensor.extra if isinstance(tensor, MappedTensor) else {}
                entries = dict(zip(("location", "offset", "length"), map(str, place), strict=True))
                _props(p.external_data, {**entries, **extra})
            elif tensor.dtype == ir.DataType.STRING:
                p.string_data.extend(_strings(tensor))
            else:
                p.raw_data = tensor.tobytes()
        if name:
            p.name = name
        else:
            p.ClearField("name")
        _props(p.metadata_props, tensor.metadata_props)

    def sparse(self, p: Any, tensor: Any, name: str) -> None:
        if not isinstance(tensor, SparseTensor):
            raise TypeError(f"sparse attribute {name!r} holds a {type(tensor).__name__}")
        p.CopyFrom(tensor.proto)
        if name:
            p.values.name = name
        for part, held in zip((p.values, p.indices), tensor.parts, strict=True):
            if part.data_location == 1:  # its file may be about to be replaced
                part.ClearField("data_location")
                part.ClearField("external_data")
                part.raw_data = held.tobytes()

    # values and types

    def declare(self, p: Any, v: ir.Value) -> None:
        """A graph input or output, which has a type message even where it says nothing, as exporters write it."""
        p.type.SetInParent()
        self.value(p, v)

    def value(self, p: Any, v: ir.Value) -> None:
        p.name = v.name or ""
        self.type(p.type, v.type, v.shape)
        if v.doc_string:
            p.doc_string = v.doc_string
        _props(p.metadata_props, v.metadata_props)

    def type(self, p: Any, type_: Any, shape: ir.Shape | None) -> None:
        if type_ is None:
            if shape is not None:
                _shape(p.tensor_type.shape, shape)
            return
        if isinstance(type_, ProtoType):
            p.CopyFrom(type_.proto)
            return
        if type_.denotation:
            p.denotation = type_.denotation
        if isinstance(type_, ir.TensorType | ir.SparseTensorType):
            leaf = p.tensor_type if isinstance(type_, ir.TensorType) else p.sparse_tensor_type
            leaf.elem_type = int(type_.dtype)
            if shape is not None:
                _shape(leaf.shape, shape)
        elif isinstance(type_, ir.SequenceType):
            self.type(p.sequence_type.elem_type, type_.elem_type, shape)
        elif isinstance(type_, ir.OptionalType):
            self.type(p.optional_type.elem_type, type_.elem_type, shape)
        else:
            raise TypeError(f"a value has a type of unknown class {type(type_).__name__}")


def _shape(p: Any, shape: ir.Shape) -> None:
    p.SetInParent()
    for i, d in enumerate(shape):
        dim = p.dim.add()
        if isinstance(d, int):
            dim.dim_value = d
        elif d.value is not None:
            dim.dim_param = str(d.value)
        denotation = shape.get_denotation(i)
        if denotation:
            dim.denotation = denotation


def _has_info(v: ir.Value) -> bool:
    return v.type is not None or v.shape is not None or bool(v.metadata_props) or bool(v.doc_string)


def _props(entries: Any, props: Mapping[str, str]) -> None:
    for key, value in props.items():
        entries.add(key=key, value=value)


def _raw(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode()


def _strings(tensor: Any) -> list[bytes]:
    held = tensor.string_data() if isinstance(tensor, ir.StringTensor) else tensor.numpy().reshape(-1).tolist()
    return [_raw(s) for s in held]
