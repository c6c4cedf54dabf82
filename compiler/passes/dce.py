"""Dead code: nodes, initializers, function definitions, body outputs and optional outputs that nothing needs.

Sound because ONNX operators have no effect but their results (a node without any result is kept: it can only exist
for an effect). Liveness is marked from the graph outputs backwards, once over the graph: an output of If or Loop
keeps alive only what computes that output, a value carried by a Loop only where it is read, so the dead ones are
taken out of the node and of its bodies. Graph inputs and outputs are never removed.
"""

from __future__ import annotations

from collections.abc import Iterable

from .. import ir
from . import Context
from .edit import annotated, release

NAME = "dce"

_ARITY_MATTERS = frozenset({"BatchNormalization", "Attention"})
"""Operators for which it is not proven that omitting an unused optional output leaves the others as they are:
before opset 14 the number of BatchNormalization's outputs chose training; Attention's caches go by pairs."""


def run(model: ir.Model, ctx: Context) -> int:
    """Remove what is dead; returns how many nodes, initializers, outputs and functions went."""
    changes = _functions(model, ctx)
    keep = annotated(model)
    changes += _graph(model.graph, model.opset_imports.get(""), keep, ctx)
    for function in model.functions.values():
        changes += _graph(function.graph, function.opset_imports.get(""), keep, ctx)
    return changes


def called(model: ir.Model) -> set[tuple[str, str, str]]:
    """Identifiers of the model's functions that the main graph reaches."""
    seen: set[tuple[str, str, str]] = set()
    todo: list[ir.Graph] = [model.graph]
    while todo:
        for node in _nodes(todo.pop()):
            identifier = node.op_identifier()
            if identifier in model.functions and identifier not in seen:
                seen.add(identifier)
                todo.append(model.functions[identifier].graph)
    return seen


def _nodes(graph: ir.Graph) -> Iterable[ir.Node]:
    stack = [graph]
    while stack:
        for node in stack.pop():
            yield node
            stack.extend(ir.subgraphs(node))


def _functions(model: ir.Model, ctx: Context) -> int:
    if not model.functions:
        return 0
    reached = called(model)
    dead = [i for i in model.functions if i not in reached]
    for identifier in dead:
        del model.functions[identifier]
        ctx.record(NAME, "::".join(identifier[:2]), "function that nothing calls")
    return len(dead)


def _graph(graph: ir.Graph, opset: int | None, keep: set[str], ctx: Context) -> int:
    live = _Liveness(graph)
    changes = 0
    stack = [graph]
    while stack:
        current = stack.pop()
        dead = [n for n in current if n not in live.nodes]
        for node in dead:
            release(node)
            ctx.record(NAME, node.name, f"{node.op_type}: nothing uses its results")
        if dead:
            current.remove(dead)
        unused = [
            v
            for v in current.initializers.values()
            if v not in live.values and not v.is_graph_input() and not v.is_graph_output() and v.name not in keep
        ]
        for value in unused:
            ctx.record(NAME, value.name, "initializer that nothing uses")
            del current.initializers[value.name]  # type: ignore[arg-type]
        changes += len(dead) + len(unused)
        for node in list(current):
            if node.op_type == "If" and node.domain == "":
                node, pruned = _prune_if(node, live)
            elif node.op_type == "Loop" and node.domain == "":
                node, pruned = _prune_loop(node, live)
            else:
                pruned = _blank_optional(node, live, opset)
            if pruned:
                ctx.record(NAME, node.name, f"{node.op_type}: {pruned} outputs that nothing uses")
            changes += pruned
            stack.extend(ir.subgraphs(node))
    return changes


class _Liveness:
    """The values and nodes that the outputs of a graph need, bodies included."""

    def __init__(self, graph: ir.Graph) -> None:
        self.values: set[ir.Value] = set()
        self.nodes: set[ir.Node] = set()
        self._todo: list[ir.Value] = []
        self._loops: dict[ir.Graph, ir.Node] = {}
        self._roots(graph)
        self._todo.extend(graph.outputs)
        while self._todo:
            value = self._todo.pop()
            if value not in self.values:
                self.values.add(value)
                self._value(value)

    def _roots(self, graph: ir.Graph) -> None:
        for node in graph:
            if not node.outputs:
                self._node(node)

    def _value(self, value: ir.Value) -> None:
        producer = value.producer()
        if producer is None:
            if value.is_graph_input():
                graph = ir.graph_of(value)
                loop = self._loops.get(graph) if graph is not None else None
                if loop is not None and graph is not None:
                    place = next(i for i, v in enumerate(graph.inputs) if v is value)
                    if place >= 2:
                        self._carried(loop, graph, place - 2)
            return
        self._node(producer)
        index = value.index()
        assert index is not None
        if _prunable(producer):
            if producer.op_type == "If":
                for body in ir.subgraphs(producer):
                    self._todo.append(body.outputs[index])
            else:
                (body,) = ir.subgraphs(producer)
                if index < len(producer.inputs) - 2:
                    self._carried(producer, body, index)
                else:
                    self._todo.append(body.outputs[1 + index])

    def _carried(self, loop: ir.Node, body: ir.Graph, index: int) -> None:
        """A value carried by the loop is needed: its first value and the one that each round makes."""
        self._todo.append(body.outputs[1 + index])
        initial = loop.inputs[2 + index]
        if initial is not None:
            self._todo.append(initial)

    def _node(self, node: ir.Node) -> None:
        if node in self.nodes:
            return
        self.nodes.add(node)
        if _prunable(node):
            # The rest of the inputs and outputs follow by need, in _value.
            self._todo.extend(v for v in node.inputs[:2] if v is not None)
            for body in ir.subgraphs(node):
                if node.op_type == "Loop":
                    self._loops[body] = node
                    self._todo.append(body.outputs[0])
                self._roots(body)
            return
        self._todo.extend(v for v in node.inputs if v is not None)
        for body in ir.subgraphs(node):
            self._roots(body)
            self._todo.extend(body.outputs)


