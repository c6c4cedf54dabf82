"""Calibration: what the values of a float model range over, on inputs that a user gave."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ..ir import Model
from ..quantization import Observed
from ..quantization.observers import Entropy, Method, MinMax, Mse, Observer, Percentile
from .probe import activations, watch

METHODS: dict[str, Callable[[], Method]] = {
    "minmax": MinMax, "percentile": Percentile, "entropy": Entropy, "mse": Mse,
}  # fmt: skip
OPERATORS = (
    "Add", "AveragePool", "Clip", "Concat", "Conv", "Gemm", "GlobalAveragePool", "MatMul", "Relu", "Sum",
)  # fmt: skip
"""Operators whose inputs and outputs are looked at: those that LOSSY rules and smoothing read facts of."""


def calibrate(
    model: Model, feeds: Iterable[dict[str, Any]], threads: int | None, method: str = "minmax"
) -> dict[str, Observed]:
    """Facts by name of value, from one run for each feed, in memory that does not grow with their number.

    Args:
        method: a key of ``METHODS``.
    """
    observers = {name: Observer(METHODS[method]()) for name in activations(model, OPERATORS)}
    for values in watch(model, observers, feeds, threads):
        for name, value in values.items():
            observers[name].add(value)
    return {name: o.observed() for name, o in observers.items() if o.count}
