"""A name of a size that the graph contradicts is not believed.

Moonshine's decoder is exported with a mask that is declared as long as the encoder's states. It is as long as the sound: the
model takes every 384th entry. If the names were right, so many would meet as many as there are states, which only sizes of no
sentence would survive. The mask's length gets a name of its own then.

Sound because the name of a size is a promise of the file's, and with fewer promises less is done.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from .. import ir
from ..analysis import dims as d
from ..analysis import shapes
from . import Context

NAME = "doubtful-sizes"


def run(model: ir.Model, ctx: Context) -> int:
    """Rename such sizes of inputs that are integers or truth values; returns how many."""
    asked = _asked(model)
    if not asked:
        return 0
    shapes.infer(model)
    doubtful = {name for graph in ir.all_graphs(model, functions=False) for node in graph for name in _contradicted(node)}
    taken = {str(n) for v in model.graph.inputs for n in v.shape or ()}
    changes = 0
    for value, axis, name in asked:
        if name not in doubtful or value.shape is None:
            continue
        own = re.sub(r"\W", "_", f"{value.name}_{axis}")
        while own in taken:
            own += "_"
        taken.add(own)
        value.shape = ir.Shape([ir.SymbolicDim(own) if i == axis else n for i, n in enumerate(value.shape)])
        ctx.record(NAME, value.name or "", f"axis {axis} is {own}: as {name} it would not fit")
        changes += 1
    if changes:
        shapes.infer(model)
    return changes


def named(model: ir.Model) -> ir.Model:
    """The model, or a copy in which such sizes have names of their own."""
    if not _asked(model):
        return model
    copy = model.clone()
    return copy if run(copy, Context()) else model


def _asked(model: ir.Model) -> list[tuple[ir.Value, int, str]]:
    """Axes, but the first, of inputs of text whose size has the name of one of an input of floats."""
    text = [v for v in model.graph.inputs if v.shape is not None and v.dtype is not None and not v.dtype.is_floating_point()]
    others = {
        str(n) for v in model.graph.inputs for n in (v.shape or ())[1:]
        if v.dtype is not None and v.dtype.is_floating_point() and not isinstance(n, int)
    }  # fmt: skip
    named = [(v, i, str(n)) for v in text for i, n in enumerate(v.shape or ()) if i and not isinstance(n, int)]
    return [found for found in named if found[2] in others]


def _contradicted(node: ir.Node) -> Iterator[str]:
    """Names of sizes that meet another function of themselves."""
    for value in node.outputs:
        for n in shapes.dims(value) or ():
            for a in d.parts(n):
                names = [d.all_names(x) for x in a.args]
                if a.kind == d.BROADCAST and len(names[0]) == 1 and all(x == names[0] for x in names):
                    yield from names[0]
