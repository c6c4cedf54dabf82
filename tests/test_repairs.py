"""Operators that exporters write and ONNX does not have are read as what they mean."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from olc import storage
from olc.driver import compile
from olc.errors import BadInput
from olc.evaluation.evaluate import evaluate
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

N = 9


def model(opset: int = 17, domain: str = "") -> onnx.ModelProto:
    """``x * erfc(x)``; erfc once more in a branch."""
    inner = helper.make_graph(
        [helper.make_node("Erfc", ["x"], ["b"], domain=domain)], "then", [], [helper.make_tensor_value_info("b", 1, [N])]
    )
    other = helper.make_graph([helper.make_node("Neg", ["x"], ["n"])], "else", [], [helper.make_tensor_value_info("n", 1, [N])])
    nodes = [
        helper.make_node("Erfc", ["x"], ["e"], "there", domain=domain),
        helper.make_node("Mul", ["x", "e"], ["p"]),
        helper.make_node("If", ["c"], ["q"], then_branch=inner, else_branch=other),
        helper.make_node("Add", ["p", "q"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", 1, [N]), helper.make_tensor_value_info("c", TensorProto.BOOL, [])],
        [helper.make_tensor_value_info("y", 1, [N]), helper.make_tensor_value_info("e", 1, [N])],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def test_erfc(tmp_path: Path) -> None:
    onnx.save(model(), tmp_path / "m.onnx")
    report = compile(tmp_path / "m.onnx", tmp_path / "o.onnx", level=2)
    assert report.notes[0] == "2 nodes of the operator Erfc, which ONNX does not have, read as 1 - erf(x)"
    x = np.linspace(-3, 3, N, dtype=np.float32)
    y, e = ort.InferenceSession(tmp_path / "o.onnx").run(["y", "e"], {"x": x, "c": np.array(True)})
    wanted = np.vectorize(math.erfc)(x.astype(np.float64))
    np.testing.assert_allclose(e, wanted, atol=1e-6)
    np.testing.assert_allclose(y, (x + 1) * wanted, atol=1e-5)


def test_a_file_with_it_can_be_opened(tmp_path: Path) -> None:
    onnx.save(model(), tmp_path / "m.onnx")
    found = evaluate(tmp_path / "m.onnx", tmp_path / "m.onnx", time_s=0, measure_memory=False)
    assert [o.equal for o in found.outputs] == [True, True]


@pytest.mark.parametrize("kind", ["float16", "float64"])
def test_of_other_floats(tmp_path: Path, kind: str) -> None:
    """The file does not say what dtype it is that reaches the operator."""
    dtype = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    nodes = [helper.make_node(*n) for n in (("Neg", ["x"], ["n"]), ("Erfc", ["n"], ["e"]), ("Mul", ["x", "e"], ["y"]))]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", dtype, [N])], [helper.make_tensor_value_info("y", dtype, [N])]
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    storage.save(storage.load_proto(proto), tmp_path / "m.onnx")
    x = np.linspace(-2, 2, N).astype(kind)
    (y,) = ReferenceEvaluator(str(tmp_path / "m.onnx")).run(None, {"x": x})
    np.testing.assert_allclose(y, x * np.vectorize(math.erfc)(-x.astype(np.float64)), rtol=4e-3, atol=4e-3)
    assert y.dtype == kind


def test_names_that_are_taken(tmp_path: Path) -> None:
    proto = model()
    proto.graph.node[1].output[0] = proto.graph.node[3].input[0] = "e/Neg"
    loaded = storage.load_proto(proto)
    names = [o.name for n in loaded.graph for o in n.outputs]
    assert len(names) == len(set(names))
    assert "e/Neg" in names


def test_before_a_number_could_be_typed_it_stays_unknown() -> None:
    with pytest.raises(BadInput, match="has no operator 'Erfc'"):
        storage.load_proto(model(opset=14))
