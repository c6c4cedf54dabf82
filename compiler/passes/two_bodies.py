"""A model with two bodies, one for few elements of an input and one for more, as an If over both.

What is fast for one token of a decoder, blocks of 4 bits that are read once, is slow for a prompt of 512, and the other way
round. Both bodies are made of one model and take the same inputs, so a caller sees one model. ONNX Runtime runs a body
of an If as fast as a main graph, packs its weights as well, and writes its outputs where they were bound. It packs no weights
that are two graphs further out: of a decoder with branches a step took a hundred times as long. So what one body alone reads
is held by that body.

Sound where both bodies are: each run takes one of them.
"""

from __future__ import annotations

import numpy as np

from .. import ir
from ..analysis import shapes
from . import Context
from .edit import Names

NAME = "two-bodies"


def run(model: ir.Model, ctx: Context, few: ir.Model, name: str, most: int) -> int:
    """Make ``model`` run ``few`` where its input ``name`` has at most ``most`` elements, and itself where it has more.

    ``few``, which has the same inputs and outputs, is used up. Constants that both read are held once.

    Raises:
        KeyError: there is no such input.
    """
    names, graph = Names(model), model.graph
    given = {v.name: v for v in graph.inputs}
    size = ir.make_node("Size", [given[name]])
    limit = ir.make_constant(np.array(most, np.int64), names.value("olc_most"))
    test = ir.make_node("LessOrEqual", [size.outputs[0], limit])
    wanted = [i for i, v in enumerate(graph.outputs) if v.producer() is not None]  # the others are inputs or constants
    every = list(graph.outputs)
    bodies = [_body(few, wanted, "few", names, given, graph), _body(model, wanted, "more", names, given, graph)]
    old = [every[i] for i in wanted]
    choice = ir.make_node("If", [test.outputs[0]], {"then_branch": bodies[0], "else_branch": bodies[1]}, outputs=len(old))
    for value, made, inner in zip(choice.outputs, old, bodies[1].outputs, strict=True):
        value.name, value.type, value.shape = made.name, made.type, made.shape
        inner.name = names.value(f"{made.name}_more")
        every[every.index(made)] = value
    graph.outputs.extend(every)
    more = set(ir.with_bodies(bodies[1]))
    for v in list(graph.initializers.values()):
        held = v.is_graph_input() or v.is_graph_output() or v.name in names.pinned or not v.uses()
        if not held and all(ir.owner(node) in more for node, _ in v.uses()):
            del graph.initializers[v.name or ""]
            bodies[1].register_initializer(v)
    for node, base in ((size, "olc_size"), (test, "olc_few"), (choice, "olc_choice")):
        node.name = names.node(base)
        if node is not choice:
            node.outputs[0].name = names.value(base)
    graph.initializers[limit.name or ""] = limit
    shapes.note_constant(limit, np.array(most, np.int64))
    graph.extend([size, test, choice])
    for domain, version in few.opset_imports.items():
        model.opset_imports.setdefault(domain, version)
    ctx.record(NAME, choice.name, f"one body for at most {most} elements of {name}, another for more")
    return 1


def _body(
    model: ir.Model, wanted: list[int], suffix: str, names: Names, given: dict[str | None, ir.Value], outer: ir.Graph
) -> ir.Graph:
    """The model's nodes as a body that reads the outer graph's inputs, and those of its constants that the outer graph has."""
    graph = model.graph
    outputs, own = [graph.outputs[i] for i in wanted], list[ir.Value]()
    graph.outputs.clear()
    if graph is not outer:
        for v in list(graph.inputs):
            v.replace_all_uses_with(given[v.name])
            outputs = [given[v.name] if o is v else o for o in outputs]
        for v in list(graph.initializers.values()):
            twin = outer.initializers.get(v.name or "")
            if twin is not None and twin.const_value is v.const_value:
                v.replace_all_uses_with(twin)
                outputs = [twin if o is v else o for o in outputs]
                continue
            graph.initializers.pop(v.name or "")
            v.name = names.value(f"{v.name}_{suffix}")
            own.append(v)
        for inner in ir.all_graphs(model):
            for node in inner:
                node.name = names.node(f"{node.name}_{suffix}") if node.name else node.name
                for v in node.outputs:
                    v.name = names.value(f"{v.name}_{suffix}") if v.name else v.name
    nodes = list(graph)
    graph.remove(nodes)
    made = []
    for value in outputs:  # a body must make what it gives, and give each value once
        if value.producer() is None or value in made:
            carrier = ir.make_node("Identity", [value], name=names.node(f"Identity_{value.name}_{suffix}"))
            carrier.outputs[0].type, carrier.outputs[0].shape = value.type, value.shape
            carrier.outputs[0].name = names.value(f"{value.name}_{suffix}")
            nodes.append(carrier)
            value = carrier.outputs[0]
        made.append(value)
    return ir.Graph([], made, nodes=nodes, initializers=own, name=names.value(suffix))
