"""A model with branches that share layers, as a merged decoder has them: what tests of passes and of the strategy share."""

from __future__ import annotations

import numpy as np
import onnx
from olc import ir
from olc.analysis import shapes

WIDTH = 64
_TYPE = f"float[B, {WIDTH}]"

# The numbers in names are those of an exporter: "h2" is another layer in the other branch. "deep" has branches of its own.
CACHED = "t1 = Tanh(x) a1 = RMSNormalization(t1, s) [h1] h1 = MatMul(a1, w0) t2 = Tanh(h1) a2 = RMSNormalization(t2, s) " \
         "[h2] h2 = MatMul(a2, w1) yc = Identity(h2)"  # fmt: skip
DEEP = "[{0}] {0} = MatMul(m, w3) z{0} = {1}({0})"
FRESH = "t1 = Tanh(x) a1 = RMSNormalization(t1, s) [h1] h1 = MatMul(a1, w0) t2 = Tanh(h1) a2 = RMSNormalization(t2, s) " \
        "[h2] h2 = MatMul(a2, w2) m = Tanh(h2) [deep] u = If (d) < then_branch = deeper () => ({T} zn1) {{ {D1} }}, " \
        "else_branch = deepest () => ({T} zn2) {{ {D2} }} > t3 = Tanh(u) a3 = RMSNormalization(t3, s) " \
        "[h3] h3 = MatMul(a3, w1) yf = Identity(h3)"  # fmt: skip


def merged() -> ir.Model:
    """``y``: with ``c`` x through w0 and w1, else through w0, w2, w3 in either way of ``d``, and w1; the activation of w1 has a
    channel that stands out."""
    fresh = FRESH.format(T=_TYPE, D1=DEEP.format("n1", "Neg"), D2=DEEP.format("n2", "Abs"))
    text = (f'<ir_version: 10, opset_import: ["" : 23]> g ({_TYPE} x, bool c, bool d) => ({_TYPE} y) {{ '
            f"[choice] y = If (c) < then_branch = cached () => ({_TYPE} yc) {{ {CACHED} }}, "
            f"else_branch = fresh () => ({_TYPE} yf) {{ {fresh} }} > }}")  # fmt: skip
    proto = onnx.parser.parse_model(text)
    for name, a in weights().items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(a, name))
    onnx.checker.check_model(proto)
    made = ir.serde.deserialize_model(proto)
    shapes.infer(made)
    return made


def weights() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    held = {f"w{i}": random.normal(size=(WIDTH, WIDTH)).astype(np.float32) / 8 for i in range(4)}
    return held | {"s": np.linspace(0.5, 2, WIDTH, dtype=np.float32)}


def feeds() -> list[dict[str, np.ndarray]]:
    """One for each way."""
    return [
        {"x": np.random.default_rng(i).normal(size=(40, WIDTH)).astype(np.float32), "c": np.array(c), "d": np.array(d)}
        for i, (c, d) in enumerate(((True, True), (False, True), (False, False)))
    ]


def by_hand(feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What reaches each weight, by its name, and ``y``."""
    held, read = weights(), {}

    def layer(x: np.ndarray, w: str, norm: bool = True) -> np.ndarray:
        t = np.tanh(x)
        read[w] = t / np.sqrt(np.square(t).mean(axis=-1, keepdims=True) + 1e-5) * held["s"] if norm else t
        return read[w] @ held[w]

    h = layer(feed["x"], "w0")
    if not feed["c"]:
        h = layer(layer(h, "w2"), "w3", norm=False)
        h = -h if feed["d"] else np.abs(h)
    return {"y": layer(h, "w1"), **read}


def nodes_of(model: ir.Model, weight: str) -> list[ir.Node]:
    """Those that read it, wherever they are."""
    return [n for graph in ir.all_graphs(model) for n in graph if any(v is not None and v.name == weight for v in n.inputs)]
