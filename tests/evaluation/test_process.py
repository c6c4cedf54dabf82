"""A model run in a child process: what is measured, and how its failures are told."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from olc.errors import OlcError
from olc.evaluation import process
from olc.session import SessionOptions


def save(path: Path, text: str) -> Path:
    onnx.save(onnx.parser.parse_model(text), path)
    return path


@pytest.fixture
def relu(tmp_path: Path) -> Path:
    text = '<ir_version: 10, opset_import: ["": 18]> g (float[N] x) => (float y) { y = Relu (x) }'
    return save(tmp_path / "relu.onnx", text)


def test_memory_of_a_large_intermediate_is_seen(tmp_path: Path) -> None:
    text = """<ir_version: 10, opset_import: ["": 18]>
        g (float[1] x, int64[1] n) => (float y)
        { big = Expand (x, n)  r = Exp (big)  y = ReduceSum <keepdims = 0> (r) }"""
    path = save(tmp_path / "big.onnx", text)
    small, large = (
        process.measure(path, {"x": np.ones(1, np.float32), "n": np.array([n])}, threads=1) for n in (1000, 25_000_000)
    )
    assert small.model_bytes is not None
    assert large.model_bytes is not None
    assert large.model_bytes - small.model_bytes > 90_000_000
    assert large.load_s > 0
    assert large.first_run_s > 0
    assert large.run_s is not None
    assert process.measure(path, {"x": np.ones(1, np.float32), "n": np.array([1])}, runs=1).run_s is None


def test_failed_inference_is_told_as_the_runtime_tells_it(relu: Path) -> None:
    with pytest.raises(OlcError, match=r"relu\.onnx: inference failed") as caught:
        process.measure(relu, {"x": np.ones((1, 1), np.float32)})
    assert "Invalid rank" in caught.value.what


def test_model_that_does_not_open(tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    with pytest.raises(OlcError, match="cannot be opened"):
        process.measure(broken, {})


def test_time_limit(relu: Path) -> None:
    with pytest.raises(OlcError, match=r"within 0\.001 s"):
        process.measure(relu, {"x": np.ones(1, np.float32)}, timeout_s=0.001)


@pytest.mark.skipif(sys.platform == "win32", reason="on Windows no signal ends a process")
def test_a_crash_is_named(relu: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The child is replaced by one that kills itself, as a crashing runtime would."""
    real = process.subprocess.run

    def crashing(command: list[str], **options: Any) -> Any:
        code = "import os, signal, sys; print('last words', file=sys.stderr); os.kill(os.getpid(), signal.SIGSEGV)"
        return real([command[0], "-c", code], **options)

    monkeypatch.setattr(process.subprocess, "run", crashing)
    with pytest.raises(OlcError, match="killed by SIGSEGV: last words"):
        process.measure(relu, {"x": np.ones(1, np.float32)})


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA covers mapped memory on Linux only")
def test_memory_limit(tmp_path: Path) -> None:
    text = """<ir_version: 10, opset_import: ["": 18]>
        g (float[1] x, int64[1] n) => (float y) { big = Expand (x, n)  y = Exp (big) }"""
    path = save(tmp_path / "big.onnx", text)
    given = {"x": np.ones(1, np.float32), "n": np.array([300_000_000])}
    with pytest.raises(OlcError, match="big"):
        process.measure(path, given, memory_bytes=700_000_000, threads=1)


def test_options_and_dtypes_reach_the_child(tmp_path: Path) -> None:
    text = """<ir_version: 10, opset_import: ["": 18]>
        g (bfloat16[2] b, float16[2] h) => (bfloat16 x, float16 z) { x = Identity (b)  z = Identity (h) }"""
    given = {
        "b": np.ones(2, ml_dtypes.bfloat16), "s": np.array(["a", "bc"], object), "h": np.ones(2, np.float16),
    }  # fmt: skip
    dtypes = process._store(given, tmp_path / "feed.npz")
    back = process._restore(str(tmp_path / "feed.npz"), dtypes)
    for name, array in given.items():
        assert back[name].dtype == array.dtype
        assert (back[name] == array).all()
    path = save(tmp_path / "kinds.onnx", text)
    del given["s"]  # the runtime's Python interface takes no strings beside bfloat16
    assert process.measure(path, given, options=SessionOptions(threads=1, optimization="none")).load_s > 0
    with pytest.raises(OlcError, match="sequence"):
        process.measure(path, {**given, "b": [1]})
