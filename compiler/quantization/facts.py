"""What calibration saw of a value, as rules read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from .. import ir

_KEY, _PREPARED = "olc.observed", "olc.prepared"


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


def note(model: ir.Model, facts: Mapping[str, Observed], weights: Mapping[str, Mapping[str, Any]] | None = None) -> None:
    """Attach facts to the values of the main graph, by name, and to its constants what was prepared of them, by form.

    What was attached earlier goes.
    """
    values = [*model.graph.inputs, *(v for n in model.graph for v in n.outputs)]
    for v in values:
        v.meta.pop(_KEY, None)
        if v.name is not None and v.name in facts:
            v.meta[_KEY] = facts[v.name]
    for name, v in model.graph.initializers.items():
        v.meta.pop(_PREPARED, None)
        if weights and name in weights:
            v.meta[_PREPARED] = weights[name]


def prepared(value: ir.Value, form: str) -> Any:
    """The weight that a preparation made of a constant for that form (``int4-block-64``), or None."""
    return value.meta.get(_PREPARED, {}).get(form)
