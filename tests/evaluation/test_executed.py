"""What the runtime executes: its own fusions are seen, and each run counts once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from olc import frontend
from olc.errors import OlcError
from olc.evaluation.executed import _alone, executed, fused_by_the_runtime
from olc.session import SessionOptions

BIAS_GELU = """<ir_version: 10, opset_import: ["": 20]> g (float[N, 8] x) => (float[N, 8] y)
<float[8] b = {1, 2, 3, 4, 5, 6, 7, 8}> { t = Add(x, b) y = Gelu(t) }"""
LOOP = """<ir_version: 10, opset_import: ["": 20]> g (float[4] x, int64 n) => (float[4] y) {
  c = Constant<value = bool {1}>()
  y = Loop(n, c, x) <body = b (int64 i, bool k, float[4] h) => (bool k2, float[4] z) { k2 = Identity(k) z = Exp(h) }>
}"""


@pytest.fixture
def save(tmp_path: Path):
    def write(text: str) -> Path:
        onnx.save(onnx.parser.parse_model(text), tmp_path / "m.onnx")
        return tmp_path / "m.onnx"

    return write


def test_the_runtimes_own_fusions_are_seen(save) -> None:
    path, feed = save(BIAS_GELU), {"x": np.ones((2, 8), np.float32)}
    rows = executed(path, feed)
    assert [(r.operator, r.count) for r in rows] == [("BiasGelu", 1)]
    assert fused_by_the_runtime(frontend.load(path), rows) == {"BiasGelu": 1}
    plain = executed(path, feed, SessionOptions(optimization="none"))
    assert sorted((r.operator, r.count) for r in plain) == [("Add", 1), ("Gelu", 1)]
    assert fused_by_the_runtime(frontend.load(path), plain) == {}
    assert all(r.microseconds >= 0 for r in plain)


def test_a_body_counts_as_often_as_it_runs(save) -> None:
    rows = executed(save(LOOP), {"x": np.zeros(4, np.float32), "n": np.array(3)})
    assert {r.operator: r.count for r in rows}["Exp"] == 3


def test_what_cannot_run_is_an_error_that_names_the_file(save) -> None:
    with pytest.raises(OlcError) as caught:
        executed(save(BIAS_GELU), {"x": np.ones((2, 7), np.float32)})
    assert "m.onnx" in str(caught.value.where)


def test_the_time_of_a_body_is_not_counted_twice() -> None:
    def event(op: str, ts: int, dur: int) -> dict:
        return {"ts": ts, "dur": dur, "args": {"op_name": op}}

    found = _alone([event("Exp", 10, 20), event("Exp", 40, 20), event("Loop", 0, 100), event("Neg", 100, 5)])
    assert [(e["args"]["op_name"], e["dur"]) for e in found] == [("Exp", 20), ("Exp", 20), ("Loop", 60), ("Neg", 5)]
