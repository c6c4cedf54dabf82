"""How much error a scheme causes at each layer's own output, before any model is built with it.

The layer-wise view of post-training quantization, |Wx - W'x'|^2 / |Wx|^2 (Nagel et al. 2021, "A White Paper on Neural
Network Quantization", section 3), on what reaches the layer in the float model.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

import numpy as np

from .. import ir
from ..ir import Model, Node
from ..passes import Context, float16
from ..passes import smooth as smoothing
from ..quantization import (
    BLOCK,
    INT7_LIMIT,
    INT8_LIMIT,
    BlockWeight,
    Observed,
    block_weight,
    emulate,
    int8_weight,
    observed,
    outlier_channels,
    weight_limit,
)
from ..quantization.facts import attach
from ..quantization.linears import Linear, linear
from ..quantization.smoothing import best_smoothing
from ..quantization.weights import quantize_linear_weight
from .probe import watch

Site = tuple[str, str]

MAX_ROWS = 256
"""Rows of an activation that an estimate looks at, per layer and feed."""
MAX_FEEDS = 2
SMOOTHING_FEEDS = 8
"""What smoothing gains differs from input to input, and the worst counts, so it sees more of them."""
HALF = 2.0**-22 / 3
"""Relative squared error of rounding to float16's 11 bits, the mean over numbers of one magnitude."""
GAIN = 0.4
"""An activation is smoothed where that leaves at most this part of the error in every input seen: what gains less has no
channels that stand out in all inputs, and is left to chance; and the division may cost a Mul."""


def block_error(x: np.ndarray, w: np.ndarray, rounded: BlockWeight) -> float:
    """Of a weight in blocks, and of an activation rounded as the kernel does it."""
    return emulate.block(x, w, rounded.bits, rounded.block, rounded, level4=True)


def _outlier_error(x: np.ndarray, layer: Linear) -> float:
    seen, w = observed(layer.x), layer.matrix
    apart = np.zeros(0, np.int64) if seen is None or seen.channels is None else outlier_channels(seen.channels)
    rest = w.copy()
    rest[apart] = 0
    return emulate.int8_outliers(x, w, apart, quantize_linear_weight(rest, weight_limit(layer.constant)))


def _int8(layer: Linear, limit: int) -> tuple[np.ndarray, np.ndarray]:
    return int8_weight(layer.constant, layer.turned, limit)


def _blocks(x: np.ndarray, layer: Linear, bits: int) -> float:
    return block_error(x, layer.matrix, block_weight(layer.constant, bits, layer.turned))


ESTIMATES: dict[str, Callable[[np.ndarray, Linear], float]] = {
    "int8-linear": lambda x, layer: emulate.int8_dynamic(x, layer.matrix, _int8(layer, INT8_LIMIT)),
    "int7-linear": lambda x, layer: emulate.int8_dynamic(x, layer.matrix, _int8(layer, INT7_LIMIT)),
    "int8-outlier-linear": _outlier_error,
    "int8-row-linear": lambda x, layer: emulate.int8_row(x, layer.matrix, _int8(layer, weight_limit(layer.constant))),
    "symmetric-int8-linear": lambda x, layer: emulate.symmetric(x, layer.matrix),
    "symmetric-int4-linear": lambda x, layer: emulate.int4_weight(x, layer.matrix),
    "int8-block-linear": lambda x, layer: _blocks(x, layer, 8),
    "int4-block-linear": lambda x, layer: _blocks(x, layer, 4),
}
"""By rule, for linear layers, of what was seen of their activation; of other rules the error is estimated by what rounding does
to their inputs and output."""


def _attention_error(node: Node, values: Mapping[str, np.ndarray]) -> float:
    read = (*node.inputs, None, None, None)[:6]
    q, k, v, mask, past_k, past_v = (None if x is None else np.asarray(values[x.name or ""]) for x in read)
    assert q is not None
    assert k is not None
    assert v is not None
    assert read[1] is not None
    if past_k is not None and past_v is not None:
        k, v = (np.concatenate([past.swapaxes(1, 2).reshape(*past.shape[::2], new.shape[2]), new], axis=1)
                for past, new in ((past_k, k), (past_v, v)))  # fmt: skip
    heads, scale = (ir.attr(node, "q_num_heads", 1), ir.attr(node, "kv_num_heads", 1)), ir.attr(node, "scale", None)
    return emulate.attention(q, k, v, mask, heads, scale, weight_limit(read[1]))


GATES = {"activation_alpha": 1.0, "activation_beta": 0.0, "swiglu_limit": math.inf}
"""Attributes of gated experts, with what they are by default."""


def _experts_error(node: Node, values: Mapping[str, np.ndarray], bits: int) -> float:
    x, router, *given = (*node.inputs, None)[:6]
    assert x is not None
    assert router is not None
    up, up_bias, down, down_bias = (None if v is None else ir.array(v) for v in given)
    assert up is not None
    assert down is not None
    seen, told = rows(values[x.name or ""]), rows(values[router.name or ""])
    if not seen.size:
        return 0.0
    alpha, beta, limit = (ir.attr(node, name, default) for name, default in GATES.items())
    picked = ir.attr(node, "k", 1)
    return emulate.experts(seen, told, up, down, bits, BLOCK, picked, (alpha, beta), limit, (up_bias, down_bias))


OF_NODES: dict[str, tuple[int, Callable[[Node, Mapping[str, np.ndarray]], float]]] = {
    "int8-attention": (6, _attention_error),
    "int8-attention-with-cache": (6, _attention_error),
    "int8-block-experts": (2, lambda node, values: _experts_error(node, values, 8)),
    "int4-block-experts": (2, lambda node, values: _experts_error(node, values, 4)),
}
"""By rule, for other nodes: how many of their inputs the estimate reads, and the estimate, of what was seen of these by name."""


