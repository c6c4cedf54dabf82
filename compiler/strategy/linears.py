"""How much error int8 causes at each linear's own output, before any model is built with it.

The activations that reach each linear are recorded in one run of the float model; the rest is numpy. This is the
layer-wise least-squares view, |Wx - W'x'|^2 / |Wx|^2, of post-training quantization (Nagel et al. 2021, "A White Paper on
Neural Network Quantization", section 3).
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import ir, storage
from ..ir import Model
from ..quantization import quantize_linear_weight
from ..session import SessionOptions, run
from ..targets import Target

MAX_ROWS = 512
"""Rows of activations that the estimate looks at, per linear and sample."""


def local_errors(
    model: Model, nodes: Sequence[str], feeds: Sequence[dict[str, Any]], target: Target, threads: int | None
) -> dict[str, float]:
    """Relative squared error of each named linear (MatMul, Gemm, or the Add of its bias) under dynamic int8.

    Nodes whose weight or input cannot be found are left out.
    """
    probe = model.clone()
    linears = {}
    for n in probe.graph:
        if ir.site(n) in nodes and (found := _linear(n)) is not None:
            linears[ir.site(n)] = found
    tapped: dict[str, str] = {}
    outputs = {v.name for v in probe.graph.outputs}
    for name, (x, _) in linears.items():
        tapped[name] = x.name or ""
        if x.name not in outputs and not x.is_graph_input():
            probe.graph.outputs.append(x)
            outputs.add(x.name)
    with tempfile.TemporaryDirectory(prefix="olc-probe-") as folder:
        path = Path(folder) / "probe.onnx"
        storage.save(probe, path)
        session = target.session(path, threads=threads, options=SessionOptions())
        noise = dict.fromkeys(linears, 0.0)
        signal = dict.fromkeys(linears, 0.0)
        for feed in feeds[:2]:
            values = {**feed, **run(session, feed)}
            for name, (_, w) in linears.items():
                e, s = _error(values[tapped[name]], w)
                noise[name] += e
                signal[name] += s
    return {name: noise[name] / signal[name] if signal[name] > 0 else 0.0 for name in linears}


def _linear(node: Any) -> tuple[Any, np.ndarray] | None:
    """The activation and the [K, N] weight of a linear, looking through the Add of a bias."""
    if node.op_type == "Add":
        for v in node.inputs:
            p = v.producer() if v is not None else None
            if p is not None and p.op_type == "MatMul":
                return _linear(p)
        return None
    if node.op_type not in ("MatMul", "Gemm"):
        return None
    w = _matrix(node.inputs[1])
    if w is None or w.ndim != 2:
        return None
    if node.op_type == "Gemm" and ir.attr(node, "transB", 0):
        w = w.T
    return node.inputs[0], w


def _matrix(value: Any) -> np.ndarray | None:
    """A constant matrix, or one transposed (an embedding's table as the head)."""
    node = value.producer()
    if node is not None and node.op_type == "Transpose":
        table = ir.array(node.inputs[0])
        return None if table is None else table.T
    return ir.array(value)


def _error(x: np.ndarray, w: np.ndarray) -> tuple[float, float]:
    x = x.reshape(-1, x.shape[-1])[:MAX_ROWS].astype(np.float32)
    if not x.size:
        return 0.0, 0.0
    q, scale = quantize_linear_weight(w)
    # The runtime quantizes activations per tensor to uint8 with a zero point, over a range that includes 0.
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    step = (high - low) / 255 or 1.0
    zero = np.clip(np.round(-low / step), 0, 255)
    xq = (np.clip(np.round(x / step) + zero, 0, 255) - zero) * step
    exact = x @ w
    error = exact - (xq.astype(np.float32) @ q.astype(np.float32)) * scale
    return float(np.square(error).sum()), float(np.square(exact).sum())
