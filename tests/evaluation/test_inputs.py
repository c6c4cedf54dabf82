"""Inputs made up from graphs: in range, in agreement with each other, and accepted by the model."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx
import onnx_ir
import pytest
from olc import ir
from olc.errors import BadInput
from olc.evaluation import inputs, roles, sizes
from olc.session import SessionOptions, run, session

Feed = dict[str, Any]


def model(text: str, **tables: np.ndarray) -> ir.Model:
    proto = onnx.parser.parse_model(text)
    for name, array in tables.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return onnx_ir.from_proto(proto)


def runner(m: ir.Model) -> Any:
    opened = session(onnx_ir.to_proto(m).SerializeToString(), options=SessionOptions(threads=1, optimization="basic"))
    return lambda feed: run(opened, feed)


def plan(m: ir.Model, seed: int = 0, **dims: int) -> inputs.Plan:
    made = inputs.plan(m, dims, seed, runner(m))
    json.dumps(made.to_dict())
    return made


def table(rows: int, width: int = 4) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((rows, width)).astype(np.float32)


BERT = """<ir_version: 10, opset_import: ["": 18]>
    g (int64[batch, seq] input_ids, int64[batch, seq] attention_mask, int32[batch, seq] token_type_ids,
       int64[batch, seq] position_ids) => (float y) {
        shape = Constant <value_ints = [0, -1]> ()
        a = Gather (words, input_ids)
        flat = Reshape (token_type_ids, shape)
        wide = Cast <to = 7> (flat)
        b = Gather (types, wide)
        c = Gather (places, position_ids)
        ab = Add (a, b)
        abc = Add (ab, c)
        axes = Constant <value_ints = [-1]> ()
        m = Unsqueeze (attention_mask, axes)
        f = Cast <to = 1> (m)
        y = Mul (abc, f)
    }"""


def bert() -> ir.Model:
    return model(BERT, words=table(1000), types=table(2), places=table(40))


def test_encoder() -> None:
    made = plan(bert(), seed=1, batch=4, seq=16)
    feed = made.make(0)
    ids, mask = feed["input_ids"], feed["attention_mask"]
    assert ids.dtype == np.int64
    assert ids.shape == (4, 16)
    assert ids.min() >= 1
    assert 500 < ids.max() < 1000  # spread over the whole table, within it
    assert feed["token_type_ids"].dtype == np.int32
    assert set(np.unique(feed["token_type_ids"])) == {0, 1}
    assert (feed["position_ids"] == np.arange(16)).all()
    assert (mask.sum(axis=1) > 0).all()
    assert mask.sum(axis=1).tolist() == [16, 12, 16, 12]
    assert (np.diff(mask, axis=1) <= 0).all()  # padding only at the end
    assert [n.role for n in made.describe()] == [roles.IDS, roles.MASK, roles.SEGMENTS, roles.POSITIONS]
    assert "'words'" in made.lines()[0]


def test_default_size_that_the_model_refuses_is_replaced() -> None:
    """128 tokens are the default, but the table of positions has 40 rows: positions past it would be out of range."""
    m = model("""<ir_version: 10, opset_import: ["": 18]>
        g (int64[batch, seq] input_ids) => (float y) {
            a = Gather (words, input_ids)
            s = Shape <start = 1, end = 2> (input_ids)
            n = Squeeze (s)
            zero = Constant <value_int = 0> ()
            one = Constant <value_int = 1> ()
            r = Range (zero, n, one)
            p = Gather (places, r)
            y = Add (a, p)
        }""", words=table(1000), places=table(40))  # fmt: skip
    made = plan(m)
    assert made.sizes.values["seq"] == 32
    assert made.sizes.origin["seq"] == "tried"
    assert made.tried == ["seq=32"]
    with pytest.raises(BadInput, match="128") as caught:
        plan(m, seq=128)
    assert "--data" in (caught.value.hint or "")


def test_samples_differ_and_repeat_with_the_seed() -> None:
    m = bert()
    first = inputs.synthesize(m, {"seq": 16}, seed=5, count=2, run=runner(m))
    again = inputs.synthesize(m, {"seq": 16}, seed=5, count=2, run=runner(m))
    other = inputs.synthesize(m, {"seq": 16}, seed=6, count=2, run=runner(m))
    assert all((first[i][n] == again[i][n]).all() for i in (0, 1) for n in first[i])
    assert (first[0]["input_ids"] != first[1]["input_ids"]).any()
    assert (first[0]["input_ids"] != other[0]["input_ids"]).any()
    # With one row a sample, padding comes in turn: the first sample is whole.
    assert [f["attention_mask"].sum() for f in first] == [16, 12]


DECODER = """<ir_version: 10, opset_import: ["": 18]>
    g (int64[batch, seq] input_ids, int64[batch, MASK] attention_mask, int64[batch, seq] position_ids,
       float[batch, 2, past, 4] past_key_values_0_key) => (float y, float[batch, 2, t, 4] present) {
        e = Gather (words, input_ids)
        p = Gather (places, position_ids)
        ep = Add (e, p)
        axes = Constant <value_ints = [1]> ()
        k = Unsqueeze (ep, axes)
        heads = Constant <value_ints = [1, 2, 1, 1]> ()
        k2 = Expand (k, heads)
        present = Concat <axis = 2> (past_key_values_0_key, k2)
        q = Transpose <perm = [0, 1, 3, 2]> (present)
        scores = MatMul (k2, q)
        axes2 = Constant <value_ints = [1, 2]> ()
        m = Unsqueeze (attention_mask, axes2)
        f = Cast <to = 1> (m)
        y = Mul (scores, f)
    }"""


@pytest.mark.parametrize("mask", ["total_seq", "s53", "past + seq"])
def test_decoder_with_cache(mask: str) -> None:
    """However the exporter calls the mask's length, it is past and new tokens together."""
    m = model(DECODER.replace("MASK", "M" if "+" in mask else mask), words=table(100), places=table(64))
    if "+" in mask:
        m.graph.inputs[1].shape = ir.Shape(["batch", mask])
    feed = plan(m, batch=2).make(0)
    assert feed["input_ids"].shape == (2, 1)
    assert feed["past_key_values_0_key"].shape == (2, 2, 16, 4)
    assert feed["attention_mask"].shape == (2, 17)
    kept = feed["attention_mask"]
    assert kept[0].all()
    assert kept[1].tolist() == [0] * 4 + [1] * 13  # padding at the head: the newest token is never padding
    assert feed["position_ids"].tolist() == [[16], [12]]
    longer = plan(m, past=8, seq=3).make(0)
    assert longer["attention_mask"].shape == (1, 11)
    assert longer["position_ids"].tolist() == [[8, 9, 10]]


