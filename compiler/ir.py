"""The graph: Model, Graph, Node, Value. The only module that names the IR library (onnx-ir).

Values are compared by identity, names are for people. Facts that olc derives live on the values
(``value.meta``, see ``analysis/shapes.py``), so they end with the value and never reach a saved file.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from functools import cache
from typing import Any

import numpy as np
import onnx_ir as _ir
from onnx_ir import (
    Attr,
    AttributeType,
    DataType,
    ExternalTensor,
    Function,
    Graph,
    LazyTensor,
    Model,
    Node,
    OptionalType,
    PackedTensor,
    SequenceType,
    Shape,
    SparseTensorType,
    StringTensor,
    SymbolicDim,
    Tensor,
    TensorProtoTensor,
    TensorType,
    TypeAndShape,
    Value,
    serde,
)
from onnx_ir.convenience import extract

__all__ = [
    "Attr", "AttributeType", "DataType", "ExternalTensor", "Function", "Graph", "LazyTensor", "Model", "Node",
    "OptionalType", "PackedTensor", "SequenceType", "Shape", "SparseTensorType", "StringTensor", "SymbolicDim",
    "Tensor", "TensorProtoTensor", "TensorType", "TypeAndShape", "Value", "all_graphs", "array", "attr", "extract", "graph_of",
    "initial_values", "is_constant", "make_attr", "make_constant", "make_node", "nodes_once", "of_runtime", "opset_of", "owner",
    "replace_value", "scalar", "schema_of", "serde", "subgraphs", "tensor", "with_bodies",
]  # fmt: skip


def _attributes(node: Node) -> Collection[Attr]:
    """As ``node.attributes.values()``, whose steps through two mappings are most of the time of walking all graphs."""
    held: dict[str, Attr] | None = getattr(node.attributes, "data", None)
    return node.attributes.values() if held is None else held.values()


def subgraphs(node: Node) -> Iterator[Graph]:
    """The graphs held by the node's attributes (bodies of If, Loop, Scan), in attribute order."""
    for a in _attributes(node):
        if a.type == AttributeType.GRAPH and not a.is_ref():
            yield a.value
        elif a.type == AttributeType.GRAPHS and not a.is_ref():
            yield from a.value


def with_bodies(graph: Graph) -> Iterator[Graph]:
    """The graph and every body below it."""
    stack = [graph]
    while stack:
        g = stack.pop()
        yield g
        stack.extend(s for n in g if _attributes(n) for s in subgraphs(n))


def all_graphs(model: Model, functions: bool = True) -> Iterator[Graph]:
    """The main graph, every body below it, then the bodies of the model's functions."""
    yield from with_bodies(model.graph)
    if functions:
        for f in model.functions.values():
            yield from with_bodies(f.graph)


def nodes_once(model: Model) -> Iterator[Node]:
    """The nodes that one run executes once or not at all: of the main graph, then of the branches of its Ifs, at any depth.
    (A Loop's body runs many times.)"""
    graphs = [model.graph]
    for graph in graphs:  # it grows
        for node in graph:
            yield node
            if node.op_type == "If" and node.domain == "":
                graphs += subgraphs(node)


def sites(model: Model) -> dict[str, list[Node]]:
    """By ``site`` the nodes that run once at most: one, or of a layer that branches share one of each
    (``passes/shared_layers.py``)."""
    found: dict[str, list[Node]] = {}
    for node in nodes_once(model):
        found.setdefault(site(node), []).append(node)
    return found


def owner(node: Node) -> Graph | None:
    """The graph that holds the node; for a node of a function, the function's body graph."""
    g = node.graph
    return g.graph if isinstance(g, Function) else g


def uses(value: Value) -> Collection[tuple[Node, int]]:
    """As ``value.uses()``, but a view: the graph must not change while it is read.

    The method copies all uses first, which makes what looks at a value from each of its users quadratic.
    """
    held: Collection[tuple[Node, int]] | None = getattr(value, "_uses", None)
    return value.uses() if held is None else held


def site(node: Node) -> str:
    """What reports and plans call a node: its name, or that of its first named output."""
    return node.name or next((o.name for o in node.outputs if o.name), "") or node.op_type


