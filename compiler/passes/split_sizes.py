"""A Split has one spelling, which rules read: the sizes of so many equal parts are written out, where the axis has a known
size, and the axis counts from the front.

Not in functions, which have no initializers.
"""

from __future__ import annotations

import numpy as np

from .. import ir
from ..analysis import shapes
from . import Context
from .edit import Names

NAME = "split-sizes"


def run(model: ir.Model, ctx: Context) -> int:
    """Spell the Splits; returns the number of changes."""
    names: Names | None = None
    changes = 0
    for graph in ir.all_graphs(model, functions=False):
        for node in graph:
            changes += _axis_from_the_front(node, ctx)
            sizes = _sizes(node)
            if sizes is None:
                continue
            names = names if names is not None else Names(model)
            value = ir.make_constant(np.array(sizes, np.int64), name=names.value(f"{node.outputs[0].name}_sizes"))
            graph.register_initializer(value)
            node.attributes.pop("num_outputs")
            node.resize_inputs(2)
            node.replace_input_with(1, value)
            ctx.record(NAME, node.name, "Split: its sizes are written out")
            changes += 1
    return changes


def _axis_from_the_front(node: ir.Node, ctx: Context) -> int:
    """1 where the axis counted from the end and the rank is known."""
    axis = ir.attr(node, "axis", 0)
    shape = shapes.dims(node.inputs[0]) if node.op_type == "Split" and node.domain == "" and node.inputs[0] is not None else None
    if shape is None or axis >= 0:
        return 0
    node.attributes["axis"] = ir.make_attr("axis", axis + len(shape))
    ctx.record(NAME, node.name, "Split: its axis counts from the front")
    return 1


def _sizes(node: ir.Node) -> list[int] | None:
    """The sizes that a Split with ``num_outputs`` gives: equal but for a smaller last one; None for any other node."""
    if node.op_type != "Split" or node.domain != "" or len(node.inputs) > 1 or node.inputs[0] is None:
        return None
    count, shape = ir.attr(node, "num_outputs"), shapes.dims(node.inputs[0])
    size = shape[ir.attr(node, "axis", 0)] if shape and count else None
    if not isinstance(size, int) or count != len(node.outputs):
        return None
    each = -(-size // count)
    if each * (count - 1) >= size:
        return None  # some parts would be empty: runtimes disagree
    return [each] * (count - 1) + [size - each * (count - 1)]
