"""How much error a scheme causes at each layer's own output, before any model is built with it.

The layer-wise view of post-training quantization, |Wx - W'x'|^2 / |Wx|^2 (Nagel et al. 2021, "A White Paper on Neural
Network Quantization", section 3), on what reaches the layer in the float model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import ir
from ..ir import Model, Node
from ..quantization import quantize_blocks, quantize_linear_weight
from ..quantization.blocks import dequantize
from ..targets import Target
from .probe import watch

MAX_ROWS = 256
"""Rows of an activation that an estimate looks at, per layer and feed."""
MAX_FEEDS = 2


def _relative(exact: np.ndarray, rounded: np.ndarray) -> float:
    size = float(np.square(exact).sum())
    return float(np.square(exact - rounded).sum()) / size if size else 0.0


def _int8_dynamic(x: np.ndarray, w: np.ndarray) -> float:
    q, scale = quantize_linear_weight(w)
    # The runtime quantizes activations per tensor to uint8 with a zero point, over a range that includes 0.
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    step = (high - low) / 255 or 1.0
    zero = np.clip(np.round(-low / step), 0, 255)
    xq = (np.clip(np.round(x / step) + zero, 0, 255) - zero) * step
    return _relative(x @ w, (xq.astype(np.float32) @ q.astype(np.float32)) * scale)


def _block(x: np.ndarray, w: np.ndarray, bits: int) -> float:
    return _relative(x @ w, x @ dequantize(quantize_blocks(w, bits, 64)))


ESTIMATES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "int8-linear": _int8_dynamic,
    "int8-block-linear": lambda x, w: _block(x, w, 8),
    "int4-block-linear": lambda x, w: _block(x, w, 4),
}
"""By rule. A rule that is not here has no estimate: its layers come last where some must go."""


@dataclass(frozen=True)
class Layer:
    """A linear layer: the activation that it reads, and its weight [K, N]."""

    x: str
    w: np.ndarray


def linear(node: Node) -> Layer | None:
    """What a MatMul or Gemm with constant weight is made of; None for other nodes."""
    if node.domain != "" or node.op_type not in ("MatMul", "Gemm") or node.inputs[0] is None:
        return None
    w = _matrix(node.inputs[1])
    if w is None or w.ndim != 2 or node.inputs[0].name is None:
        return None
    turned = node.op_type == "Gemm" and ir.attr(node, "transB", 0)
    return Layer(node.inputs[0].name, w.T if turned else w)


def _matrix(value: Any) -> np.ndarray | None:
    """A constant matrix, or one transposed (an embedding's table as the head)."""
    if value is None:
        return None
    node = value.producer()
    if node is not None and node.op_type == "Transpose" and node.domain == "":
        table = ir.array(node.inputs[0])
        return None if table is None else table.T
    return ir.array(value)


def errors(
    model: Model, sites: Sequence[tuple[str, str]], feeds: Sequence[dict[str, Any]], target: Target, threads: int | None
) -> dict[tuple[str, str], float]:
    """Relative squared error of each (rule, node), the mean over feeds; those without an estimate are left out."""
    layers = {ir.site(n): found for n in model.graph if (found := linear(n)) is not None}
    wanted = [s for s in sites if s[1] in layers and s[0] in ESTIMATES]
    total = dict.fromkeys(wanted, 0.0)
    seen = 0
    for values in watch(model, (layers[node].x for _, node in wanted), feeds[:MAX_FEEDS], target, threads):
        seen += 1
        for rule, node in wanted:
            layer = layers[node]
            x = rows(values[layer.x])
            total[rule, node] += ESTIMATES[rule](x, layer.w) if x.size else 0.0
    return {s: e / max(seen, 1) for s, e in total.items()}


def rows(x: np.ndarray) -> np.ndarray:
    """An activation [..., K] as some of its rows, float32 [R, K], spread over all."""
    flat = x.reshape(-1, x.shape[-1])
    step = max(1, -(-len(flat) // MAX_ROWS))
    return np.ascontiguousarray(flat[::step], np.float32)
