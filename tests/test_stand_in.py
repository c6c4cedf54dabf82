"""What the CPU makes of float16 where it stands in: numpy's float16 is the oracle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from olc import ir
from olc.session import SessionOptions, run, session
from olc.stand_in import stand_in

CUDA = SessionOptions(providers=("CUDAExecutionProvider",))
K = np.array(2048, np.float16)


def file(folder: Path, body: str, opset: int = 21, to: str = "float[N] z", given: str = "float[N] x") -> Path:
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> g ({given}) => ({to}) {{ {body} }}')
    proto.graph.initializer.append(onnx.numpy_helper.from_array(K, "k"))
    onnx.save(proto, folder / "m.onnx")
    return folder / "m.onnx"


@pytest.mark.parametrize("level", ["none", "all"])
@pytest.mark.parametrize("opset", [11, 21])
def test_each_value_is_rounded_between_operators_without_kernels(opset: int, level: str, tmp_path: Path) -> None:
    path = file(tmp_path, "h = Cast<to = 10>(x) a = Add(h, k) b = Sub(a, k) z = Cast<to = 1>(b)", opset)
    x = np.array([0.3, 2.2, 300, np.inf, np.nan], np.float32)
    (z,) = run(session(path, options=SessionOptions(optimization=level, providers=CUDA.providers)), {"x": x}).values()
    np.testing.assert_array_equal(z, ((x.astype(np.float16) + K) - K).astype(np.float32))
    (plain,) = run(session(path, options=SessionOptions(optimization=level)), {"x": x}).values()
    assert not np.array_equal(plain, z, equal_nan=True), "or else there would be no need of it"


def test_what_overflows_is_infinite(tmp_path: Path) -> None:
    path = file(tmp_path, "h = Cast<to = 10>(x) a = Mul(h, h) b = Div(a, h) z = Cast<to = 1>(b)")
    (z,) = run(session(path, options=CUDA), {"x": np.array([300, 2], np.float32)}).values()
    np.testing.assert_array_equal(z, [np.inf, 2])


def test_outputs_and_inputs_of_float16_keep_names_and_dtypes(tmp_path: Path) -> None:
    path = file(tmp_path, "a = Add(x, k) z = Sub(a, k)", to="float16[N] a, float16[N] z", given="float16[N] x")
    made = stand_in(path)
    assert made is not None
    assert [(v.name, v.dtype) for v in made.graph.outputs] == [("a", ir.DataType.FLOAT16), ("z", ir.DataType.FLOAT16)]
    x = np.array([0.3, 2.2], np.float16)
    a, z = run(session(path, options=CUDA), {"x": x}).values()
    np.testing.assert_array_equal(a, x + K)
    np.testing.assert_array_equal(z, (x + K) - K)


def test_bodies_are_rounded_too(tmp_path: Path) -> None:
    body = ("h = Cast<to = 10>(x) c = Constant<value = bool {1}>() "
            "b = If(c) <then_branch = t () => (float16[N] u) { v = Add(h, k) u = Sub(v, k) }, "
            "else_branch = e () => (float16[N] w) { w = Identity(h) }> z = Cast<to = 1>(b)")  # fmt: skip
    (z,) = run(session(file(tmp_path, body), options=CUDA), {"x": np.array([0.3, 2.2], np.float32)}).values()
    np.testing.assert_array_equal(z, [0, 2])


def test_a_model_without_float16_needs_none(tmp_path: Path) -> None:
    text = '<ir_version: 8, opset_import: ["" : 13]> g (float[N] x) => (float[N] z) { z = Neg(x) }'
    onnx.save(onnx.parser.parse_model(text), tmp_path / "m.onnx")
    assert stand_in(tmp_path / "m.onnx") is None