def errors(
    model: Model, sites: Sequence[tuple[str, str]], feeds: Sequence[dict[str, Any]], threads: int | None,
    smooth: Mapping[str, float] | None = None, weights: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[tuple[str, str], float]:  # fmt: skip
    """Relative squared error of each (rule, node), the mean over the first feeds with which it runs; those without an estimate
    are left out.

    Args:
        smooth: activations that are smoothed (``passes/smooth.py``), name to alpha.
        weights: those that were prepared, by name and form.
    """
    if smooth or weights:
        model, ctx = model.clone(), Context()
        smoothing.run(model, ctx, smooth or {})
        attach(model, weights or {})
    nodes = ir.sites(model)
    known = {s: HALF for s in sites if s[0] == float16.NAME}
    read: dict[Site, list[tuple[Node, list[str]]]] = {}
    for s in sites:
        ways = [] if s in known else [(n, _read(n, s[0])) for n in nodes.get(s[1], ())]
        if any(names for _, names in ways):
            read[s] = [(n, names) for n, names in ways if names]
    found: dict[Site, list[float]] = {s: [] for s in read}
    reads = [name for ways in read.values() for _, names in ways for name in names]
    for values in watch(model, reads, feeds, threads) if reads else ():
        for s, ways in read.items():
            node = next((n for n, names in ways if all(name in values for name in names)), None)
            if node is not None and len(found[s]) < MAX_FEEDS:
                found[s].append(_error(node, s[0], values))
        if all(len(told) == MAX_FEEDS for told in found.values()):
            break
    return {s: sum(told) / len(told) for s, told in found.items() if told} | known


def _read(node: Node, rule: str) -> list[str]:
    """Names of the activations that an estimate is made of; none where there is no estimate."""
    if rule in OF_NODES:
        return [v.name or "" for v in node.inputs[: OF_NODES[rule][0]] if v is not None]
    if rule not in ESTIMATES:
        return [*_around(node)]
    layer = linear(node)
    return [] if layer is None else [layer.x.name or ""]


def _error(node: Node, rule: str, values: Mapping[str, np.ndarray]) -> float:
    if rule in OF_NODES:
        return OF_NODES[rule][1](node, values)
    if rule not in ESTIMATES:
        return _weight_error(node) + sum(_rounding(values[name], seen) for name, seen in _around(node).items())
    layer = linear(node)
    assert layer is not None
    x = rows(values[layer.x.name or ""])
    return ESTIMATES[rule](x, layer) if x.size else 0.0


def _around(node: Node) -> dict[str, Observed]:
    """The activations that a node reads and gives, with an activation function taken together with what it is applied to."""
    made = node.inputs[0].producer() if node.op_type in ("Relu", "Clip") and node.inputs[0] is not None else None
    values = [*(node if made is None else made).inputs, node.outputs[0]]
    return {v.name: seen for v in values if v is not None and v.name and (seen := observed(v)) is not None}


def _rounding(x: np.ndarray, seen: Observed) -> float:
    return emulate.relative_error(x, emulate.fake_uint8(x, seen.low, seen.high)) if x.size else 0.0


def _weight_error(node: Node) -> float:
    """Of a convolution's weight, rounded for each output channel."""
    made = node.inputs[0].producer() if node.op_type in ("Relu", "Clip") and node.inputs[0] is not None else node
    w = ir.array(made.inputs[1]) if made is not None and made.op_type == "Conv" else None
    if w is None or made is None or made.inputs[1] is None:
        return 0.0
    flat = w.reshape(len(w), -1).T.astype(np.float32)
    q, scale = quantize_linear_weight(flat, weight_limit(made.inputs[1]))
    return emulate.relative_error(flat, q * scale)


def alphas(
    model: Model, nodes: Set[str], feeds: Sequence[dict[str, Any]], threads: int | None
) -> dict[str, float]:
    """For each activation that some of these linear layers read the alpha that serves them best as int8, where it gains."""
    found: dict[str, tuple[list[Linear], np.ndarray]] = {}
    read = {(ir.site(n), layer.x.name) for n in ir.nodes_once(model) if (layer := linear(n)) is not None}
    apart = Counter(site for site, _ in read)
    for n in ir.nodes_once(model):
        for v in n.outputs:
            readers = [r for r in smoothing.readers(v) if ir.site(r.node) in nodes]
            if readers and v.name and (seen := observed(v)) is not None and seen.channels is not None:
                found.setdefault(v.name, ([], seen.channels))[0].extend(readers)
    seen_rows: dict[str, list[np.ndarray]] = {name: [] for name in found}
    for values in watch(model, found, feeds[:SMOOTHING_FEEDS], threads):
        for name, value in values.items():
            seen_rows[name].append(rows(value))
    chosen = {}
    for name, (readers, channels) in found.items():
        # A layer whose branches read what has two names has one weight: it cannot be smoothed for one of them.
        if not seen_rows[name] or any(apart[ir.site(r.node)] > 1 for r in readers):
            continue
        best = best_smoothing(seen_rows[name], [r.matrix for r in readers], channels, worth=GAIN)
        if best.alpha:
            chosen[name] = best.alpha
    return chosen


def rows(x: np.ndarray) -> np.ndarray:
    """An activation [..., K] as some of its rows, float32 [R, K], spread over all."""
    flat = x.reshape(-1, x.shape[-1])
    step = max(1, -(-len(flat) // MAX_ROWS))
    return np.ascontiguousarray(flat[::step], np.float32)