def _prunable(node: ir.Node) -> bool:
    """An If or Loop whose bodies are here (not a reference to a function's attribute) and as wide as the node."""
    if node.domain != "" or node.op_type not in ("If", "Loop"):
        return False
    found = list(ir.subgraphs(node))
    if node.op_type == "If":
        return len(found) == 2 and all(len(b.outputs) == len(node.outputs) for b in found)
    carried = len(node.inputs) - 2
    return (
        len(found) == 1
        and carried >= 0
        and len(found[0].inputs) == carried + 2
        and len(found[0].outputs) == len(node.outputs) + 1
        and len(node.outputs) >= carried
    )


def _rebuild(node: ir.Node, inputs: list[ir.Value | None], keep: list[int]) -> ir.Node:
    """The same node with some of its inputs and outputs; every value stays the object that its users hold."""
    graph = ir.owner(node)
    assert graph is not None
    new = ir.Node(
        node.domain, node.op_type, inputs, list(node.attributes.values()), overload=node.overload, version=node.version,
        num_outputs=len(keep), name=node.name, doc_string=node.doc_string, metadata_props=dict(node.metadata_props),
        device_configurations=node.device_configurations,
    )  # fmt: skip
    new.meta.update(node.meta)
    for target, index in zip(new.outputs, keep, strict=True):
        old = node.outputs[index]
        target.type, target.shape, target.doc_string = old.type, old.shape, old.doc_string
        target.metadata_props.update(old.metadata_props)
        target.meta.update(old.meta)
        name, old.name = old.name, None
        old.replace_all_uses_with(target, replace_graph_outputs=True)
        target.name = name
    graph.insert_before(node, new)
    # Not release(): the bodies now belong to the new node.
    for i in range(len(node.inputs)):
        node.replace_input_with(i, None)
    node.attributes.clear()
    graph.remove(node)
    return new


def _prune_if(node: ir.Node, live: _Liveness) -> tuple[ir.Node, int]:
    dead = [i for i, v in enumerate(node.outputs) if v not in live.values]
    if not dead or not _prunable(node):
        return node, 0
    for body in ir.subgraphs(node):
        for i in reversed(dead):
            body.outputs.pop(i)
    keep = [i for i in range(len(node.outputs)) if i not in set(dead)]
    return _rebuild(node, list(node.inputs), keep), len(dead)


def _prune_loop(node: ir.Node, live: _Liveness) -> tuple[ir.Node, int]:
    if not _prunable(node):
        return node, 0
    (body,) = ir.subgraphs(node)
    carried = len(node.inputs) - 2
    dead = {
        i for i, v in enumerate(node.outputs) if v not in live.values and (i >= carried or body.inputs[2 + i] not in live.values)
    }
    if not dead or len(dead) == len(node.outputs):
        return node, 0
    for i in sorted(dead, reverse=True):
        body.outputs.pop(1 + i)
        if i < carried:
            body.inputs.pop(2 + i)
    inputs = [v for i, v in enumerate(node.inputs) if i < 2 or i - 2 not in dead]
    return _rebuild(node, inputs, [i for i in range(len(node.outputs)) if i not in dead]), len(dead)


def _blank_optional(node: ir.Node, live: _Liveness, opset: int | None) -> int:
    """Name unused optional outputs "" (ONNX's way to omit them), and cut the omitted ones at the end."""
    if len(node.outputs) < 2 or node.domain != "" or opset is None or node.op_type in _ARITY_MATTERS:
        return 0
    schema = ir.schema_of(node.op_type, "", opset)
    if schema is None or len(node.outputs) > len(schema.outputs):
        return 0
    optional = type(schema).FormalParameterOption.Optional
    blanked = 0
    for value, formal in zip(node.outputs, schema.outputs, strict=False):
        if formal.option == optional and value.name != "" and value not in live.values:
            value.name = ""
            blanked += 1
    size = len(node.outputs)
    while size > 1 and node.outputs[size - 1].name == "":
        size -= 1
    node.resize_outputs(size)
    return blanked
