"""Two models compared end to end."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from olc.errors import BadInput, OlcError
from olc.evaluation.evaluate import evaluate, external_files
from olc.session import SessionOptions, sidecar

TEXT = """<ir_version: 10, opset_import: ["": 20]>
    g (float[batch, 8] x) => (float[batch, 8] y) {{ {} }}"""
A = TEXT.format("a = Sigmoid (x)  y = Mul (x, a)")
SAME = TEXT.format("y = Mul (a, x)  }").replace("{ y", "{ a = Sigmoid (x)  y").replace("} }", "}")
CLOSE = TEXT.format("n = Neg (x)  e = Exp (n)  one = Constant <value_float = 1.0> ()  d = Add (one, e)  y = Div (x, d)")
OTHER = TEXT.format("a = HardSigmoid (x)  y = Mul (x, a)")


@pytest.fixture
def save(tmp_path: Path):
    def put(name: str, text: str) -> Path:
        path = tmp_path / f"{name}.onnx"
        onnx.save(onnx.parser.parse_model(text), path)
        return path

    return put


def test_close(save) -> None:
    found = evaluate(save("a", A), save("b", CLOSE), time_s=0.1, dims={"batch": 3}, threads=1, measure_memory=False)
    assert found.within
    assert not found.equal
    assert found.samples == 4
    assert found.outputs[0].shape == (3, 8)
    assert found.paired is not None
    assert "on synthesised inputs" in found.verdict
    assert "up to rounding" in found.verdict
    record = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert record["inputs"]["synthesised"] is True
    assert record["inputs"]["sizes"]["batch"] == {"size": 3, "kind": "batch", "origin": "given"}
    assert record["a"]["session_options"]["threads"] == 1
    assert record["paired"]["pairs"] >= 10


def test_same_and_other(save) -> None:
    feeds = [{"x": np.linspace(-4, 4, 8, dtype=np.float32)[None]}]
    same = evaluate(save("a", A), save("b", SAME), feeds=feeds, time_s=0, measure_memory=False)
    assert same.equal
    assert same.paired is None
    assert "bit for bit" in same.verdict
    assert "synthesised" not in same.verdict
    other = evaluate(save("a", A), save("c", OTHER), feeds=feeds, time_s=0, measure_memory=False)
    assert not other.within
    assert other.worst is not None
    assert other.worst.name == "y"
    assert "other outputs: 'y'" in other.verdict


def test_data_is_checked_against_the_model(save, tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.ones((2, 8)))
    found = evaluate(save("a", A), save("b", CLOSE), data=str(tmp_path / "d.npz"), time_s=0, measure_memory=False)
    assert found.inputs == {"synthesised": False, "data": str(tmp_path / "d.npz")}
    np.savez(tmp_path / "d.npz", x=np.ones((2, 9)))
    with pytest.raises(BadInput, match="shape"):
        evaluate(save("a", A), save("b", CLOSE), data=str(tmp_path / "d.npz"), time_s=0, measure_memory=False)
    with pytest.raises(BadInput, match="no samples"):
        evaluate(save("a", A), save("b", CLOSE), feeds=[], time_s=0, measure_memory=False)


def test_recorded_session_options_are_used(save) -> None:
    b = save("b", CLOSE)
    sidecar(b).write_text(json.dumps({"session_options": SessionOptions(threads=1, optimization="none").to_dict()}))
    found = evaluate(save("a", A), b, time_s=0, measure_memory=False)
    assert found.b.options == SessionOptions(threads=1, optimization="none")
    assert found.a.options == SessionOptions()


def test_memory_load_and_external_size(save, tmp_path: Path) -> None:
    proto = onnx.parser.parse_model(TEXT.format("y = MatMul (x, w)"))
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.eye(8, dtype=np.float32), "w"))
    onnx.save(proto, tmp_path / "e.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    path = tmp_path / "e.onnx"
    assert external_files(path) == [tmp_path / "w.bin"]
    found = evaluate(path, path, time_s=0, samples=1)
    assert found.a.external_bytes == (tmp_path / "w.bin").stat().st_size >= 256
    assert found.a.bytes == found.a.external_bytes + path.stat().st_size
    assert found.a.process is not None
    assert found.problems == []


def test_failures_name_the_model(save, tmp_path: Path) -> None:
    a = save("a", A)
    different = save("d", A.replace("[batch, 8] x", "[batch, 8] z").replace("(x", "(z"))
    with pytest.raises(BadInput, match="different inputs: 'x'"):
        evaluate(a, different, time_s=0)
    # The reshape to 9 elements fails when it runs, not when it loads.
    runs_badly = save("bad", TEXT.format("s = Constant <value_ints = [3, 3]> ()  y = Reshape (x, s)"))
    with pytest.raises(OlcError, match=r"bad\.onnx: inference failed") as caught:
        evaluate(a, runs_badly, time_s=0, measure_memory=False)
    assert "Reshape" in caught.value.what
    (tmp_path / "empty.onnx").write_bytes(b"")
    with pytest.raises(OlcError, match=r"empty\.onnx"):
        evaluate(a, tmp_path / "empty.onnx", time_s=0)


def test_a_measurement_that_fails_is_said_and_does_not_fail_the_rest(save, monkeypatch) -> None:
    from olc.evaluation import process

    def refuse(path: str, *rest: object, **options: object) -> None:
        raise OlcError("no room", where=path)

    monkeypatch.setattr(process, "measure", refuse)
    found = evaluate(save("a", A), save("b", CLOSE), time_s=0)
    assert found.within
    assert found.a.process is None
    assert len(found.problems) == 2
    assert "no room" in found.problems[0]


def test_a_sample_that_the_reference_does_not_run_on_is_bad_input(save) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
        g (float[3] x, int64[1] at) => (float[1] y) { y = Gather<axis=0>(x, at) }"""
    a, b = save("a", text), save("b", text)
    x = np.zeros(3, np.float32)
    feeds = [{"x": x, "at": np.array([2])}, {"x": x, "at": np.array([3])}]
    with pytest.raises(BadInput, match="does not run on sample 1"):
        evaluate(a, b, feeds=feeds, time_s=0, measure_memory=False)
