"""How fast a rounded model is on a machine that is not this one, by the table of that machine's kernels.

Where the time goes in float is read from a profile on this machine; what a layer gains by a rule, from the table at the size
nearest to the layer's. It is a prediction, and said to be one: an interval there is not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from .. import ir
from ..analysis import dims, shapes
from ..evaluation.inputs import Feed
from ..evaluation.latency import MARGIN, Paired, Side
from ..ir import Model, Node
from ..quantization.linears import linear
from ..targets.kernels import Kernels


def predicted(
    kernels: Kernels, model: Model, sites: Sequence[tuple[str, str]], feeds: Sequence[Feed], runs: Sequence[Mapping[str, float]]
) -> Paired:
    """Time of the model over that with these (rule, node) rounded.

    Args:
        model: in float; ``runs`` are its profiles: for each feed the microseconds of each node, by name.
    """
    nodes = ir.sites(model)
    before = after = 0.0
    for feed, times in zip(feeds, runs, strict=True):
        sizes = sizes_of(model, feed)
        before += sum(times.values())
        after += sum(times.values())
        for rule, name in sites:
            ratio = kernels.near(rule, max((size_of(n, sizes) for n in nodes[name]), key=len))
            if ratio is not None:
                after -= times.get(name, 0.0) * (1 - 1 / ratio)
    ratio = before / after if after > 0 else 1.0
    verdict = "faster" if ratio > 1 + MARGIN else "slower" if ratio < 1 - MARGIN else "no difference shown"
    a, b = (Side(t / 1e6, t / 1e6, t / 1e6, t / 1e6) for t in (before, after))
    return Paired(ratio, ratio, ratio, ratio, verdict, 0, 0, a, b, 0.0, 0)


def size_of(node: Node, sizes: Mapping[str, int]) -> dict[str, int]:
    """What the table tells sizes by, as far as it is known of the node: rows, inner and columns, or channels, side and
    kernel, or queries, keys, heads and their size, or tokens, experts, their width and what is within."""
    x = None if not node.inputs or node.inputs[0] is None else shapes.dims(node.inputs[0])
    known = [evaluated(d, sizes) for d in x or ()]
    if node.op_type == "Attention" and len(known) == 3 and node.inputs[1] is not None:
        keys = shapes.dims(node.inputs[1])
        heads = max(1, ir.attr(node, "q_num_heads", 1))
        told = {"queries": known[1], "keys": None if keys is None else evaluated(keys[1], sizes), "heads": heads,
                "size": None if known[2] is None else known[2] // heads}  # fmt: skip
        return {name: value for name, value in told.items() if value is not None}
    if (node.domain, node.op_type) == ("com.microsoft", "MoE"):
        down = ir.array(node.inputs[4])
        found = {} if down is None else dict(zip(("experts", "width", "inner"), down.shape, strict=True))
        tokens = [d for d in known[:-1] if d is not None]
        return found | ({"tokens": math.prod(tokens)} if x is not None and len(tokens) == len(known) - 1 else {})
    layer = linear(node)
    if layer is not None:
        found = dict(zip(("inner", "columns"), layer.matrix.shape, strict=True))
        rows = [d for d in known[:-1] if d is not None]
        return found | ({"rows": math.prod(rows)} if x is not None and len(rows) == len(known) - 1 else {})
    made = node.inputs[0].producer() if node.op_type in ("Relu", "Clip") and node.inputs[0] is not None else node
    w = ir.array(made.inputs[1]) if made is not None and made.op_type == "Conv" else None
    if w is None or w.ndim < 3:
        return {}
    found = {"channels": w.shape[1], "kernel": w.shape[2]}
    return found | ({"side": known[-1]} if len(known) > 2 and known[-1] is not None else {})


def sizes_of(model: Model, feed: Feed) -> dict[str, int]:
    """The size of each dim that an input names."""
    found: dict[str, int] = {}
    for v in model.graph.inputs:
        known = shapes.dims(v)
        if known is not None and v.name in feed:
            shape = np.shape(feed[v.name])
            found |= {str(d): size for d, size in zip(known, shape, strict=False) if not isinstance(d, int)}
    return found


def evaluated(d: object, sizes: Mapping[str, int]) -> int | None:
    """The number that a dim is at these sizes; None where they do not say."""
    try:
        return dims.evaluate(d, sizes)  # type: ignore[arg-type]
    except (KeyError, ValueError, ZeroDivisionError):
        return None
