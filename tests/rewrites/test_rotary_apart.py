"""Halves that are turned on their own: which slices are halves cannot be said of each alternative of a pattern in a case."""

from __future__ import annotations

import onnx
import pytest
from olc import ir, targets
from olc.passes import Context
from olc.pipeline import Options, optimize


@pytest.mark.parametrize(("low", "high", "turned"), [
    ((0, 2), (2, 4), True), ((2, 4), (0, 2), False), ((0, 2), (0, 2), False), ((1, 3), (2, 4), False),
])  # fmt: skip
def test_only_the_halves_of_a_head(low: tuple[int, int], high: tuple[int, int], turned: bool) -> None:
    bounds = {"a0": low[0], "a1": low[1], "b0": high[0], "b1": high[1], "ax": 3}
    constants = " ".join(f"{name} = Constant<value_ints = [{n}]>()" for name, n in bounds.items())
    text = f"""<ir_version: 10, opset_import: ["" : 23]>
        g (float[B,3,S,4] x, float[B,1,S,2] c, float[B,1,S,2] s) => (float[B,3,S,4] y) {{ {constants}
        a = Slice(x, a0, a1, ax) b = Slice(x, b0, b1, ax) p = Mul(a, c) q = Mul(b, s) r = Mul(b, c) t = Mul(a, s)
        u = Sub(p, q) v = Add(r, t) y = Concat<axis = -1>(u, v) }}"""
    model = ir.serde.deserialize_model(onnx.parser.parse_model(text))
    optimize(model, Options(level=2, strict=True), Context(target=targets.get("onnxruntime-cpu")))
    assert ("RotaryEmbedding" in {n.op_type for n in model.graph}) == turned
