"""How much of an error at a layer's own output arrives at the model's outputs.

White noise of a small, known size is added to the output of one layer at a time in the float model. Errors of rounding are
small and hardly correlated between layers, so they add up: the sum over layers of error x sensitivity foretells the error
of the whole (the perturbation view of mixed precision, Dong et al. 2019, "HAWQ", with noise in place of the Hessian).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import ir, storage
from ..evaluation.numerics import compare
from ..evaluation.padding import Keep
from ..ir import Model
from ..session import SessionOptions, run, session
from .budget import Budget

NOISE = 1e-3
"""Squared size of the noise relative to that of the output it is added to."""
OWN = 0.5
"""Of an error at an output itself: noise at right angles to a vector takes half of its relative squared size off the cosine."""


def sensitivities(
    model: Model, nodes: Sequence[str], feeds: Sequence[dict[str, Any]], keep: Keep, threads: int | None,
    more: Callable[[], bool] = lambda: True,
) -> dict[str, float]:  # fmt: skip
    """By node, 1 - cosine at the worst output over the relative squared error of the node's first output.

    Measured on the smallest of the feeds, node after node while ``more`` says so; the others get the median.
    """
    feed = min(feeds, key=lambda f: sum(np.asarray(a).size for a in f.values()))
    noisy = model.clone()
    given = [v.name or "" for v in noisy.graph.outputs]
    names: dict[str, tuple[str, str]] = {}
    for i, node in enumerate(n for n in list(noisy.graph) if ir.site(n) in set(nodes)):
        value = node.outputs[0]
        noise = ir.Value(name=f"olc_noise_{i}", type=value.type)
        names[ir.site(node)] = value.name or "", noise.name or ""
        uses = list(value.uses())
        added = ir.make_node("Add", [value, noise])
        added.outputs[0].name, added.outputs[0].type = f"olc_noisy_{i}", value.type
        for use in uses:
            use.node.replace_input_with(use.idx, added.outputs[0])
        noisy.graph.insert_after(node, [added])
        noisy.graph.inputs.append(noise)
        if value.name not in given:
            noisy.graph.outputs.append(value)
    with tempfile.TemporaryDirectory(prefix="olc-noise-") as folder:
        path = Path(folder) / "noisy.onnx"
        storage.save(noisy, path)
        del noisy
        opened = session(path, threads, options=SessionOptions())
    silent = feed | {noise: np.zeros((), np.float32) for _, noise in names.values()}
    clean = run(opened, silent)
    reference = keep(feed, {name: clean[name] for name in given})
    random = np.random.default_rng(0)
    found: dict[str, float] = {}
    for site, (name, drawn_as) in names.items():
        if not more():
            break
        size = np.sqrt(np.square(clean[name], dtype=np.float64).mean() * NOISE)
        drawn = random.standard_normal(clean[name].shape, np.float32) * np.float32(size)
        moved = keep(feed, run(opened, silent | {drawn_as: drawn}, given))
        arrived = Budget.error(compare(reference, moved)) / NOISE
        found[site] = max(arrived, OWN) if name in given else arrived
    middle = float(np.median([*found.values()])) if found else 1.0
    return {node: found.get(node, middle) for node in nodes}
