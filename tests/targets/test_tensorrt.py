"""The targets of GPUs: their tables, what they refuse, and that TensorRT-RTX builds engines of what is lowered to them."""

from __future__ import annotations

import json
import platform
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from olc import ir, storage, targets
from olc.analysis import shapes
from olc.cli import group
from olc.errors import BadInput, OlcError, Unsupported
from olc.passes import Context
from olc.session import CPU, SessionOptions, session
from olc.targets import capabilities, rtx, tensorrt

TENSORRT, CUDA = targets.get("tensorrt"), targets.get("onnxruntime-cuda")
RANDOM = np.random.default_rng(4)
builds = pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"), reason="the project installs tensorrt-rtx on x86-64 Linux only"
)  # fmt: skip


def model(body: str, inputs: str = "float[B, 16] x", outputs: str = "float[B, 16] y", opset: int = 23, **held: Any) -> ir.Model:
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]> g ({inputs}) => ({outputs}) {{ {body} }}')
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(a, name) for name, a in held.items())
    return ir.serde.deserialize_model(proto)


def file(folder: Path, made: ir.Model) -> str:
    storage.save(made, folder / "model.onnx")
    return str(folder / "model.onnx")


ATTENTION = """
  q = MatMul(x, wq) k = MatMul(x, wk) v = MatMul(x, wv)
  q1 = Reshape(q, heads) k1 = Reshape(k, heads) v1 = Reshape(v, heads)
  q2 = Transpose<perm = [0, 2, 1, 3]>(q1) k2 = Transpose<perm = [0, 2, 3, 1]>(k1) v2 = Transpose<perm = [0, 2, 1, 3]>(v1)
  s = MatMul(q2, k2) t = Mul(s, scale) p = Softmax<axis = -1>(t) o = MatMul(p, v2)
  o1 = Transpose<perm = [0, 2, 1, 3]>(o) o2 = Reshape(o1, flat) m = MatMul(o2, wo) r = Add(m, x)
  n = LayerNormalization<axis = -1>(r, g, g) y = MatMul(n, wq)
"""


def encoder() -> ir.Model:
    """An attention of 4 heads of 32, a norm and a linear layer."""
    held = {w: RANDOM.normal(size=(128, 128)).astype(np.float32) / 12 for w in ("wq", "wk", "wv", "wo")}
    return model(ATTENTION, "float[B, S, 128] x", "float[B, S, 128] y", opset=18, **held, g=np.ones(128, np.float32),
                 heads=np.array([0, 0, 4, 32]), flat=np.array([0, 0, 128]), scale=np.float32(32**-0.5))  # fmt: skip


# --- tables ----------------------------------------------------------------------------------------------------------


@builds
def test_the_stored_table_is_what_the_parser_says() -> None:
    stored = (Path(tensorrt.__file__).with_suffix(".json")).read_text(encoding="utf-8")
    assert capabilities.to_json(tensorrt.generate()) == stored, "run: python -m olc.targets.tensorrt --write"


def test_tables_name_where_they_are_from() -> None:
    assert (CUDA.table.provider, TENSORRT.table.provider) == ("CUDAExecutionProvider", "TensorrtExecutionProvider")
    assert CUDA.table.supports("Attention", "", 23, {"T1": "float16", "T2": "float16"}).how == "yes"
    assert not TENSORRT.table.supports("Attention", "", 23, {"T1": "float", "T2": "float"})
    assert not TENSORRT.table.supports("Relu", "", 14, {"T": "int16"})
    assert not TENSORRT.table.supports("FusedMatMul", "com.microsoft", 1)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("y = Det(x)", "no kernel of Det"),
        ("q = QuantizeLinear(x, s, u) y = DequantizeLinear(q, s, u)", "uint8"),
        ("q = QuantizeLinear(x, s, i) y = DequantizeLinear(q, s, i)", "zero point is not 0"),
        ("q = QuantizeLinear(x, n, z) y = DequantizeLinear(q, n, z)", "not above 0"),
        ("t = ReduceMax<keepdims = 0>(x) q = QuantizeLinear(x, t, z) y = DequantizeLinear(q, t, z)", "scale is not a constant"),
        ("t = NonZero(x) r = Cast<to = 1>(t) y = ReduceSum<keepdims = 0>(r)", "needs a plugin"),
    ],
)
def test_what_tensorrt_refuses_is_named(body: str, reason: str) -> None:
    held = {"s": np.float32(0.5), "u": np.uint8(0), "i": np.int8(3), "z": np.int8(0), "n": np.float32(-1)}
    made = model(body, "float[16, 16] x", "float y" if "Det" in body or "NonZero" in body else "float[16, 16] y", **held)
    with pytest.raises(Unsupported, match=reason) as caught:
        TENSORRT.lower(made, Context(target=TENSORRT))
    assert "node" in str(caught.value)


