"""Cleaning on whole webs as exporters write them, on their near misses, and on real models.

Every rule's own cases, refusals and soundness fuzz run with those of all other rules; here is what a case cannot say:
targets computed from shapes, sizes that may be 0, values that are graph outputs, and chains of thousands of nodes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from olc import frontend, ir, storage
from olc.analysis import shapes
from olc.passes import Context, cse, dce, fold, size_queries
from olc.pipeline import Options, optimize
from olc.rewriter import Rewriter
from olc.rules import registry
from onnx import TensorProto, helper, numpy_helper, parser

import models
from tests.work import calls

GROUPS = ("noops", "chains", "shapes", "logic", "affine")


def parsed(nodes: str, signature: str, constants: str = "", opset: int = 18) -> onnx.ModelProto:
    left, right = signature.split("=>")
    return parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : {opset}]> case ({left}) => ({right}) <{constants}> {{ {nodes} }}'
    )


def cleaned(proto: onnx.ModelProto, *levels: str, queries: bool = False) -> onnx.ModelProto:
    """The model after shapes, folding and the cleaning rules, to a fixpoint."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    model = ir.serde.deserialize_model(copy)
    ctx = Context()
    opset = ir.opset_of(model)
    wanted = levels or ("EXACT",)
    rules = [r for r in registry() if r.group in GROUPS and r.safety.level in wanted and r.applies(opset, None)]
    for _ in range(8):
        shapes.infer(model)
        changes = fold.run(model, ctx)
        changes += Rewriter(model, rules, ctx, strict=True).run().changes
        changes += size_queries.run(model, ctx) if queries else 0
        changes += cse.run(model, ctx) + dce.run(model, ctx)
        if not changes:
            after = ir.serde.serialize_model(model)
            onnx.checker.check_model(after)
            return after
    raise AssertionError("cleaning does not settle")


def ops(proto: onnx.ModelProto) -> list[str]:
    return [n.op_type for n in proto.graph.node if n.op_type != "Constant"]


def holds(proto: onnx.ModelProto, node: int, at: int) -> list[int | float]:
    """What a constant operand of a node holds."""
    name = proto.graph.node[node].input[at]
    return next(numpy_helper.to_array(t) for t in proto.graph.initializer if t.name == name).tolist()


def run(proto: onnx.ModelProto, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feed)


