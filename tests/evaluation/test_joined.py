"""What a Concat joined in an output is judged apart, and only where it is another quantity."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from olc import ir
from olc.evaluation.joined import cuts, judged
from olc.evaluation.numerics import compare
from olc.strategy.budget import Budget


def model(inputs: str, output: str, body: str) -> ir.Model:
    return ir.serde.deserialize_model(onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 18]> g ({inputs}) => ({output} y) {{ {body} }}'
    ))


DETECTOR = model(
    "float[B, 4, 50] boxes, float[B, 3, 50] scores", "float[B, 7, 50]",
    "b = Exp(boxes) s = Sigmoid(scores) y = Concat<axis = 1>(b, s)",
)


def test_wrong_scores_beside_boxes_in_pixels_break_the_budget() -> None:
    boxes, scores = np.full((1, 4, 50), 300.0, np.float32), np.random.default_rng(0).random((1, 3, 50), np.float32)
    right = {"y": np.concatenate([boxes, scores], axis=1)}
    wrong = {"y": np.concatenate([boxes, scores[:, ::-1]], axis=1)}
    assert Budget(0.99).breach(compare(right, wrong)) is None
    _, keep = judged(DETECTOR)
    assert "y[:, 4:7, :]" in str(Budget(0.99).breach(compare(keep({}, right), keep({}, wrong))))
    assert set(keep({}, right)) == {"y", "y[:, 0:4, :]", "y[:, 4:7, :]"}


@pytest.mark.parametrize(("output", "body", "expected"), [
    ("float[B, 50, 7]", "j = Concat<axis = 1>(b, s) y = Transpose<perm = [0, 2, 1]>(j)", {2: {4}}),
    ("float[B, 350]", "j = Concat<axis = 1>(b, s) n = Constant<value_ints = [0, 350]>() y = Reshape(j, n)", {}),
    ("float[B, 7, 5, 10]", "j = Concat<axis = 1>(b, s) n = Constant<value_ints = [0, 0, 5, 10]>() y = Reshape(j, n)", {1: {4}}),
    ("float[B, 1, 7, 50]", "j = Concat<axis = 1>(b, s) n = Constant<value_ints = [1]>() y = Unsqueeze(j, n)", {2: {4}}),
    ("float[B, 7, 50]", "j = Concat<axis = 1>(b, s) y = Softmax<axis = 1>(j)", {}),
    ("float[B, 50, 7]", "j = Concat<axis = 1>(b, s) t = Transpose<perm = [0, 2, 1]>(j) y = Softmax(t)", {}),
    ("float[B, 7, 100]", "j = Concat<axis = 1>(b, s) k = Concat<axis = 1>(b, s) y = Concat<axis = 2>(j, k)", {1: {4}}),
    ("float[B, 11, 50]", "j = Concat<axis = 1>(b, s) y = Concat<axis = 1>(j, b)", {1: {4, 7}}),
    ("float[B, 8, 50]", "c = Exp(boxes) y = Concat<axis = 1>(b, c)", {}),
    ("float[B, 8, 50]", "y = Concat<axis = 1>(boxes, b)", {}),
])  # fmt: skip
def test_where_parts_begin(output: str, body: str, expected: dict[int, set[int]]) -> None:
    m = model("float[B, 4, 50] boxes, float[B, 3, 50] scores", output, f"b = Exp(boxes) s = Sigmoid(scores) {body}")
    assert cuts(m) == ({"y": expected} if expected else {})


def test_parts_of_parts_of_parts_are_looked_at_once() -> None:
    blocks = " ".join(f"x{i + 1} = Concat<axis = 1>(x{i}, x{i})" for i in range(40))
    assert cuts(model("float[B, 1, 4] x", f"float[B, {2**40}, 4]", f"x0 = Exp(x) {blocks} y = Identity(x40)")) == {}


def test_sizes_that_are_not_known_are_not_cut() -> None:
    m = model("float[B, K, 50] boxes, float[B, 3, 50] scores", "float[B, M, 50]",
              "b = Exp(boxes) s = Sigmoid(scores) y = Concat<axis = 1>(b, s)")  # fmt: skip
    assert cuts(m) == {}


def test_a_model_that_joins_nothing_keeps_its_outputs() -> None:
    _, keep = judged(model("float[B, 4] x", "float[B, 4]", "y = Exp(x)"))
    y = np.ones((2, 4))
    assert set(keep({}, {"y": y})) == {"y"}