def test_total_given_sets_the_past() -> None:
    m = model(DECODER.replace("MASK", "total_seq"), words=table(100), places=table(64))
    made = plan(m, total=20)
    assert made.sizes.values["past"] == 19
    assert made.make(0)["attention_mask"].shape == (1, 20)


def test_mask_that_covers_new_tokens_only_is_found_by_trial() -> None:
    m = model("""<ir_version: 10, opset_import: ["": 18]>
        g (int64[b, n] input_ids, int64[b, k] attention_mask, float[b, 2, p, 4] past_0_key) => (float y, float z) {
            e = Gather (words, input_ids)
            axes = Constant <value_ints = [-1]> ()
            m = Unsqueeze (attention_mask, axes)
            f = Cast <to = 1> (m)
            y = Mul (e, f)
            z = Relu (past_0_key)
        }""", words=table(100))  # fmt: skip
    made = inputs.plan(m, {"n": 4}, 0, runner(m))
    assert made.make(0)["attention_mask"].shape == (1, 4)
    assert made.sizes.origin["k"] == "tried"


def test_masks_by_dtype() -> None:
    m = model("""<ir_version: 10, opset_import: ["": 18]>
        g (float[b, 1, s, s] attention_mask, bool[b, s] key_mask, float[b, s] mask, float[b, s, s] scores)
          => (float y, bool z, float w) {
            q = Softmax (scores)
            u = Mul (scores, q)
            y = Add (u, attention_mask)
            z = Not (key_mask)
            one = Constant <value_float = 1.0> ()
            w = Sub (one, mask)
        }""")
    feed = plan(m, b=2, s=8).make(0)
    added = feed["attention_mask"]
    assert set(np.unique(added)) == {-10000.0, 0.0}
    assert (added[0] == 0).all()
    assert (added.max(axis=-1) == 0).all()  # no row is masked altogether
    assert feed["key_mask"].dtype == np.bool_
    assert feed["key_mask"].any(axis=1).all()
    assert set(np.unique(feed["mask"])) == {0.0, 1.0}


