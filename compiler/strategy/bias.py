"""Biases that take back what rounding does to the mean of each output channel of a convolution or linear layer.

Markus Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", section 4.2 and, where there
is data, as in its appendix D: the means are measured, one layer after another, each behind layers that are corrected already.
All at once would correct again, in each layer, what those before it were corrected for. A model is no slower for it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from .. import ir, storage
from ..culprits.cut import part, reads
from ..evaluation.padding import Keep
from ..ir import Model, Node
from ..passes import Context, smooth
from ..quantization import shift_form
from ..quantization.facts import attach
from ..rewriter import Rewriter, origins
from ..rules import Registry
from ..session import SessionOptions, run, session
from .plan import by_rule
from .probe import watch
from .rounding import Layer, Weights, layers_of, named

FEEDS = 16
"""Inputs that means are taken over, the first ones; what lies between two layers is held of all of them."""
CORRECTED = frozenset(("int7-linear", "int8-conv", "int8-linear"))
"""Rules that add what was prepared to a bias: where that costs nothing."""


def corrected(
    model: Model, rules: Registry, ctx: Context, sites: Sequence[tuple[str, str]], feeds: Sequence[dict[str, Any]],
    keep: Keep, threads: int | None, more: Callable[[], bool] = lambda: True,
    weights: Mapping[str, Mapping[str, Any]] | None = None, only: Collection[str] | None = None,
    smoothed: Mapping[str, float] | None = None,
) -> Weights:  # fmt: skip
    """By name of a layer's weight and form, float32 [M] to add to its bias; 0 for channels whose mean is brought no nearer
    in inputs that it was not learnt from, each judging what the others say.

    Args:
        model: in float, its facts noted.
        sites: (rule, node) of all that is rounded.
        keep: takes padded tokens out of an activation as it does of outputs.
        more: asked before each layer whether there is time for it.
        weights: those that were prepared, by name and form.
        only: ``named`` biases to correct: those of a plan.
        smoothed: activations that are smoothed first.

    Raises:
        OlcError: the model cannot be run.
    """
    feeds = feeds[:FEEDS]
    if len(feeds) < 2:
        return {}
    model = model.clone()
    if smoothed:
        smooth.run(model, Context(), smoothed)
    attach(model, weights or {})
    rounded = model.clone()
    lossy = rules.select(["LOSSY"], ir.opset_of(model) or 1, ctx.target.name if ctx.target is not None else "")
    ctx = Context(target=ctx.target, skip=ctx.skip, unassumed=ctx.unassumed)
    Rewriter(rounded, lossy, ctx, sites=by_rule(sites)).run()
    layers = _layers(model, rounded, sites)
    if only is not None:
        layers = {n: layer for n, layer in layers.items() if named(layer.constant.name or "", shift_form(layer.limit)) in only}
    means = _means(model, layers.values(), feeds, keep, threads)
    found: Weights = {}
    states = [dict(feed) for feed in feeds]
    for nodes, needed in _stretches(rounded, layers):
        if not more():
            break
        made = nodes[-1]
        _advance(rounded, nodes, states, threads)
        layer, name = layers[made], made.outputs[0].name or ""
        ought = means[layer.node.outputs[0].name or ""]
        are = [_mean(layer, state[name], feed, keep) for state, feed in zip(states, feeds, strict=True)]
        shift = _shift(np.array([mean - seen for mean, seen in zip(ought, are, strict=True)]))
        if shift.any() or only is not None:
            found.setdefault(layer.constant.name or "", {})[shift_form(layer.limit)] = shift
            for state in states:
                state[name] = state[name] + _along(layer, shift, state[name])
        for state in states:
            for gone in state.keys() - needed:
                del state[gone]
    return found


def _layers(model: Model, rounded: Model, sites: Sequence[tuple[str, str]]) -> dict[Node, Layer]:
    """The node that gives each layer's output, in the order in which they run, and what it was."""
    applied: dict[str, list[Node]] = {}
    for n in rounded.graph:
        if n.domain == "" and n.op_type in ("Add", "Conv", "MatMul"):
            applied.setdefault(n.metadata_props.get("olc.rule", ""), []).append(n)
    claimed: dict[Node, list[Layer]] = {}
    for layer in layers_of(model, [site for site in sites if site[0] in CORRECTED]):
        if ir.owner(layer.node) is not model.graph:
            continue
        of, rule = set(origins(layer.node)), f"{layer.rule}#"
        made = [nodes[-1] for stamp, nodes in applied.items() if stamp.startswith(rule) and of <= set(origins(nodes[-1]))]
        if len(made) == 1:  # of two layers that an exporter's one node became, none is known from the other
            claimed.setdefault(made[0], []).append(layer)
    return {n: claimed[n][0] for n in rounded.graph if len(claimed.get(n, ())) == 1}


