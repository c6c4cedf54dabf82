"""Symbolic shape propagation: derives what is known of shapes and small integer tensors (``analysis/shapes.py``).

Sound: it changes no node, it only writes facts to the values' ``meta`` and dtypes where a value had none.
"""

from __future__ import annotations

from .. import ir
from ..analysis import shapes
from . import Context


def run(model: ir.Model, ctx: Context) -> int:
    """Infer the whole model. It makes no change to the graph, so the count is 0."""
    shapes.infer(model)
    return 0
