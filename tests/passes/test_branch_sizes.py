"""Merged decoders: an If of a decoder without a cache and one with it. What is declared for one does not hold in the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from olc import ir, storage, targets
from olc.analysis import shapes
from olc.assumptions import ASSUMPTIONS, INPUTS_AGREE
from olc.evaluation.inputs import plan
from olc.passes import Context, branch_sizes, equal_sizes, size_queries
from olc.passes.edit import branches
from olc.pipeline import Options, optimize
from pass_oracle import load

HEAD = (
    "p1 = Constant<value_floats = [1.0]>() u = Constant<value_ints = [1, 2]>() sh = Constant<value_ints = [0, 0, 2, 4]>() "
    "z = Constant<value_int = 0>() o = Constant<value_int = 1>() low = Constant<value_float = -3.4e38>() "
    "none = Constant<value_float = 0.0>() e = Gather(table, ids) qp = MatMul(e, wq) kp = MatMul(e, wk) "
    "q4 = Reshape(qp, sh) k4 = Reshape(kp, sh) q = Transpose<perm = [0, 2, 1, 3]>(q4) k0 = Transpose<perm = [0, 2, 1, 3]>(k4) "
)
# The length of the keys is asked of the mask: as long as these in both branches, whatever is declared.
MASK = (
    "c = Cast<to = 9>(attention_mask) total = Shape<start = 1, end = 2>(attention_mask) n = Squeeze(total) r = Range(z, n, o) "
    "rows = Unsqueeze(positions, u0) order = LessOrEqual(r, rows) c4 = Unsqueeze(c, u) both = And(order, c4) "
    "bias = Where(both, none, low) t = Transpose<perm = [0, 1, 3, 2]>(k) s = MatMul(q, t) d = Mul(s, half) b = Add(d, bias) "
    "w = Softmax<axis = -1>(b) v = Add(k, p1) y = MatMul(w, v) "
)
ROWS = (
    "half = Constant<value_float = 0.5>() u0 = Constant<value_ints = [0, 1, 3]>() "
    "sl = Shape<start = 1, end = 2>(ids) s0 = Squeeze(sl) "
)
FRESH = HEAD + ROWS + "k = Identity(k0) positions = Range(z, s0, o) " + MASK
CACHED = (
    HEAD + ROWS + "k = Concat<axis = 2>(past, k0) pl = Shape<start = 2, end = 3>(past) p0 = Squeeze(pl) "
    "to = Add(p0, s0) positions = Range(p0, to, o) " + MASK
)
GIVES = "float[A, 2, C, 4] y, float[A, 2, K, 4] k"
WEIGHTS = {name: np.random.default_rng(i).normal(size=size).astype(np.float32) for i, (name, size) in enumerate(
    {"table": (9, 8), "wq": (8, 8), "wk": (8, 8)}.items())}  # fmt: skip


def merged() -> onnx.ModelProto:
    proto = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 18]> g (int64[B, S] ids, int64[B, S] attention_mask, float[B, 2, P, 4] past, '
        f"bool[1] use_cache_branch) => ({GIVES}) {{ y, k = If (use_cache_branch) < then_branch = cached () => "
        f"({GIVES}) {{ {CACHED} }}, else_branch = fresh () => ({GIVES}) {{ {FRESH} }} > }}"
    )
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(a, n) for n, a in WEIGHTS.items())
    onnx.checker.check_model(proto)
    return proto


def feed(b: int, s: int, p: int, cached: bool, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    mask = np.ones((b, s + p if cached else s), np.int64)
    mask[-1, :1] = mask.shape[1] == 1
    return {
        "ids": random.integers(0, 9, (b, s)), "attention_mask": mask, "use_cache_branch": np.array([cached]),
        "past": random.normal(size=(b, 2, p, 4)).astype(np.float32),
    }  # fmt: skip


def session(proto: Any, off: bool = False) -> Any:
    options = onnxruntime.SessionOptions()
    if off:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def operators(model: ir.Model) -> list[list[str]]:
    return [[n.op_type for n in graph] for graph in ir.all_graphs(model) if graph is not model.graph]


@pytest.mark.parametrize("strict", [frozenset(), frozenset(ASSUMPTIONS)])
def test_both_branches_are_fused_and_right_whatever_is_cached(strict: frozenset[str]) -> None:
    model = storage.load_proto(merged())
    ctx = Context(target=targets.get("onnxruntime-cpu"), unassumed=strict)
    optimize(model, Options(level=2, verify_each=True), ctx)
    for found in operators(model):
        assert ("Attention" in found) == (not strict)
        assert strict or not {"Softmax", "Where"} & set(found)
    after = onnx.ModelProto.FromString(storage.to_bytes(model))
    theirs, ours = session(merged(), off=True), session(after)
    fresh = ((1, 4, 0, False), (2, 4, 0, False), (2, 3, 1, False))
    for b, s, p, cached in (*fresh, (1, 1, 0, True), (2, 1, 5, True), (2, 3, 4, True)):
        f = feed(b, s, p, cached)
        # the first row of what is padded on the left has no key
        kept = f["attention_mask"][:, -s:].astype(bool)
        for was, now in zip(theirs.run(None, f), ours.run(None, f), strict=True):
            assert was.shape == now.shape
            if was.shape[2] == s:
                was, now = (x.transpose(0, 2, 1, 3)[kept] for x in (was, now))
            np.testing.assert_allclose(was, now, atol=1e-5)


def test_weights_that_both_branches_use_stay_one() -> None:
    model = storage.load_proto(merged())
    optimize(model, Options(level=2), Context(target=targets.get("onnxruntime-cpu")))
    held = [v.const_value.nbytes for g in ir.all_graphs(model) for v in g.initializers.values() if v.const_value is not None]
    assert [n for n in held if n > 100] == [a.nbytes for a in WEIGHTS.values()]


def test_a_mask_has_the_length_of_its_branch() -> None:
    model = storage.load_proto(merged())
    ctx = Context()
    assert branch_sizes.run(model, ctx) == 1
    assert branch_sizes.run(model, ctx) == 1  # each branch's Identity is read through another: it does no harm
    shapes.infer(model)
    equal_sizes.run(model, ctx)
    assert [str(n) for n in shapes.dims(model.graph.inputs[1]) or ()] == ["B", "attention_mask_1"]
    lengths = [
        {str((shapes.dims(n.outputs[0]) or (0, 0))[1]) for n in graph if n.op_type == "Cast"} for graph, _ in branches(model)[1:]
    ]
    assert sorted(map(sorted, lengths)) == [["P + S"], ["S"]]
    assert set(ctx.relied) == {INPUTS_AGREE}


def test_a_branch_asks_only_inputs_that_it_reads() -> None:
    """Of others callers give what they like: a branch without a cache gets one of the wrong batch here."""
    model = storage.load_proto(merged())
    optimize(model, Options(level=2), Context(target=targets.get("onnxruntime-cpu")))
    past = model.graph.inputs[2]
    fresh = next(g for g, _ in branches(model)[1:] if g.name == "fresh")
    assert all(past not in n.inputs for n in fresh)
    f = feed(2, 4, 0, False) | {"past": np.zeros((1, 2, 3, 4), np.float32)}
    after = onnx.ModelProto.FromString(storage.to_bytes(model))
    for was, now in zip(session(merged(), off=True).run(None, f), session(after).run(None, f), strict=True):
        np.testing.assert_allclose(was[0], now[0], atol=1e-5)


def test_the_main_graph_asks_no_input_that_only_a_branch_reads() -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 18]> g (float[N, 2] a, float[M, N] x, bool c) => (int64[1] n, float y) { '
        "r = Relu(x) n = Shape<start = 1>(r) y = If (c) < "
        "then_branch = t () => (float t) { t = Neg(a) }, else_branch = e () => (float e) { e = Neg(x) } > }"
    )
    model = load(proto)
    shapes.infer(model)
    assert size_queries.run(model, Context()) == 1
    shape = model.graph.outputs[0].producer()
    assert shape is not None
    assert shape.inputs[0] is model.graph.inputs[1]


def test_lengths_that_an_encoder_shares_stay() -> None:
    text = merged().SerializeToString().replace(b"attention_mask", b"encoder_masks_")
    model = storage.load_bytes(text)
    model.graph.inputs[2].shape = ir.Shape(["B", 2, "S", 4])
    assert branch_sizes.run(model, Context()) == 0


def test_samples_take_both_ways() -> None:
    made = plan(storage.load_proto(merged()))
    feeds = [made.make(i) for i in range(3)]
    assert [bool(f["use_cache_branch"][0]) for f in feeds] == [True, False, True]
    assert [f["attention_mask"].shape for f in feeds] == [(1, 17), (1, 1), (1, 17)]
    assert [f["past"].shape[2] for f in feeds] == [16, 16, 16]


def test_an_identity_of_what_was_given_a_name_is_no_fault_of_a_rule() -> None:
    text = merged()
    for branch in text.graph.node[0].attribute:
        for node in branch.g.node:
            node.input[:] = ["again" if v == "attention_mask" else v for v in node.input]
        branch.g.node.insert(0, onnx.helper.make_node("Identity", ["attention_mask"], ["again"]))
    model = storage.load_proto(text)
    result = optimize(model, Options(level=2, strict=True), Context(target=targets.get("onnxruntime-cpu")))
    assert not result.outcome.quarantined
    assert all("Attention" in found for found in operators(model))
