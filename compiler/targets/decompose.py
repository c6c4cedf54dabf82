"""Operators as compositions of others: the function bodies that the ONNX standard gives for about a hundred operators.

A runtime without a kernel for such an operator can run the body; written into the model it can be optimized further.
"""

from __future__ import annotations

from typing import Any

from .. import ir, signatures
from ..deserialize import from_proto

#: Functions made here for one pass of inlining live in this domain, which no saved model contains.
DOMAIN = "olc.decomposed"


def body(node: ir.Node, version: int, strict: bool = False) -> Any | None:
    """The function body (``onnx.FunctionProto``) that the standard gives for this node, or None.

    It imports the standard domain at ``version``: None where an operator of the body means something else at that
    opset than at the one for which the body was written. Bodies that depend on the inputs' types need those types:
    None while one is unknown.

    Args:
        strict: also None where an operator of the body has a newer form at that opset, although it means the same:
            runtimes that expand bodies by themselves then refuse to.
    """
    import onnx

    schema = ir.schema_of(node.op_type, node.domain, version)
    if schema is None or schema.deprecated:
        return None
    text = b""
    if schema.has_function:
        versions = [v for v in schema.function_opset_versions if v <= version]
        text = schema.get_function_with_opset_version(max(versions)) if versions else b""
    elif schema.has_context_dependent_function:
        types = input_types(node)
        versions = [v for v in schema.context_dependent_function_opset_versions if v <= version]
        if types is not None and versions:
            text = schema.get_context_dependent_function_with_opset_version(
                max(versions), node_proto(node).SerializeToString(), [t.SerializeToString() for t in types]
            )
    if not text:
        return None
    function = onnx.FunctionProto()
    function.ParseFromString(text)
    # Runtimes check the forms only of bodies that are fixed text, not of those made for the node's types.
    return function if function.node and _moved(function, version, strict and schema.has_function) else None


def _moved(function: Any, version: int, strict: bool) -> bool:
    """Declare the body at ``version`` of the standard domain, if every operator in it has the same form there."""
    written = {o.domain: o.version for o in function.opset_import}
    base = written.get("", version)
    if base != version:
        for node in function.node:
            if node.domain not in ("", "ai.onnx"):
                continue
            then, now = (ir.schema_of(node.op_type, "", v) for v in (base, version))
            if then is None or now is None:
                return False
            if then.since_version != now.since_version and (strict or not _compatible(node, then, now)):
                return False
    del function.opset_import[:]
    for name, number in {**written, "": version}.items():
        function.opset_import.add(domain=name, version=number)
    return True


def _compatible(node: Any, then: Any, now: Any) -> bool:
    """True where the newer form only takes more: the same inputs, outputs and attributes with the same defaults."""
    if [p.name for p in then.inputs] != [p.name for p in now.inputs][: len(then.inputs)]:
        return False
    if [p.name for p in then.outputs] != [p.name for p in now.outputs][: len(then.outputs)]:
        return False
    if any(a.name not in now.attributes for a in node.attribute):
        return False
    old, new = then.attributes, now.attributes
    return all(name in new and old[name].default_value == new[name].default_value for name in old) and all(
        not new[name].required for name in new if name not in old
    )


def node_proto(node: ir.Node) -> Any:
    """The node as ``onnx.NodeProto`` with the schema's defaults left out, as the model holds it."""
    return ir.serde.serialize_node(node)


def input_types(node: ir.Node) -> list[Any] | None:
    """``onnx.TypeProto`` per input, with its shape where known (empty if omitted); None while a dtype is unknown."""
    import onnx

    types = []
    for value in node.inputs:
        proto = onnx.TypeProto()
        if value is not None:
            if value.type is None or signatures.type_name(value.type) is None:
                return None
            ir.serde.serialize_type_into(proto, value.type)
            if value.shape is not None:
                ir.serde.serialize_shape_into(proto, value.shape)
        types.append(proto)
    return types


def expansion(node: ir.Node, version: int, strict: bool = False) -> Any | None:
    """The node's body as a small model (``onnx.ModelProto``), or None where the standard gives none that fits.

    Inputs are ``in0``, ``in1``, … (omitted ones absent), outputs ``out0``, …; attributes are filled in. Where the
    dtypes of all inputs are known, the values inside are typed. ``strict``: see ``body``.
    """
    import onnx
    import onnx.inliner

    function = body(node, version, strict)
    if function is None:
        return None
    call = node_proto(node)
    schema = ir.schema_of(node.op_type, node.domain, version)
    given = {a.name for a in call.attribute}
    if schema is not None:
        # The body refers to attributes without saying their defaults: those are the schema's.
        call.attribute.extend(
            a.default_value for name, a in schema.attributes.items() if name not in given and a.default_value.name
        )
    call.domain, call.op_type, call.overload = DOMAIN, "Body", ""
    function.domain, function.name = DOMAIN, "Body"
    del call.input[:], call.output[:]
    call.input.extend("" if v is None else f"in{i}" for i, v in enumerate(node.inputs))
    # An output that nobody wants has no name, and the body may leave it out.
    call.output.extend(f"out{i}" if v.name else "" for i, v in enumerate(node.outputs))
    types = input_types(node)
    graph = onnx.GraphProto(name="body", node=[call])
    for i, value in enumerate(node.inputs):
        if value is not None:
            graph.input.add(name=f"in{i}", type=types[i] if types is not None else None)
    for name in call.output:
        if name:
            graph.output.add(name=name)
    model = onnx.ModelProto(ir_version=10, graph=graph, functions=[function])
    for imported in function.opset_import:
        model.opset_import.add(domain=imported.domain, version=imported.version)
    model.opset_import.add(domain=DOMAIN, version=1)
    inlined = onnx.inliner.inline_local_functions(model)
    return onnx.shape_inference.infer_shapes(inlined, data_prop=True) if types is not None else inlined


def model_of(expanded: Any) -> ir.Model:
    """An expansion as our graph."""
    model, problems = from_proto(expanded)
    if problems:
        raise ValueError(f"a body of the standard is not sound: {problems[0]}")
    return model


def inline(node: ir.Node, expanded: Any) -> list[ir.Node]:
    """Put the expansion in the node's place; the new nodes. They carry the node's metadata and ``olc.from``."""
    graph = node.graph
    if graph is None:
        raise ValueError(f"node {node.name!r} lies in no graph")
    inner = model_of(expanded).graph
    stem = node.name or node.outputs[0].name or node.op_type
    nodes = list(inner)
    for value in list(inner.initializers.values()):
        raise ValueError(f"the body of {node.op_type} holds an initializer {value.name!r}")
    outputs = list(inner.outputs)
    inner.outputs.clear()  # not `del`: the list forgets whose outputs they were only here
    for formal in inner.inputs:
        actual = node.inputs[int((formal.name or "in0")[2:])]
        if actual is None:
            raise ValueError(f"the body of {node.op_type} uses an input that the node omits")
        formal.replace_all_uses_with(actual)
    inner.remove(nodes)
    for number, new in enumerate(nodes):
        new.name = f"{stem}/{new.op_type}_{number}"
        new.metadata_props.update(node.metadata_props)
        new.metadata_props["olc.from"] = node.name or stem
        for out in new.outputs:
            out.name = f"{stem}/{out.name}" if out.name else None
    graph.insert_before(node, nodes)
    for old, made in zip((v for v in node.outputs if v.name), outputs, strict=True):
        if old.uses() or old.is_graph_output():
            made.type = made.type or old.type
            made.shape = old.shape if old.shape is not None else made.shape
            ir.replace_value(old, made)
    graph.remove(node, safe=True)
    return nodes
