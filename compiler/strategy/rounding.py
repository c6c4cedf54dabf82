"""Weights rounded for the least error at their layer's output (GPTQ, ``quantization/rounding.py``).

A layer keeps its nearest rounding where that is better on inputs that were not learnt from. A convolution is a linear layer of
the patches that it reads, one for each of its groups.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import ir
from ..evaluation.padding import Keep
from ..ir import Model, Node
from ..passes import Context, smooth
from ..quantization import (
    INT7_LIMIT,
    INT8_LIMIT,
    all_finite,
    block_form,
    emulate,
    int8_form,
    nearest_blocks,
    quantize_linear_weight,
    rows_of_block,
    weight_limit,
)
from ..quantization.linears import linear
from ..quantization.rounding import Gram, evened, round_blocks, round_int8, round_int8_groups
from .layers import block_error, rows
from .probe import watch

AT_ONCE = 256 << 20
"""Bytes of sums of products that are held at a time; beyond it the inputs are run again."""
PATCHES = 4096
"""Patches of a convolution's input that are looked at, per feed, spread over all."""
LEARNT = frozenset(("int4-block-linear", "int7-linear", "int8-conv", "int8-linear", "int8-row-linear"))
"""Rules whose weights can be rounded by least squares."""

Weights = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Layer:
    """A layer that is rounded.

    Attributes:
        x: name of the activation.
        weights: float32 [G, K, N], one for each of its groups.
        node: the product, or the convolution.
    """

    rule: str
    x: str
    constant: ir.Value
    weights: np.ndarray
    node: Node

    @property
    def patches(self) -> Node | None:
        """The convolution whose patches of ``x`` are multiplied; None where rows of ``x`` are."""
        return self.node if self.node.op_type == "Conv" else None

    @property
    def form(self) -> str:
        """The name under which the rule looks for the weight."""
        if self.rule == "int4-block-linear":
            return block_form(4)
        return int8_form(self.limit)

    @property
    def limit(self) -> int:
        known = {"int8-linear": INT8_LIMIT, "int7-linear": INT7_LIMIT}
        return known.get(self.rule, weight_limit(self.constant))

    @property
    def key(self) -> tuple[str, str]:
        """What it shares with layers that read the same numbers."""
        return self.x, "" if self.patches is None else ir.site(self.patches)

    def read(self, x: np.ndarray) -> np.ndarray:
        """What is multiplied by the weights, [G, R, K]."""
        if self.patches is None:
            return evened(x.reshape(-1, x.shape[-1]))[None]
        shape = ir.array(self.constant)
        assert shape is not None
        return patches(x, shape.shape[2:], self.patches)

    def rounded(self, sums: np.ndarray) -> tuple[Any, Any]:
        """By least squares and to the nearest, as the rule takes it; ``sums`` of products of what is read, [G, K, K]."""
        w = self.weights[0]
        if self.rule == "int4-block-linear":
            block = rows_of_block(w, 4)
            return round_blocks(w, sums[0], 4, block, search=True), nearest_blocks(w, 4, block)
        if self.patches is None:
            return round_int8(w, sums[0], self.limit), quantize_linear_weight(w, self.limit)
        made = round_int8_groups(self.weights, sums, self.limit) if len(sums) > 1 else [
            a[None] for a in round_int8(w, sums[0], self.limit)
        ]  # fmt: skip
        nearest = zip(*(quantize_linear_weight(w, self.limit) for w in self.weights), strict=True)
        return self._as_stored(*made), self._as_stored(*map(np.array, nearest))

    def _as_stored(self, q: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Codes [G, K, N] and scales [G, N] as [M, C / G, ...] and [M]."""
        shape = ir.array(self.constant)
        assert shape is not None
        return np.ascontiguousarray(q.swapaxes(1, 2)).reshape(shape.shape), scale.reshape(-1)

    def error(self, read: np.ndarray, weight: Any) -> float:
        """At the layer's output."""
        if self.rule == "int4-block-linear":
            return block_error(rows(read), self.weights[0], weight)
        if self.patches is None:
            return emulate.int8_dynamic(rows(read), self.weights[0], weight)
        q, scale = weight
        back = (q.reshape(len(q), -1) * scale[:, None]).reshape(len(read), -1, read.shape[2]).swapaxes(1, 2)
        return emulate.relative_error(read @ self.weights, read @ back)


def patches(x: np.ndarray, kernel: Sequence[int], conv: Node) -> np.ndarray:
    """What a convolution multiplies, float32 [groups, R, C / groups * kernel], at ``PATCHES`` of the places at most.

    Args:
        x: [N, C, ...].
        kernel: sizes of the weight's last axes.
    """
    places, groups = len(kernel), ir.attr(conv, "group", 1)
    strides, steps = (ir.attr(conv, name, (1,) * places) for name in ("strides", "dilations"))
    reach = [(k - 1) * step + 1 for k, step in zip(kernel, steps, strict=True)]
    pads = ir.attr(conv, "pads", (0,) * (2 * places))
    same = ir.attr(conv, "auto_pad", "NOTSET")
    if same in ("SAME_UPPER", "SAME_LOWER"):
        lacking = [max(0, (-(-n // s) - 1) * s + r - n) for n, s, r in zip(x.shape[2:], strides, reach, strict=True)]
        less, more = [n // 2 for n in lacking], [n - n // 2 for n in lacking]
        pads = (*less, *more) if same == "SAME_UPPER" else (*more, *less)
    x = np.pad(x, [(0, 0), (0, 0), *((pads[i], pads[places + i]) for i in range(places))])
    seen = np.lib.stride_tricks.sliding_window_view(x, reach, axis=tuple(range(2, 2 + places)))
    thinned: Any = (..., *(slice(None, None, s) for s in (*strides, *steps)))
    seen = seen[thinned]
    sizes = (len(x), *seen.shape[2 : 2 + places])
    chosen = np.unravel_index(np.arange(0, int(np.prod(sizes)), max(1, -(-int(np.prod(sizes)) // PATCHES))), sizes)
    at: Any = (chosen[0], slice(None), *chosen[1:])
    found = seen[at].astype(np.float32, copy=False)  # [R, C, *kernel]
    return np.ascontiguousarray(found.reshape(len(found), groups, -1).swapaxes(0, 1))


def layers_of(model: Model, sites: Iterable[tuple[str, str]], smoothed: Mapping[str, float] | None = None) -> list[Layer]:
    """Those of the (rule, node) whose weights can be rounded by least squares, in the model with ``smoothed`` activations.

    Of a constant that two layers read there can be only one rounding: such are left out.
    """
    if smoothed:
        model = model.clone()
        smooth.run(model, Context(), smoothed)
    nodes = {ir.site(n): n for n in ir.nodes_once(model)}
    read = {(ir.site(n), layer.constant) for n in ir.nodes_once(model) if (layer := linear(n)) is not None}
    read |= {(ir.site(n), n.inputs[1]) for n in ir.nodes_once(model) if n.domain == "" and n.op_type == "Conv" and n.inputs[1]}
    readers = Counter(constant for _, constant in read)
    layers: list[Layer] = []
    for rule, name in sites:
        if rule not in LEARNT or name not in nodes:
            continue
        made = _conv(rule, nodes[name]) if rule == "int8-conv" else _linear(rule, nodes[name])
        if made is not None and readers[made.constant] == 1:
            layers.append(made)
    return layers


def _linear(rule: str, node: Node) -> Layer | None:
    found = linear(node)
    if found is None or found.constant.dtype != ir.DataType.FLOAT:
        return None
    return Layer(rule, found.x.name or "", found.constant, found.matrix[None], node)


def _conv(rule: str, node: Node) -> Layer | None:
    if node.op_type in ("Relu", "Clip") and node.inputs[0] is not None:
        node = node.inputs[0].producer() or node
    x, constant = (*node.inputs, None, None)[:2]
    w = None if constant is None else ir.array(constant)
    if node.op_type != "Conv" or x is None or not x.name or constant is None or w is None or w.dtype != np.float32:
        return None
    groups = ir.attr(node, "group", 1)
    flat = w.reshape(groups, len(w) // groups, -1).swapaxes(1, 2)
    return Layer(rule, x.name, constant, np.ascontiguousarray(flat), node)


def least_squares(
    model: Model, sites: Iterable[tuple[str, str]], feeds: Sequence[dict[str, Any]], keep: Keep, threads: int | None,
    more: Callable[[], bool] = lambda: True, only: Collection[str] | None = None, smoothed: Mapping[str, float] | None = None,
) -> Weights:  # fmt: skip
    """By name of initializer and form, the weights of these layers that gained. The last of the inputs with most rows judges.

    Args:
        sites: (rule, node).
        keep: takes padded tokens out of an activation as it does of outputs.
        more: asked before each layer whether there is time for it.
        only: ``named`` weights to round, whether they gain or not: those of a plan.
        smoothed: activations that are smoothed first; the initializers are those of the model then.
    """
    if smoothed:
        model = model.clone()
        smooth.run(model, Context(), smoothed)
    by_key: dict[tuple[str, str], list[Layer]] = {}
    for layer in layers_of(model, sites):
        if only is None or named(layer.constant.name or "", layer.form) in only:
            by_key.setdefault(layer.key, []).append(layer)
    gained: Weights = {}
    if len(feeds) < 2:
        return gained
    sizes = {key: found[0].weights.shape[0] * found[0].weights.shape[1] ** 2 for key, found in by_key.items()}
    for group in _groups(sizes):
        sums: dict[tuple[str, str], np.ndarray] = {}
        apart: dict[tuple[str, str], np.ndarray] = {}
        for feed, values in zip(feeds, watch(model, {x for x, _ in group}, feeds, threads), strict=True):
            kept = keep(feed, values)
            for key in group:
                seen = kept if by_key[key][0].patches is None else values  # tokens are no axis of what a convolution reads
                if key[0] not in seen:
                    continue
                read = by_key[key][0].read(np.asarray(seen[key[0]]))
                if key not in apart or read.shape[1] >= apart[key].shape[1]:
                    apart[key], read = read, apart.get(key, read[:, :0])
                sums[key] = sums.get(key, np.float32(0)) + _products(read)
        for key, found in sums.items():
            for layer in by_key[key] if more() and key in apart and all_finite(found) else ():
                rounded, nearest = layer.rounded(found)
                if only is not None or layer.error(apart[key], rounded) < layer.error(apart[key], nearest):
                    gained.setdefault(layer.constant.name or "", {})[layer.form] = rounded
    return gained


def _products(read: np.ndarray) -> np.ndarray:
    """Sums of products float32 [G, K, K] of rows [G, R, K]; those that hold what is not finite are left out."""
    if len(read) == 1:
        gram = Gram(read.shape[2], np.float32)
        gram.add(read[0])
        return gram.matrix[None]
    whole = np.where(np.isfinite(read).all(axis=2, keepdims=True), read, np.float32(0))
    return np.asarray(whole.swapaxes(1, 2) @ whole)


def merged(*weights: Weights) -> Weights:
    """Those of all, by name and form."""
    found: Weights = {}
    for name, forms in (item for one in weights for item in one.items()):
        found[name] = {**found.get(name, {}), **forms}
    return found


def named(constant: str, form: str) -> str:
    """How a plan names a weight that is rounded by least squares."""
    return f"{constant}@{form}"


def _groups(sizes: Mapping[tuple[str, str], int]) -> list[list[tuple[str, str]]]:
    groups: list[list[tuple[str, str]]] = []
    room = 0
    for key, size in sizes.items():
        room -= 4 * size
        if room < 0 or not groups:
            groups.append([])
            room = AT_ONCE - 4 * size
        groups[-1].append(key)
    return groups