def _means(
    model: Model, layers: Collection[Layer], feeds: Sequence[dict[str, Any]], keep: Keep, threads: int | None
) -> dict[str, list[np.ndarray]]:
    """Of each layer's output, by name, and feed the mean of each channel, float [M]."""
    probe = model.clone()
    here = {v.name: v for n in probe.graph for v in n.outputs}
    made: dict[str, str] = {}
    for i, layer in enumerate(layers):
        name = layer.node.outputs[0].name or ""
        if layer.patches is None:
            made[name] = name  # padded tokens are to be taken out of it
            continue
        w = ir.array(layer.constant)
        assert w is not None
        axes = ir.make_constant(np.array([0, *range(2, w.ndim)], np.int64), f"olc_axes_{i}")
        probe.graph.register_initializer(axes)
        mean = ir.make_node("ReduceMean", [here[name], axes], {"keepdims": 1})
        mean.outputs[0].name = made[name] = f"olc_mean_{i}"
        mean.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
        mean.outputs[0].shape = ir.Shape([1, len(w), *(1,) * (w.ndim - 2)])
        probe.graph.append(mean)
    found: dict[str, list[np.ndarray]] = {name: [] for name in made}
    for feed, values in zip(feeds, watch(probe, made.values(), feeds, threads), strict=True):
        for layer in layers:
            name = layer.node.outputs[0].name or ""
            found[name].append(_mean(layer, values[made[name]], feed, keep))
    return found


def _stretches(model: Model, layers: Collection[Node]) -> list[tuple[list[Node], set[str]]]:
    """The nodes up to and with each of the layers, from the layer before it on, and the values that are read after them."""
    whole: list[list[Node]] = [[]]
    for n in model.graph:
        whole[-1].append(n)
        if n in layers:
            whole.append([])
    needed: set[str] = set()
    found = []
    for i in range(len(whole) - 1, 0, -1):
        needed = needed | {v.name or "" for n in whole[i] for v in reads(n)}
        found.append((whole[i - 1], needed))
    return found[::-1]


def _advance(model: Model, nodes: Sequence[Node], states: Sequence[dict[str, Any]], threads: int | None) -> None:
    """Put what these nodes give into each of the states."""
    made = part(model, set(nodes))
    assert made is not None  # the last of them is read by what rounds it
    stretch, names = made
    with TemporaryDirectory(prefix="olc-bias-") as folder:
        path = Path(folder) / "stretch.onnx"
        storage.save(stretch, path)
        opened = session(path, threads, options=SessionOptions())
        held = ir.initial_values(model, names)  # those that a caller may override, and did not
        for state in states:
            state.update(run(opened, {name: state[name] if name in state else held[name] for name in names}))
        del opened


def _shift(off: np.ndarray) -> np.ndarray:
    """float32 [M] of what lacks in each of F inputs, [F, M]: the mean, where the mean of the others brings them nearer in sum.
    Inputs of which nothing is kept say nothing."""
    off = off[~np.isnan(off).all(axis=1)]
    if len(off) < 2:
        return np.zeros(off.shape[1:], np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        others = (off.sum(axis=0) - off) / (len(off) - 1)
        gains = np.square(off - others).sum(axis=0) < np.square(off).sum(axis=0)
    return np.where(gains & np.isfinite(off).all(axis=0), off.mean(axis=0), 0).astype(np.float32)


def _mean(layer: Layer, y: np.ndarray, feed: dict[str, Any], keep: Keep) -> np.ndarray:
    """Of each channel of a layer's output, float64 [M]."""
    if layer.patches is not None:  # tokens are no axis of it
        return np.asarray(y.mean(axis=(0, *range(2, y.ndim)), dtype=np.float64))
    kept = keep(feed, {"": y})[""]
    if not kept.size:
        return np.full(y.shape[-1], np.nan)
    return np.asarray(kept.reshape(-1, kept.shape[-1]).mean(axis=0, dtype=np.float64))


def _along(layer: Layer, shift: np.ndarray, y: np.ndarray) -> np.ndarray:
    return shift.astype(y.dtype).reshape(-1, *(1,) * (0 if layer.patches is None else y.ndim - 2))
