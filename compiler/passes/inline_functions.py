"""Calls of model-local functions become the functions' nodes, so that rules see operators.

Sound because ONNX defines a call as its body, with the call's inputs for the function's, the call's attributes (else
the function's defaults, else nothing) where the body refers to them. Names of the body are made unique and start
with the call's name; nodes inherit the call's metadata (the exporter's module scope) where they have none.

A call stays a call where the target has a kernel of that name, where the function imports an operator set that
means something else than the model's (and cannot be raised to it), and where inlining would blow the model up.
A function that calls itself, directly or through others, is refused: ONNX forbids it, and it has no end.
"""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter
from typing import Any

from .. import ir
from ..errors import BadInput
from . import Context, raise_opset
from .dce import called
from .edit import Names, adopt, erase

NAME = "inline-functions"
_MOST_NODES = 2_000_000

Identifier = tuple[str, str, str]


def run(model: ir.Model, ctx: Context) -> int:
    """Inline calls in the main graph and its bodies; returns how many calls went, and drops unused functions."""
    if not model.functions:
        return 0
    sizes = _sizes(model)
    kept = {i: why for i in called(model) if (why := _why_kept(model, i, sizes, ctx)) is not None}
    names = Names(model)
    changes = 0
    stack = [model.graph]
    while stack:
        graph = stack.pop()
        for node in graph:
            identifier = node.op_identifier()
            function = model.functions.get(identifier)
            if function is None:
                stack.extend(ir.subgraphs(node))
            elif identifier in kept or _has_kernel(ctx, model, node):
                why = kept.get(identifier, "the target runs it")
                ctx.record(NAME, node.name, f"{node.op_type} stays a call: {why}")
                stack.extend(ir.subgraphs(node))
            else:
                # The body's nodes follow the call, so this walk reaches calls among them.
                _inline(graph, node, function, names)
                ctx.record(NAME, node.name, f"{node.op_type}: call became {len(function)} nodes")
                changes += 1
    if changes:
        _drop_unused(model)
    return changes


def _sizes(model: ir.Model) -> dict[Identifier, int]:
    """How many nodes each function is when everything in it is inlined; finds recursion on the way."""
    callees = {
        i: [c for n in _all_nodes(f.graph) if (c := n.op_identifier()) in model.functions] for i, f in model.functions.items()
    }
    try:
        order = list(TopologicalSorter(callees).static_order())
    except CycleError as error:
        # The sorter lists a cycle from callee to caller.
        cycle = " -> ".join(f"{domain}::{name}" for domain, name, _ in reversed(error.args[1]))
        raise BadInput(
            f"function calls itself: {cycle}",
            where=f"function {error.args[1][0][1]!r}",
            hint="ONNX forbids recursive functions; unroll it before export",
        ) from error
    sizes: dict[Identifier, int] = {}
    for i in order:
        sizes[i] = len(_all_nodes(model.functions[i].graph)) + sum(sizes[c] for c in callees[i])
    return sizes


def _why_kept(model: ir.Model, identifier: Identifier, sizes: dict[Identifier, int], ctx: Context) -> str | None:
    """The reason for which calls of a function are not inlined, or None."""
    if sizes[identifier] > _MOST_NODES:
        return f"its body is {sizes[identifier]:,} nodes"
    function = model.functions[identifier]
    if any(n.device_configurations for n in _all_nodes(function.graph)):
        return "its nodes carry device placements"
    new: dict[str, int] = {}
    for domain in _domains(function.graph, model):
        theirs, ours = function.opset_imports.get(domain), model.opset_imports.get(domain)
        if theirs is None or theirs == ours:
            continue
        if ours is None:
            new[domain] = theirs
        elif _same_meaning(function.graph, domain, theirs, ours):
            continue
        elif domain != "" or theirs > ours or not raise_opset.raise_function(model, function, ours, ctx):
            return f'it imports version {theirs} of domain "{domain}", the model {ours}'
    model.opset_imports.update(new)
    return None


def _domains(graph: ir.Graph, model: ir.Model) -> list[str]:
    found: dict[str, None] = {}
    for node in _all_nodes(graph):
        if node.op_identifier() not in model.functions:
            found[node.domain] = None
    return list(found)


def _all_nodes(graph: ir.Graph) -> list[ir.Node]:
    nodes: list[ir.Node] = []
    stack = [graph]
    while stack:
        for node in stack.pop():
            nodes.append(node)
            stack.extend(ir.subgraphs(node))
    return nodes


def _same_meaning(graph: ir.Graph, domain: str, theirs: int, ours: int) -> bool:
    """True where every operator of that domain in the body has one and the same definition at both versions."""
    for node in _all_nodes(graph):
        if node.domain == domain:
            a, b = ir.schema_of(node.op_type, domain, theirs), ir.schema_of(node.op_type, domain, ours)
            if a is None or b is None or a.since_version != b.since_version:
                return False
    return True


def _has_kernel(ctx: Context, model: ir.Model, node: ir.Node) -> bool:
    """True where the target runs an operator of that name: the function is then only a definition for others."""
    version = model.opset_imports.get(node.domain)
    return ctx.target is not None and version is not None and bool(ctx.target.table.supports(node.op_type, node.domain, version))


