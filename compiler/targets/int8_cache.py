"""Keys and values of earlier tokens held in 8 bits, by the attention that writes them in place.

One scale for the keys of an attention and one for its values, symmetric, from what calibration saw of them; what lies beyond
is clipped. The ports of the model become int8. Their scales are told in its metadata (``session.INT8_CACHE``), by which
``olc.session``'s own callers feed and read them as floats; ``olc.decoder`` keeps them as they are.

Sound as far as rounding goes, since the operator computes with code times scale in place of the number (LOSSY).
"""

from __future__ import annotations

import json
from collections.abc import Collection

import numpy as np

from .. import ir
from ..passes import Context
from ..quantization import INT8_LIMIT, observed
from ..session import INT8_CACHE
from .shared_cache import DOMAIN, OPERATOR

NAME = "int8-cache"
_KEY_SCALE, _INPUTS = 12, 14
"""Place of the scale of the keys among the operator's inputs, that of the values after it; and the inputs up to them."""


def fit(model: ir.Model, target: object) -> list[str]:
    """Names of the attentions of the main graph whose caches can be held in 8 bits."""
    table = getattr(target, "table", None)
    if table is None or not table.supports(OPERATOR, DOMAIN, 1, {"T": "float", "T_CACHE": "int8", "T_KV_SCALE": "float"}):
        return []
    return [ir.site(n) for n in model.graph if (n.domain, n.op_type) == (DOMAIN, OPERATOR) and _scales(n) is not None]


def run(model: ir.Model, ctx: Context, names: Collection[str]) -> int:
    """Hold the caches of these attentions in 8 bits; the number of attentions that changed."""
    told: dict[str, float] = json.loads(model.metadata_props.get(INT8_CACHE, "{}"))
    done = 0
    for node in [n for n in model.graph if ir.site(n) in names and (n.domain, n.op_type) == (DOMAIN, OPERATOR)]:
        scales = _scales(node)
        if scales is None:
            continue
        node.resize_inputs(max(_INPUTS, len(node.inputs)))
        for i, (scale, letter) in enumerate(zip(scales, "kv", strict=True)):
            value = ir.make_constant(np.array([scale], np.float32), name=f"{ir.site(node)}_cache_scale_{letter}")
            model.graph.register_initializer(value)
            node.replace_input_with(_KEY_SCALE + i, value)
            node.attributes.add(ir.make_attr(f"{letter}_quant_type", "PER_TENSOR"))
            for port in (node.inputs[3 + i], node.outputs[1 + i]):
                assert port is not None
                port.type = ir.TensorType(ir.DataType.INT8)
                told[port.name or ""] = float(np.float32(scale))
        node.attributes.add(ir.make_attr("kv_cache_bit_width", 8))
        ctx.record(NAME, ir.site(node), f"keys in steps of {scales[0]:.3g}, values of {scales[1]:.3g}")
        done += 1
    if done:
        model.metadata_props[INT8_CACHE] = json.dumps(told, sort_keys=True)
    return done


def _scales(node: ir.Node) -> tuple[float, float] | None:
    """Of keys and of values, new and earlier ones; None where calibration saw nothing of the new ones, or they are no ports
    of the model that are read by nothing else."""
    normed = any(v is not None for v in node.inputs[14:16])
    if normed or ir.attr(node, "do_rotary", 0) or ir.attr(node, "k_quant_type", "NONE") != "NONE":
        return None  # what is kept is not the keys that go in, which is what calibration saw
    ports = [*node.inputs[3:5], *node.outputs[1:3]]
    if len(ports) != 4 or any(p is None or p.dtype != ir.DataType.FLOAT for p in ports):
        return None
    past, present = ports[:2], ports[2:]
    if not all(p is not None and p.is_graph_input() and [u.node for u in p.uses()] == [node] for p in past):
        return None
    if not all(p is not None and p.is_graph_output() and not p.uses() for p in present):
        return None
    found = []
    for new, old in zip(node.inputs[1:3], past, strict=True):
        seen = observed(new), observed(old)
        if seen[0] is None:
            return None
        found.append(max(max(abs(s.low), abs(s.high)) for s in seen if s is not None) / INT8_LIMIT or 1.0)
    return found[0], found[1]
