"""LSTMs with weights in 8 bits, run by the runtime's kernel, beside the float ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from olc import ir, storage, targets
from olc.passes import Context
from olc.pipeline import Options, optimize
from olc.session import session

from tests.quantizing import SPEED, searched

WIDTH, HIDDEN = 12, 16


def lstm(outputs: str, declared: str) -> ir.Model:
    random = np.random.default_rng(4)
    proto = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 22]> g (float[T, N, {WIDTH}] x, float[2, N, {HIDDEN}] h) => ({declared}) '
        f'{{ [layer] {outputs} = LSTM<hidden_size = {HIDDEN}, direction = "bidirectional">(x, w, r, b, , h, h) }}'
    )
    for name, shape in (("w", (2, 4 * HIDDEN, WIDTH)), ("r", (2, 4 * HIDDEN, HIDDEN)), ("b", (2, 8 * HIDDEN))):
        proto.graph.initializer.append(onnx.numpy_helper.from_array((random.normal(size=shape) / 4).astype(np.float32), name))
    return storage.load_proto(proto)


EACH, LAST = f"float[T, 2, N, {HIDDEN}] y", f"float[2, N, {HIDDEN}] last"
CELL = f"float[2, N, {HIDDEN}] cell"


@pytest.mark.parametrize(
    ("outputs", "declared"),
    [
        ("y", EACH),
        ("y, last", EACH),  # what nobody reads is no output of the node
        ("y, last", f"{EACH}, {LAST}"),
        ("unread, last", LAST),
        ("unread, last, cell", CELL),
        ("y, last, cell", f"{EACH}, {LAST}, {CELL}"),
    ],
)
def test_whichever_outputs_are_read(outputs: str, declared: str, tmp_path: Path) -> None:
    source, made = lstm(outputs, declared), lstm(outputs, declared)
    rules = ("int8-lstm", "int8-lstm-and-last", "int8-lstm-and-states")
    sites = dict.fromkeys(rules, frozenset({"layer"}))
    optimize(made, Options(level=3, sites=sites, strict=True), Context(target=targets.get("onnxruntime-cpu")))
    assert [n.op_type for n in made.graph] == ["DynamicQuantizeLSTM"]
    random = np.random.default_rng(5)
    shapes = {"x": (9, 3, WIDTH), "h": (2, 3, HIDDEN)}
    feed = {name: random.normal(size=shape).astype(np.float32) / 2 for name, shape in shapes.items()}
    found = []
    for name, model in (("source", source), ("made", made)):
        storage.save(model, tmp_path / f"{name}.onnx")
        found.append(session(tmp_path / f"{name}.onnx", threads=1).run(None, feed))
    for exact, rounded in zip(*found, strict=True):
        error = np.square(exact - rounded).sum() / np.square(exact).sum()
        assert 0 < error < 1e-3  # seen: 9e-5; with codes up to 127, on a CPU where these saturate, 1e-2


def test_the_search_keeps_it_where_it_is_faster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(6)
    feeds = [{"x": random.normal(size=(9, 3, WIDTH)).astype(np.float32), "h": np.zeros((2, 3, HIDDEN), np.float32)}] * 3
    monkeypatch.setattr("tests.quantizing.FEEDS", feeds)
    for speed, kept in ((2.0, {"int8-lstm"}), (0.5, set())):
        monkeypatch.setattr("tests.quantizing.SPEED", SPEED | {"LSTM": 1.0, "DynamicQuantizeLSTM": speed})
        plan, _ = searched(lstm("y", EACH), tmp_path)
        assert {rule for rule, _ in plan.kept()} == kept