def _inline(graph: ir.Graph, call: ir.Node, function: ir.Function, names: Names) -> None:
    if len(call.inputs) > len(function.inputs) or len(call.outputs) > len(function.outputs):
        raise BadInput(
            f"call of function {function.name!r} has {len(call.inputs)} inputs and {len(call.outputs)} outputs, "
            f"the function {len(function.inputs)} and {len(function.outputs)}",
            where=f"node {call.name!r}",
        )
    attributes: dict[str, ir.Attr] = {n: a for n, a in function.attributes.items() if a.value is not None}
    attributes.update(call.attributes)
    copy = _Copy(call, attributes, names)
    given = list(call.inputs) + [None] * (len(function.inputs) - len(call.inputs))
    copy.values.update(zip(function.inputs, given, strict=False))
    nodes = [copy.node(n) for n in function]
    graph.insert_after(call, nodes)
    if nodes:
        # The call goes behind them, because an Identity for its results is put before it.
        graph.remove([call])
        graph.insert_after(nodes[-1], call)
    made = set(nodes)
    for old, result in zip(call.outputs, function.outputs, strict=False):
        new = copy.values[result]
        if new is None:
            raise BadInput(
                f"function {function.name!r} returns its input {result.name!r}, which this call omits",
                where=f"node {call.name!r}",
            )
        adopt(old, new, made, names)
    erase(graph, [call])


class _Copy:
    """Copies a function's nodes for one call. Nothing is shared with the function but tensors, which never change."""

    def __init__(self, call: ir.Node, attributes: dict[str, ir.Attr], names: Names) -> None:
        self.call = call
        self.attributes = attributes
        self.names = names
        self.prefix = call.name or call.op_type
        self.values: dict[ir.Value, ir.Value | None] = {}

    def node(self, node: ir.Node) -> ir.Node:
        inputs = [None if v is None else self.values[v] for v in node.inputs]
        attributes = [a for name, old in node.attributes.items() if (a := self.attribute(name, old)) is not None]
        metadata = {**self.call.metadata_props, **node.metadata_props}
        new = ir.Node(
            node.domain, node.op_type, inputs, attributes, overload=node.overload, version=node.version,
            num_outputs=len(node.outputs), name=self.names.node(f"{self.prefix}/{node.name or node.op_type}"),
            doc_string=node.doc_string, metadata_props=metadata, device_configurations=node.device_configurations,
        )  # fmt: skip
        for old, value in zip(node.outputs, new.outputs, strict=True):
            self.fill(value, old)
            value.name = self.fresh(old)
        return new

    def attribute(self, name: str, old: ir.Attr) -> ir.Attr | None:
        if old.is_ref():
            given = self.attributes.get(old.ref_attr_name or "")
            if given is None:
                return None
            return ir.Attr(name, given.type, given.value, given.ref_attr_name, doc_string=old.doc_string)
        types = ir.AttributeType
        if old.type == types.GRAPH:
            return ir.Attr(name, old.type, self.graph(old.value), doc_string=old.doc_string)
        if old.type == types.GRAPHS:
            return ir.Attr(name, old.type, [self.graph(g) for g in old.value], doc_string=old.doc_string)
        return old

    def graph(self, graph: ir.Graph) -> ir.Graph:
        inputs = [self.value(v) for v in graph.inputs]
        constants = [v if (v := self.values.get(c)) is not None else self.value(c) for c in graph.initializers.values()]
        nodes = [self.node(n) for n in graph]
        outputs: list[Any] = [self.values[v] for v in graph.outputs]
        new = ir.Graph(
            inputs, outputs, nodes=nodes, initializers=constants, doc_string=graph.doc_string, name=graph.name,
            opset_imports=dict(graph.opset_imports), metadata_props=dict(graph.metadata_props),
        )  # fmt: skip
        new.meta.update(graph.meta)
        return new

    def value(self, old: ir.Value) -> ir.Value:
        new = ir.Value(name=self.fresh(old), const_value=old.const_value)
        self.fill(new, old)
        return new

    def fresh(self, old: ir.Value) -> str:
        return self.names.value(f"{self.prefix}/{old.name}") if old.name else ""

    def fill(self, new: ir.Value, old: ir.Value) -> None:
        """Type and documentation, but no shape: that was written for one call, and names of dims mean nothing here."""
        new.type = old.type
        if old.const_value is not None:
            new.shape = old.shape
        new.doc_string = old.doc_string
        new.metadata_props.update(old.metadata_props)
        self.values[old] = new


def _drop_unused(model: ir.Model) -> None:
    """Functions that nothing calls any more, and the imports of domains that only calls of them needed."""
    reached = called(model)
    gone = [i for i in model.functions if i not in reached]
    for identifier in gone:
        del model.functions[identifier]
    used = {n.domain for g in ir.all_graphs(model) for n in g}
    for domain, _, _ in gone:
        if domain not in used and domain != "":
            model.opset_imports.pop(domain, None)
