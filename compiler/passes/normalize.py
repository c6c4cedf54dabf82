"""One spelling for what exporters write in several ways, so that rules and comparisons see one form.

Only what is exactly the same by the operator's own definition:

* omitted inputs at the end of a node's input list are cut;
* an attribute that holds the default which the schema declares is dropped;
* the default domain is spelled "" in opset imports (``ai.onnx`` means the same), and domains that no operator is of are not
  imported;
* a Dropout in inference mode, or one that drops nothing, whose mask is not used is its input.
"""

from __future__ import annotations

import struct
from functools import cache
from typing import Any

from .. import ir
from . import Context
from .edit import annotated, erase, inherit, redirect

NAME = "normalize"


def run(model: ir.Model, ctx: Context) -> int:
    """Normalise every graph and function; returns the number of changes."""
    changes = _imports(model.opset_imports, ctx)
    changes += _graph(model.graph, model.opset_imports, model, ctx)
    for function in model.functions.values():
        changes += _imports(function.opset_imports, ctx)
        changes += _graph(function.graph, function.opset_imports, model, ctx)
    return changes + _unused_imports(model, ctx)


def _unused_imports(model: ir.Model, ctx: Context) -> int:
    used = {"", *(n.domain for g in ir.all_graphs(model) for n in g), *(domain for domain, _, _ in model.functions)}
    gone = [domain for domain in model.opset_imports if domain not in used]
    for domain in gone:
        del model.opset_imports[domain]
        ctx.record(NAME, "opset import", f"no operator is of domain {domain}")
    return len(gone)


def _imports(imports: dict[str, int], ctx: Context) -> int:
    if "ai.onnx" not in imports:
        return 0
    version = imports.pop("ai.onnx")
    imports.setdefault("", version)
    ctx.record(NAME, "opset import", 'domain ai.onnx is spelled ""')
    return 1


def _graph(root: ir.Graph, imports: dict[str, int], model: ir.Model, ctx: Context) -> int:
    changes = 0
    pinned: set[str] | None = None
    stack = [root]
    while stack:
        graph = stack.pop()
        bypassed: list[ir.Node] = []
        for node in graph:
            stack.extend(ir.subgraphs(node))
            version = imports.get(node.domain)
            if version is None or node.op_identifier() in model.functions:
                continue
            schema = ir.schema_of(node.op_type, node.domain, version)
            if schema is None:
                continue
            small = _trim_inputs(node, schema.min_input) + _drop_defaults(node, version)
            if small:
                ctx.record(NAME, node.name, f"{node.op_type}: spelled shorter")
                changes += small
            if node.op_type == "Dropout" and node.domain == "" and _drops_nothing(node, version):
                if pinned is None:
                    pinned = annotated(model)
                if node.outputs[0].name in pinned:
                    continue
                source = node.inputs[0]
                assert source is not None
                redirect(node.outputs[0], source, pinned)
                if source.is_graph_input() or source.is_initializer() or source.producer() is not None:
                    inherit(source, node.outputs[0])
                bypassed.append(node)
                ctx.record(NAME, node.name, "Dropout that drops nothing is its input")
        erase(graph, bypassed)
        changes += len(bypassed)
    return changes


def _trim_inputs(node: ir.Node, least: int) -> int:
    size = len(node.inputs)
    while size > least and node.inputs[size - 1] is None:
        size -= 1
    trimmed = len(node.inputs) - size
    node.resize_inputs(size)
    return trimmed


def _drops_nothing(node: ir.Node, version: int) -> bool:
    """Dropout at opset 7 to 11 is always in test mode; from 12 on when its third input is absent or constant false. With a ratio
    of 0 it drops nothing in training either."""
    if version < 7 or not node.inputs or node.inputs[0] is None:
        return False
    ratio, training = (node.inputs[i] if version >= 12 and len(node.inputs) > i else None for i in (1, 2))
    if training is not None and ir.scalar(training) is not False and (ratio is None or ir.scalar(ratio) != 0):
        return False
    masks = node.outputs[1:]
    return not any(m.uses() or m.is_graph_output() for m in masks)


def _drop_defaults(node: ir.Node, version: int) -> int:
    if not node.attributes:
        return 0
    defaults = declared_defaults(node.op_type, node.domain, version)
    equal = [
        name
        for name, a in node.attributes.items()
        if name in defaults and not a.is_ref() and exact(a.type, a.value) == defaults[name]
    ]
    for name in equal:
        del node.attributes[name]
    return len(equal)


@cache
def declared_defaults(op_type: str, domain: str, version: int) -> dict[str, tuple[Any, ...]]:
    """Attributes for which the schema declares a default, with that in the form of :func:`exact`."""
    import onnx.helper

    schema = ir.schema_of(op_type, domain, version)
    found: dict[str, tuple[Any, ...]] = {}
    for name, a in (schema.attributes if schema is not None else {}).items():
        if not a.required and a.default_value.type != 0:
            value = onnx.helper.get_attribute_value(a.default_value)
            form = exact(ir.AttributeType(a.default_value.type), value)
            if form:
                found[name] = form
    return found


def exact(kind: Any, value: Any) -> tuple[Any, ...]:
    """A number, text or list of them in a form that compares by bits; () for any other kind of attribute."""
    types = ir.AttributeType
    if kind == types.FLOAT:
        return (kind, struct.pack("<f", value))
    if kind == types.FLOATS:
        return (kind, struct.pack(f"<{len(value)}f", *value))
    if kind == types.INT:
        return (kind, value)
    if kind == types.INTS:
        return (kind, tuple(value))
    if kind == types.STRING:
        return (kind, _text(value))
    if kind == types.STRINGS:
        return (kind, tuple(_text(v) for v in value))
    return ()


def _text(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else value
