"""The float model run with values inside it in view: what calibration and the estimates of layers look at."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from .. import ir, storage
from ..ir import Model
from ..passes import float16
from ..session import SessionOptions, run, session
from ..targets import shared_cache

_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16)


def activations(model: Model, operators: Iterable[str]) -> list[str]:
    """Names of the float values, constants apart, that nodes of these operators in the main graph read or give, and
    what is kept in shared caches."""
    wanted = frozenset(operators)
    found: dict[str, None] = {}
    for n in model.graph:
        if n.domain == "" and n.op_type in wanted:
            # Of a linear layer only what it reads: the logits of a language model are large, and no rule asks for them.
            for v in n.inputs[:1] if n.op_type in ("MatMul", "Gemm") else (*n.inputs, *n.outputs):
                if v is not None and v.name and v.dtype in _FLOATS and not ir.is_constant(v):
                    found[v.name] = None
        if (n.domain, n.op_type) == (shared_cache.DOMAIN, shared_cache.OPERATOR):
            found |= {v.name: None for v in n.inputs[1:5] if v is not None and v.name}
    return list(found)


def watch(
    model: Model, names: Iterable[str], feeds: Iterable[dict[str, Any]], threads: int | None
) -> Iterator[dict[str, np.ndarray]]:
    """For each feed the values of these names, one feed at a time, so that memory does not grow with their number."""
    probe = model.clone()
    outputs = {v.name for v in probe.graph.outputs}
    values = {v.name: v for n in probe.graph for v in n.outputs}
    wanted = list(dict.fromkeys(names))
    for name in wanted:
        if name in values and name not in outputs:
            probe.graph.outputs.append(values[name])
    # A layer may read a constant that is too large to fold, or one that a caller may override.
    held = ir.initial_values(probe, wanted)
    del values
    with _opened(probe, threads) as opened:
        del probe
        for feed in feeds:
            found = {**held, **feed, **run(opened, feed)}
            yield {name: found[name] for name in wanted if name in found}


@contextmanager
def _opened(probe: Model, threads: int | None) -> Iterator[Any]:
    with tempfile.TemporaryDirectory(prefix="olc-probe-") as folder:
        path = Path(folder) / "probe.onnx"
        storage.save(probe, path)
        yield session(path, threads, options=SessionOptions())


def beyond(
    model: Model, nodes: Iterable[str], feeds: Iterable[dict[str, Any]], threads: int | None, limit: float
) -> set[str]:
    """Those of the nodes, by name, that read or give a float of a larger magnitude in one of the feeds.

    Magnitudes from ``float16.MASK`` on do not count: those are a mask's, which stay what they mean where they end earlier.
    """
    probe = model.clone()
    wanted = set(nodes)
    of: dict[str, list[str]] = {}
    values = {}
    for n in probe.graph:
        for v in (*n.inputs, *n.outputs) if ir.site(n) in wanted else ():
            if v is not None and v.name and v.type == ir.TensorType(ir.DataType.FLOAT) and not ir.is_constant(v):
                of.setdefault(v.name, []).append(ir.site(n))
                values[v.name] = v
    if not values:
        return set()
    largest = ir.make_constant(np.array(float16.MASK, np.float32), "olc_mask")
    nothing = ir.make_constant(np.array(0, np.float32), "olc_nothing")
    for constant in (largest, nothing):
        probe.graph.register_initializer(constant)
    made: dict[str, str] = {}
    for i, (name, v) in enumerate(values.items()):
        size = ir.make_node("Abs", [v])
        small = ir.make_node("Less", [size.outputs[0], largest])
        kept = ir.make_node("Where", [small.outputs[0], size.outputs[0], nothing])
        found = ir.make_node("ReduceMax", [kept.outputs[0]], {"keepdims": 0})
        for j, node in enumerate((size, small, kept, found)):
            node.outputs[0].name = f"olc_size_{i}_{j}"
        found.outputs[0].type, found.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(())
        probe.graph.extend((size, small, kept, found))
        probe.graph.outputs.append(found.outputs[0])
        made[found.outputs[0].name or ""] = name
    far: set[str] = set()
    with _opened(probe, threads) as opened:
        for feed in feeds:
            seen = run(opened, feed, [*made])
            far |= {node for out, name in made.items() if float(seen[out]) > limit for node in of[name]}
    return far