def test_pictures() -> None:
    text = """<ir_version: 10, opset_import: ["": 18]>
        g ({}[N, 3, H, W] x) => (float y) {{ f = Cast <to = 1> (x)  y = Conv (f, w) }}"""
    w = np.zeros((8, 3, 3, 3), np.float32)
    x = plan(model(text.format("float"), w=w)).make(0)["x"]
    assert x.shape == (1, 3, 224, 224)
    assert x.min() >= -2
    assert x.max() <= 2
    assert x.std() > 0.5
    assert np.abs(np.diff(x, axis=3)).mean() < 0.4  # neighbours agree
    assert (x[0, 0] != x[0, 1]).any()
    small = plan(model(text.format("uint8"), w=w), height=40, width=24).make(0)["x"]
    assert small.dtype == np.uint8
    assert small.shape == (1, 3, 40, 24)
    assert small.max() > 128


def test_unnamed_picture_size_is_tried() -> None:
    """A fixed weight on the flattened picture fits one height only, and nothing in the input's shape says which."""
    m = model("""<ir_version: 10, opset_import: ["": 18]>
        g (float[n, 3, h, w] x) => (float y) { y = MatMul (z, x) }""".replace("z, x", "x, m"),
        m=np.zeros((320, 2), np.float32))  # fmt: skip
    m.graph.inputs[0].shape = ir.Shape([None, 3, None, None])
    made = plan(m)
    assert made.make(0)["x"].shape[3] == 320
    assert made.sizes.origin["x.3"] == "tried"
    assert plan(m, **{"x.2": 7, "x.3": 320}).make(0)["x"].shape == (1, 3, 7, 320)
    assert inputs.plan(m, {"x[2]": 7}, 0, runner(m)).make(0)["x"].shape == (1, 3, 7, 320)


PIXELS = """<ir_version: 10, opset_import: ["": 18]> g (float[n, 3, {0}] x, int64[1] t) => (float y) {{
    flat = Constant <value_ints = [0, 0, -1]> () axes = Constant <value_ints = [1, 2]> ()
    q = Reshape (x, flat) k = Transpose <perm = [0, 2, 1]> (q) scores = MatMul (k, q)
    y = ReduceSum <keepdims = 0> (scores, axes) }}"""


@pytest.mark.parametrize("named", ["h, w", "a, b", ","])
def test_pictures_whose_pixels_attend_to_each_other_are_small(named: str) -> None:
    """224 x 224 pixels have 10 GB of scores."""
    if named == ",":
        m = model(PIXELS.format("h, w"))
        shape = m.graph.inputs[0].shape
        assert shape is not None
        m.graph.inputs[0].shape = onnx_ir.Shape([*shape[:2], None, None])
    else:
        m = model(PIXELS.format(named))
    ran: list[Any] = []
    made = inputs.plan(m, {}, 0, lambda feed: ran.append(feed["x"].shape))
    assert ran == [(1, 3, 128, 128)]
    assert {v["origin"] for v in made.to_dict()["sizes"].values() if v["kind"] in ("height", "width")} == {"less, for its memory"}
    corners = [c.shape(i) for c in sizes.around(made.sizes) for i in made.inputs if i.name == "x"]
    assert max(max(shape) for shape in corners) == 128
    tried = [(s.of("height") or 0) * (s.of("width") or 0) for s, _ in sizes.alternatives(made.sizes)]
    assert max(tried) <= 128 * 128 > min(tried)
    given = inputs.plan(m, {"height": 256}, 0, lambda feed: None)
    assert (given.sizes.of("height"), given.sizes.of("width")) == (256, 64), "what a user says stays"


