"""Tables of angles that are cut to the length of a text: that there are enough rows is shown by what they meet."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from olc import ir, targets
from olc.passes import Context
from olc.pipeline import Options, optimize
from onnx import numpy_helper


@pytest.mark.parametrize(("rows", "rotary"), [(7, True), (2, True), (1, False)])
def test_the_first_rows_of_a_table(rows: int, rotary: bool) -> None:
    """One row is stretched to any length."""
    text = """<ir_version: 10, opset_import: ["" : 23]>
        g (float[B,3,S,4] x) => (float[B,3,S,4] y) {
        n = Shape<start = 2, end = 3>(x) zero = Constant<value_ints = [0]>() two = Constant<value_ints = [2]>()
        four = Constant<value_ints = [4]>() last = Constant<value_ints = [3]>()
        c = Slice(cos, zero, n, two) s = Slice(sin, zero, n, two)
        a = Slice(x, zero, two, last) b = Slice(x, two, four, last) m = Neg(b) t = Concat<axis = -1>(m, a)
        p = Mul(x, c) q = Mul(t, s) y = Add(p, q) }"""
    proto = onnx.parser.parse_model(text)
    angles = np.tile(np.random.default_rng(0).standard_normal((1, 1, rows, 2)).astype(np.float32), 2)
    proto.graph.initializer.extend([numpy_helper.from_array(f(angles), name) for f, name in ((np.cos, "cos"), (np.sin, "sin"))])
    model = ir.serde.deserialize_model(proto)
    optimize(model, Options(level=2, strict=True), Context(target=targets.get("onnxruntime-cpu")))
    assert ("RotaryEmbedding" in {n.op_type for n in model.graph}) == rotary
    source, result = (ort.InferenceSession(m.SerializeToString()) for m in (proto, ir.serde.serialize_model(model)))
    for length in {1, 2, rows} if rows > 1 else {1, 2, 5}:
        x = np.random.default_rng(length).standard_normal((2, 3, length, 4)).astype(np.float32)
        np.testing.assert_allclose(*(m.run(None, {"x": x})[0] for m in (source, result)), rtol=1e-5, atol=1e-6)
