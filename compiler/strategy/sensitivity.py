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
from .probe import in_view, seen

NOISE = 1e-3
"""Squared size of the noise relative to that of the output it is added to."""
OWN = 0.5
"""Of an error at an output itself: noise at right angles to a vector takes half of its relative squared size off the cosine."""


def sensitivities(
    model: Model, nodes: Sequence[str], feeds: Sequence[dict[str, Any]], keep: Keep, threads: int | None,
    more: Callable[[], bool] = lambda: True,
) -> dict[str, float]:  # fmt: skip
    """By node, 1 - cosine at the worst output over the relative squared error of the node's first output.

    Measured on the smallest of the feeds, and what does not run there on the smallest with which it runs; node after node
    while ``more`` says so. The others get the median.
    """
    noisy, wanted = model.clone(), set(nodes)
    given = [v.name or "" for v in noisy.graph.outputs]
    noises: dict[str, ir.Value] = {}
    made: dict[str, list[str]] = {}
    for i, node in enumerate(n for n in list(ir.nodes_once(noisy)) if ir.site(n) in wanted):
        value, site = node.outputs[0], ir.site(node)
        if site not in noises:
            noises[site] = ir.Value(name=f"olc_noise_{i}", type=value.type)
            noisy.graph.inputs.append(noises[site])
        made.setdefault(site, []).append(value.name or "")
        _add(node, noises[site], f"olc_noisy_{i}", noisy.graph)
    outputs = in_view(noisy, [name for names in made.values() for name in names])
    with tempfile.TemporaryDirectory(prefix="olc-noise-") as folder:
        path = Path(folder) / "noisy.onnx"
        storage.save(noisy, path)
        del noisy
        opened = session(path, threads, options=SessionOptions())
    random = np.random.default_rng(0)
    found: dict[str, float] = {}
    for feed in sorted(feeds, key=lambda f: sum(np.asarray(a).size for a in f.values())):
        if len(found) == len(made) or not more():
            break
        silent = feed | {v.name or "": np.zeros((), np.float32) for v in noises.values()}
        clean = seen(run(opened, silent), outputs)
        reference = keep(feed, {name: clean[name] for name in given})
        for site, names in made.items():
            y = next((clean[name] for name in names if name in clean), None)
            if site in found or y is None or not more():
                continue
            size = np.sqrt(np.square(y, dtype=np.float64).mean() * NOISE)
            drawn = random.standard_normal(y.shape, np.float32) * np.float32(size)
            moved = keep(feed, run(opened, silent | {noises[site].name or "": drawn}, given))
            arrived = Budget.error(compare(reference, moved)) / NOISE
            found[site] = max(arrived, OWN) if names[0] in given else arrived
    middle = float(np.median([*found.values()])) if found else 1.0
    return {node: found.get(node, middle) for node in nodes}


def _add(node: ir.Node, noise: ir.Value, name: str, main: ir.Graph) -> None:
    """Add noise to a node's first output, for all who read it and as what a branch gives; an output of the model stays."""
    value, home = node.outputs[0], ir.owner(node)
    assert home is not None
    uses = list(value.uses())
    added = ir.make_node("Add", [value, noise])
    added.outputs[0].name, added.outputs[0].type = name, value.type
    for use in uses:
        use.node.replace_input_with(use.idx, added.outputs[0])
    home.insert_after(node, [added])
    if home is not main:
        home.outputs[:] = [added.outputs[0] if v is value else v for v in home.outputs]
