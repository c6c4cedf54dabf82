"""Decoders token by token: the loop gives what plain runs with caches in numpy give, whatever the form of the cache."""

from __future__ import annotations

import ctypes
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import olc
import onnx
import pytest
from olc import ir, storage, targets
from olc.analysis import shapes
from olc.assumptions import COVERS_KEYS, KEEPS_A_KEY
from olc.decoding import SHARED, Decoder, Port, decoder, find_pairs
from olc.digest import digest
from olc.errors import BadInput, OlcError, Unsupported
from olc.passes import Context
from olc.pipeline import Options, optimize
from olc.session import session
from olc.targets import shared_cache

from models import corpus

# A decoder of one layer: two heads of queries, one of keys and values, 8 wide; logits over 32 tokens.
HEAD = """
<ir_version: 10, opset_import: ["" : 23]>
decoder (int64[batch, seq] input_ids, int64[batch, total_seq] attention_mask, float[batch, 1, past_seq, 8] past_key_0,
         float[batch, 1, past_seq, 8] past_value_0)
     => (float[batch, seq, 32] logits, float[batch, 1, n, 8] present_key_0, float[batch, 1, n, 8] present_value_0)
<float[32, 16] table, float[16, 8] wk, float[16, 8] wv, float[16, 32] wo>
{
"""
MASK = """
    zero = Constant<value_int = 0>()
    one = Constant<value_int = 1>()
    first = Constant<value_ints = [0]>()
    three = Constant<value_ints = [0, 1, 2]>()
    across = Constant<value_ints = [0, 1, 3]>()
    heads = Constant<value_ints = [1, 2]>()
    s = Shape<start = 1, end = 2>(input_ids)
    p = Shape<start = 2, end = 3>(past_key_0)
    t = Add(s, p)
    s0 = Squeeze(s, first)
    p0 = Squeeze(p, first)
    t0 = Squeeze(t, first)
    keys = Range(zero, t0, one)
    k4 = Unsqueeze(keys, three)
    new = Range(zero, s0, one)
    places = Add(new, p0)
    q4 = Unsqueeze(places, across)
    causal = LessOrEqual(k4, q4)
    bools = Cast<to = 9>(attention_mask)
    padding = Unsqueeze(bools, heads)
    mask = And(causal, padding)
"""
CORE = """
    x = Gather(table, input_ids)
    k = MatMul(x, wk)
    v = MatMul(x, wv)
    y, present_key_0, present_value_0 = Attention<q_num_heads = 2, kv_num_heads = 1>
        (x, k, v, mask, past_key_0, past_value_0)
    h = Add(x, y)
    logits = MatMul(h, wo)
}
"""
USES = "z = ReduceSum<keepdims = 0>({})\n    u = Mul(y, z)\n    h = Add(x, u)"


def model(text: str = HEAD + MASK + CORE) -> bytes:
    """The model of that text, its weights drawn."""
    proto = onnx.parser.parse_model(text)
    rng = np.random.default_rng(3)
    for weight in proto.graph.value_info:
        shape = [dim.dim_value for dim in weight.type.tensor_type.shape.dim]
        drawn = rng.standard_normal(shape).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(drawn, weight.name))
    onnx.checker.check_model(proto)
    return proto.SerializeToString()


def share(source: bytes, **options: object) -> bytes:
    """The source in the shared form."""
    found = storage.load_bytes(source)
    shared_cache.run(found, Context(target=targets.get("onnxruntime-cpu"), **options))  # type: ignore[arg-type]
    return storage.to_bytes(found)