def test_cuda_leaves_to_the_cpu_what_it_has_no_kernel_for() -> None:
    made = model("d = Det(x) y = Identity(d)", "float[16, 16] x", "float y")
    node = made.graph[0]
    assert CUDA.node_support(node, made).reason.startswith("on the CPU: ")
    assert CUDA.check(made) == []


def test_int8_that_only_an_attribute_names_is_taken() -> None:
    made = model("q = QuantizeLinear<output_dtype = 3>(x, s) y = DequantizeLinear(q, s)", s=np.float32(0.5))
    assert TENSORRT.check(made) == []


def test_a_plan_without_providers_has_the_targets(tmp_path: Path) -> None:
    (tmp_path / "p.plan").write_text('target = "onnxruntime-cuda"\nlevel = 2\n')
    compiled(tmp_path, encoder(), "--target", "onnxruntime-cuda", "--plan", str(tmp_path / "p.plan"))
    assert json.loads((tmp_path / "out.olc.json").read_text())["session_options"]["providers"] == list(CUDA.providers)


# --- sessions --------------------------------------------------------------------------------------------------------


def test_providers_are_kept_and_those_that_are_not_there_passed_over(tmp_path: Path) -> None:
    options = TENSORRT.session_options()
    assert options.providers[0] == "TensorrtExecutionProvider"
    assert SessionOptions.from_dict(options.to_dict()) == options
    opened = session(file(tmp_path, model("y = Relu(x)")), options=options)
    assert opened.get_providers()[-1] == CPU


# --- engines ---------------------------------------------------------------------------------------------------------


def compiled(folder: Path, made: ir.Model, *options: str) -> tuple[str, ir.Model]:
    out = folder / "out.onnx"
    done = CliRunner().invoke(group, ["compile", file(folder, made), "-o", str(out), "--no-cache", *options])
    assert done.exit_code == 0, done.output
    return " ".join(done.output.split()), storage.load(out)


