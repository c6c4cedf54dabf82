"""What a target arranges at the end is looked after like every other pass."""

from __future__ import annotations

from pathlib import Path

import olc
import onnx
import pytest
from olc import ir
from olc.passes import Context
from olc.targets.onnxruntime_cpu import OnnxRuntimeCpu


def wrong(self: OnnxRuntimeCpu, model: ir.Model, ctx: Context) -> int:
    """Does something else than the model."""
    for node in model.graph:
        node.attributes["alpha"] = ir.make_attr("alpha", 0.9)
    return len(model.graph)


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    text = '<ir_version: 10, opset_import: ["" : 20]> g (float[N, 8] x) => (float[N, 8] y) { y = LeakyRelu<alpha = 0.1>(x) }'
    onnx.save(onnx.parser.parse_model(text), tmp_path / "m.onnx")
    monkeypatch.setattr(OnnxRuntimeCpu, "arrange", wrong)
    return tmp_path / "m.onnx"


def test_what_was_arranged_wrong_is_taken_back(source: Path) -> None:
    report = olc.compile(source, source.with_name("out.onnx"))
    assert [t["rule"] for t in report.taken_back] == ["arrange"]


def test_it_can_be_skipped(source: Path) -> None:
    assert not olc.compile(source, source.with_name("out.onnx"), skip=frozenset({"arrange"})).taken_back
