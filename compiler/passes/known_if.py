"""An If whose condition is known becomes the branch that it takes; a Loop that makes no round becomes its inputs.

Sound because a condition that is constant (or that shape facts prove) takes the same branch on every run, and the
nodes of a branch may read what they read where the If stood. Names of the branch that occur elsewhere in the model
are made unique; the names of the If's outputs stay. A Loop with a constant trip count of zero or less, or with an
initial condition that is constant false, returns the first values of what it carries.
"""

from __future__ import annotations

from .. import ir
from ..analysis import shapes
from . import Context
from .edit import Names, adopt, erase, redirect

NAME = "known-if"


def run(model: ir.Model, ctx: Context) -> int:
    """Inline every If with a known condition; returns how many Ifs and Loops went."""
    names: Names | None = None
    changes = 0
    for root in [model.graph, *(f.graph for f in model.functions.values())]:
        stack = [root]
        while stack:
            graph = stack.pop()
            for node in graph:
                if node.domain == "" and node.op_type == "If":
                    branch = _taken(node)
                    if branch is not None:
                        names = names or Names(model)
                        ctx.record(NAME, node.name, f"condition is always {branch[0]}")
                        _inline(graph, node, branch[1], names)
                        changes += 1
                        continue  # the branch's nodes now follow, and this walk reaches them
                elif node.domain == "" and node.op_type == "Loop" and _never_runs(node):
                    names = names or Names(model)
                    for old, first in zip(node.outputs, node.inputs[2:], strict=False):
                        assert first is not None
                        redirect(old, first, names.pinned)
                    ctx.record(NAME, node.name, "Loop that makes no round")
                    erase(graph, [node])
                    changes += 1
                    continue
                stack.extend(ir.subgraphs(node))
    return changes


def _taken(node: ir.Node) -> tuple[bool, ir.Graph] | None:
    condition = known_bool(node.inputs[0]) if node.inputs else None
    if condition is None:
        return None
    attr = node.attributes.get("then_branch" if condition else "else_branch")
    if attr is None or attr.is_ref() or len(attr.value.outputs) != len(node.outputs):
        return None
    return condition, attr.value


def known_bool(value: ir.Value | None) -> bool | None:
    """The truth of a one-element boolean, where a constant or the shape facts tell it."""
    if value is None:
        return None
    number = ir.scalar(value)
    if number is None:
        held = shapes.elements(value)
        number = held[0] if held is not None and len(held) == 1 and isinstance(held[0], int) else None
    return None if number is None else bool(number)


def _never_runs(node: ir.Node) -> bool:
    if len(node.inputs) < 2 or any(v is None for v in node.inputs[2:]):
        return False
    trips, condition = node.inputs[0], node.inputs[1]
    count = ir.scalar(trips) if trips is not None else None
    never = (count is not None and count <= 0) or (condition is not None and known_bool(condition) is False)
    # A scan output of no rounds is empty, of a shape that only the body's facts could tell.
    scanned = node.outputs[len(node.inputs) - 2 :]
    return never and not any(v.uses() or v.is_graph_output() for v in scanned)


def _inline(graph: ir.Graph, node: ir.Node, branch: ir.Graph, names: Names) -> None:
    """Move the branch's nodes and initializers to where the If stands, and let its results replace the If's."""
    results = list(branch.outputs)
    branch.outputs.clear()
    initializers = list(branch.initializers.values())
    branch.initializers.clear()
    moved = list(branch)
    branch.remove(moved)
    # Names inside nested bodies may stay: they were unique among the names around them, which are fewer now. A name
    # that moves out of the branch may also meet one in a body beside it, so any second occurrence renames it.
    for value in [*initializers, *(v for n in moved for v in n.outputs)]:
        names.own(value)
    for value in initializers:
        graph.register_initializer(value)
    for inner in moved:
        names.own_node(inner)
    graph.insert_after(node, moved)
    if moved:
        # The If goes behind them, because an Identity for its results is put before it.
        graph.remove([node])
        graph.insert_after(moved[-1], node)
    made = set(moved)
    for old, new in zip(node.outputs, results, strict=True):
        adopt(old, new, made, names)
    erase(graph, [node])