@builds
def test_an_engine_is_built_with_a_fused_attention_and_int8(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for i in range(6):
        np.savez(tmp_path / "data" / f"{i}.npz", x=RANDOM.normal(size=(2, 24, 128)).astype(np.float32))
    text, made = compiled(tmp_path, encoder(), "-O3", "--target", "tensorrt", "--data", str(tmp_path / "data"),
                          "--accuracy", "cosine>=0.98", "--tune-time", "20s")  # fmt: skip
    assert "1 of them attentions" in text
    assert "nothing was timed" in text
    assert "0 products in int8" not in text
    assert any(n.op_type == "QuantizeLinear" for n in made.graph)
    assert all(n.domain == "" for n in made.graph)
    assert not any(v.dtype == ir.DataType.UINT8 for n in made.graph for v in n.outputs)
    for n in made.graph:
        if n.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zero = ir.array(n.inputs[2])
            assert zero is not None
            assert not zero.any()
    assert [v.dtype for v in (*made.graph.inputs, *made.graph.outputs)] == [ir.DataType.FLOAT] * 2


@builds
def test_an_engine_is_built_with_weights_in_int4(tmp_path: Path) -> None:
    text, made = compiled(tmp_path, encoder(), "-O3", "--target", "tensorrt", "--quantize", "int4", "--tune-time", "10s", "--dim",
                          "B=1", "--dim", "S=1", "--accuracy", "cosine>=0.98")  # fmt: skip
    assert "builds an engine" in text
    held = [ir.array(n.inputs[0]) for n in made.graph if n.op_type == "DequantizeLinear"]
    assert held
    assert all(a is not None and a.dtype.name == "int4" for a in held)


@builds
def test_a_plan_gives_what_it_was_made_of(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for i in range(4):
        np.savez(tmp_path / "data" / f"{i}.npz", x=RANDOM.normal(size=(2, 24, 128)).astype(np.float32))
    asked = ["--target", "tensorrt", "--data", str(tmp_path / "data"), "--accuracy", "cosine>=0.98"]
    path, plan = file(tmp_path, encoder()), str(tmp_path / "made.plan")
    done = CliRunner().invoke(group, ["plan", path, "-O3", "-o", plan, "--tune-time", "20s", *asked])
    assert done.exit_code == 0, done.output
    text, made = compiled(tmp_path, encoder(), *asked, "--plan", plan)
    assert "1 of them attentions" in text
    assert "predicted" in text
    assert any(n.op_type == "QuantizeLinear" for n in made.graph)
    beside = json.loads((tmp_path / "out.olc.json").read_text())
    assert beside["session_options"]["providers"] == list(TENSORRT.providers)


def test_what_leaves_the_range_of_float16_stays_out_of_it(tmp_path: Path) -> None:
    w = RANDOM.normal(size=(32, 32)).astype(np.float32)
    made = model("h = MatMul(x, w) n = LayerNormalization<axis = -1>(h, g, g) t = Tanh(n) y = MatMul(t, w)",
                 "float[B, 32] x", "float[B, 32] y", w=w, g=np.ones(32, np.float32))  # fmt: skip
    (tmp_path / "data").mkdir()
    for i in range(4):
        np.savez(tmp_path / "data" / f"{i}.npz", x=RANDOM.normal(size=(8, 32)).astype(np.float32) * 1e4)
    text, found = compiled(tmp_path, made, "-O3", "--target", "tensorrt", "--data", str(tmp_path / "data"), "--tune-time", "20s")
    assert "values beyond 32752 were seen there" in text
    shapes.infer(found)
    first = next(n for n in found.graph if n.op_type == "MatMul")
    assert first.outputs[0].dtype != ir.DataType.FLOAT16
    assert any(n.outputs[0].dtype == ir.DataType.FLOAT16 for n in found.graph), "the others are in float16"


@builds
def test_inputs_that_hold_sizes_get_their_values(tmp_path: Path) -> None:
    made = model("r = Relu(x) y = Reshape(r, s)", "float[B, 16] x, int64[2] s", "float[M, N] y")
    feeds = [{"x": np.zeros((n, 16), np.float32), "s": np.array([n * 2, 8])} for n in (2, 4)]
    assert rtx.build(file(tmp_path, made), feeds).kernels > 0


def test_a_sweep_needs_the_machine(tmp_path: Path) -> None:
    done = CliRunner().invoke(group, ["compile", file(tmp_path, encoder()), "--target", "tensorrt", "--sweep", "B=1..2"])
    assert isinstance(done.exception, BadInput)
    assert "not on this machine" in str(done.exception)


@builds
def test_in_float32_the_attention_is_written_out(tmp_path: Path) -> None:
    text, made = compiled(tmp_path, encoder(), "-O2", "--target", "tensorrt")
    assert "Attention" not in {n.op_type for n in made.graph}
    assert "builds an engine" in text
    assert "written out" in text


def test_cuda_takes_blocks_where_rows_are_few(tmp_path: Path) -> None:
    text, made = compiled(tmp_path, encoder(), "-O3", "--target", "onnxruntime-cuda", "--tune-time", "10s", "--dim", "B=1",
                          "--dim", "S=1")  # fmt: skip
    products = [n for n in made.graph if n.op_type == "MatMulNBits"]
    assert len(products) == 5
    for n in products:
        scale = ir.array(n.inputs[2])
        assert scale is not None
        assert scale.dtype == np.float16
        assert "accuracy_level" not in n.attributes, "CUDA does not round the activation"
    assert "bytes of weights for few rows" in text


def test_cuda_takes_float16(tmp_path: Path) -> None:
    text, made = compiled(tmp_path, encoder(), "-O3", "--target", "onnxruntime-cuda", "--tune-time", "10s", "--quantize", "fp16")
    assert {n.op_type for n in made.graph} >= {"Attention", "LayerNormalization"}
    assert all(ir.array(v) is None or ir.array(v).dtype == np.float16 for n in made.graph for v in n.inputs[1:]
               if n.op_type in ("MatMul", "LayerNormalization"))  # fmt: skip
    assert "nothing was timed" in text


@pytest.mark.parametrize(("budget", "left"), [("1e-8", range(1, 8)), ("1e-12", range(9))])
def test_what_a_small_budget_has_no_room_for_stays_in_float32(budget: str, left: range, tmp_path: Path) -> None:
    text, _ = compiled(tmp_path, encoder(), "-O3", "--target", "onnxruntime-cuda", "--tune-time", "10s", "--accuracy",
                       f"cosine>={1 - float(budget)!r}")  # fmt: skip
    found = re.search(r"rounded: float16 (\d+)", text)
    assert int(found[1] if found else 0) in left
    assert "taken back" in text


@builds
def test_what_the_builder_refuses_is_no_artifact(tmp_path: Path) -> None:
    bad = model("q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z)", s=np.float32(1), z=np.int8(3))
    with pytest.raises(Unsupported, match=r"node .*QuantizeLinear.*does not|does not build it: .*QuantizeLinear"):
        rtx.build(file(tmp_path, bad), [{"x": np.zeros((1, 16), np.float32)}])


@builds
def test_a_crash_of_the_builder_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rtx.sys, "executable", "/bin/false")
    given = file(tmp_path, model("y = Relu(x)")), [{"x": np.zeros((1, 16), np.float32)}]
    with pytest.raises(OlcError, match="ended with code 1"):
        rtx.build(*given)
    assert "no engine was built" in (TENSORRT.proof(*given) or "")
