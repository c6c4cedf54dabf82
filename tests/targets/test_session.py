"""Opening an artifact with the options recorded beside it."""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from olc.errors import BadInput, OlcError
from olc.session import SessionOptions, native_options, prepared, recommended, run, session, shorten, sidecar

TEXT = '<ir_version: 10, opset_import: ["": 20]> g (float[N] x) => (float[N] y) { y = Relu (x) }'


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    path = tmp_path / "small.onnx"
    onnx.save(onnx.parser.parse_model(TEXT), path)
    return path


def test_without_a_sidecar(artifact: Path) -> None:
    opened = session(artifact)
    assert run(opened, {"x": np.array([-1, 2], np.float32)})["y"].tolist() == [0, 2]
    assert opened.get_session_options().graph_optimization_level == onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL


def test_recorded_options_are_applied(artifact: Path) -> None:
    options = SessionOptions(
        threads=1, optimization="basic", config={"session.set_denormal_as_zero": "1"},
        disabled_optimizers=("SkipLayerNormFusion",), arena=False,
    )  # fmt: skip
    sidecar(artifact).write_text(json.dumps({"session_options": options.to_dict(), "else": 1}))
    assert sidecar(artifact).name == "small.olc.json"
    assert recommended(artifact) == options
    found = session(artifact).get_session_options()
    assert found.intra_op_num_threads == 1
    assert found.graph_optimization_level == onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    assert found.get_session_config_entry("session.set_denormal_as_zero") == "1"
    assert not found.enable_cpu_mem_arena
    two = session(artifact, options=SessionOptions(threads=2, parallel=True)).get_session_options()
    assert (two.execution_mode, two.inter_op_num_threads) == (onnxruntime.ExecutionMode.ORT_PARALLEL, 2)
    assert session(artifact, 2).get_session_options().intra_op_num_threads == 2
    plain = session(artifact, options=SessionOptions(optimization="none")).get_session_options()
    assert plain.graph_optimization_level == onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL


def test_disabled_optimizers_do_not_run(tmp_path: Path) -> None:
    """The fusion of Add and LayerNormalization must be absent from the graph that the runtime made."""
    text = """<ir_version: 10, opset_import: ["": 17]>
        g (float[1, 4, 8] a, float[1, 4, 8] b, float[8] s, float[8] o) => (float y)
        { t = Add (a, b)  y = LayerNormalization <axis = -1> (t, s, o) }"""
    data = onnx.parser.parse_model(text).SerializeToString()
    for disabled, expected in (((), True), (("SkipLayerNormFusion",), False)):
        native = native_options(SessionOptions())
        native.optimized_model_filepath = str(tmp_path / "out.onnx")
        onnxruntime.InferenceSession(data, native, disabled_optimizers=list(disabled))
        fused = {n.op_type for n in onnx.load(tmp_path / "out.onnx").graph.node}
        assert ("SkipLayerNormalization" in fused) is expected


def test_disabled_optimizers_reach_the_runtime(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, given = onnxruntime.InferenceSession, []

    def spy(*args: object, **options: object) -> onnxruntime.InferenceSession:
        given.append(options["disabled_optimizers"])
        return real(*args, **options)

    monkeypatch.setattr(onnxruntime, "InferenceSession", spy)
    session(artifact, options=SessionOptions(disabled_optimizers=("SkipLayerNormFusion",)))
    session(artifact)
    assert given == [["SkipLayerNormFusion"], None]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("{", "is not JSON"),
        ("[]", "holds no table"),
        ('{"session_options": {"optimization": "most"}}', "'optimization' is 'most'"),
        ('{"session_options": {"threads": true}}', "'threads' is True"),
        ('{"session_options": {"speed": 1}}', "'speed' is not known"),
        ('{"session_options": {"arena": 1}}', "'arena' is 1"),
        ('{"session_options": {"config": {"a": 1}}}', "'config' is not a table of texts"),
    ],
)
def test_malformed_sidecar(artifact: Path, text: str, what: str) -> None:
    sidecar(artifact).write_text(text)
    with pytest.raises(BadInput, match=r"small\.olc\.json") as caught:
        session(artifact)
    assert what in caught.value.what
    assert caught.value.hint


def test_failures_name_the_model(artifact: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such file"):
        session(tmp_path / "absent.onnx")
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a model")
    with pytest.raises(OlcError, match=r"broken\.onnx: cannot be opened"):
        session(broken)
    with pytest.raises(OlcError, match=r"small\.onnx: inference failed") as caught:
        run(session(artifact), {"x": np.zeros((2, 2), np.float32)}, where=artifact.name)
    assert "\n" not in caught.value.what
    assert "[ONNXRuntimeError]" not in caught.value.what


def test_shortened_messages() -> None:
    long = (
        "[ONNXRuntimeError] : 1 : FAIL : Exception during initialization: "
        "/onnxruntime_src/onnxruntime/core/providers/cpu/rnn/lstm_base.h:53 "
        "onnxruntime::LSTMBase::LSTMBase(const onnxruntime::OpKernelInfo&) layout_ == 0 was false. Batch"
    )
    assert shorten(long) == "FAIL : Exception during initialization: layout_ == 0 was false. Batch"
    assert len(shorten("x" * 5000)) == 400


@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn", "float16", "int32"])
def test_dtypes_that_numpy_lacks(dtype: str) -> None:
    name = dtype.replace("_", "")
    text = f'<ir_version: 10, opset_import: ["": 20]> g ({name}[2] x) => ({name}[2] y) {{ y = Identity (x) }}'
    opened = session(onnx.parser.parse_model(text).SerializeToString())
    x = np.array([1.5, -3], dtype=getattr(ml_dtypes, dtype, None) or np.dtype(dtype))
    out = run(opened, {"x": x})["y"]
    assert out.dtype == x.dtype
    assert (out == x).all()
    prepared(opened, {"x": x})()
