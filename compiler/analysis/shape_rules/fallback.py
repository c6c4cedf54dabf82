"""Operators without a rule of ours: onnx's own inference of one node, with symbolic dims passed through as names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnx
import onnx.shape_inference

from ... import ir
from ..dims import Dim, Poly
from .core import DIMS, dims, elements, set_type

if TYPE_CHECKING:
    from .engine import Engine

# Constants up to this size are shown to onnx's inference, which reads axes, shapes and the like.
_SHOWN = 4096
_FAILS = (onnx.shape_inference.InferenceError, onnx.checker.ValidationError, RuntimeError, ValueError, KeyError)


def infer(node: ir.Node, domain: str, version: int, engine: Engine, types_only: bool = False) -> None:
    """State what ``onnx.shape_inference.infer_node_outputs`` derives of the node's outputs.

    Args:
        types_only: set missing types and leave the shapes as they are.
    """
    schema = ir.schema_of(node.op_type, domain, version)
    if schema is None or not schema.has_type_and_shape_inference_function:
        return
    if any(True for _ in ir.subgraphs(node)) or any(a.is_ref() for a in node.attributes.values()):
        return
    names: dict[str, Dim] = {}
    types: dict[str, onnx.TypeProto] = {}
    data: dict[str, onnx.TensorProto] = {}
    proto = onnx.NodeProto(op_type=node.op_type, domain=domain)
    for i, value in enumerate(node.inputs):
        name = "" if value is None else f"i{i}"
        proto.input.append(name)
        if value is None:
            continue
        if value.type is None:
            return  # onnx's functions expect every input to be typed
        types[name] = _type(value, names)
        shown = _data(value)
        if shown is not None:
            data[name] = shown
    proto.output.extend(f"o{i}" if v.name else "" for i, v in enumerate(node.outputs))
    proto.attribute.extend(ir.serde.to_proto(a) for a in node.attributes.values())
    opsets = [onnx.helper.make_opsetid(k, v) for k, v in engine.opsets.items()]
    try:
        found = onnx.shape_inference.infer_node_outputs(schema, proto, types, data, opset_imports=opsets)
    except _FAILS:
        return
    for i, value in enumerate(node.outputs):
        got = found.get(f"o{i}")
        if got is not None:
            _state(value, got, names, engine, types_only)


def _state(value: ir.Value, got: onnx.TypeProto, names: dict[str, Dim], engine: Engine, types_only: bool) -> None:
    if value.type is None and got.WhichOneof("value") is not None:
        value.type = ir.serde.deserialize_type_proto_for_type(got)
    if types_only or not got.HasField("tensor_type"):
        return
    tensor = got.tensor_type
    set_type(value, ir.DataType(tensor.elem_type) if tensor.elem_type else None)
    if not tensor.HasField("shape"):
        return
    shape: list[Dim] = []
    for n in tensor.shape.dim:
        if n.HasField("dim_value"):
            shape.append(n.dim_value if n.dim_value >= 0 else engine.supply.fresh())
        else:
            known = names.get(n.dim_param) if n.HasField("dim_param") else None
            shape.append(engine.supply.fresh() if known is None else known)
    value.meta.data[DIMS] = tuple(shape)


def _type(value: ir.Value, names: dict[str, Dim]) -> onnx.TypeProto:
    """The value's type, its symbolic dims replaced by made-up names: equal names for equal dims only."""
    assert value.type is not None
    proto = onnx.TypeProto()
    ir.serde.serialize_type_into(proto, value.type)
    if not proto.HasField("tensor_type"):
        return proto
    proto.tensor_type.ClearField("shape")
    shape = dims(value)
    if shape is None:
        return proto
    proto.tensor_type.shape.SetInParent()
    for n in shape:
        dim = proto.tensor_type.shape.dim.add()
        if isinstance(n, Poly):
            dim.dim_param = next((k for k, other in names.items() if other == n), f"d{len(names)}")
            names[dim.dim_param] = n
        else:
            dim.dim_value = n
    return proto


def _data(value: ir.Value) -> Any | None:
    t = ir.tensor(value)
    if t is not None:
        return ir.serde.serialize_tensor(t) if t.nbytes <= _SHOWN else None
    held = elements(value)
    shape = dims(value)
    if held is None or shape is None or value.dtype is None or not all(isinstance(n, int) for n in held):
        return None
    return onnx.helper.make_tensor("", int(value.dtype), [int(n) for n in shape], list(held))  # type: ignore[arg-type]
