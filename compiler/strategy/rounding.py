"""Weights in blocks of 4 bits rounded for the least error at their layer's output (GPTQ, ``quantization/rounding.py``).

A layer keeps its nearest rounding where that is better on inputs that were not learnt from.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np

from .. import ir
from ..evaluation.padding import Keep
from ..ir import Model
from ..quantization import emulate
from ..quantization.blocks import BlockWeight, quantize_blocks
from ..quantization.rounding import Gram, round_blocks
from ..targets import Target
from .layers import linear, rows
from .probe import watch

BITS, BLOCK = 4, 64
FORM = f"int{BITS}-block-{BLOCK}"
AT_ONCE = 256 << 20
"""Bytes of sums of products that are held at a time; beyond it the inputs are run again."""


def least_squares(
    model: Model, nodes: Collection[str], feeds: Sequence[dict[str, Any]], keep: Keep, target: Target, threads: int | None,
    more: Callable[[], bool] = lambda: True, only: Collection[str] | None = None,
) -> dict[str, dict[str, BlockWeight]]:  # fmt: skip
    """By name of initializer and form, the weights of these linear layers that gained. The last input judges.

    Args:
        keep: takes padded tokens out of an activation as it does of outputs.
        more: asked before each layer whether there is time for it.
        only: names of the initializers to round, whether they gain or not: those of a plan.
    """
    wanted = {ir.site(n): n for n in model.graph if ir.site(n) in nodes}
    if only is not None:
        wanted = {name: n for name, n in wanted.items() if _initializer(n) in only}
    layers = {name: found for name, n in wanted.items() if (found := linear(n)) is not None}
    by_input: dict[str, list[str]] = {}
    for name, layer in layers.items():
        by_input.setdefault(layer.x, []).append(name)
    if len(feeds) < 2:
        return {}
    made: dict[str, dict[str, BlockWeight]] = {}
    for group in _groups({x: len(layers[names[0]].w) for x, names in by_input.items()}):
        grams = {x: Gram(size, np.float32) for x, size in group.items()}
        for feed, values in zip(feeds[:-1], watch(model, group, feeds[:-1], target, threads), strict=True):
            for x, value in keep(feed, values).items():
                if x in grams:
                    grams[x].add(value)
        (apart,) = watch(model, group, feeds[-1:], target, threads)
        apart = keep(feeds[-1], apart)
        for x, gram in grams.items():
            for name in by_input[x] if more() else ():
                w, seen = layers[name].w, rows(apart[x])
                rounded = round_blocks(w, gram.matrix, BITS, BLOCK, search=True)
                nearest = None if only is not None else quantize_blocks(w, BITS, BLOCK, search=True)
                if nearest is None or _error(seen, w, rounded) < _error(seen, w, nearest):
                    made.setdefault(_initializer(wanted[name]), {})[FORM] = rounded
    return made


def _error(x: np.ndarray, w: np.ndarray, rounded: BlockWeight) -> float:
    return emulate.block(x, w, BITS, BLOCK, rounded)


def _groups(sizes: dict[str, int]) -> list[dict[str, int]]:
    groups: list[dict[str, int]] = []
    room = 0
    for x, size in sizes.items():
        room -= 4 * size * size
        if room < 0 or not groups:
            groups.append({})
            room = AT_ONCE - 4 * size * size
        groups[-1][x] = size
    return groups


def _initializer(node: ir.Node) -> str:
    value = node.inputs[1]
    made = None if value is None else value.producer()
    if made is not None and made.op_type == "Transpose":
        value = made.inputs[0]
    assert value is not None
    return value.name or ""
