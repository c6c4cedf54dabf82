"""Biases that take back what rounding does to the mean of each output channel of a convolution.

Markus Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", section 4.2 and, where there
is data, as in its appendix D: the means are measured, one layer after another, each behind layers that are corrected already.
All at once would correct again, in each layer, what those before it were corrected for. A model is no slower for it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from .. import ir, storage
from ..culprits.cut import part, reads
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


def corrected(
    model: Model, rules: Registry, ctx: Context, sites: Sequence[tuple[str, str]], feeds: Sequence[dict[str, Any]],
    threads: int | None, more: Callable[[], bool] = lambda: True, weights: Mapping[str, Mapping[str, Any]] | None = None,
    only: Collection[str] | None = None, smoothed: Mapping[str, float] | None = None,
) -> Weights:  # fmt: skip
    """By name of a convolution's weight and form, float32 [M] to add to its bias; 0 for channels whose mean is brought no nearer
    in inputs that it was not learnt from, each judging what the others say.

    Args:
        model: in float, its facts noted.
        sites: (rule, node) of all that is rounded.
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
    means = _means(model, layers.values(), feeds, threads)
    found: Weights = {}
    states = [dict(feed) for feed in feeds]
    for nodes, needed in _stretches(rounded, layers):
        if not more():
            break
        conv = nodes[-1]
        _advance(rounded, nodes, states, threads)
        layer, name = layers[conv], conv.outputs[0].name or ""
        assert layer.patches is not None
        ought = means[layer.patches.outputs[0].name or ""]
        shift = _shift(np.array([mean - _mean(state[name]) for mean, state in zip(ought, states, strict=True)]))
        if shift.any() or only is not None:
            found.setdefault(layer.constant.name or "", {})[shift_form(layer.limit)] = shift
            for state in states:
                state[name] = state[name] + _along(shift, state[name])
        for state in states:
            for gone in state.keys() - needed:
                del state[gone]
    return found


def _layers(model: Model, rounded: Model, sites: Sequence[tuple[str, str]]) -> dict[Node, Layer]:
    """Each convolution that was rounded, in the order in which they run, and what it was."""
    convs = [(n, frozenset(origins(n))) for n in rounded.graph if n.domain == "" and n.op_type == "Conv"]
    found: dict[Node, Layer] = {}
    for layer in layers_of(model, sites):
        if layer.patches is not None:
            of = frozenset(origins(layer.patches))
            made = [n for n, names in convs if of <= names]
            if len(made) == 1 and made[0] not in found:
                found[made[0]] = layer
    return {n: found[n] for n, _ in convs if n in found}


def _means(
    model: Model, layers: Iterable[Layer], feeds: Sequence[dict[str, Any]], threads: int | None
) -> dict[str, list[np.ndarray]]:
    """Of each layer's output, by name, and feed the mean of each channel, float [M]."""
    probe = model.clone()
    here = {v.name: v for n in probe.graph for v in n.outputs}
    made: dict[str, str] = {}
    for i, layer in enumerate(layers):
        w = ir.array(layer.constant)
        assert w is not None
        assert layer.patches is not None
        name = layer.patches.outputs[0].name or ""
        axes = ir.make_constant(np.array([0, *range(2, w.ndim)], np.int64), f"olc_axes_{i}")
        probe.graph.register_initializer(axes)
        mean = ir.make_node("ReduceMean", [here[name], axes], {"keepdims": 0})
        mean.outputs[0].name = made[name] = f"olc_mean_{i}"
        mean.outputs[0].type, mean.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([len(w)])
        probe.graph.append(mean)
    seen = [{name: found[mean] for name, mean in made.items()} for found in watch(probe, made.values(), feeds, threads)]
    return {name: [values[name] for values in seen] for name in made}


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
        for state in states:
            state.update(run(opened, {name: state[name] for name in names}))
        del opened


def _shift(off: np.ndarray) -> np.ndarray:
    """float32 [M] of what lacks in each of F inputs, [F, M]: the mean, where the mean of the others brings them nearer in sum."""
    with np.errstate(over="ignore", invalid="ignore"):
        others = (off.sum(axis=0) - off) / (len(off) - 1)
        gains = np.square(off - others).sum(axis=0) < np.square(off).sum(axis=0)
    return np.where(gains & np.isfinite(off).all(axis=0), off.mean(axis=0), 0).astype(np.float32)


def _mean(y: np.ndarray) -> np.ndarray:
    return np.asarray(y.mean(axis=(0, *range(2, y.ndim)), dtype=np.float64))


def _along(shift: np.ndarray, y: np.ndarray) -> np.ndarray:
    return shift.astype(y.dtype).reshape(-1, *(1,) * (y.ndim - 2))
