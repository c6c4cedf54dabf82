"""ONNX text: what onnx prints comes back as the same model."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from olc import frontend
from olc.errors import BadInput
from olc.frontends import onnx_text
from olc.printer import digest

from tests.proto_tools import relu_chain

TEXT = """
# a model
<ir_version: 10, opset_import: ["": 21]>
g (float[N, 2] x) => (float[N, 2] y)
<float[2] w = {1, 2}>
{ [named] a = Mul (x, w)  y = Softmax <axis = 1> (a) }
"""


def test_names_and_attributes_come_through() -> None:
    model = frontend.load(TEXT)
    assert [n.name for n in model.graph] == ["named", ""]
    assert model.graph[1].attributes["axis"].value == 1
    assert model.graph.initializers["w"].const_value.numpy().tolist() == [1, 2]


def test_what_onnx_prints_comes_back(tmp_path: Path) -> None:
    model = frontend.load(TEXT)
    from olc import storage

    (tmp_path / "m.txt").write_text(onnx.printer.to_text(storage.to_proto(model)))
    assert digest(frontend.load(tmp_path / "m.txt")) == digest(model)


def test_the_place_of_a_mistake_is_said() -> None:
    with pytest.raises(BadInput) as caught:
        onnx_text.parse(TEXT.replace("Softmax", "=="), "m.onnxtxt")
    assert caught.value.where == "m.onnxtxt"
    assert "position (line: 6 column:" in caught.value.what
    assert "Syntax.html" in (caught.value.hint or "")


def test_a_wrong_model_in_right_text() -> None:
    with pytest.raises(BadInput, match=r"ai\.onnx has no operator 'Softmix'"):
        frontend.load(TEXT.replace("Softmax", "Softmix"))


def test_size_is_bounded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "m.txt").write_text(onnx.printer.to_text(relu_chain(100)))
    monkeypatch.setattr(onnx_text, "MAX_BYTES", 1000)
    with pytest.raises(BadInput, match="such a file ends at 1,000"):
        frontend.load(tmp_path / "m.txt")
    monkeypatch.setattr(onnx_text, "MAX_BYTES", 1 << 20)
    assert len(frontend.load(tmp_path / "m.txt").graph) == 100  # brackets in a row are not nested
    with pytest.raises(BadInput, match="more than 1 MiB of text"):
        frontend.load(TEXT + "#" * (1 << 20))
