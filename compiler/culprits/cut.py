"""The part of a graph around some nodes, as a model of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from .. import ir
from ..ir import Model, Node, Value


def around(model: Model, names: Iterable[str]) -> Iterator[tuple[Model, list[str]]]:
    """Ever larger parts of the main graph around the nodes called so, each with the values that it reads, its inputs.

    The first holds these nodes alone, the next one step more in each direction, then two, four, and so on; the whole graph
    is not among them. A node in a body stands for the node of the main graph that holds it.
    """
    wanted = set(names)
    region = {n for n in model.graph if _holds(n, wanted)}
    steps = 0
    while region and len(region) < len(model.graph):
        made = part(model, region)
        if made is not None:
            yield made
        steps = max(1, 2 * steps)
        before = len(region)
        for _ in range(steps):
            region = _wider(region)
        if len(region) == before:
            return


def _holds(node: Node, names: set[str]) -> bool:
    if ir.site(node) in names or any(o.name in names for o in node.outputs):
        return True
    return any(_holds(n, names) for body in ir.subgraphs(node) for n in body)


def reads(node: Node) -> Iterator[Value]:
    """The values that a node and the bodies in it read, those made inside the bodies included."""
    yield from (v for v in node.inputs if v is not None)
    for body in ir.subgraphs(node):
        for n in body:
            yield from reads(n)
        yield from body.outputs


def _wider(region: set[Node]) -> set[Node]:
    graph = ir.owner(next(iter(region)))
    near = {p for n in region for v in reads(n) if (p := v.producer()) is not None}
    near |= {u for n in region for o in n.outputs for u, _ in o.uses()}
    return region | {n for n in near if ir.owner(n) is graph}


def part(model: Model, region: set[Node]) -> tuple[Model, list[str]] | None:
    """These nodes of the main graph as a model, and the values that it reads, its inputs; None where nothing comes out of it."""
    graph = model.graph
    here = set(graph.inputs) | {o for n in graph for o in n.outputs}
    inputs: dict[Value, None] = {}
    outputs: list[Value] = []
    for n in graph:
        if n not in region:
            continue
        for v in reads(n):
            if v in here and v.producer() not in region and not ir.is_constant(v):
                inputs[v] = None
        outputs += [o for o in n.outputs if o.is_graph_output() or any(u not in region for u, _ in o.uses())]
    if not outputs:
        return None
    part = Model(ir.extract(graph, list(inputs), outputs), ir_version=model.ir_version, functions=list(model.functions.values()))
    return part.clone(), [v.name or "" for v in inputs]
