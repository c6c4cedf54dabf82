"""A head that is the embedding transposed is stored once."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir
from olc import ir
from olc.passes import Context, tied_weights
from pass_oracle import load, ops, parse, transform

ROWS, WIDTH = 4096, 128


def tied(change: float = 0.0, dtype: str = "float") -> onnx.ModelProto:
    proto = parse(
        f"g (int64[n] i) => ({dtype}[n, {ROWS}] y) {{ h = Gather(table, i) y = MatMul(h, head) }}", check=False
    )
    table = np.random.default_rng(0).normal(size=(ROWS, WIDTH)).astype(np.float32 if dtype == "float" else np.float64)
    head = table.T.copy()
    head[-1, -1] += change
    for name, a in (("table", table), ("head", head)):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(a, name))
    return proto


def test_the_copy_goes() -> None:
    for dtype in ("float", "double"):
        after, changes, _ = transform(tied_weights, tied(dtype=dtype), i=np.array([1, 5, ROWS - 1]))
        assert changes == 1
        assert sorted(ops(after.graph)) == ["Gather", "MatMul", "Transpose"]
        assert [t.name for t in after.graph.initializer] == ["table"]


def test_one_number_that_differs_is_enough_to_keep_it() -> None:
    for change in (1e-3, np.nan):
        assert tied_weights.run(load(tied(change)), Context()) == 0


def test_zeros_of_other_signs_differ() -> None:
    proto = tied()
    for t in proto.graph.initializer:
        a = onnx.numpy_helper.to_array(t).copy()
        a.reshape(-1)[0] = 0.0 if t.name == "table" else -0.0
        t.CopyFrom(onnx.numpy_helper.from_array(a, t.name))
    assert tied_weights.run(load(proto), Context()) == 0


def test_two_products_stay_as_they_are() -> None:
    proto = tied()
    proto.graph.node[0].CopyFrom(onnx.helper.make_node("MatMul", ["x", "table"], ["h"]))
    proto.graph.input[0].CopyFrom(onnx.helper.make_tensor_value_info("x", 1, ["n", ROWS]))
    assert tied_weights.run(load(proto), Context()) == 0


def test_a_head_that_a_caller_may_override_stays() -> None:
    proto = tied()
    proto.graph.input.append(onnx.helper.make_tensor_value_info("head", 1, [WIDTH, ROWS]))
    model: ir.Model = onnx_ir.from_proto(proto)
    assert tied_weights.run(model, Context()) == 0


def test_a_large_table_of_texts_is_no_weight() -> None:
    proto = parse("g (int64[n] i) => (string[n, 4] y) { y = Gather(table, i) }", check=False)
    texts = np.array([["a" * 64] * 4] * 9000, dtype=object)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(texts, "table"))
    assert tied_weights.run(load(proto), Context()) == 0