def module_of(node: Node) -> str:
    """The module that a node was exported from, dotted (``encoder.layer.0.attention``); "" where nothing tells.

    The dynamo exporter writes it down as ``namespace``; others name nodes, and so their results, by it.
    """
    scopes = [part.partition(":")[0].strip() for part in node.metadata_props.get("namespace", "").split("/")[:-1]]
    if named := [s for s in scopes if s and not s.startswith("_empty_nn_module_stack")]:
        return named[-1]
    names = (node.name, *node.metadata_props.get("olc.from", "").split(","), *(o.name for o in node.outputs))
    path = next((n for n in names if n and "/" in n.strip("/")), "")
    return ".".join(path.strip("/").split("/")[:-1])


def graph_of(value: Value) -> Graph | None:
    """The graph in which the value is produced, declared as input, or held as initializer."""
    producer = value.producer()
    if producer is not None:
        return owner(producer)
    g = value.graph
    return g.graph if isinstance(g, Function) else g


def is_constant(value: Value | None) -> bool:
    """True for an initializer that a caller cannot override, and for the output of a Constant node.

    An initializer that is also a graph input is a default: the caller may pass another value at run time.
    """
    if value is None:
        return False
    if value.is_initializer():
        return not value.is_graph_input() and value.const_value is not None
    producer = value.producer()
    if producer is None or producer.op_type != "Constant" or producer.domain != "":
        return False
    return any(k.startswith("value") and not a.is_ref() for k, a in producer.attributes.items())


def tensor(value: Value | None) -> Any | None:
    """The constant tensor of a value (an onnx-ir tensor, lazily loaded), or None where it is no constant."""
    if value is None or not is_constant(value):
        return None
    producer = value.producer()
    if producer is None:
        return value.const_value
    return _constant_node_tensor(producer)


def _constant_node_tensor(node: Node) -> Any | None:
    for name, a in node.attributes.items():
        if a.is_ref():
            return None
        if name == "value":
            return a.value
        if name in ("value_int", "value_ints"):
            return Tensor(np.asarray(a.value, dtype=np.int64))
        if name in ("value_float", "value_floats"):
            return Tensor(np.asarray(a.value, dtype=np.float32))
        if name in ("value_string", "value_strings"):
            texts = [a.value] if name == "value_string" else list(a.value)
            raw = [t.encode() if isinstance(t, str) else t for t in texts]
            return _ir.StringTensor(raw, shape=Shape([] if name == "value_string" else [len(raw)]))
    return None


