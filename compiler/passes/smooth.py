"""Outliers of an activation are moved into the weights of the linear layers that read it.

``x @ W`` is ``(x / s) @ (s * W)`` for any positive factors s, one for each channel: with factors that are large where the
activation is, 8 bits reach further (SmoothQuant, Xiao et al. 2022, equation 3). Sound because it is the same function in
real numbers; it only gains anything where the layers are rounded afterwards.

The division goes where it costs nothing: into the scale and bias of the norm that makes the activation, or into the
columns of the linear layer that makes one factor of it (``silu(g) * (x @ W)``), or the values of an attention. Else it is a Mul.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .. import ir
from ..analysis import shapes
from ..errors import BadInput
from ..quantization import Observed, observed
from ..quantization.facts import limited_as, observe
from ..quantization.linears import Linear, linear
from ..quantization.smoothing import factors, row_maxima
from . import Context
from .edit import Names, constant

NAME = "smooth"
_NORMS = {"LayerNormalization": (1, 2), "RMSNormalization": (1,)}
"""Inputs of a norm, past its first, that scale with its output."""


def readers(value: ir.Value) -> list[Linear]:
    """The linear layers of the value's own graph, with constant float32 weight, that read it as their activation."""
    made_by = value.producer()
    if made_by is None:
        return []
    found = [linear(node) for node, i in value.uses() if i == 0 and ir.owner(node) is ir.owner(made_by)]
    return [r for r in found if r is not None and r.constant.dtype == ir.DataType.FLOAT]


def run(model: ir.Model, ctx: Context, alphas: Mapping[str, float]) -> int:
    """Smooth these activations (name to alpha, 0: no smoothing, 1: all into the weights); the number smoothed.

    Raises:
        BadInput: there is no such activation, or calibration saw nothing of it.
    """
    names = Names(model)
    values: dict[str | None, list[ir.Value]] = {}  # of branches that share layers one of each
    for v in (v for n in ir.nodes_once(model) for v in n.outputs):
        values.setdefault(v.name, []).append(v)
    for name, alpha in sorted(alphas.items()):
        found = [v for v in values.get(name, ()) if readers(v)]
        seen = observed(found[0]) if found else None
        linears = [r for v in found for r in readers(v)]
        if seen is None or seen.channels is None:
            raise BadInput(
                f"the plan smooths {name!r}, "
                + ("which no linear layer of the model reads" if not linears else "of which nothing was calibrated"),
                hint="make the plan again, or give --data or --ranges as it was made with",
            )
        s = factors(seen.channels, row_maxima([r.matrix for r in linears]), alpha)
        made = _Constants(model, names)
        where = ", ".join(dict.fromkeys(_divide(model, names, made, v, s) for v in found))
        for r in linears:
            w = r.matrix * s[:, None]
            turned = bool(r.node.op_type == "Gemm" and ir.attr(r.node, "transB", 0))
            held = made(r.constant, turned, f"{name}_smooth_weight", np.ascontiguousarray(w.T if turned else w))
            r.node.replace_input_with(1, limited_as(r.constant, held))
            _note(r.node.inputs[0], seen, s)
        ctx.record(NAME, name, f"factors from {s.min():.3g} to {s.max():.3g} at alpha {alpha:g}, {where}")
    return len(alphas)


class _Constants:
    """Constants made for one activation, once for what each is made of: branches that share a layer share what it becomes."""

    def __init__(self, model: ir.Model, names: Names) -> None:
        self.model, self.names = model, names
        self.made: dict[tuple[ir.Value | None, object], ir.Value] = {}

    def __call__(self, of: ir.Value | None, how: object, name: str, held: np.ndarray) -> ir.Value:
        if (of, how) not in self.made:
            self.made[of, how] = constant(self.model.graph, self.names, name, held)
        return self.made[of, how]


