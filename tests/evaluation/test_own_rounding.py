"""Sources that round what flows through them are held to what their own rounding leaves open."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from olc import ir, storage
from olc.evaluation import numerics, own_rounding
from olc.evaluation.padding import as_it_is
from olc.session import SessionOptions, run, session

DYNAMIC = """g (float[N,64] x) => (float[N,64] y) {
    n = LayerNormalization<axis = -1>(x, scale, shift) q, s, z = DynamicQuantizeLinear(n)
    i = MatMulInteger(q, w, z) f = Cast<to = 1>(i) t = Mul(s, unit) y = Mul(f, t) }"""
FLOAT = "g (float[N,64] x) => (float[N,64] y) { n = LayerNormalization<axis = -1>(x, scale, shift) y = MatMul(n, v) }"
HALF = "g (float[N,64] x) => (float[N,64] y) { h = Cast<to = 10>(x) n = Mul(h, h) y = Cast<to = 1>(n) }"
TURNED = "g (float[N,64] x) => (float[N,64] y) { t = Transpose(half) d = Cast<to = 1>(t) y = MatMul(x, d) }"
STORED = "g (float[N,64] x) => (float[N,64] y) { d = Cast<to = 1>(half) y = MatMul(x, d) }"


def model(text: str) -> ir.Model:
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 18]> {text}')
    random = np.random.default_rng(0)
    held = {
        "scale": random.uniform(0.5, 2, 64).astype(np.float32), "shift": random.standard_normal(64).astype(np.float32),
        "w": random.integers(-127, 128, (64, 64)).astype(np.int8), "unit": np.float32(0.01),
        "v": random.standard_normal((64, 64)).astype(np.float32), "half": random.standard_normal((64, 64)).astype(np.float16),
    }  # fmt: skip
    used = {i for n in proto.graph.node for i in n.input}
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(np.asarray(a), k) for k, a in held.items() if k in used)
    return ir.serde.deserialize_model(proto)


def asked(text: str, folder: Path, x: np.ndarray) -> tuple[own_rounding.OwnRounding, Any]:
    source = model(text)
    storage.save(source, folder / "m.onnx")
    opened = session(folder / "m.onnx")
    made = own_rounding.OwnRounding(
        source, folder / "m.onnx", folder, lambda path, options: session(path, options=options), SessionOptions(),
        lambda: [{"x": x}],
    )  # fmt: skip
    return made, run(opened, {"x": x}, where="m")["y"]


@pytest.mark.parametrize(("text", "expected"), [(DYNAMIC, True), (FLOAT, False), (STORED, False)])
def test_what_rounds(text: str, expected: bool) -> None:
    assert own_rounding.rounds(model(text)) is expected


@pytest.mark.parametrize(("text", "expected"), [(DYNAMIC, False), (HALF, True), (STORED, False), (TURNED, False)])
def test_what_computes_in_half_precision(text: str, expected: bool) -> None:
    assert own_rounding.halves(model(text)) is expected


def differences(reference: np.ndarray, candidate: np.ndarray) -> list[numerics.OutputDifference]:
    return numerics.compare({"y": reference}, {"y": candidate})


def test_a_step_up_or_down_is_no_difference_and_a_wrong_scale_is_one(tmp_path: Path) -> None:
    x = np.random.default_rng(1).standard_normal((8, 64)).astype(np.float32)
    own, y = asked(DYNAMIC, tmp_path, x)
    again = model(DYNAMIC)
    storage.save(own_rounding.moved(again, 7), tmp_path / "other.onnx")
    other = run(session(tmp_path / "other.onnx"), {"x": x}, where="other")["y"]
    assert numerics.first_difference(differences(y, other)) is not None
    found = differences(y, other)
    assert own.breach(found, as_it_is) is None
    assert found[0].within()
    assert "last digits" in own.notes[0]
    assert own.breach(differences(y, y * np.float32(1.1)), as_it_is) is not None
    assert own.breach(differences(y, np.full_like(y, np.nan)), as_it_is) is not None


def test_a_source_that_rounds_nothing_is_held_to_single_elements(tmp_path: Path) -> None:
    own, y = asked(FLOAT, tmp_path, np.ones((2, 64), np.float32) * np.arange(64, dtype=np.float32))
    assert own.breach(differences(y, y * np.float32(1.01)), as_it_is) is not None
    assert not own.notes


def test_outputs_of_half_precision_are_judged_as_such(tmp_path: Path) -> None:
    own, y = asked(HALF, tmp_path, np.ones((2, 64), np.float32))
    assert own.breach(differences(y, y * np.float32(1.005)), as_it_is) is None
    assert own.breach(differences(y, y * np.float32(1.1)), as_it_is) is not None


def test_what_is_small_beside_the_rest_is_not_lost_in_it(tmp_path: Path) -> None:
    """Boxes in pixels beside scores: half of the columns hold a 500th of the power."""
    x = np.random.default_rng(1).standard_normal((40, 64)).astype(np.float32)
    own, y = asked(DYNAMIC, tmp_path, x)
    y = y * np.where(np.arange(64) < 32, 1, 1 / 20).astype(np.float32)
    wrong = np.where(np.arange(64) < 32, y, 0).astype(np.float32)
    found = differences(y, wrong)
    assert found[0].moved is not None
    assert found[0].moved < 0.06
    left = own_rounding.Open(moved=0.05, part=0.05)
    own.known[as_it_is.__qualname__] = {"y": left}
    assert "a part of it moves by 1" in (own.breach(found, as_it_is) or "")


def test_that_nothing_could_be_learnt_of_the_source_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, y = asked(DYNAMIC, tmp_path, np.ones((2, 64), np.float32))
    monkeypatch.setattr(own, "_variants", lambda: [(tmp_path / "gone.onnx", SessionOptions())])
    assert "not known: no such file" in str(own.breach(differences(y, y * np.float32(1.01)), as_it_is))


def test_the_best_of_what_is_rounded_may_be_another(tmp_path: Path) -> None:
    text = DYNAMIC.replace("(float[N,64] y)", "(int64[N] best)").replace("y = Mul(f, t)",
                           "y = Mul(f, t) best = ArgMax<axis = -1, keepdims = 0>(y)")  # fmt: skip
    x = np.random.default_rng(1).standard_normal((64, 64)).astype(np.float32)
    source = model(text)
    storage.save(source, tmp_path / "m.onnx")
    own = own_rounding.OwnRounding(
        source, tmp_path / "m.onnx", tmp_path, lambda path, options: session(path, options=options), SessionOptions(),
        lambda: [{"x": x}],
    )  # fmt: skip
    best = run(session(tmp_path / "m.onnx"), {"x": x}, where="m")["best"]
    share = own.left_open(None, as_it_is)["best"].share
    other = best.copy()
    other[: int(np.ceil(share * 64))] += 1
    assert own.breach(numerics.compare({"best": best}, {"best": other}), as_it_is) is None
    assert own.breach(numerics.compare({"best": best}, {"best": best + 1}), as_it_is) is not None


def test_moved_constants_stay_finite() -> None:
    source = model(FLOAT)
    source.graph.initializers["shift"].const_value = ir.Tensor(np.full(64, np.finfo(np.float32).min))
    made = own_rounding.moved(source, 0)
    assert np.isfinite(ir.array(made.graph.initializers["shift"])).all()
    assert (ir.array(made.graph.initializers["scale"]) != ir.array(source.graph.initializers["scale"])).any()
