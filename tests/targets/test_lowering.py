"""What lowering does for ONNX Runtime's sake: masks that its kernel can take, and Adds that its optimizer leaves alone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest
from olc.analysis import shapes
from olc.passes import Context
from olc.pipeline import Options as PipelineOptions
from olc.pipeline import optimize
from olc.session import SessionOptions as Options
from olc.session import native_options, run, session
from olc.targets import expand, features, kernels, protect
from olc.targets.kernels import Kernels, Row
from olc.targets.onnxruntime_cpu import TARGET
from onnx.reference import ReferenceEvaluator

QKV = "float[B, 2, S, 4] q, float[B, 2, T, 4] k, float[B, 2, T, 4] v"


def attention(mask: str) -> Any:
    return onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": 23]> g ({QKV}, {mask} mask) => (float[B, 2, S, 4] y) '
        "{ y = Attention(q, k, v, mask) }"
    )


@pytest.mark.parametrize("mask", ["bool[B, 1, 1, T]", "bool[1, T]", "bool[B, 2, 1, T]", "float[1, 1, 1, T]"])
def test_a_mask_that_the_kernel_refuses_is_expanded(mask: str) -> None:
    proto = attention(mask)
    model = onnx_ir.from_proto(proto)
    shapes.infer(model)
    assert expand.run(model, Context(), "lower") == 1
    assert expand.run(model, Context(), "lower") == 0
    random = np.random.default_rng(0)
    sizes = {"B": 2, "S": 3, "T": 5, "1": 1, "2": 2}
    feed = {n: random.normal(size=(2, 2, s, 4)).astype(np.float32) for n, s in (("q", 3), ("k", 5), ("v", 5))}
    shape = [sizes[d.strip()] for d in mask[mask.index("[") + 1 : -1].split(",")]
    feed["mask"] = random.integers(0, 2, shape).astype(bool) if "bool" in mask else random.normal(size=shape).astype(np.float32)
    expected = ReferenceEvaluator(proto).run(None, feed)[0]
    found = run(session(onnx_ir.to_proto(model).SerializeToString()), feed)["y"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)  # float32 sums of 5 in another order


@pytest.mark.parametrize("mask", ["bool[S, T]", "bool[1, 1, S, T]", "bool[B, 2, S, T]", "bool[S, 1]"])
def test_a_mask_that_it_takes_stays(mask: str) -> None:
    model = onnx_ir.from_proto(attention(mask))
    shapes.infer(model)
    assert expand.run(model, Context(), "lower") == 0


def table(**ratios: float) -> Kernels:
    names = {"skip": "com.microsoft::SkipLayerNormalization", "sum": "Sum"}
    return Kernels("r", "1", {}, tuple(Row(names[k], {"rows": 128, "width": 384}, v, v, v) for k, v in ratios.items()))


def residual(more: str = "", outputs: str = "float[1, 16, 32] y") -> onnx.ModelProto:
    proto = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": 21]> g (float[1, 16, 32] a, float[1, 16, 32] b) => ({outputs}) '
        f"{{ s = Add(a, b) y = LayerNormalization<axis = -1>(s, g, h) {more} }}"
    )
    for name in "gh":
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(32, np.float32), name))
    return proto


def executed(model: bytes, folder: Path) -> Counter[str]:
    """The operators that ONNX Runtime really runs, after its own optimizer."""
    options = native_options(Options())
    options.optimized_model_filepath = str(folder / "run.onnx")
    onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return Counter(n.op_type for n in onnx.load(folder / "run.onnx").graph.node)


def test_the_runtime_does_not_fuse_what_was_protected(tmp_path: Path) -> None:
    proto = residual()
    assert executed(proto.SerializeToString(), tmp_path)["SkipLayerNormalization"] == 1  # what there is to protect from
    model = onnx_ir.from_proto(proto)
    assert protect.run(model, Context(), "lower", table(skip=0.2, sum=1.0)) == 1
    after = onnx_ir.to_proto(model)
    assert executed(after.SerializeToString(), tmp_path) == {"Sum": 1, "LayerNormalization": 1}
    random = np.random.default_rng(0)
    feed = {n: random.normal(size=(1, 16, 32)).astype(np.float32) for n in "ab"}
    was, now = (run(session(p.SerializeToString(), options=Options(optimization="none")), feed)["y"] for p in (proto, after))
    assert np.array_equal(was, now)


@pytest.mark.parametrize("ratios", [{"skip": 1.2, "sum": 1.0}, {"skip": 0.2, "sum": 0.5}, {}])
def test_only_what_the_table_says_is_slower_is_protected(ratios: dict[str, float]) -> None:
    assert protect.run(onnx_ir.from_proto(residual()), Context(), "lower", table(**ratios)) == 0


def test_an_output_keeps_its_name() -> None:
    model = onnx_ir.from_proto(residual("z = Neg(s)", "float[1, 16, 32] s, float[1, 16, 32] y, float[1, 16, 32] z"))
    assert protect.run(model, Context(), "lower", table(skip=0.2, sum=1.0)) == 1
    onnx.checker.check_model(onnx_ir.to_proto(model), full_check=True)
    assert [v.name for v in model.graph.outputs] == ["s", "y", "z"]


def test_the_worst_size_decides() -> None:
    rows = tuple(Row("Op", {"rows": n}, r, r, r) for n, r in ((1, 1.5), (16, 0.2), (512, 0.9)))
    k = Kernels("r", "1", {}, (*rows, Row("Good", {"rows": 1, "width": 384}, 1.5, 1.4, 1.6)))
    assert k.ratio("Op") == 0.2
    assert k.ratio("Other") is None
    assert not k.pays("Op")
    assert k.pays("Good")
    assert k.pays("Other")
    assert k.rows[-1].where == "rows 1, width 384"
    assert kernels.loads(k.dumps()) == k


PACKAGED = sorted(Path(protect.__file__).parent.glob("onnxruntime_cpu*.kernels.json"))


@pytest.mark.parametrize("path", PACKAGED, ids=lambda p: p.name)
def test_a_packaged_table_is_of_the_installed_runtime(path: Path) -> None:
    packaged = kernels.read(path)
    assert packaged.version == onnxruntime.__version__, "measure it again: olc targets measure -o compiler/targets/…kernels.json"
    assert {"flags", "model"} <= packaged.cpu.keys()


@pytest.mark.parametrize("path", PACKAGED, ids=lambda p: p.name)
def test_the_table_of_the_nearest_cpu_is_read(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    packaged = kernels.read(path)
    for flags in (packaged.cpu["flags"], [*packaged.cpu["flags"], "avx512_fp16"]):
        there = features.Features.from_dict({"machine": "x86_64", "flags": flags})
        monkeypatch.setattr(features, "detect", lambda there=there: there)
        kernels.load.cache_clear()
        assert TARGET.kernels() == packaged
    kernels.load.cache_clear()


def test_without_a_nearest_cpu_the_plain_table_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(features, "detect", lambda: features.Features("aarch64", "?", ("asimd",), 2, 2))
    kernels.load.cache_clear()
    assert TARGET.kernels() == kernels.read(next(p for p in PACKAGED if p.name == "onnxruntime_cpu.kernels.json"))
    kernels.load.cache_clear()


@pytest.fixture
def own_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Put a table where ``olc targets measure`` puts this machine's own."""

    def write(**ratios: float) -> None:
        rows = tuple(Row(f"com.microsoft::{k}", {"rows": 1}, v, v, v) for k, v in ratios.items())
        path = kernels.own_path("onnxruntime", onnxruntime.__version__)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(Kernels("onnxruntime", onnxruntime.__version__, {"model": "?"}, rows).dumps(), encoding="utf-8")
        kernels.load.cache_clear()

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kernels.load.cache_clear()
    yield write
    kernels.load.cache_clear()


