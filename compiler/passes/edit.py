"""Small edits of the graph that several passes share: fresh names, taking nodes out, copying and moving them.

Names are only needed where a value enters a graph in which it was not before (a body that is inlined): ONNX wants
a name to be unique in its graph and in all graphs around it, and a duplicate would silently capture another value
once the model is saved.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Iterator

import numpy as np

from .. import ir

QUANTIZATION = "quant_parameter_tensor_names"
"""Key in ``value.meta`` under which the IR library keeps a tensor's quantization annotation (names of tensors)."""
STRAY_QUANTIZATION = "olc.quantization"
"""Key in ``graph.meta`` under which the reader keeps annotations of tensors that the graph does not define."""


class Names:
    """The value and node names of a model, and new ones that collide with none of them."""

    def __init__(self, model: ir.Model) -> None:
        self.values: Counter[str] = Counter()
        self.nodes: Counter[str] = Counter()
        self._next: dict[str, int] = {}
        self.pinned = annotated(model)
        for graph in ir.all_graphs(model):
            self.values.update(v.name for v in defined(graph) if v.name)
            self.nodes.update(n.name for n in graph if n.name)

    def value(self, base: str) -> str:
        """``base``, or ``base_1`` and so on where that is taken; taken from now on."""
        name = self._free(base, self.values)
        self.values[name] += 1
        return name

    def node(self, base: str) -> str:
        """The same for a node."""
        name = self._free(base, self.nodes)
        self.nodes[name] += 1
        return name

    def _free(self, base: str, taken: Counter[str]) -> str:
        if base and not taken[base]:
            return base
        number = self._next.get(base, 0)
        while True:
            number += 1
            name = f"{base}_{number}"
            if not taken[name]:
                self._next[base] = number
                return name

    def own(self, value: ir.Value) -> None:
        """Rename a value that moves to another graph, where its name is used anywhere else in the model."""
        if value.name and self.values[value.name] > 1:
            self.values[value.name] -= 1
            value.name = self.value(value.name)

    def own_node(self, node: ir.Node) -> None:
        """The same for a node."""
        if node.name and self.nodes[node.name] > 1:
            self.nodes[node.name] -= 1
            node.name = self.node(node.name)


def constant(graph: ir.Graph, names: Names, name: str, a: np.ndarray) -> ir.Value:
    """A new initializer of the graph, called ``name`` or, where that is taken, like it."""
    value = ir.make_constant(a, name=names.value(name))
    graph.register_initializer(value)
    return value


def defined(graph: ir.Graph) -> Iterator[ir.Value]:
    """The values that a graph defines: inputs, initializers, node outputs (omitted ones have the name "")."""
    yield from graph.inputs
    yield from (v for v in graph.initializers.values() if not v.is_graph_input())
    for node in graph:
        yield from node.outputs


def annotated(model: ir.Model) -> set[str]:
    """Names that quantization annotations refer to: such a tensor is used, though no node reads it."""
    names: set[str] = set()
    for graph in ir.all_graphs(model):
        for stray in graph.meta.get(STRAY_QUANTIZATION, ()):
            names.update(e.value for e in stray.quant_parameter_tensor_names)
        for value in defined(graph):
            annotation = value.meta.get(QUANTIZATION)
            if annotation:
                names.update(annotation.values())
    return names


def bodies(node: ir.Node) -> Iterator[ir.Graph]:
    """The graphs below a node, at any depth."""
    for body in ir.subgraphs(node):
        yield body
        for inner in body:
            yield from bodies(inner)


def branches(model: ir.Model) -> list[tuple[ir.Graph, frozenset[ir.Graph]]]:
    """The main graph and the branches of Ifs in it, at any depth, each with the graphs around it: what runs once, and sees the
    model's inputs. (A Loop's body runs many times, on values of its own.)"""
    found: list[tuple[ir.Graph, frozenset[ir.Graph]]] = [(model.graph, frozenset())]
    for graph, around in found:  # it grows
        for node in graph:
            if node.op_type == "If" and node.domain == "":
                found += [(body, around | {graph}) for body in ir.subgraphs(node)]
    return found


def release(node: ir.Node) -> None:
    """End the node's uses of its inputs, and those that the nodes of its bodies make of any value.

    Without the second half a value used by a removed If's branch would look used for ever.
    """
    for body in bodies(node):
        for inner in body:
            _clear_inputs(inner)
    _clear_inputs(node)


def _clear_inputs(node: ir.Node) -> None:
    for i, value in enumerate(node.inputs):
        if value is not None:
            node.replace_input_with(i, None)


def erase(graph: ir.Graph, nodes: Iterable[ir.Node]) -> None:
    """Remove nodes whose results nobody uses. One call for many nodes: the library copies the outputs on each call."""
    gone = list(nodes)
    for node in gone:
        release(node)
    graph.remove(gone)


def inherit(value: ir.Value, source: ir.Value) -> None:
    """Give ``value`` what ``source`` knows and it does not: type, shape, doc, metadata, facts."""
    if value.type is None:
        value.type = source.type
    if value.shape is None:
        value.shape = source.shape
    if value.doc_string is None:
        value.doc_string = source.doc_string
    for key, text in source.metadata_props.items():
        value.metadata_props.setdefault(key, text)
    for key, fact in source.meta.items():
        if key not in value.meta:
            value.meta[key] = fact


def identity(graph: ir.Graph, before: ir.Node, source: ir.Value, like: ir.Value) -> ir.Node:
    """An Identity of ``source`` inserted before a node, its output typed like ``like`` and unnamed."""
    node = ir.make_node("Identity", [source])
    inherit(node.outputs[0], like)
    node.outputs[0].name = None
    graph.insert_before(before, node)
    return node


def redirect(old: ir.Value, new: ir.Value, pinned: Container[str] = ()) -> None:
    """Make all users of ``old`` use ``new``, as graph outputs too: the name of a graph output never changes.

    ``new`` takes the name of the graph output where it may, else an Identity, put before ``old``'s producer, carries
    it: ``new`` is an input, an initializer, an output already, named by a quantization annotation (``pinned``), or
    comes from another graph.
    """
    if not old.is_graph_output():
        old.replace_all_uses_with(new)
        return
    node = old.producer()
    assert node is not None
    graph = ir.owner(node)
    assert graph is not None
    movable = not (new.is_graph_input() or new.is_initializer() or new.is_graph_output() or new.name in pinned)
    if movable and ir.graph_of(new) is graph:
        ir.replace_value(old, new)
        return
    name, old.name = old.name, None
    carrier = identity(graph, node, new, old)
    carrier.name = f"Identity_{name}"
    carrier.metadata_props.update(node.metadata_props)
    target = carrier.outputs[0]
    for user, index in old.uses():
        user.replace_input_with(index, new)
    old.replace_all_uses_with(target, replace_graph_outputs=True)
    target.name = name


def adopt(old: ir.Value, new: ir.Value, made: Container[ir.Node], names: Names) -> None:
    """Let a result of inlined code replace the value that the call or If gave.

    A result that one of the nodes ``made`` by inlining produces takes over the name too.
    """
    if not old.name:
        return
    redirect(old, new, names.pinned)
    inherit(new, old)
    # A graph output has its name already, and ``old`` has lost it.
    if old.name and new.producer() in made and not new.is_graph_output() and new.name not in names.pinned:
        name, old.name = old.name, None
        new.name = name
