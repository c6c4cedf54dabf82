"""GPT-2 as it was exported until 2024: the causal mask is cut from a table, by the lengths of text and cache."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from olc import ir, targets
from olc.passes import Context
from olc.pipeline import Options, optimize
from onnx import numpy_helper

ROWS = 16
TEXT = """<ir_version: 7, opset_import: ["" : 12]>
    g (float[B,2,S,4] q, float[B,2,S,4] k, float[B,2,S,4] v, float[B,2,P,4] past_k, float[B,2,P,4] past_v)
    => (float[B,2,S,4] y, float[B,2,T,4] keys, float[B,2,T,4] values) {
    keys = Concat<axis = -2>(past_k, k) values = Concat<axis = -2>(past_v, v)
    turned = Transpose<perm = [0, 1, 3, 2]>(keys) product = MatMul(q, turned) scores = Div(product, root)
    all_keys = Shape(keys) all_queries = Shape(q) t = Gather<axis = 0>(all_keys, two) s = Gather<axis = 0>(all_queries, two)
    p = Sub(t, s) first = Unsqueeze<axes = [0]>(p) end = Unsqueeze<axes = [0]>(t)
    rows = Slice(table, first, end, axis2, step) part = Slice(rows, zero, end, axis3, step) seen = Cast<to = 9>(part)
    filled = Where(seen, scores, low) weights = Softmax<axis = 3>(filled) y = MatMul(weights, values) }"""
CONSTANTS = {
    "root": np.float32(2), "low": np.finfo(np.float32).min, "two": np.array(2), "zero": np.array([0]), "step": np.array([1]),
    "axis2": np.array([2]), "axis3": np.array([3]),
}  # fmt: skip


@pytest.mark.parametrize(("rows", "fused"), [(ROWS, True), (1, False)])
def test_a_mask_that_is_cut_from_a_table(rows: int, fused: bool) -> None:
    """A table of one row would be stretched to all queries."""
    proto = onnx.parser.parse_model(TEXT)
    held = {**CONSTANTS, "table": np.tril(np.ones((1, 1, rows, rows), np.uint8))}
    proto.graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in held.items())
    model = ir.serde.deserialize_model(proto)
    optimize(model, Options(level=2, strict=True), Context(target=targets.get("onnxruntime-cpu")))
    operators = [n.op_type for n in model.graph]
    assert ("Attention" in operators) == fused
    assert fused or "Softmax" in operators
    source, result = (ort.InferenceSession(m.SerializeToString()) for m in (proto, ir.serde.serialize_model(model)))
    for batch, length, past in ((2, 5, 3), (1, 1, ROWS - 1), (2, 1, 0), (1, ROWS, 0)):
        rng = np.random.default_rng(length)
        sizes = {"q": length, "k": length, "v": length, "past_k": past, "past_v": past}
        feed = {name: rng.standard_normal((batch, 2, n, 4)).astype(np.float32) for name, n in sizes.items()}
        if length + past > rows:
            continue  # the source does not run
        for a, b in zip(source.run(None, feed), result.run(None, feed), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