SILU = '<ir_version: 10, opset_import: ["": 21]> g (float[B, 8] x) => (float[B, 8] y) { s = Sigmoid(x) y = Mul(x, s) }'


@pytest.mark.parametrize(("ratio", "operators"), [(1.3, ["QuickGelu"]), (0.6, ["Sigmoid", "Mul"])])
def test_a_rule_does_not_emit_what_this_machine_measured_as_slower(own_table, ratio: float, operators: list[str]) -> None:
    own_table(QuickGelu=ratio)
    result = optimize(onnx_ir.from_proto(onnx.parser.parse_model(SILU)), PipelineOptions(level=2), Context(target=TARGET))
    assert [n.op_type for n in result.model.graph] == operators
    assert result.slow == ({} if ratio > 1 else dict.fromkeys(("quick-gelu", "silu"), "com.microsoft::QuickGelu"))


def test_masks_are_expanded_in_bodies_and_to_sizes_that_only_the_operands_know() -> None:
    body = "Attention(q, k, v, mask)"
    inside = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": 23]> g ({QKV}, bool[B, 1, 1, T] mask, bool c) => (float[B, 2, S, 4] y) '
        f"{{ y = If(c) <then_branch = t () => (float[B, 2, S, 4] a) {{ a = {body} }}, "
        f"else_branch = e () => (float[B, 2, S, 4] z) {{ z = Neg(q) }}> }}"
    )
    unknown = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": 23]> g ({QKV}, bool[B, 1, 1, T] mask, bool[S] some) => (float[B, 2, N, 4] y) '
        "{ r = Compress<axis = 2>(q, some) y = Attention(r, k, v, mask) }"
    )
    random = np.random.default_rng(0)
    feed = {n: random.normal(size=(2, 2, s, 4)).astype(np.float32) for n, s in (("q", 3), ("k", 5), ("v", 5))}
    feed["mask"] = random.integers(0, 2, (2, 1, 1, 5)).astype(bool)
    for proto, more in ((inside, {"c": np.array(True)}), (unknown, {"some": np.array([True, False, True])})):
        model = onnx_ir.from_proto(proto)
        shapes.infer(model)
        assert expand.run(model, Context(), "lower") == 1
        expected = ReferenceEvaluator(proto).run(None, {**feed, **more})[0]
        found = run(session(onnx_ir.to_proto(model).SerializeToString()), {**feed, **more})["y"]
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)