class Plain:
    """Runs of a session, caches in numpy: what the loop is compared with."""

    def __init__(self, source: bytes, batch: int) -> None:
        self.opened = session(source, threads=1)
        self.outputs = [v.name for v in self.opened.get_outputs()]
        self.caches = {
            v.name: np.zeros([batch if i == 0 else 0 if i == 2 else n for i, n in enumerate(v.shape)], np.float32)
            for v in self.opened.get_inputs() if v.name.startswith("past")
        }  # fmt: skip

    def step(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        found = dict(zip(self.outputs, self.opened.run(self.outputs, {**feeds, **self.caches}), strict=True))
        presents = {name: name.replace("past_key_values", "past").replace("past", "present") for name in self.caches}
        self.caches = {past: found.pop(present) for past, present in presents.items()}
        return found


def feeds(tokens: np.ndarray, mask: np.ndarray, positions: bool = False) -> dict[str, np.ndarray]:
    """What to feed for the new tokens, int64 [batch, seq]; mask: int64 [batch, all tokens]."""
    found = {"input_ids": tokens, "attention_mask": mask}
    if positions:
        places = np.arange(mask.shape[1] - tokens.shape[1], mask.shape[1])
        found["position_ids"] = np.tile(places, (len(tokens), 1))
    return found


def generate(loop: Decoder | Plain, batch: int, positions: bool = False, padded: bool = False) -> np.ndarray:
    """Greedy tokens and their logits: a prompt of 5, then steps of 1, 2 and 1 tokens; float32 [steps, batch, vocabulary]."""
    tokens = np.arange(3, 3 + 5 * batch).reshape(batch, 5)
    mask = np.ones((batch, 5), np.int64)
    if padded:
        mask[-1, :2] = 0
    seen = []
    for count in (1, 2, 1, 0):
        logits = loop.step(feeds(tokens, mask, positions))["logits"]
        seen.append(logits[:, -1])
        chosen = logits[:, -1].argmax(-1)[:, None]
        tokens = np.concatenate([chosen, (chosen + 7) % logits.shape[-1]], axis=1)[:, :count]
        mask = np.concatenate([mask, np.ones((batch, count), np.int64)], axis=1)
    return np.stack(seen)


def close(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert np.isfinite(theirs).all()
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * np.abs(theirs).max())


# --- the loop --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["ports", "shared"])
@pytest.mark.parametrize(("batch", "padded"), [(1, False), (2, False), (2, True)])
def test_the_loop_gives_what_plain_runs_give(form: str, batch: int, padded: bool) -> None:
    source = model()
    loop = decoder(share(source) if form == "shared" else source, capacity=9, threads=1)
    assert loop.shared == (form == "shared")
    expected = generate(Plain(source, batch), batch, padded=padded)
    close(generate(loop, batch, padded=padded), expected)
    assert loop.length == 9
    loop.reset()
    assert loop.length == 0
    close(generate(loop, batch, padded=padded), expected)


def test_what_was_masked_matters() -> None:
    """That the comparison with padding would notice a mask that is ignored."""
    one, other = (generate(Plain(model(), 2), 2, padded=padded) for padded in (False, True))
    assert np.abs(one - other).max() > 1e-2


def test_another_batch_after_reset() -> None:
    for source in (model(), share(model())):
        loop = decoder(source, capacity=16, threads=1)
        generate(loop, 1)
        loop.reset()
        close(generate(loop, 3), generate(Plain(model(), 3), 3))


def test_the_shared_form_writes_into_one_buffer_and_reads_nothing_beyond_the_tokens() -> None:
    loop, plain = decoder(share(model()), capacity=12, threads=1), Plain(model(), 1)
    first = feeds(np.array([[1, 2]]), np.ones((1, 2), np.int64))
    close(loop.step(first)["logits"], plain.step(first)["logits"])
    places = {name: value.data_ptr() for name, value in loop._caches.items()}
    for name, place in places.items():
        held = loop._caches[name].numpy()
        assert held.shape == (1, 1, 12, 8)
        assert (held[:, :, :2] == plain.caches[name]).all()
        ctypes.memset(place + 2 * 8 * 4, 0xFF, 10 * 8 * 4)  # NaN
    second = feeds(np.array([[3]]), np.ones((1, 3), np.int64))
    close(loop.step(second)["logits"], plain.step(second)["logits"])
    assert {name: value.data_ptr() for name, value in loop._caches.items()} == places
    for name in places:
        held = loop._caches[name].numpy()
        assert (held[:, :, :3] == plain.caches[name]).all()
        assert np.isnan(held[:, :, 3:]).all()


@pytest.mark.parametrize("form", ["ports", "shared"])
def test_a_full_cache_is_said_and_nothing_is_lost(form: str) -> None:
    source = share(model()) if form == "shared" else model()
    loop, plain = decoder(source, capacity=4, threads=1), Plain(model(), 1)
    first = feeds(np.array([[1, 2, 3]]), np.ones((1, 3), np.int64))
    close(loop.step(first)["logits"], plain.step(first)["logits"])
    with pytest.raises(BadInput, match=r"holds 4 tokens, and this step makes them 5.*larger capacity"):
        loop.step(feeds(np.array([[4, 5]]), np.ones((1, 5), np.int64)))
    assert loop.length == 3
    last = feeds(np.array([[6]]), np.ones((1, 4), np.int64))
    close(loop.step(last)["logits"], plain.step(last)["logits"])


def test_wrong_feeds_are_named() -> None:
    loop = decoder(share(model()), capacity=8, threads=1)
    tokens, mask = np.array([[1, 2]]), np.ones((1, 2), np.int64)
    with pytest.raises(BadInput, match="input 'attention_mask' is not fed"):
        loop.step({"input_ids": tokens})
    with pytest.raises(BadInput, match="'past_key_0' is no input to feed"):
        loop.step({**feeds(tokens, mask), "past_key_0": np.zeros((1, 1, 0, 8), np.float32)})
    with pytest.raises(BadInput, match="axis 1 of 'attention_mask' is 3, but 0 tokens are in the cache and 2 are new"):
        loop.step(feeds(tokens, np.ones((1, 3), np.int64)))
    with pytest.raises(BadInput, match="'attention_mask' has rank 1"):
        loop.step(feeds(tokens, mask[0]))
    with pytest.raises(OlcError, match="inference failed"):
        loop.step(feeds(tokens.astype(np.int32), mask))
    assert loop.length == 0


def test_a_capacity_that_holds_nothing() -> None:
    with pytest.raises(BadInput, match="capacity of 0"):
        decoder(model(), capacity=0)


COUNTER = """
<ir_version: 10, opset_import: ["" : 18]>
counter (float16[N, 2] step, float16[rows, N, 2, seen] a) => (float16[N, 2, length] sums, float16[rows, N, 2, length] b)
{
    axes = Constant<value_ints = [0, 3]>()
    first = Constant<value_ints = [0]>()
    one = Unsqueeze(step, axes)
    b = Concat<axis = 3>(a, one)
    sums = ReduceSum<keepdims = 0>(b, first)
}
"""


def test_a_cache_of_another_type_layout_and_name() -> None:
    source = onnx.parser.parse_model(COUNTER).SerializeToString()
    with pytest.raises(BadInput, match=r"which axis of cache 'a' \[rows, N, 2, seen\] grows is not clear|axis 0 \('rows'\)"):
        decoder(source).step({"step": np.ones((3, 2), np.float16)})
    loop = decoder(source, axis=3, dims={"rows": 1}, threads=1)
    for i in range(3):
        found = loop.step({"step": np.full((3, 2), i, np.float16)})
    assert found["sums"].dtype == np.float16
    assert (found["sums"] == np.arange(3)).all()
    assert loop.length == 3


# --- which input belongs to which output -----------------------------------------------------------------------------------


def port(name: str, *dims: int | str | None, type: str = "tensor(float)") -> Port:
    return Port(name, type, dims)


TOKENS = port("input_ids", "batch", "seq", type="tensor(int64)")


@pytest.mark.parametrize(
    ("past", "present"),
    [
        ("past_key_values.{}.key", "present.{}.key"), ("past_key_values.{}.decoder.value", "present.{}.decoder.value"),
        ("past_{}", "present_{}"), ("past_key_{}", "present_key_{}"), ("cache_k_{}", "new_cache_k_{}"),
        ("in_cache{}", "out_cache{}"), ("past_key_values_{}_key", "present_key_values_{}_key"), ("kv.{}", "kv.{}.updated"),
    ],
)  # fmt: skip
def test_caches_are_paired_by_name_whatever_the_order(past: str, present: str) -> None:
    inputs = [TOKENS, *(port(past.format(i), "batch", 2, "past", 8) for i in range(12))]
    outputs = [port("logits", "batch", "seq", 99), *(port(present.format(i), "batch", 2, "n", 8) for i in reversed(range(12)))]
    found = find_pairs(inputs, outputs)
    assert [(p.past.name, p.present, p.axis) for p in found] == [(past.format(i), present.format(i), 2) for i in range(12)]


def test_caches_without_common_names_are_paired_by_order() -> None:
    inputs = [TOKENS, port("a", "batch", 2, "n", 8), port("b", "batch", 2, "n", 16)]
    outputs = [port("logits", "batch", "seq", 99), port("x", None, 2, None, 8), port("y", None, 2, None, 16)]
    assert [(p.past.name, p.present, p.axis) for p in find_pairs(inputs, outputs)] == [("a", "x", 2), ("b", "y", 2)]
    with pytest.raises(BadInput, match="no cache is found"):
        find_pairs(inputs, outputs[:-1])
    with pytest.raises(BadInput, match="no cache is found"):
        find_pairs(inputs, [outputs[0], outputs[2], outputs[1]])


def test_what_is_no_cache_is_left_to_the_caller() -> None:
    """Keys of an encoder go in and not out; a state of fixed size does not grow."""
    inputs = [
        TOKENS, port("past.0.decoder.key", "batch", 2, "past", 8), port("past.0.encoder.key", "batch", 2, 1500, 8),
        port("state", 2, 1, 128),
    ]  # fmt: skip
    outputs = [port("present.0.decoder.key", "batch", 2, "past + seq", 8), port("new_state", 2, 1, 128)]
    assert [p.past.name for p in find_pairs(inputs, outputs)] == ["past.0.decoder.key"]
    with pytest.raises(BadInput, match="no cache is found"):
        find_pairs([TOKENS], [port("logits", "batch", "seq", 99)])


def test_names_that_leave_a_choice_settle_nothing() -> None:
    inputs = [TOKENS, port("past.0.key", "batch", 2, "past", 8)]
    outputs = [port("present.0.key", "batch", 2, "total", 8), port("new.0.key", "batch", 2, "total", 8)]
    with pytest.raises(BadInput, match="no cache is found"):
        find_pairs(inputs, outputs)


def test_the_axis_that_grows_is_the_one_that_differs() -> None:
    found = find_pairs([port("x", "b", 1), port("past", "n", 2, "m", 8)], [port("present", "n", 2, "m + 1", 8)])
    assert found[0].axis == 2


def test_pairs_and_axis_that_are_given() -> None:
    inputs = [TOKENS, port("a", None, None, 8), port("b", None, None, 8, type="tensor(float16)")]
    outputs = [port("x", None, None, 8), port("y", None, None, 8, type="tensor(float16)")]
    assert [(p.present, p.axis) for p in find_pairs(inputs, outputs, {"a": "x", "b": "y"}, axis=-2)] == [("x", 1), ("y", 1)]
    for given, text in (({"c": "x"}, "no input 'c'"), ({"a": "z"}, "no output 'z'"), ({"a": "y"}, "differ in type or shape")):
        with pytest.raises(BadInput, match=text):
            find_pairs(inputs, outputs, given, axis=1)
    with pytest.raises(BadInput, match=r"which axis of cache 'a' \[None, None, 8\] grows"):
        find_pairs(inputs, outputs, {"a": "x"})
    with pytest.raises(BadInput, match="no axis 3"):
        find_pairs(inputs, outputs, {"a": "x"}, axis=3)


# --- the shared form -------------------------------------------------------------------------------------------------------


def test_the_shared_form_runs_the_ordinary_way_too() -> None:
    for batch, padded in ((1, False), (2, True)):
        expected = generate(Plain(model(), batch), batch, padded=padded)
        close(generate(Plain(share(model()), batch), batch, padded=padded), expected)


def test_a_token_of_padding_does_not_spoil_the_cache() -> None:
    """A query without a key gives no NaN, which as a key of later tokens would spread."""
    loop = decoder(share(model()), capacity=8, threads=1)
    mask = np.array([[1, 1, 1], [0, 0, 1]])
    assert np.isfinite(loop.step(feeds(np.array([[1, 2, 3], [4, 5, 6]]), mask))["logits"]).all()


def test_the_pass_says_what_it_did_and_does_it_once() -> None:
    found, ctx = storage.load_bytes(model()), Context(target=targets.get("onnxruntime-cpu"))
    assert shared_cache.run(found, ctx) == 1
    assert [n.op_type for n in found.graph].count("GroupQueryAttention") == 1
    assert found.metadata_props[SHARED] == '{"total": ["attention_mask", 1], "new": ["input_ids", 1]}'
    assert set(ctx.relied) == {COVERS_KEYS, KEEPS_A_KEY}
    assert [v.name for v in found.graph.outputs] == ["logits", "present_key_0", "present_value_0"]
    assert shared_cache.run(found, ctx) == 0


@pytest.mark.parametrize(
    ("before", "after", "why"),
    [
        ("v, mask,", "v, ,", "no input .an attention mask. has an entry for each key"),
        ("mask = And(causal, padding)", "mask = Identity(causal)", "no input .an attention mask. has an entry"),
        ("mask = And(causal, padding)", "mask = Expand(padding, whole)", "not known to hide later tokens"),
        ("LessOrEqual(k4, q4)", "GreaterOrEqual(k4, q4)", "not known to hide later tokens"),
        ("kv_num_heads = 1", "kv_num_heads = 1, softcap = 2.0", "it uses softcap"),
        ("h = Add(x, y)", USES.format("past_key_0"), "exact length"),
        ("h = Add(x, y)", USES.format("present_key_0"), "and nothing else"),
        (", past_key_0, past_value_0)\n    h", ")\n    h", "no attention keeps a cache"),
    ],
)  # fmt: skip
def test_what_cannot_share_is_refused_and_stays_as_it_was(before: str, after: str, why: str) -> None:
    text = HEAD + MASK + CORE
    assert before in text
    text = text.replace(before, after)
    if "whole" in after:
        text = text.replace(after, f"b = Shape<start = 0, end = 1>(input_ids)\n h1 = Constant<value_ints = [1]>()\n"
                                   f"whole = Concat<axis = 0>(b, h1, s, t)\n {after}")  # fmt: skip
    found = storage.load_bytes(model(text))
    untouched = digest(found, shapes=False)
    with pytest.raises(Unsupported, match=why):
        shared_cache.run(found, Context(target=targets.get("onnxruntime-cpu")))
    assert digest(found, shapes=False) == untouched


def test_a_compile_that_asks_for_it(tmp_path: Path) -> None:
    (tmp_path / "source.onnx").write_bytes(model())
    for wanted in (False, True):
        report = olc.compile(tmp_path / "source.onnx", tmp_path / "out.onnx", measure=False, threads=1, shared_cache=wanted)
        assert (COVERS_KEYS in report.assumed) or not wanted
        loop = olc.decoder(tmp_path / "out.onnx", capacity=9, threads=1)
        assert loop.shared == wanted
        close(generate(loop, 2, padded=True), generate(Plain(model(), 2), 2, padded=True))


def test_assumptions_that_are_forbidden_and_targets_without_the_operator() -> None:
    for name in (COVERS_KEYS, KEEPS_A_KEY):
        with pytest.raises(Unsupported, match=f"it would assume {name}"):
            share(model(), unassumed=frozenset({name}))
    with pytest.raises(Unsupported, match="the target has no GroupQueryAttention"):
        shared_cache.run(storage.load_bytes(model()), Context())
    table = SimpleNamespace(signature=targets.get("onnxruntime-cpu").table.signature, supports=lambda *_: None)
    with pytest.raises(Unsupported, match="has no kernel of float32"):
        shared_cache.run(storage.load_bytes(model()), Context(target=SimpleNamespace(table=table)))  # type: ignore[arg-type]


@pytest.mark.parametrize("stem", ["llama-kv_ts_op17", "gpt2-kv_dynamo_op18"])
def test_a_real_decoder_compiled_to_the_shared_form(stem: str) -> None:
    source = corpus.load(stem).SerializeToString()
    found, ctx = storage.load_bytes(source), Context(target=targets.get("onnxruntime-cpu"))
    optimize(found, Options(level=2), ctx)
    shapes.infer(found)
    attentions = [n.op_type for n in found.graph].count("Attention")
    assert shared_cache.run(found, ctx) == attentions > 10
    assert not [n for v in found.graph.inputs if v.name.startswith("past") for n, _ in v.uses() if n.op_type == "Shape"]
    shared = storage.to_bytes(found)
    expected = generate(Plain(source, 2), 2, positions=True)
    close(generate(decoder(shared, capacity=9, threads=1), 2, positions=True), expected)
    close(generate(decoder(source, capacity=9, threads=1), 2, positions=True), expected)
    close(generate(Plain(shared, 2), 2, positions=True), expected)
    assert ir.opset_of(found, "com.microsoft") == 1


def test_a_first_step_that_fails_binds_nothing() -> None:
    """Its batch may be what was wrong."""
    loop = decoder(share(model()), 16, threads=1)
    with pytest.raises(OlcError):
        loop.step({"input_ids": np.full((2, 3), 99), "attention_mask": np.ones((2, 3), np.int64)})
    loop.step({"input_ids": np.ones((1, 3), np.int64), "attention_mask": np.ones((1, 3), np.int64)})
    assert loop.length == 3


def test_an_input_and_an_output_without_a_name_of_their_own_are_no_cache() -> None:
    inputs = [Port("input", "tensor(float)", ("b", "s", 64)), Port("past_k", "tensor(float)", ("b", 2, "p", 8))]
    outputs = [Port("output", "tensor(float)", ("b", "s", 64)), Port("present_k", "tensor(float)", ("b", 2, "t", 8))]
    assert [p.past.name for p in find_pairs(inputs, outputs)] == ["past_k"]
