"""What calibration saw of a value, and what the target asks of it, as rules read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import ir
from .weights import INT7_LIMIT, INT8_LIMIT

if TYPE_CHECKING:
    from ..targets import Target

_KEY, _PREPARED, _LIMIT = "olc.observed", "olc.prepared", "olc.limit"


@dataclass(frozen=True)
class Observed:
    """What was seen of an activation.

    Attributes:
        low, high: the range to quantize over, as the calibration method chose it; it need not include 0.
        channels: float32 [C], largest magnitude along the last axis, or None where the last axis has no fixed size.
    """

    low: float
    high: float
    channels: np.ndarray | None = None


def observed(value: ir.Value | None) -> Observed | None:
    """What calibration saw of the value; None where there was no calibration, or it did not look at the value."""
    found = None if value is None else value.meta.get(_KEY)
    return found if isinstance(found, Observed) else None


def observe(value: ir.Value, seen: Observed) -> None:
    """Attach what was seen of a value."""
    value.meta[_KEY] = seen


def inherit(old: ir.Value, new: ir.Value) -> None:
    """What was seen of a value, and what the target asks of it, holds for the one in its place, unless more is known of that."""
    seen = observed(old)
    if seen is not None and observed(new) is None:
        observe(new, seen)
    if _LIMIT in old.meta:
        new.meta.setdefault(_LIMIT, old.meta[_LIMIT])


def note(
    model: ir.Model, facts: Mapping[str, Observed], weights: Mapping[str, Mapping[str, Any]] | None = None,
    target: Target | None = None,
) -> None:  # fmt: skip
    """Attach facts to the values of the main graph and of branches, by name, and to constants what was prepared of them, by
    form. What was attached earlier goes.
    """
    limit = INT7_LIMIT if target is not None and target.features()["int8_saturates"] else INT8_LIMIT
    values = [*model.graph.inputs, *(v for n in ir.nodes_once(model) for v in n.outputs)]
    for v in values:
        v.meta.pop(_KEY, None)
        v.meta[_LIMIT] = limit
        if v.name is not None and v.name in facts:
            observe(v, facts[v.name])
    for v in (v for graph in ir.all_graphs(model, functions=False) for v in graph.initializers.values()):
        v.meta.pop(_PREPARED, None)
        v.meta[_LIMIT] = limit
    attach(model, weights or {})


def attach(model: ir.Model, weights: Mapping[str, Mapping[str, Any]]) -> None:
    """Attach to constants what was prepared of them, by name and form."""
    for graph in ir.all_graphs(model, functions=False):
        for name, v in graph.initializers.items():
            if name in weights:
                v.meta[_PREPARED] = weights[name]


def prepared(value: ir.Value, form: str) -> Any:
    """The weight that a preparation made of a constant for that form (``int4-block-64``), or None."""
    return value.meta.get(_PREPARED, {}).get(form)


def weight_limit(value: ir.Value) -> int:
    """The largest magnitude of the codes of a value as int8 whose products the target's fast kernel sums without error."""
    found: int = value.meta.get(_LIMIT, INT8_LIMIT)
    return found


def limited_as(old: ir.Value, new: ir.Value) -> ir.Value:
    """``new``, which takes the place of a constant and has its ``weight_limit``."""
    new.meta[_LIMIT] = weight_limit(old)
    return new
