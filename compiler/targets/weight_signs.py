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
from ..passes.edit import Names
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
        old, why = np.uint8, "faster on this CPU"
    elif before is not None and cpu["int8_saturates"]:
        old, why = np.int8, "exact on this CPU, which lacks dot products of int8"
    else:
        return 0
    names, changes = Names(model), 0
    made: dict[tuple[ir.Value, ir.Value | None], list[ir.Value]] = {}
    for node in (n for g in ir.all_graphs(model, functions=False) for n in g):
        if (node.domain, node.op_type) != ("com.microsoft", OPERATOR):
            continue
        if before is not None and old == np.int8 and (ir.site(node), OPERATOR) in before:
            continue
        weight, scale, zero = node.inputs[1], ir.array(node.inputs[2]), node.inputs[3] if len(node.inputs) > 3 else None
        q, held = ir.array(weight), np.zeros((), old) if zero is None else ir.array(zero)
        if weight is None or q is None or q.dtype != old or scale is None or held is None:
            continue
        if old == np.int8 and np.abs(q.astype(np.int16)).max(initial=0) <= INT7_LIMIT:
            continue
        if (weight, zero) not in made:
            points = held if zero is not None else np.broadcast_to(held, scale.shape)
            made[weight, zero] = [_constant(model, names, f"{base}_{flipped(q).dtype}", flipped(a))
                                  for base, a in ((weight.name, q), (f"{weight.name}_zero_point", points))]  # fmt: skip
        node.resize_inputs(max(4, len(node.inputs)))
        for i, v in zip((1, 3), made[weight, zero], strict=True):
            node.replace_input_with(i, v)
        ctx.record(by, ir.site(node), f"weight as {flipped(q).dtype}: {why}")
        changes += 1
    return changes


def _constant(model: ir.Model, names: Names, name: str, a: np.ndarray) -> ir.Value:
    value = ir.make_constant(a)
    value.name = names.value(name)
    model.graph.initializers[value.name] = value
    return value