def _note(value: ir.Value | None, seen: Observed, s: np.ndarray) -> None:
    """What calibration would have seen of the value now that its channels are divided, as far as is known: the side that
    reaches furthest is as long as the largest channel, in the proportion that the method of calibration left of it."""
    assert value is not None
    assert seen.channels is not None
    channels = seen.channels / s
    whole, reach = float(seen.channels.max(initial=0.0)), max(abs(seen.low), abs(seen.high))
    far = float(channels.max(initial=0.0)) * (reach / whole if whole > 0 else 1.0)
    observe(value, Observed(-far if seen.low < 0 else 0.0, far if seen.high > 0 else 0.0, channels))


def _divide(model: ir.Model, names: Names, made: _Constants, value: ir.Value, s: np.ndarray) -> str:
    """Divide what the layers that read the value read by ``s``; says where."""
    linears = readers(value)
    alone = len(value.uses()) == len(linears) and not value.is_graph_output()
    node = value.producer()
    assert node is not None
    if alone and _into_norm(made, node, s):
        return f"divided in the {node.op_type}"
    if alone and (layer := _into_linear(made, node, s)) is not None:
        return f"divided in the columns of {ir.site(layer)}"
    product = ir.make_node("Mul", [value, made(None, "factors", f"{value.name}_smooth", (1 / s).astype(np.float32))])
    product.outputs[0].name = names.value(f"{value.name}_smoothed")
    product.name = names.node(f"Mul_{product.outputs[0].name}")
    home = ir.owner(node)
    assert home is not None
    home.insert_after(node, product)
    shapes.infer_node(product, model)
    for r in linears:
        r.node.replace_input_with(0, product.outputs[0])
    return "divided by a Mul"


def _into_norm(made: _Constants, node: ir.Node, s: np.ndarray) -> bool:
    places = _NORMS.get(node.op_type) if node.domain == "" else None
    held = [(i, node.inputs[i]) for i in places or () if i < len(node.inputs) and node.inputs[i] is not None]
    arrays = [(i, ir.array(v)) for i, v in held]
    if not held or any(a is None or a.shape != s.shape for _, a in arrays):
        return False
    for i, a in arrays:
        assert a is not None
        divided = made(node.inputs[i], i, f"{node.outputs[0].name}_smooth_{i}", (a / s).astype(a.dtype))
        node.replace_input_with(i, divided)
    return True


def _into_linear(made: _Constants, node: ir.Node, s: np.ndarray) -> ir.Node | None:
    """Into the columns of a linear layer in whose results the node is linear, channel by channel; the layer.

    So is a product in either factor, and attention in its values: a channel of the result is a mean of that of the values, where
    each head of queries has values of its own.
    """
    attends = node.domain == "" and node.op_type == "Attention"
    if attends and (len(node.outputs) > 1 or ir.attr(node, "q_num_heads", 0) != ir.attr(node, "kv_num_heads", -1)):
        return None
    if attends and any(v is not None for v in node.inputs[4:]):  # values of a cache are not divided
        return None
    given = node.inputs[2:3] if attends else node.inputs if (node.domain, node.op_type) == ("", "Mul") else ()
    for v in given:
        bias, product = None, _alone(v)
        if product is not None and product.op_type == "Add":
            bias = next((b for b in product.inputs if ir.array(b) is not None), None)
            product = next((p for x in product.inputs if (p := _alone(x)) is not None and x is not bias), None)
            if bias is None:
                continue
        if v is None or product is None or product.op_type != "MatMul" or (weight := product.inputs[1]) is None:
            continue
        w, b = ir.array(weight), ir.array(bias)
        if w is None or w.ndim != 2 or w.shape[1] != len(s) or (b is not None and b.shape != s.shape):
            continue
        if bias is not None and b is not None:
            add = v.producer()
            assert add is not None
            divided = made(bias, "columns", f"{v.name}_smooth_bias", (b / s).astype(b.dtype))
            add.replace_input_with(list(add.inputs).index(bias), divided)
        held = made(weight, "columns", f"{v.name}_smooth_columns", (w / s).astype(w.dtype))
        product.replace_input_with(1, limited_as(weight, held))
        return product
    return None


def _alone(value: ir.Value | None) -> ir.Node | None:
    """The standard's operator that makes a value that is read once."""
    node = None if value is None or len(value.uses()) != 1 or value.is_graph_output() else value.producer()
    return None if node is None or node.domain else node
