"""Inputs from files, folders and functions: checked against the model, never changed silently."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir
import pytest
from olc.errors import BadInput
from olc.evaluation.data import Expected, check, declared, expected, load, split
from olc.session import session

TEXT = """<ir_version: 10, opset_import: ["": 18]>
    g (float[N, 3] x, int64[N] n, string[N] s, bfloat16[1] b) => (float y, int64 m, string t, bfloat16 c)
    { y = Relu (x)  m = Identity (n)  t = Identity (s)  c = Identity (b) }"""
INPUTS = [
    Expected("x", "float32", (None, 3), ("N", 3)), Expected("n", "int64", (None,), ("N",)),
    Expected("s", "string", (None,), ("N",)), Expected("b", "bfloat16", (1,), (1,)),
]  # fmt: skip


def feed(**changes: Any) -> dict[str, Any]:
    base = {
        "x": np.ones((2, 3), np.float32), "n": np.arange(2), "s": np.array(["a", "b"]),
        "b": np.ones(1, ml_dtypes.bfloat16),
    }  # fmt: skip
    return {**base, **changes}


def test_expectations_from_session_and_graph_agree() -> None:
    proto = onnx.parser.parse_model(TEXT)
    assert expected(session(proto.SerializeToString())) == INPUTS
    assert declared(onnx_ir.from_proto(proto)) == INPUTS


def test_npz(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "one.npz", x=np.ones((2, 3)), n=np.arange(2, dtype=np.int8), s=np.array(["a", "b"]), b=np.ones(1)
    )
    (found,) = load(tmp_path / "one.npz", INPUTS)
    assert {k: v.dtype.name for k, v in found.items()} == {"x": "float32", "n": "int64", "s": "object", "b": "bfloat16"}
    assert list(found) == ["x", "n", "s", "b"]


def test_folder_is_read_in_order_and_lazily(tmp_path: Path) -> None:
    for i in (2, 10, 1):
        np.savez(tmp_path / f"{i:02}.npz", x=np.full((1, 3), i, np.float32))
    (tmp_path / "notes.txt").write_text("not data")
    data = load(tmp_path, INPUTS[:1])
    assert [int(f["x"][0, 0]) for f in data] == [1, 2, 10]
    assert [int(f["x"][0, 0]) for f in data] == [1, 2, 10]  # again
    (tmp_path / "02.npz").write_bytes(b"broken")
    reader = iter(data)
    assert next(reader)["x"][0, 0] == 1
    with pytest.raises(BadInput, match=r"02\.npz: cannot be read"):
        next(reader)


def test_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine_of_test_data.py").write_text(
        "import numpy as np\ndef feeds():\n    for i in range(3):\n        yield {'x': np.full((1, 3), i)}\n"
        "def single():\n    return {'x': np.zeros((1, 3))}\ndef wrong():\n    return [1]\n"
        "def none():\n    return []\nvalue = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    assert [f["x"].dtype.name for f in load("mine_of_test_data:feeds", INPUTS[:1])] == ["float32"] * 3
    assert len(list(load("mine_of_test_data:single", INPUTS[:1]))) == 1
    for name, what in (("wrong", "not a dict"), ("none", "no sample")):
        with pytest.raises(BadInput, match=what):
            list(load(f"mine_of_test_data:{name}"))
    for spec, what in (("mine_of_test_data:value", "no function"), ("absent_module:f", "cannot be imported"),
                       ("nowhere.npz", "no such file")):  # fmt: skip
        with pytest.raises(BadInput, match=what):
            load(spec)


def test_empty_folder_and_wrong_files(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no \.npz"):
        load(tmp_path)
    np.save(tmp_path / "a.npy", np.ones(1))
    with pytest.raises(BadInput, match="one array"):
        list(load(tmp_path / "a.npy"))
    np.savez(tmp_path / "code.npz", x=np.array([{}], dtype=object))
    with pytest.raises(BadInput, match="cannot be read"):
        list(load(tmp_path / "code.npz"))


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"z": 1}, "no input 'z'"),
        ({"x": np.ones((2, 4), np.float32)}, r"shape \[2, 4\], the model takes \['\?', 3\]"),
        ({"x": np.ones(3, np.float32)}, "shape"),
        ({"x": np.full((1, 3), 1e60)}, "would change its values"),
        ({"x": np.full((1, 3), 2**24 + 1, np.int64)}, "would change its values"),
        ({"n": np.array([1.5, 2])}, "would change its values"),
        ({"n": np.array([2.0**63, 1])}, "would change its values"),
        ({"n": np.array(["1", "2"])}, "the model takes int64"),
        ({"s": np.array([1, 2])}, "the model takes strings"),
        ({"b": np.array([1.001])}, "would change its values"),
    ],
)
def test_misfits(changes: dict[str, Any], what: str) -> None:
    with pytest.raises(BadInput, match=what):
        check(feed(**changes), INPUTS)


def test_a_missing_input_lists_what_is_there() -> None:
    given = feed()
    del given["n"]
    with pytest.raises(BadInput, match="'n' is missing") as caught:
        check(given, INPUTS, "here")
    assert caught.value.where == "here"
    assert "x, s, b" in (caught.value.hint or "")


def test_lossless_casts_pass() -> None:
    nan = np.array([[np.nan, np.inf, 0.5]])
    found = check(feed(x=nan, n=np.array([3.0, -2.0]), b=[1.0]), INPUTS)
    assert np.array_equal(found["x"], nan, equal_nan=True)
    assert found["n"].tolist() == [3, -2]


def test_split_keeps_samples_apart() -> None:
    feeds = [{"x": i} for i in range(7)]
    calibration, judging = split(feeds)
    assert [f["x"] for f in calibration] == [1, 3, 5]
    assert [f["x"] for f in judging] == [0, 2, 4, 6]
    assert split(feeds[:1]) == ([], feeds[:1])
    lazy = split(f for f in feeds)[1]
    assert [f["x"] for f in lazy] == [0, 2, 4, 6]


def test_labels_are_kept_beside_the_inputs_and_never_fed(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.ones((1, 3), np.float32), label=np.array([3]), label_text=np.array("what is said"))
    data = load(tmp_path, INPUTS[:1])
    assert [list(f) for f in data] == [["x"]]
    for _ in range(2):  # it may be iterated again
        (sample,) = data.labelled()
        assert list(sample) == ["x", "label", "label_text"]
        assert str(sample["label_text"]) == "what is said"
    calibrating, judging = split(data.labelled())
    assert not list(calibrating)
    assert [list(f) for f in judging] == [["x", "label", "label_text"]]


def test_an_input_called_label_is_an_input() -> None:
    inputs = [Expected("labels", "int64", (None,))]
    assert list(check({"labels": np.arange(2), "label": 1}, inputs)) == ["labels"]
    with pytest.raises(BadInput, match="input 'labels' is missing"):
        check({"label": np.arange(2)}, inputs)


def test_a_key_that_is_neither_input_nor_label() -> None:
    with pytest.raises(BadInput, match=r"no input 'score' .*the key of a label begins with 'label'"):
        check({"x": np.ones((1, 3)), "score": 1}, INPUTS[:1])


DECODER = """<ir_version: 10, opset_import: ["": 18]>
    g (float[B, S, 4] x, float[B, 2, P, 4] past_key, float[B, 2, P, 4] past_value, float[1, B, 3] state)
    => (float[B, 2, T, 4] present_key, float[B, 2, T, 4] present_value, float[1, B, 3] new_state)
    { heads = Constant <value_ints = [1]> () x4 = Unsqueeze (x, heads) two = Concat <axis = 1> (x4, x4)
      present_key = Concat <axis = 2> (past_key, two) present_value = Concat <axis = 2> (past_value, two)
      new_state = Neg (state) }"""


def test_a_prompt_begins_with_empty_caches() -> None:
    proto = onnx.parser.parse_model(DECODER)
    opened = session(proto.SerializeToString())
    inputs = expected(opened)
    assert inputs == declared(onnx_ir.from_proto(proto))
    x, state, past = np.ones((3, 5, 4), np.float32), np.ones((1, 3, 3), np.float32), np.ones((3, 2, 7, 4), np.float32)
    found = check({"x": x, "state": state}, inputs)
    assert found["past_key"].shape == found["past_value"].shape == (3, 2, 0, 4)
    assert check({"x": x, "state": state, "past_key": past, "past_value": past}, inputs)["past_key"].shape[2] == 7
    with pytest.raises(BadInput, match="'state' is missing"):  # a state is no cache
        check({"x": x}, inputs)
    with pytest.raises(BadInput, match="'past_value' is missing"):
        check({"x": x, "state": state, "past_key": past}, inputs)
