"""What is done to scores, in one order: the same probabilities whatever the order was, and nothing where that is not proved."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from olc import ir
from olc.analysis import shapes
from olc.assumptions import FINITE, KEEPS_A_KEY
from olc.passes import Context, dce, scores
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from onnx_ir import serde

LOW = float(np.finfo(np.float32).min)
HEADS, SIZE = 2, 4


class Web:
    """Builds a model step by step: a product of queries and keys, [B, 2, S, T], then what is asked for."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.inputs = {"q": ["B", HEADS, "S", SIZE], "k": ["B", HEADS, SIZE, "T"]}
        self.booleans: set[str] = set()
        self.flat = False
        self.done: list[str] = []
        self.x = self.add("MatMul", "q", "k")

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        out = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [out], **attributes))
        return out

    def given(self, shape: list[Any], boolean: bool = False) -> str:
        name = f"i{len(self.inputs)}"
        self.inputs[name] = shape
        if boolean:
            self.booleans.add(name)
        return name

    def number(self, value: Any, kind: int = TensorProto.FLOAT) -> str:
        a = np.array(value)
        name = f"c{len(self.constants)}"
        self.constants.append(helper.make_tensor(name, kind, a.shape, a.reshape(-1).tolist()))
        return name

    def operand(self, rng: random.Random, boolean: bool = False) -> str:
        """Something that broadcasts to the scores as they are now; floats of heads joined with the batch come from four axes."""
        if self.flat and not boolean and rng.random() < 0.5:
            slopes, row = self.given(["B", HEADS, 1, "T"]), self.add("Shape", "k", start=3)
            joined = [self.number([n], TensorProto.INT64) for n in (-1, 1)]
            return self.add("Reshape", slopes, self.add("Concat", *joined, row, axis=0))
        if self.flat:
            return self.given([rng.choice(["S", 1]), "T"], boolean)
        return self.given(rng.choice([["B", 1, 1, "T"], [1, HEADS, "S", "T"], ["S", "T"], ["B", HEADS, "S", "T"]]), boolean)

    def step(self, kind: str, rng: random.Random) -> None:
        x = self.x
        self.done += [] if kind == "rows" and self.flat else [kind]
        if kind == "scale":
            c = self.number(rng.choice([0.5, 2.0, 0.125]))
            self.x = rng.choice([lambda: self.add("Mul", x, c), lambda: self.add("Mul", c, x), lambda: self.add("Div", x, c)])()
        elif kind == "bias":
            b = self.operand(rng)
            self.x = rng.choice([lambda: self.add("Add", x, b), lambda: self.add("Add", b, x), lambda: self.add("Sub", x, b)])()
        elif kind == "fill":
            m, low = self.operand(rng, boolean=True), self.number(LOW)
            self.x = rng.choice([lambda: self.add("Where", m, x, low), lambda: self.add("Where", m, low, x)])()
        elif kind == "floor":
            self.x = self.add("Max", x, self.number(LOW))
        elif kind == "rows":
            if not self.flat:
                c = self.given([HEADS, 1, 1])
                self.x = rng.choice([lambda: self.add("Mul", x, c), lambda: self.add("Div", x, c)])()
        else:
            heads = [self.number([n], TensorProto.INT64) for n in ((-1, HEADS) if self.flat else (-1,))]
            ends = self.add("Shape", "q", start=2, end=3), self.add("Shape", "k", start=3)
            self.x = self.add("Reshape", x, self.add("Concat", *heads, *ends, axis=0))
            self.flat = not self.flat

    def model(self) -> Any:
        self.nodes.append(helper.make_node("Softmax", [self.x], ["p"], axis=-1))
        kinds = {n: TensorProto.BOOL if n in self.booleans else TensorProto.FLOAT for n in self.inputs}
        given = [helper.make_tensor_value_info(n, kinds[n], s) for n, s in self.inputs.items()]
        out = helper.make_tensor_value_info("p", TensorProto.FLOAT, [None] * (3 if self.flat else 4))
        graph = helper.make_graph(self.nodes, "g", given, [out], self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
        onnx.checker.check_model(model)
        return model


def web(steps: list[str], seed: int) -> Web:
    built, rng = Web(), random.Random(seed)
    for kind in steps:
        built.step(kind, rng)
    return built


def ordered(proto: Any, ctx: Context | None = None) -> tuple[ir.Model, int]:
    ctx = ctx if ctx is not None else Context()
    model = serde.deserialize_model(proto)
    shapes.infer(model)
    changes = scores.run(model, ctx)
    dce.run(model, ctx)
    return model, changes


def feed(built: Web, seed: int) -> dict[str, np.ndarray]:
    """Random inputs; what a mask says of the first key is what lets it through, whichever way round it is meant."""
    rng = np.random.default_rng(seed)
    sizes = {"B": 2, "S": 3, "T": 5}
    inverted = {n.input[0] for n in built.nodes if n.op_type == "Where" and n.input[1].startswith("c")}
    found = {}
    for name, shape in built.inputs.items():
        dims = [sizes.get(d, d) for d in shape]
        if name in built.booleans:
            a = rng.random(dims) < 0.6
            a[..., 0] = name not in inverted
            found[name] = a
        else:
            # a factor for each row may be negative, and is not near 0, where errors of what is divided grow
            rows = rng.uniform(0.5, 2, dims) * rng.choice([-1, 1], dims)
            found[name] = (rows if dims[-1] == 1 else rng.normal(size=dims)).astype(np.float32)
    return found


KINDS = ("scale", "bias", "fill", "floor", "rows", "view")


def chains() -> list[list[str]]:
    rng = random.Random(7)
    found = [[a, b] for a in KINDS for b in KINDS]
    return found + [[rng.choice(KINDS) for _ in range(rng.randint(3, 6))] for _ in range(120)]


@pytest.mark.parametrize("steps", chains(), ids=lambda steps: "-".join(steps))
def test_any_order_gives_the_same_probabilities_in_one_order(steps: list[str]) -> None:
    for seed in range(3):
        built = web(steps, seed)
        proto = built.model()
        model, changes = ordered(proto)
        f = feed(built, seed)
        was, now = (ReferenceEvaluator(m).run(None, f)[0] for m in (proto, serde.serialize_model(model)))
        # float32; sums and products of a few terms in another order
        np.testing.assert_allclose(now, was, rtol=2e-5, atol=1e-6)
        if "rows" in built.done and {"fill", "floor"} & set(built.done[: len(built.done) - built.done[::-1].index("rows")]):
            assert changes == 0  # one that is negative would let through what was dropped
            continue
        left = [n.op_type for n in model.graph if n.op_type in ("MatMul", "Mul", "Div", "Add", "Sub", "Max", "Where", "Softmax")]
        begin, end = left.index("MatMul"), left.index("Softmax")
        assert end == len(left) - 1 or left[end + 1 :] == ["Mul"]  # the size of an axis that joins two
        assert left.count("Where") <= 1
        assert "Max" not in left
        if "Where" in left[begin:end]:
            assert left[end - 1] == "Where"


@pytest.mark.parametrize("steps", [["scale"], ["bias"], ["fill"], ["scale", "bias"], ["bias", "fill"], ["scale", "bias", "fill"]])
def test_what_is_in_order_stays(steps: list[str]) -> None:
    built = Web()
    rng = random.Random(1)
    for kind in steps:
        before = built.x
        built.step(kind, rng)
        while built.nodes[-1].op_type == "Sub":  # which is none of the forms
            built.nodes.pop()
            built.x = before
            built.step(kind, rng)
    assert ordered(built.model())[1] == 0


def test_what_is_filled_rests_on_assumptions_which_strict_forbids() -> None:
    proto = web(["fill", "scale"], 0).model()
    ctx = Context()
    assert ordered(proto, ctx)[1] == 1
    assert set(ctx.relied) == {KEEPS_A_KEY, FINITE}
    assert ordered(proto, Context(unassumed=frozenset({KEEPS_A_KEY})))[1] == 0


def test_sums_alone_rest_on_nothing() -> None:
    ctx = Context()
    assert ordered(web(["bias", "bias"], 0).model(), ctx)[1] == 1
    assert not ctx.relied


def changed(build: Any) -> int:
    built = Web()
    build(built)
    return ordered(built.model())[1]


def test_a_number_that_a_bias_could_outweigh_is_no_mask() -> None:
    def build(w: Web) -> None:
        w.x = w.add("Where", w.given(["S", "T"], boolean=True), w.x, w.number(-1e4))
        w.x = w.add("Add", w.x, w.given(["S", "T"]))

    assert changed(build) == 0


def test_scores_that_are_stretched_stay() -> None:
    def build(w: Web) -> None:
        w.x = w.add("Add", w.x, w.given(["S", "T"]))
        w.x = w.add("Add", w.x, w.given(["A", 1, 1, 1, 1]))

    assert changed(build) == 0


def test_a_negative_scale_and_a_scale_by_key_stay() -> None:
    def negative(w: Web) -> None:
        w.x = w.add("Mul", w.add("Add", w.x, w.given(["S", "T"])), w.number(-0.5))

    def by_key(w: Web) -> None:
        w.x = w.add("Mul", w.add("Add", w.x, w.given(["S", "T"])), w.given(["T"]))

    assert changed(negative) == changed(by_key) == 0


def test_a_scale_that_would_raise_what_was_dropped_stays() -> None:
    def build(w: Web) -> None:
        w.x = w.add("Mul", w.add("Where", w.given(["S", "T"], boolean=True), w.x, w.number(-1e30)), w.number(1e-30))

    assert changed(build) == 0


def test_noise_in_front_of_a_softmax_is_no_error() -> None:
    text = """<ir_version: 10, opset_import: ["" : 23]> g (float[2, 3] x) => (float[2, 3] p)
    { n = RandomUniform<shape = [2, 3], seed = 1.0>() s = Add(n, x) p = Softmax(s) }"""
    assert ordered(onnx.parser.parse_model(text))[1] == 0


def test_a_product_that_somebody_else_reads_is_not_scaled_by_row() -> None:
    def build(w: Web) -> None:
        w.add("Relu", w.x)
        w.x = w.add("Add", w.add("Mul", w.x, w.given([HEADS, 1, 1])), w.given(["S", "T"]))

    assert changed(build) == 0


def test_a_softmax_of_an_older_opset_is_over_other_axes() -> None:
    """A model that cannot be raised keeps one that says nothing of its axis, which is over all but the first."""
    proto = onnx.parser.parse_model("""<ir_version: 6, opset_import: ["": 11]>
        g (float[2, 4, 5, 8] q, float[2, 4, 8, 5] k, float[1, 5, 5] m) => (float[8, 5, 5] p)
        <float c = {0.5}, int64[3] flat = {8, 5, 5}> {
            s = MatMul(q, k) s3 = Reshape(s, flat) biased = Add(s3, m) scaled = Mul(biased, c) p = Softmax(scaled) }""")
    assert ordered(proto)[1] == 0
    proto.opset_import[0].version = 15
    assert ordered(proto)[1] == 1


def windowed(steps: str, given: str = "", opset: int = 23) -> Any:
    """Scores of windows, [batch * 3, heads, N, N], to which ``steps`` do something on [batch, 3, heads, N, N]."""
    return onnx.parser.parse_model(f"""<ir_version: 10, opset_import: ["" : {opset}]>
        g (float[B, 3, 2, 4, 8] q0, float[B, 3, 2, 8, 4] k0{given}) => (float[M, 2, 4, 4] p)
        <int64[5] five = {{-1, 3, 2, 4, 4}}, int64[4] four = {{-1, 2, 4, 4}}, int64[4] qs = {{-1, 2, 4, 8}},
         int64[4] ks = {{-1, 2, 8, 4}}, float half = {{0.5}}> {{
            q = Reshape(q0, qs) k = Reshape(k0, ks) s = MatMul(q, k) {steps} p = Softmax <axis = -1> (x) }}""")


WINDOWS = {
    "Swin": ("t = Add(s, table) w = Reshape(t, five) m = Add(w, mask) x = Reshape(m, four)",
             {"table": (1, 2, 4, 4), "mask": (1, 3, 1, 4, 4)}),
    "for each picture": ("w = Reshape(s, five) m = Add(w, mask) x = Reshape(m, four)", {"mask": ("B", 3, 1, 4, 4)}),
    "scaled later": ("w = Reshape(s, five) m = Add(mask, w) t = Add(m, table) h = Mul(t, half) x = Reshape(h, four)",
                     {"table": (2, 4, 4), "mask": (1, 3, 2, 4, 4)}),
    "the same for all windows": ("w = Reshape(s, five) m = Add(w, table) x = Reshape(m, four)", {"table": (2, 1, 4)}),
}  # fmt: skip


def same_probabilities(proto: Any, model: ir.Model, operands: dict[str, np.ndarray]) -> None:
    rng = np.random.default_rng(0)
    f = {n: rng.standard_normal((2, 3, 2, *shape)).astype(np.float32) for n, shape in {"q0": (4, 8), "k0": (8, 4)}.items()}
    was, now = (ReferenceEvaluator(m).run(None, f | operands)[0] for m in (proto, serde.serialize_model(model)))
    np.testing.assert_allclose(now, was, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("name", WINDOWS)
def test_what_windows_have_is_added_on_four_axes(name: str) -> None:
    steps, operands = WINDOWS[name]
    proto = windowed(steps, "".join(f", float[{', '.join(map(str, shape))}] {n}" for n, shape in operands.items()))
    model, changes = ordered(proto)
    assert changes == 1
    between = [n.op_type for n in model.graph]
    assert between[between.index("Softmax") - 1] == "Add"
    rng = np.random.default_rng(1)
    given = {n: [2 if d == "B" else d for d in shape] for n, shape in operands.items()}
    same_probabilities(proto, model, {n: rng.standard_normal(shape).astype(np.float32) for n, shape in given.items()})


def test_probabilities_that_are_read_on_the_axes_of_windows_stay() -> None:
    proto = windowed("w = Reshape(s, five) x = Add(w, mask)", ", float[1, 3, 1, 4, 4] mask")
    del proto.graph.output[0].type.tensor_type.shape.dim[:]
    assert ordered(proto)[1] == 0


@pytest.mark.parametrize("how", ["Mul", "Div"])
def test_factors_of_rows_behind_what_windows_have(how: str) -> None:
    steps = "w = Reshape(s, five) m = Add(w, mask) r = Reshape(m, four) axes = Constant<value_ints = [2, 3]>() " \
            f"e = ReduceMean(q, axes) rows = Exp(e) x = {how}(r, rows)"  # fmt: skip
    proto = windowed(steps, ", float[1, 3, 1, 4, 4] mask")
    model, changes = ordered(proto)
    assert changes == 1
    mask = np.random.default_rng(2).standard_normal((1, 3, 1, 4, 4)).astype(np.float32)
    same_probabilities(proto, model, {"mask": mask})


@pytest.mark.parametrize("shape", ["3, 1, 4, 4", "1, 1, 1, 4, 4"])
def test_what_is_not_known_to_be_for_windows_stays(shape: str) -> None:
    steps = "w = Reshape(s, five) m = Add(w, mask) x = Reshape(m, four)"
    assert ordered(windowed(steps, f", float[{shape}] mask"))[1] == 0


def test_a_condition_for_windows() -> None:
    steps = "low = Constant<value = float {-3e38}>() w = Reshape(s, five) m = Where(mask, w, low) x = Reshape(m, four)"
    proto = windowed(steps, ", bool[1, 3, 1, 4, 4] mask")
    model, changes = ordered(proto)
    assert changes == 1
    assert next(n for n in model.graph if n.op_type == "Softmax").inputs[0].producer().op_type == "Where"
    own = np.array([False, True, False])[None, :, None, None, None]  # the second window sees all of itself
    same_probabilities(proto, model, {"mask": np.tril(np.ones((1, 1, 1, 4, 4), bool)) | own})
