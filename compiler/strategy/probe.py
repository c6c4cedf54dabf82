"""The float model run with values inside it in view: what calibration and the estimates of layers look at."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .. import ir, storage
from ..ir import Model
from ..session import SessionOptions, run
from ..targets import Target

_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16)


def activations(model: Model, operators: Iterable[str]) -> list[str]:
    """Names of the float values, constants apart, that nodes of these operators in the main graph read or give."""
    wanted = frozenset(operators)
    found: dict[str, None] = {}
    for n in model.graph:
        if n.domain == "" and n.op_type in wanted:
            # Of a linear layer only what it reads: the logits of a language model are large, and no rule asks for them.
            for v in n.inputs[:1] if n.op_type in ("MatMul", "Gemm") else (*n.inputs, *n.outputs):
                if v is not None and v.name and v.dtype in _FLOATS and not ir.is_constant(v):
                    found[v.name] = None
    return list(found)


def watch(
    model: Model, names: Iterable[str], feeds: Iterable[dict[str, Any]], target: Target, threads: int | None
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
    with tempfile.TemporaryDirectory(prefix="olc-probe-") as folder:
        path = Path(folder) / "probe.onnx"
        storage.save(probe, path)
        del probe, values
        session = target.session(path, threads=threads, options=SessionOptions())
        for feed in feeds:
            found = {**held, **feed, **run(session, feed)}
            yield {name: found[name] for name in wanted if name in found}
