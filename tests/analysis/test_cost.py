"""What arithmetic on shapes says, and what it leaves open."""

from __future__ import annotations

from olc.analysis import cost, shapes
from olc.summary import summarize

from tests.analysis.test_shapes import parsed, values


def costs(text: str, sizes: dict[str, int]) -> dict[str, cost.NodeCost]:
    model = parsed(text)
    shapes.infer(model)
    return {n.op: n for n in cost.of_model(model, sizes).nodes}


def test_a_number_that_only_data_holds_leaves_the_shape_open() -> None:
    text = "g (float[N, 9] x, int64[1] k) => (float[N, K] y, int64[N, K] i) { v, i = TopK(x, k)  y = Relu(v) }"
    found = costs(text, {"N": 2})
    assert found["Relu"].flops is None
    assert found["Relu"].bytes is None


def test_sizes_that_do_not_fit_leave_the_shape_open() -> None:
    model = parsed("g (float[N] x, float[M] z) => (float[K] y) { y = Add(x, z) }")
    shapes.infer(model)
    y = values(model)["y"]
    assert cost.shape_of(y, {"N": 2, "M": 3}) is None
    assert cost.shape_of(y, {"N": 3, "M": 1}) == (3,)


def test_texts_have_no_bytes() -> None:
    text = "g (string[N] s, float[N] x) => (string[N] y, float[N] z) { y = StringConcat(s, s)  z = Relu(x) }"
    found = costs(text, {"N": 4})
    assert found["StringConcat"].bytes is None
    assert found["Relu"].bytes == 32


def test_what_is_no_tensor_is_named() -> None:
    text = "g (seq(float[N, 4]) s, int64 i) => (float[N, 4] y) { y = SequenceAt(s, i) }"
    facts = summarize(parsed(text), "onnxruntime-cpu", {})
    assert facts["inputs"]["s"].startswith("seq(f32")