def same(before: onnx.ModelProto, after: onnx.ModelProto, sizes: dict[str, int]) -> bool:
    """Equal results, bit for bit, with inputs of these sizes; False where the original itself fails."""
    random = np.random.default_rng(0)
    feed = {}
    for v in before.graph.input:
        t = v.type.tensor_type
        shape = [sizes[d.dim_param] if d.dim_param else d.dim_value for d in t.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(t.elem_type)
        drawn = random.normal(size=shape) if dtype.kind == "f" else random.integers(0, 2, shape)
        feed[v.name] = drawn.astype(dtype)
    try:
        expected = run(before, feed)
    except Exception:  # ONNX Runtime's own, without a common base
        return False
    for a, b in zip(expected, run(after, feed), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    return True


def becomes(proto: onnx.ModelProto, wanted: list[str], sizes: Sequence[dict[str, int]] = ({},)) -> onnx.ModelProto:
    """Clean the model, check what is left of it, and that it computes the same."""
    after = cleaned(proto)
    assert ops(after) == wanted
    ran = [same(proto, after, s) for s in sizes]
    assert any(ran)
    return after


# --- webs ----------------------------------------------------------------------------------------------------------

SIZES = ({"B": 2, "S": 5}, {"B": 1, "S": 1}, {"B": 3, "S": 12}, {"B": 2, "S": 0}, {"B": 0, "S": 3})

TORCHSCRIPT_TARGET = """
    shape = Shape(x) zero = Constant<value = int64 {0}>() one = Constant<value = int64 {1}>()
    b = Gather<axis=0>(shape, zero) shape2 = Shape(x) s = Gather<axis=0>(shape2, one)
    b1 = Unsqueeze(b, first) s1 = Unsqueeze(s, first)
    heads = Constant<value = int64[1] {12}>() width = Constant<value = int64[1] {32}>()
    target = Concat<axis=0>(b1, s1, heads, width)
"""


def test_a_target_computed_from_shapes_becomes_a_constant():
    proto = parsed(
        TORCHSCRIPT_TARGET + "split = Reshape(x, target) y = Transpose<perm=[0,2,1,3]>(split)",
        "float[B,S,384] x => float[B,12,S,32] y", "int64[1] first = {0}",
    )  # fmt: skip
    after = becomes(proto, ["Reshape", "Transpose"], sizes=SIZES)
    assert holds(after, 0, 1) == [0, 0, 12, 32]


def test_an_assignment_to_all_of_a_mask_is_what_is_assigned():
    """Its first axes are those of the caller's, one of them 1."""
    proto = parsed("""
        shape = Shape(x) b = Gather<axis=0>(shape, zero) s = Gather<axis=0>(shape, two)
        batch = Range(zero, b, one) tokens = Range(zero, s, one)
        i = Unsqueeze(batch, behind) j = Unsqueeze(tokens, before) i4 = Expand(i, shape) j4 = Expand(j, shape)
        k4 = Expand(none, shape) i5 = Unsqueeze(i4, third) j5 = Unsqueeze(j4, third) k5 = Unsqueeze(k4, third)
        at = Concat<axis = -1>(i5, k5, j5) y = ScatterND(x, at, z)""",
        "float[B,1,S] x, float[B,1,S] z => float[B,1,S] y",
        "int64 zero = {0}, int64 one = {1}, int64 two = {2}, int64[2] behind = {1, 2}, int64[2] before = {0, 1},"
        "int64[1] third = {3}, int64[1,1,1] none = {0}",
    )  # fmt: skip
    becomes(proto, ["Identity"], sizes=SIZES)


def test_heads_joined_again():
    proto = parsed(
        "t = Transpose<perm=[0,2,1,3]>(x) shape = Shape(t) n = Gather(shape, zero) n1 = Unsqueeze(n, axes) "
        "target = Concat<axis=0>(n1, rest) y = Reshape(t, target)",
        "float[B,12,S,32] x => float[B,S,384] y", "int64 zero = {0}, int64[1] axes = {0}, int64[2] rest = {-1, 384}",
    )  # fmt: skip
    after = becomes(proto, ["Transpose", "Reshape"], sizes=SIZES[:3])
    assert holds(after, 1, 1) == [0, 0, 384]


def test_keys_transposed_in_three_dims_are_one_transpose():
    """The dynamo exporter's K^T below opset 23, with its targets computed from shapes."""
    proto = parsed(
        """b = Shape<start=0, end=1>(k) s = Shape<start=2, end=3>(k) heads = Constant<value = int64[1] {6}>()
        bh = Mul(b, heads) width = Constant<value = int64[1] {8}>()
        three = Concat<axis=0>(bh, s, width) flat = Reshape<allowzero=1>(k, three)
        turned = Transpose<perm=[0,2,1]>(flat) four = Concat<axis=0>(b, heads, width, s)
        kt = Reshape<allowzero=1>(turned, four) y = MatMul(q, kt)""",
        "float[B,6,S,8] q, float[B,6,S,8] k => float[B,6,S,S] y",
    )
    after = becomes(proto, ["Transpose", "MatMul"], sizes=SIZES)
    assert list(after.graph.node[0].attribute[0].ints) == [0, 1, 3, 2]


def test_keys_repeated_for_grouped_heads_need_no_sizes():
    """TorchScript's Expand with -1 replaced by 1, and the Reshape that joins the repeated heads."""
    proto = parsed(
        """shape = Shape(k) b = Gather(shape, i0) s = Gather(shape, i2)
        b1 = Unsqueeze(b, first) s1 = Unsqueeze(s, first) k5 = Unsqueeze(k, second)
        wide = Concat<axis=0>(b1, three, two, s1, width)
        length = Shape(wide) ones = ConstantOfShape<value = int64[1] {1}>(length) minus = Mul(ones, minus_one)
        keep = Equal(wide, minus) target = Where(keep, ones, wide) expanded = Expand(k5, target)
        joined = Concat<axis=0>(b1, six, s1, width) y = Reshape(expanded, joined)""",
        "float[B,3,S,8] k => float[B,6,S,8] y",
        "int64 i0 = {0}, int64 i2 = {2}, int64[1] first = {0}, int64[1] second = {2}, int64[1] three = {3}, "
        "int64[1] two = {2}, int64[1] six = {6}, int64[1] width = {8}, int64 minus_one = {-1}",
    )
    after = becomes(proto, ["Gather"], sizes=SIZES)
    assert holds(after, 0, 1) == [0, 0, 1, 1, 2, 2]


def test_a_mask_expanded_before_it_is_added_is_not():
    proto = parsed(
        """shape = Shape(scores) b = Gather(shape, i0) b1 = Unsqueeze(b, first) target = Concat<axis=0>(b1, ones)
        wide = Expand(mask, target) bias = Where(wide, zero, low) y = Add(scores, bias)""",
        "float[B,2,S,S] scores, bool[1,1,S,S] mask => float[B,2,S,S] y",
        "int64 i0 = {0}, int64[1] first = {0}, int64[3] ones = {1, 1, 1}, float zero = {0}, float low = {-10000}",
    )
    becomes(proto, ["Where", "Add"], sizes=SIZES)


def test_rotary_halves_by_computed_bounds():
    proto = parsed(
        """shape = Shape(x) d = Gather(shape, i3) half = Div(d, two) h = Cast<to=7>(half) h1 = Unsqueeze(h, first)
        left = Slice(x, first, h1, last, one) right = Slice(x, h1, end, last, one)
        minus = Neg(right) y = Concat<axis=-1>(minus, left)""",
        "float[B,2,S,8] x => float[B,2,S,8] y",
        "int64 i3 = {3}, int64 two = {2}, int64[1] first = {0}, int64[1] last = {-1}, int64[1] one = {1}, "
        "int64[1] end = {9223372036854775807}",
    )
    after = becomes(proto, ["Slice", "Slice", "Neg", "Concat"], sizes=SIZES)
    assert [holds(after, 0, i) for i in (1, 2, 3)] == [[0], [4], [3]]
    assert [holds(after, 1, i) for i in (1, 2, 3)] == [[4], [8], [3]]


@pytest.mark.parametrize(
    "tail",
    [
        "y = Flatten<axis=1>(p)",
        "y = Squeeze(p, axes)",
        "y = Reshape(p, target)",
        "s = Squeeze(p, three) y = Squeeze(s, two)",
    ],
)
def test_pooled_features_are_written_in_one_way(tail: str):
    proto = parsed(
        f"p = ReduceMean<keepdims=1>(x, axes) {tail}", "float[N,8,H,W] x => float[N,8] y",
        "int64[2] axes = {2, 3}, int64[2] target = {-1, 8}, int64[1] three = {3}, int64[1] two = {2}",
    )  # fmt: skip
    after = becomes(proto, ["ReduceMean"], sizes=({"N": 2, "H": 3, "W": 4},))
    assert [a.i for a in after.graph.node[0].attribute if a.name == "keepdims"] == [0]


def test_split_and_put_together_is_nothing():
    proto = parsed(
        "a, b, c = Split<axis=-1>(x, sizes) z = Concat<axis=2>(a, b, c) y = Neg(z)",
        "float[B,S,6] x => float[B,S,6] y", "int64[3] sizes = {1, 2, 3}",
    )  # fmt: skip
    becomes(proto, ["Neg"], sizes=SIZES)


def test_casts_of_a_mask():
    proto = parsed(
        "a = Cast<to=6>(m) b = Cast<to=1>(a) c = Cast<to=9>(b) n = Not(c) k = Not(n) y = And(k, yes)",
        "bool[B,S] m => bool[B,S] y", "bool yes = {1}",
    )  # fmt: skip
    becomes(proto, ["Identity"], sizes=SIZES)


# --- what must stay ------------------------------------------------------------------------------------------------


def test_minus_one_only_where_it_can_be_inferred():
    """[B, S, H, W] to [B, S*H*W]: beside an empty batch -1 cannot be inferred, so the target stays computed."""
    body = """b = Shape<start=0, end=1>(x) {rest} target = Concat<axis=0>(b, n) y = Reshape(x, target)"""
    computed = parsed(
        body.format(rest="three = Shape<start=1, end=4>(x) n = ReduceProd<keepdims=1>(three)"),
        "float[B,S,4,5] x => float[B,N] y",
    )  # fmt: skip
    after = cleaned(computed)
    assert ops(after)[-1] == "Reshape"
    assert len(ops(after)) > 1
    for s in SIZES:
        same(computed, after, s)
    left_open = parsed(body.format(rest="n = Constant<value = int64[1] {-1}>()"), "float[B,S,4,5] x => float[B,N] y")
    assert holds(becomes(left_open, ["Reshape"], sizes=SIZES[:3]), 0, 1) == [0, -1]


def test_a_zero_of_the_second_reshape_copies_from_the_first():
    proto = parsed(
        "a = Reshape(x, s1) y = Reshape(a, s2)", "float[2,6,4] x => float[12,2,2] y",
        "int64[2] s1 = {12, 4}, int64[3] s2 = {0, 2, 2}",
    )  # fmt: skip
    assert holds(becomes(proto, ["Reshape"]), 0, 1) == [12, 2, 2]


def test_a_dim_named_by_the_caller_is_not_a_size_of_the_input():
    proto = parsed("y = Reshape(x, target)", "float[B,S,4] x, int64[2] target => float[N,M] y")
    assert cleaned(proto).graph.node[0].input[1] == "target"


def test_values_that_are_graph_outputs_stay():
    proto = parsed("a = Transpose<perm=[1,0]>(x) y = Transpose<perm=[1,0]>(a)", "float[N,3] x => float[3,N] a, float[N,3] y")
    after = becomes(proto, ["Transpose", "Identity"], sizes=({"N": 2},))
    assert [o.name for o in after.graph.output] == ["a", "y"]


def test_a_default_that_the_caller_can_override_is_no_constant():
    proto = parsed("y = Add(x, z)", "float[3] x, float[3] z => float[3] y", "float[3] z = {-0.0, -0.0, -0.0}")
    assert ops(cleaned(proto, "EXACT", "CLOSE")) == ["Add"]


def test_adding_zero_is_exact_only_where_the_sign_of_zero_stays():
    plus = parsed("y = Add(x, z)", "float[3] x => float[3] y", "float z = {0}")
    assert ops(cleaned(plus)) == ["Add"]
    assert ops(cleaned(plus, "EXACT", "CLOSE")) == ["Identity"]
    minus = parsed("y = Sub(x, z)", "float[3] x => float[3] y", "float z = {0}")
    assert ops(cleaned(minus)) == ["Identity"]


@pytest.mark.parametrize("op", ["Add", "Sub"])
def test_a_neutral_constant_that_widens_stays(op: str):
    proto = parsed(f"y = {op}(x, z)", "float[1,3] x => float[2,3] y", "float[2,1] z = {0, 0}")
    assert len(ops(cleaned(proto, "EXACT", "CLOSE"))) == 1
    assert ops(cleaned(proto, "EXACT", "CLOSE")) != ["Identity"]


def test_inside_a_body():
    proto = parsed(
        """y = If (c) <
            then_branch = t () => (float[B,4] ty) { i = Identity(x) r = Reshape(i, to) j = Neg(r) ty = Identity(j) },
            else_branch = e () => (float[B,4] ey) { ey = Relu(x) }
        >""",
        "bool c, float[B,4] x => float[B,4] y", "int64[2] to = {-1, 4}",
    )  # fmt: skip
    after = cleaned(proto)
    then = next(a.g for a in after.graph.node[0].attribute if a.name == "then_branch")
    assert [n.op_type for n in then.node] == ["Neg"]


# --- size queries --------------------------------------------------------------------------------------------------


def test_sizes_are_asked_of_the_first_input_in_one_way():
    torchscript = parsed(
        """e = Gather(table, ids) shape = Shape(e) s = Gather(shape, one) r = Range(zero, s, one)
        shape2 = Shape(mask) s2 = Gather(shape2, one) q = Range(zero, s2, one) y = Add(r, q)""",
        "int64[B,S] ids, int64[B,S] mask => int64[S] y", "float[9,4] table = {}, int64 zero = {0}, int64 one = {1}"
        .replace("{}", "{" + ",".join(["0"] * 36) + "}"),
    )  # fmt: skip
    dynamo = parsed(
        """v = Shape<start=1, end=2>(mask) s = Squeeze(v, axes) r = Range(zero, s, one) y = Add(r, r)""",
        "int64[B,S] ids, int64[B,S] mask => int64[S] y", "int64 zero = {0}, int64 one = {1}, int64[1] axes = {0}",
    )  # fmt: skip
    for proto in (torchscript, dynamo):
        after = cleaned(proto, queries=True)
        assert ops(after) == ["Shape", "Squeeze", "Range", "Add"]
        assert after.graph.node[0].input[0] == "ids"
        same(proto, after, {"B": 2, "S": 5})


def test_sums_and_quotients_of_sizes():
    proto = parsed(
        """p = Shape<start=1, end=2>(past) s = Shape<start=1, end=2>(ids) f = Cast<to=6>(p) g = Cast<to=7>(f)
        n = Add(s, g) h = Div(n, two) k = Squeeze(h, axes) y = Range(zero, k, one)""",
        "int64[B,S] ids, float[B,P,4] past => int64[N] y",
        "int64[1] two = {2}, int64 zero = {0}, int64 one = {1}, int64[1] axes = {0}",
    )
    after = cleaned(proto, queries=True)
    assert ops(after) == ["Shape", "Shape", "Add", "Div", "Squeeze", "Range"]
    for s, p in ((5, 4), (1, 0), (2, 5)):
        same(proto, after, {"B": 1, "S": s, "P": p})


def test_a_size_that_is_a_graph_output_keeps_its_name():
    proto = parsed("r = Relu(x) y = Shape<start=0, end=1>(r) z = Neg(r)", "float[N,4] x => int64[1] y, float[N,4] z")
    after = cleaned(proto, queries=True)
    assert [o.name for o in after.graph.output] == ["y", "z"]
    assert [n.input[0] for n in after.graph.node if n.op_type == "Shape"] == ["x"]
    same(proto, after, {"N": 3})


def test_numbers_of_the_caller_are_no_sizes():
    proto = parsed("m = Add(n, n) y = Range(zero, m, one)", "int64 n => int64[N] y", "int64 zero = {0}, int64 one = {1}")
    assert ops(cleaned(proto, queries=True)) == ["Add", "Range"]


# --- long chains ---------------------------------------------------------------------------------------------------


def chain(repeats: int) -> onnx.ModelProto:
    """(Reshape, Reshape, Add 0, Relu, Identity) again and again."""
    nodes, last = [], "x"
    for i in range(repeats):
        for j, (op, more) in enumerate(
            [("Reshape", ["flat"]), ("Reshape", ["split"]), ("Add", ["zero"]), ("Relu", []), ("Identity", [])]
        ):
            nodes.append(helper.make_node(op, [last, *more], [f"v{i}_{j}"], name=f"n{i}_{j}"))
            last = f"v{i}_{j}"
    nodes.append(helper.make_node("Neg", [last], ["y"]))
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 4, 8]) for n in ("x", "y")]
    constants = [
        numpy_helper.from_array(np.array([-1, 32]), "flat"), numpy_helper.from_array(np.array([-1, 4, 8]), "split"),
        numpy_helper.from_array(np.zeros(8, np.float32), "zero"),
    ]  # fmt: skip
    graph = helper.make_graph(nodes, "chain", info[:1], info[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def test_a_long_chain_collapses_with_work_that_grows_linearly():
    work = []
    for repeats in (100, 800):
        model = ir.serde.deserialize_model(chain(repeats))
        work.append(calls(lambda model=model: optimize(model, Options(level=2))))
        assert [n.op_type for n in model.graph] == ["Relu", "Neg"]
    assert work[1] < 8 * 1.2 * work[0]


def test_a_web_takes_one_rewrite():
    """What the sizes are is proved, not matched node by node."""
    proto = parsed(
        TORCHSCRIPT_TARGET + "split = Reshape(x, target) y = Transpose<perm=[0,2,1,3]>(split)",
        "float[B,S,384] x => float[B,12,S,32] y", "int64[1] first = {0}",
    )  # fmt: skip
    result = optimize(ir.serde.deserialize_model(proto), Options(level=1))
    assert result.outcome.applied == Counter({"canonical-view": 1})


# --- real models ---------------------------------------------------------------------------------------------------

REAL = [
    ("minilm-l6", "ts_op17", "encoder", 255),
    ("minilm-l6", "dynamo_op18", "encoder", 252),
    ("smollm2-135m", "ts_op17", "decoder", 1880),
    ("whisper-tiny-en", "ts_op17", "decoder-kv", 236),
    ("whisper-tiny-en", "dynamo_op18", "encoder", 145),
    ("efficientnet-lite0", "ts_op17", "classifier", 112),
]


@pytest.mark.parametrize(("name", "variant", "role", "most"), [
    pytest.param(*case, id="-".join(case[:3]), marks=pytest.mark.long if case[0] == "smollm2-135m" else []) for case in REAL
])  # fmt: skip
def test_real_models(name: str, variant: str, role: str, most: int, tmp_path: Path):
    recipe = models.find(name)
    paths = recipe.build(variant)
    model = frontend.load(paths[role])
    result = optimize(model, Options(level=1, strict=True))
    assert result.settled
    assert not result.outcome.quarantined
    assert sum(1 for g in ir.all_graphs(model) for _ in g) <= most
    views = [n for g in ir.all_graphs(model) for n in g if n.op_type in ("Reshape", "Squeeze", "Unsqueeze")]
    assert not [n.name for n in views if not ir.is_constant(n.inputs[1])], "all targets are constants"
    storage.save(model, tmp_path / "model.onnx")
    feed = recipe.feeds(paths)[role][0]
    before, after = (models.cpu_session(p).run(None, feed) for p in (paths[role], tmp_path / "model.onnx"))
    for a, b in zip(before, after, strict=True):
        np.testing.assert_allclose(b, a, rtol=0, atol=1e-4 * max(1.0, float(np.abs(a).max(initial=0.0))))


ALL = (
    "s = Shape<start = 0, end = 1>(x) n = Squeeze(s) r = Range(zero, n, one) u = Unsqueeze(r, right) e = Expand(u, z)"
    " f = Expand(v, z) a = Unsqueeze(e, last) b = Unsqueeze(f, last) p = Concat<axis = -1>({first}, {second})"
    " y = ScatterND(x, p, w)"
)
COUNT = "int64 zero = {0}, int64 one = {1}, int64[1] right = {1}, int64[1] last = {2}, int64[1, 3] v = {0, 1, 2}"


@pytest.mark.parametrize(("first", "second", "left"), [("a", "b", ["Identity"]), ("b", "a", None), ("a", "a", None)])
def test_writing_to_all_of_a_value_whose_size_is_not_known(first: str, second: str, left: list[str] | None) -> None:
    """What TorchScript makes of `mask[:, :, :, :n] = ...` where n is the whole length."""
    signature = "float[N, 3] x, float[N, 3] w => float[N, 3] y"
    proto = parsed("z = Shape(x) " + ALL.format(first=first, second=second), signature, COUNT)
    found = ops(cleaned(proto))
    assert found == left if left else "ScatterND" in found