def test_pictures_are_of_the_usual_size_where_a_smaller_one_does_not_help() -> None:
    m = model(
        """<ir_version: 10, opset_import: ["": 18]> g (float[1, 3, h, w] x) => (float y) {
        many = Constant <value_ints = [20000, 20000]> () z = ConstantOfShape (many) axes = Constant <value_ints = [0, 1]> ()
        s = ReduceSum <keepdims = 0> (z, axes) y = Add (x, s) }"""
    )
    assert inputs.plan(m, {}, 0, lambda feed: None).sizes.of("height") == 224


def test_speech_stream() -> None:
    m = model("""<ir_version: 10, opset_import: ["": 18]>
        g (float[n, t] input, float[2, n, 8] state, int64 sr) => (float y, float s, bool r) {
            axes = Constant <value_ints = [1]> ()
            u = Unsqueeze (input, axes)
            y = Conv (u, w)
            s = Relu (state)
            k = Constant <value_int = 16000> ()
            r = Equal (sr, k)
        }""", w=np.zeros((4, 1, 64), np.float32))  # fmt: skip
    made = plan(m)
    feed = made.make(0)
    assert [n.role for n in made.describe()] == [roles.AUDIO, roles.STATE, roles.RATE]
    assert feed["input"].shape == (1, 576)
    assert np.abs(feed["input"]).max() <= 0.5
    assert np.abs(feed["input"]).max() > 0.05
    assert feed["state"].shape == (2, 1, 8)
    assert feed["sr"].shape == ()
    assert feed["sr"] == 16000


def test_lengths_and_flags_beside_a_cache() -> None:
    m = model("""<ir_version: 10, opset_import: ["": 18]>
        g (int64[b, s] input_ids, float[b, 1, p, 2] past_key_values_0_value, int64 total_sequence_length,
           int32[b] seqlens_k, bool[1] use_cache_branch, int64[s] cache_position) => (float y) {
            y = Gather (words, input_ids)
        }""", words=table(100))  # fmt: skip
    feed = plan(m, b=2, s=3, p=5).make(0)
    assert feed["total_sequence_length"] == 8
    assert feed["seqlens_k"].tolist() == [7, 7]
    assert feed["use_cache_branch"].tolist() == [True]
    assert feed["cache_position"].tolist() == [5, 6, 7]


def test_integers_of_unknown_meaning_fall_back_to_zero() -> None:
    """An index into something that is no constant table: only the run shows that 0 to 3 is too much."""
    m = model("""<ir_version: 10, opset_import: ["": 18]>
        g (float[1, 4] x, int64[7] which) => (float y) { y = Gather <axis = 0> (x, which) }""")
    made = plan(m)
    assert made.cautious
    assert (made.make(0)["which"] == 0).all()
    assert "zeros" in made.lines()[1]


def test_tables_behind_casts_functions_and_bodies() -> None:
    m = model("""<ir_version: 10, opset_import: ["": 18, "own": 1]>
        g (int64[s] codes, int64[s] tokens, int64[s] units, bool c) => (float x, float y, float z) {
            x = own.Embed (codes, small)
            half = Cast <to = 10> (small)
            y16 = Gather (half, tokens)
            y = Cast <to = 1> (y16)
            z = If (c) <then_branch = t () => (float a) { a = Gather (small, units) },
                        else_branch = e () => (float b) { b = Gather (small, units) }>
        }
        <domain: "own", opset_import: ["": 18]> Embed (i, t) => (o) { k = Identity (i)  o = Gather (t, k) }""",
        small=table(7))  # fmt: skip
    found = {i.name: i.trace.rows for i in roles.inputs(m)}
    assert found["codes"] == 7
    assert found["tokens"] == 7
    assert found["units"] == 7
    feed = plan(m, s=500).make(0)
    for name in ("codes", "tokens", "units"):
        assert feed[name].max() == 6


