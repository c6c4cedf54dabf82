"""How much error a scheme causes at each layer's own output, before any model is built with it.

The layer-wise view of post-training quantization, |Wx - W'x'|^2 / |Wx|^2 (Nagel et al. 2021, "A White Paper on Neural
Network Quantization", section 3), on what reaches the layer in the float model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import ir
from ..ir import Model, Node
from ..passes import Context
from ..passes import smooth as smoothing
from ..quantization import emulate, observed
from ..quantization.smoothing import best_smoothing
from ..targets import Target
from .probe import watch

MAX_ROWS = 256
"""Rows of an activation that an estimate looks at, per layer and feed."""
MAX_FEEDS = 2
SMOOTHING_FEEDS = 8
"""What smoothing gains differs from input to input, and the worst counts, so it sees more of them."""
GAIN = 0.4
"""An activation is smoothed where that leaves at most this part of the error in every input seen: what gains less has no
channels that stand out in all inputs, and is left to chance; and the division may cost a Mul."""


ESTIMATES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "int8-linear": emulate.int8_dynamic,
    "int8-block-linear": lambda x, w: emulate.block(x, w, 8, 64, level4=True),
    "int4-block-linear": lambda x, w: emulate.block(x, w, 4, 64, level4=True),
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
    model: Model, sites: Sequence[tuple[str, str]], feeds: Sequence[dict[str, Any]], target: Target, threads: int | None,
    smooth: Mapping[str, float] | None = None,
) -> dict[tuple[str, str], float]:  # fmt: skip
    """Relative squared error of each (rule, node), the mean over feeds; those without an estimate are left out.

    Args:
        smooth: activations that are smoothed (``passes/smooth.py``), name to alpha.
    """
    if smooth:
        model, ctx = model.clone(), Context()
        smoothing.run(model, ctx, smooth)
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


def alphas(
    model: Model, nodes: Set[str], feeds: Sequence[dict[str, Any]], target: Target, threads: int | None
) -> dict[str, float]:
    """For each activation that some of these linear layers read the alpha that serves them best as int8, where it gains."""
    found = {}
    for n in model.graph:
        for v in n.outputs:
            readers = [r for r in smoothing.readers(v) if ir.site(r.node) in nodes]
            if readers and v.name and (seen := observed(v)) is not None and seen.channels is not None:
                found[v.name] = readers, seen.channels
    seen_rows: dict[str, list[np.ndarray]] = {name: [] for name in found}
    for values in watch(model, found, feeds[:SMOOTHING_FEEDS], target, threads):
        for name in found:
            seen_rows[name].append(rows(values[name]))
    chosen = {}
    for name, (readers, channels) in found.items():
        best = best_smoothing(seen_rows[name], [r.matrix for r in readers], channels)
        if best.left < GAIN:
            chosen[name] = best.alpha
    return chosen


def rows(x: np.ndarray) -> np.ndarray:
    """An activation [..., K] as some of its rows, float32 [R, K], spread over all."""
    flat = x.reshape(-1, x.shape[-1])
    step = max(1, -(-len(flat) // MAX_ROWS))
    return np.ascontiguousarray(flat[::step], np.float32)
