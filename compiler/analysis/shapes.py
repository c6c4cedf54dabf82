"""Symbolic shapes: what is known of every value's shape, and of what small integer tensors hold.

Facts are derived forward, from the inputs of each node to its outputs, by the rules in ``shape_rules/``; for operators
without a rule by onnx's own inference. They sit in ``value.meta`` and are never saved; a missing dtype is set on
``value.type``. What is declared is believed so far:

* the shapes of the model's inputs are preconditions (equal names are equal sizes);
* the shapes of intermediate values fill gaps only: numbers, and expressions over the names of the inputs;
* the shapes of outputs, of the model and of bodies, are not believed.
"""

from __future__ import annotations

import numpy as np

from .. import ir
from . import shape_rules  # noqa: F401  (registers the rules)
from .dims import Dim
from .shape_rules import core
from .shape_rules.core import DIMS
from .shape_rules.engine import Engine

__all__ = ["dims", "elements", "first_unknown", "infer", "infer_node", "known"]

_ENGINE = "olc.shapes"


def dims(value: ir.Value) -> tuple[Dim, ...] | None:
    """The shape, or None where even the rank is unknown. A dim is an int or a polynomial; an unknown one is a symbol
    equal to itself only."""
    return core.dims(value)


def elements(value: ir.Value) -> tuple[Dim, ...] | None:
    """What an integer or boolean tensor of rank 0 or 1 and at most 64 elements holds, as dims (False is 0, True is 1).

    None where that is not known. Single elements may be integers of unknown sign (``dims.is_size`` tells).
    """
    found = core.elements(value)
    if found is None:
        return None
    shape = core.dims(value)
    return found if shape is not None and len(shape) <= 1 else None


def infer(model: ir.Model) -> None:
    """Derive the facts of every value of the model afresh: main graph, bodies, functions."""
    engine = Engine(model)
    model.meta[_ENGINE] = engine
    engine.run()


def known(model: ir.Model) -> bool:
    """Whether `infer` has seen the model."""
    return _ENGINE in model.meta


def infer_node(node: ir.Node, model: ir.Model) -> None:
    """Derive the facts of one node's outputs (and of its bodies) from those of its inputs.

    The node may be outside any graph. Where `infer` has not seen the model, its inputs are declared first.
    """
    engine = model.meta.get(_ENGINE)
    if engine is None:
        engine = Engine(model)
        model.meta[_ENGINE] = engine
        for value in model.graph.inputs:
            engine.declare(value)
    holder = node.graph
    outer = engine.opsets
    if isinstance(holder, ir.Function) and holder.opset_imports:
        engine.opsets = holder.opset_imports
    try:
        engine.node(node)
    finally:
        engine.opsets = outer


def note_constant(value: ir.Value, array: np.ndarray) -> None:
    """State the facts of a constant that is in no graph yet, where nobody can tell that it is one."""
    data = value.meta.data
    data[DIMS] = tuple(int(n) for n in array.shape)
    if value.dtype in core.INTEGERS and array.size <= core.MOST:
        data[core.ELEMENTS] = tuple(int(n) for n in array.reshape(-1))


def first_unknown(model: ir.Model, limit: int = 10) -> list[str]:
    """The first values without a shape, each with the operator that is to blame: one whose own inputs are all known."""
    lines: list[str] = []
    for graph in ir.all_graphs(model, functions=False):
        for node in graph:
            if any(v is not None and dims(v) is None for v in node.inputs):
                continue
            for value in node.outputs:
                if value.name and dims(value) is None and isinstance(value.type, ir.TensorType | None):
                    name = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
                    given = ", ".join(_said(v) for v in node.inputs)
                    lines.append(f"{value.name}: no shape from {name} {node.name or ''}({given})")
                    if len(lines) == limit:
                        return lines
    return lines


def _said(value: ir.Value | None) -> str:
    if value is None:
        return "-"
    shape = dims(value)
    text = "?" if shape is None else f"[{', '.join(str(n) for n in shape)}]"
    held = elements(value)
    return text if held is None else f"{text}={{{', '.join(str(n) for n in held)}}}"


# A fact's key, for those who copy facts from one value to another.
FACTS = (DIMS, core.ELEMENTS, core.REALS)
