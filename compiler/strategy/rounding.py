"""Weights in blocks of 4 bits rounded for the least error at their layer's output (GPTQ, ``quantization/rounding.py``).

A layer keeps its nearest rounding where that is better on inputs that were not learnt from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np

from .. import ir
from ..evaluation.padding import Keep
from ..ir import Model
from ..quantization import BLOCK, BlockWeight, block_form, nearest_blocks
from ..quantization.linears import Linear, linear
from ..quantization.rounding import Gram, round_blocks
from .layers import block_error, rows
from .probe import watch

BITS = 4
FORM = block_form(BITS)
AT_ONCE = 256 << 20
"""Bytes of sums of products that are held at a time; beyond it the inputs are run again."""


def least_squares(
    model: Model, nodes: Collection[str], feeds: Sequence[dict[str, Any]], keep: Keep, threads: int | None,
    more: Callable[[], bool] = lambda: True, only: Collection[str] | None = None,
) -> dict[str, dict[str, BlockWeight]]:  # fmt: skip
    """By name of initializer and form, the weights of these linear layers that gained. The last input judges.

    Args:
        keep: takes padded tokens out of an activation as it does of outputs.
        more: asked before each layer whether there is time for it.
        only: names of the initializers to round, whether they gain or not: those of a plan.
    """
    layers = [found for n in model.graph if (found := linear(n)) is not None]
    readers = Counter(layer.constant for layer in layers)
    by_input: dict[str, list[Linear]] = {}
    for layer in layers:
        # Of a constant that two layers read there can be only one rounding.
        if ir.site(layer.node) in nodes and readers[layer.constant] == 1 and (only is None or layer.constant.name in only):
            by_input.setdefault(layer.x.name or "", []).append(layer)
    if len(feeds) < 2:
        return {}
    made: dict[str, dict[str, BlockWeight]] = {}
    for group in _groups({x: len(found[0].matrix) for x, found in by_input.items()}):
        grams = {x: Gram(size, np.float32) for x, size in group.items()}
        apart: dict[str, Any] = {}
        for feed, values in zip(feeds, watch(model, group, feeds, threads), strict=True):
            for x, value in apart.items():
                grams[x].add(value)
            apart = {x: value for x, value in keep(feed, values).items() if x in grams}
        for x, gram in grams.items():
            for layer in by_input[x] if more() else ():
                w, seen = layer.matrix, rows(apart[x])
                rounded = round_blocks(w, gram.matrix, BITS, BLOCK, search=True)
                nearest = None if only is not None else nearest_blocks(w, BITS)
                if nearest is None or block_error(seen, w, rounded) < block_error(seen, w, nearest):
                    made[layer.constant.name or ""] = {FORM: rounded}
    return made


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