@pytest.mark.parametrize(
    ("dtype", "kind", "low", "high"),
    [("float", "float32", -6, 6), ("float16", "float16", -6, 6), ("bfloat16", "bfloat16", -6, 6),
     ("int8", "int8", -128, 127), ("uint8", "uint8", 0, 255), ("int32", "int32", 0, 3), ("uint64", "uint64", 0, 3),
     ("double", "float64", -6, 6)],
)  # fmt: skip
def test_dtypes(dtype: str, kind: str, low: float, high: float) -> None:
    m = model(
        f'<ir_version: 10, opset_import: ["": 18]> g ({dtype}[5, 100] x) => ({dtype}[5, 100] y) {{ y = Identity (x) }}'
    )
    x = plan(m).make(0)["x"]
    assert x.dtype.name == kind
    wide = x.astype(np.float64)
    assert low <= wide.min() < wide.max() <= high


def test_strings_sequences_and_defaults() -> None:
    m = model("""<ir_version: 10, opset_import: ["": 18]>
        g (string[n] words, seq(float[2, 2]) parts, float[2] scale = {1, 1}) => (string w, float y, float z) {
            w = Identity (words)
            y = ConcatFromSequence <axis = 0> (parts)
            z = Relu (scale)
        }""")
    feed = plan(m).make(0)
    assert set(feed) == {"words", "parts"}  # scale has a default, which stays
    assert feed["words"].dtype == object
    assert [p.shape for p in feed["parts"]] == [(2, 2), (2, 2)]


def test_tables_that_a_caller_may_override() -> None:
    """torch's ``keep_initializers_as_inputs``: the default is what runs."""
    m = model(BERT.replace("int64[batch, seq] position_ids)", "int64[batch, seq] position_ids, float[1000, 4] words)"),
              words=table(1000), types=table(2), places=table(40))  # fmt: skip
    assert {i.name: i.trace.rows for i in roles.inputs(m)} == {i.name: i.trace.rows for i in roles.inputs(bert())}


def test_what_cannot_be_made_up_is_said() -> None:
    m = model('<ir_version: 10, opset_import: ["": 18]> g (float[2] x) => (float y) { y = Relu (x) }')
    m.graph.inputs[0].shape = None
    with pytest.raises(BadInput, match="shape of input 'x'") as caught:
        inputs.plan(m, {}, 0, lambda feed: None)
    assert "--data" in (caught.value.hint or "")


def test_dims_that_the_model_lacks() -> None:
    m = bert()
    with pytest.raises(BadInput, match="no dimension 'height'") as caught:
        plan(m, height=2)
    assert "batch, seq" in (caught.value.hint or "")
    with pytest.raises(BadInput, match="not a whole number"):
        plan(m, seq=-1)


def test_without_a_runner_a_temporary_copy_is_run() -> None:
    m = bert()
    (feed,) = inputs.synthesize(m, {"seq": 8})
    assert feed["input_ids"].shape == (1, 8)
    with pytest.raises(BadInput):
        inputs.synthesize(m, {"position_ids.1": 64})


def test_what_says_how_often_is_never_nothing() -> None:
    """A trip count of 0 leaves a sequence empty, and what joins it fails."""
    m = model("""<ir_version: 10, opset_import: ["": 18]>
        g (float[2] x, int64 n, int64 other) => (float[M] y, int64 z) {
            yes = Constant <value = bool {1}> ()
            none = SequenceEmpty ()
            all = Loop (n, yes, none) <body = b (int64 i, bool c, seq(float[2]) s) => (bool k, seq(float[2]) t) {
                k = Identity (c)
                t = SequenceInsert (s, x)
            }>
            y = ConcatFromSequence <axis = 0> (all)
            z = Neg (other)
        }""")
    made = plan(m)
    samples = [made.make(i) for i in range(20)]
    assert {int(s["n"]) for s in samples} == {1, 2, 3}
    assert {int(s["other"]) for s in samples} == {0, 1, 2, 3}
    assert "uniform from 1 to 3" in made.lines()[1]
