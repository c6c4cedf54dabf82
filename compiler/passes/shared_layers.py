"""What may be rounded inside bodies gets a name that nothing else has, and a layer of both branches of an If one name in both.

Plans, facts and reports know layers by the names of nodes, activations by those of values. Of a merged decoder, a decoder
with a cache and one without it as the branches of an If, both branches read the same weights: a layer there is one layer,
rounded in both or in neither, so that its weight is stored once; and of a value that is seen in whichever branch ran. So the
nodes of two branches that read the same weights of the graph around are one layer, the first such node of one branch with the
first of the other and so on, where there are as many. What such nodes read as activation has one name as well.

Sound because names mean nothing: those of nodes need not be unique, and no branch sees the values of the other.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

from .. import ir
from ..quantization.linears import linear
from . import Context
from .edit import Names, branches, defined

NAME = "shared-layers"

_Found = dict[tuple[Any, ...], list[list[ir.Node]]]
"""By operator and weights the layers that read them, each as its nodes: one, or one of each branch."""


def run(model: ir.Model, ctx: Context) -> int:
    """Name what bodies hold; returns the number of layers that are one in several branches."""
    inner = [graph for graph in ir.all_graphs(model, functions=False) if graph is not model.graph]
    if not inner:
        return 0
    names = Names(model)
    _distinguish(model, inner, names)
    around = dict(branches(model))
    shared = [nodes for layers in _layers(model.graph).values() for nodes in layers if len(nodes) > 1]
    told: set[ir.Value] = set()
    for nodes in shared:
        name = _shortest(n.name for n in nodes)
        for n in nodes:
            _call(n, name)
        _one_activation(nodes, around, told, names.pinned)
        ctx.record(NAME, name, f"one layer in {len(nodes)} branches")
    return len(shared)


def _distinguish(model: ir.Model, inner: Sequence[ir.Graph], names: Names) -> None:
    """Nodes and values of bodies get names of their own."""
    taken = {ir.site(n) for n in model.graph}
    for graph in inner:
        for n in graph:
            name = n.name or names.node(ir.site(n))
            while name in taken:
                name = names.node(ir.site(n))
            taken.add(name)
            _call(n, name)
        for v in list(defined(graph)):
            if v.name not in names.pinned:
                names.own(v)


def _call(node: ir.Node, name: str) -> None:
    """Name a node. Where it comes from is still told by the name that it had."""
    old = ir.site(node)
    node.name = name
    if name != old:
        node.metadata_props.setdefault("olc.from", old)


def _shortest(names: Iterable[str | None]) -> str:
    return min((name or "" for name in names), key=lambda name: (len(name), name))


def _layers(graph: ir.Graph) -> _Found:
    """The layers of the graph and of the branches of its Ifs."""
    found: _Found = {}
    for node in graph:
        key = _weights(node)
        if key is not None:
            found.setdefault(key, []).append([node])
        if node.op_type != "If" or node.domain != "":
            continue
        ways = [_layers(body) for body in ir.subgraphs(node)]
        for key in dict.fromkeys(key for way in ways for key in way):
            alike = [way.get(key, []) for way in ways]
            paired = len({len(layers) for layers in alike}) == 1
            groups = [[*chain(*layers)] for layers in zip(*alike, strict=True)] if paired else [*chain(*alike)]
            found.setdefault(key, []).extend(groups)
    return found


def _weights(node: ir.Node) -> tuple[Any, ...] | None:
    """The operator, its attributes, and the constants of two axes or more that it reads, and which way round; None where there
    are none."""
    layer = linear(node)
    held = [v for v in node.inputs if v is not None and v.shape is not None and len(v.shape) > 1 and ir.is_constant(v)]
    if not held and layer is None:
        return None
    how = tuple(sorted((name, repr(a.value)) for name, a in node.attributes.items()))
    return (node.domain, node.op_type, how, *(held if layer is None else (layer.constant, layer.turned)))


def _one_activation(
    nodes: Sequence[ir.Node], around: Mapping[ir.Graph, frozenset[ir.Graph]], told: set[ir.Value], pinned: Container[str]
) -> None:
    """Give what the nodes of a layer read one name, where each reads a value of its own that the others do not see."""
    read = [n.inputs[0] for n in nodes]
    homes = [None if v is None or v.producer() is None else ir.graph_of(v) for v in read]
    if any(v is None or v in told or v.name in pinned for v in read) or any(home not in around for home in homes):
        return
    for i, n in enumerate(nodes):
        graph = ir.owner(n)
        assert graph is not None
        if any(home is graph or home in around[graph] for j, home in enumerate(homes) if j != i):
            return
    values = [v for v in read if v is not None]
    name = _shortest(v.name for v in values)
    for v in values:
        v.name = name
    told.update(values)
