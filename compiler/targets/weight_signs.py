"""Whether the weights of 8-bit products are int8 or uint8: what the CPU's kernels of ONNX Runtime make fast, and exact.

With dot products of 8 bits (``Features.int8_dot``) the kernel of int8 weights is the faster one. Without them the kernels of
x86 add two products of uint8 and int8 in 16 bits, which saturates; that of uint8 and uint8 widens first. It is slower, and
weights of at most 64 in magnitude need it not (``int7-linear`` makes such): 2 * 255 * 64 is less than 2**15.

By the standard nothing changes: the weight and its zero point are 128 more, or less. Only what olc rounded becomes uint8: of a
source that holds int8 weights, the saturated sums are what its user knows as its outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

import numpy as np

from .. import ir
from ..passes import Context
from ..passes.edit import Names, constant
from ..quantization import INT7_LIMIT, flipped

OPERATOR = "DynamicQuantizeMatMul"


def run(model: ir.Model, ctx: Context, by: str, cpu: Mapping[str, Any], before: Set[tuple[str, str]] | None) -> int:
    """Change such weights; the number of products changed.

    Args:
        cpu: the target's features.
        before: names and operators of the nodes that were there before olc rounded; None where it did not.
    """
    old: type[np.integer[Any]]
    if cpu["int8_dot"]:
        old, new, why = np.uint8, "int8", "faster on this CPU"
    elif before is not None and cpu["int8_saturates"]:
        old, new, why = np.int8, "uint8", "exact on this CPU, which lacks dot products of int8"
    else:
        return 0
    names: Names | None = None
    made: dict[tuple[ir.Value, ir.Value | None], tuple[ir.Value, ir.Value]] = {}
    changes = 0
    for node in (n for g in ir.all_graphs(model, functions=False) for n in g):
        if (node.domain, node.op_type) != ("com.microsoft", OPERATOR):
            continue
        weight, scale, zero = (*node.inputs, None)[1:4]
        q, of = ir.array(weight), ir.array(scale)
        held = ir.array(zero) if zero is not None else None if of is None else np.zeros(of.shape, old)
        if weight is None or q is None or q.dtype != old or held is None:
            continue
        if old == np.int8 and before is not None and (ir.site(node), OPERATOR) in before:
            continue
        if old == np.int8 and int(q.min(initial=0)) >= -INT7_LIMIT and int(q.max(initial=0)) <= INT7_LIMIT:
            continue
        names = names or Names(model)
        if (weight, zero) not in made:
            called = f"{weight.name}_{new}"
            made[weight, zero] = (constant(model.graph, names, called, flipped(q)),
                                  constant(model.graph, names, f"{called}_zero_point", flipped(held)))  # fmt: skip
        node.resize_inputs(max(4, len(node.inputs)))
        for i, v in zip((1, 3), made[weight, zero], strict=True):
            node.replace_input_with(i, v)
        ctx.record(by, ir.site(node), f"weight as {new}: {why}")
        changes += 1
    return changes