def initial_values(model: Model, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Of these names those of initializers, with what they hold where no caller overrides it (``array`` knows constants only)."""
    wanted = set(names)
    held = ((name, v) for graph in all_graphs(model, functions=False) for name, v in graph.initializers.items() if name in wanted)
    return {name: v.const_value.numpy() for name, v in held if v.const_value is not None}


def array(value: Value | None) -> np.ndarray | None:
    """The constant as a numpy array (ml_dtypes for types numpy lacks), or None where it is no constant.

    Reads external data. The array is read-only, since the weight may have other users: copy before writing.
    """
    t = tensor(value)
    if t is None:
        return None
    view = t.numpy().view()
    view.flags.writeable = False
    return view


def scalar(value: Value | None) -> Any | None:
    """The Python number of a one-element numeric constant of any rank, else None."""
    t = tensor(value)
    if t is None or t.size != 1 or t.dtype == DataType.STRING:
        return None
    return t.numpy().reshape(-1)[0].item()


def attr(node: Node, name: str, default: Any = None) -> Any:
    """The attribute's Python value (lists as tuples), or ``default`` where it is absent or refers to a function's."""
    a = node.attributes.get(name)
    if a is None or a.is_ref():
        return default
    return tuple(a.value) if isinstance(a.value, list) else a.value


def make_attr(name: str, value: Any) -> Attr:
    """An attribute from a Python value: int, float, str, bytes, bool, ndarray, Graph, DataType, or a sequence of them."""
    if isinstance(value, Attr):
        return value if value.name == name else Attr(name, value.type, value.value)
    if isinstance(value, DataType):
        return Attr(name, AttributeType.INT, int(value))
    if isinstance(value, bool | np.integer):
        return Attr(name, AttributeType.INT, int(value))
    if isinstance(value, np.floating):
        return Attr(name, AttributeType.FLOAT, float(value))
    if isinstance(value, np.ndarray):
        return Attr(name, AttributeType.TENSOR, Tensor(value))
    if isinstance(value, tuple | list):
        if not value:
            return Attr(name, AttributeType.INTS, ())
        return _ir.convenience.convert_attribute(name, [v.item() if isinstance(v, np.generic) else v for v in value])
    return _ir.convenience.convert_attribute(name, value)


def make_node(
    op_type: str,
    inputs: list[Value | None],
    attributes: dict[str, Any] | None = None,
    *,
    domain: str = "",
    outputs: int = 1,
    name: str | None = None,
) -> Node:
    """A node outside any graph. ``attributes`` maps names to Python values or ``Attr``."""
    attrs = [make_attr(k, v) for k, v in (attributes or {}).items() if v is not None]
    return Node(domain, op_type, inputs, attrs, num_outputs=outputs, name=name)


def make_constant(data: np.ndarray | Any, name: str | None = None) -> Value:
    """A constant value (type and shape set) outside any graph; ``Graph.register_initializer`` takes it in once named.

    ``data`` is an array or a tensor; a tensor is wrapped, because naming the value must not rename one that is shared.
    """
    if isinstance(data, np.ndarray):
        t: Any = Tensor(data, name=name)
    else:
        t = _ir.LazyTensor(lambda: data, dtype=data.dtype, shape=Shape(data.shape), name=name)
    return Value(name=name, type=TensorType(t.dtype), shape=Shape(t.shape), const_value=t)


def replace_value(old: Value, new: Value) -> None:
    """Make every user of ``old`` use ``new``; where ``old`` is a graph output, ``new`` takes its place and its name.

    Raises:
        ValueError: ``old`` is a graph output and ``new`` cannot carry its name (it is a graph input, an
            initializer, an output already, or lives in another graph): insert an Identity instead.
    """
    if not old.is_graph_output():
        old.replace_all_uses_with(new)
        return
    if new.is_graph_input() or new.is_initializer() or new.is_graph_output() or graph_of(new) is not graph_of(old):
        raise ValueError(f"graph output {old.name!r} cannot become {new.name!r}")
    name = old.name
    if old.type is not None:
        new.type = old.type
    if old.shape is not None:
        new.shape = old.shape
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    new.metadata_props.update(old.metadata_props)
    old.name = None
    new.name = name


def opset_of(model: Model, domain: str = "") -> int | None:
    """The version of a domain that the model imports."""
    return model.opset_imports.get(domain)


@cache
def schema_of(op_type: str, domain: str, version: int) -> Any | None:
    """The operator's schema (``onnx.defs.OpSchema``) in force at that opset, or None where neither onnx nor
    ``_of_runtimes`` knows one."""
    import onnx.defs

    try:
        return onnx.defs.get_schema(op_type, version, domain)
    except onnx.defs.SchemaError:
        return _of_runtimes().get(op_type) if domain == "" else None


@cache
def _of_runtimes() -> dict[str, Any]:
    """Operators that ONNX Runtime has in the standard's domain at opsets at which the standard has none of that name:
    its optimizers write them. LayerNormalization became the standard's, unchanged, with opset 17."""
    import onnx
    from onnx.defs import OpSchema

    formal, default = OpSchema.FormalParameter, onnx.helper.make_attribute
    floats = ["tensor(float16)", "tensor(float)", "tensor(double)", "tensor(bfloat16)"]
    optional = OpSchema.FormalParameterOption.Optional
    simplified = OpSchema(
        "SimplifiedLayerNormalization", "", 1,
        inputs=[formal("X", "T"), formal("scale", "V")],
        outputs=[formal("Y", "V"), formal("inv_std_var", "U", param_option=optional)],
        type_constraints=[("T", floats, ""), ("U", floats[1:3], ""), ("V", floats, "")],
        attributes=[OpSchema.Attribute(n, default(n, v), "") for n, v in (("axis", -1), ("epsilon", 1e-5), ("stash_type", 1))],
    )  # fmt: skip
    return {simplified.name: simplified, "LayerNormalization": onnx.defs.get_schema("LayerNormalization", 17, "")}


def of_runtime(op_type: str, domain: str, version: int) -> bool:
    """Is it such an operator, which onnx's own tools do not know at that opset?"""
    return domain == "" and op_type in _of_runtimes() and (op_type != "LayerNormalization" or version < 17)
