"""Quantization: numpy in, numpy out. What is done to a graph is done by rules and passes."""

from __future__ import annotations

from .facts import Observed, observed
from .weights import INT8_LIMIT, all_finite, quantize_linear_weight

__all__ = ["INT8_LIMIT", "Observed", "all_finite", "observed", "quantize_linear_weight"]
