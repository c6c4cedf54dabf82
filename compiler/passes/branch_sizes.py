"""The length of a mask that the branches of an If read is a size of its own in each.

Optimum merges a decoder without a cache and one with it into an If, and declares the mask as the first does: as long as the
new tokens. In the other branch it is as long as the past and them, so that equal names are not equal sizes there. Each
branch gets an Identity of the mask, whose length has a name of its own. ``equal_sizes`` finds what that is in its branch.

Sound because the name of a size is a promise of the file's, and with fewer promises less is done.
"""

from __future__ import annotations

import re

from .. import ir
from ..analysis import dims as d
from ..analysis.shape_rules.core import OWN
from . import Context
from .edit import Names

NAME = "branch-sizes"


def run(model: ir.Model, ctx: Context) -> int:
    """Give such masks of the main graph's inputs names of sizes; returns how many."""
    choices = [n for n in model.graph if n.op_type == "If" and n.domain == ""]
    if not choices:
        return 0
    names: Names | None = None
    changes = 0
    for value in model.graph.inputs:
        axes = _own_axes(value, model) if "mask" in (value.name or "").lower() and not value.is_initializer() else []
        readers = {ir.owner(node) for node, _ in value.uses()} if axes else set()
        for choice in choices:
            below = [(body, graphs) for body in ir.subgraphs(choice) if readers & (graphs := set(ir.with_bodies(body)))]
            if len(below) < 2:
                continue
            names = names if names is not None else Names(model)
            for body, graphs in below:
                _insert(value, axes, body, graphs, names)
            _rename(value, axes, model)
            ctx.record(NAME, value.name or "", f"in each branch of {ir.site(choice)} it may have another length")
            changes += 1
    return changes


def named(model: ir.Model) -> ir.Model:
    """The model, or a copy in which the lengths of such masks have names of their own."""
    if not any(n.op_type == "If" for n in model.graph) or not any("mask" in (v.name or "").lower() for v in model.graph.inputs):
        return model
    copy = model.clone()
    return copy if run(copy, Context()) else model


def _own_axes(value: ir.Value, model: ir.Model) -> list[int]:
    """Axes, but the first, whose size has a name that only token ids and their like have too: not encoded states."""
    if value.shape is None or len(value.shape) < 2:
        return []
    others = {
        str(n) for v in model.graph.inputs for n in v.shape or ()
        if v.dtype is not None and v.dtype.is_floating_point() and v is not value
    }  # fmt: skip
    return [i for i, n in enumerate(value.shape) if i > 0 and not isinstance(n, int) and n.value and str(n) not in others]


def _insert(value: ir.Value, axes: list[int], body: ir.Graph, graphs: set[ir.Graph], names: Names) -> None:
    node = ir.make_node("Identity", [value])
    out = node.outputs[0]
    out.name, out.type = names.value(f"{value.name}_of_branch"), value.type
    node.name = names.node(f"Identity_{out.name}")
    out.meta[OWN] = {axis: d.symbol(f"{out.name}.{axis}") for axis in axes}
    uses = [(user, i) for user, i in value.uses() if ir.owner(user) in graphs]
    body.insert_before(body[0], node)
    for user, i in uses:
        user.replace_input_with(i, out)


def _rename(value: ir.Value, axes: list[int], model: ir.Model) -> None:
    """Nothing else may be taken to have the mask's length."""
    assert value.shape is not None
    shape = list(value.shape)
    taken = [str(n) for v in model.graph.inputs for n in v.shape or ()]
    for axis in axes:
        if taken.count(str(shape[axis])) > 1:
            name = re.sub(r"\W", "_", f"{value.name}_{axis}")
            while name in taken:
                name += "_"
            shape[axis] = ir.SymbolicDim(name)
    value.shape = ir.Shape(shape)
