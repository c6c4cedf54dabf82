"""Element functions: the expression at symbolic coordinates against what the reference evaluator computes."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from olc import ir
from olc.analysis import dims as d
from olc.analysis import shapes
from olc.analysis.functions import FALSE, TRUE, Condition, Functions, coordinate, keeps_a_key
from olc.assumptions import COVERS_KEYS
from onnx.reference import ReferenceEvaluator
from onnx_ir import serde

from tests.mask_webs import CAUSAL, HEADER, PADDING, web

AT = tuple(coordinate(i) for i in range(4))
B, S, P = (d.symbol(n) for n in "BSP")


def load(text: str) -> tuple[Any, dict[str, ir.Value]]:
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 23]>\n{text}')
    model = serde.deserialize_model(proto)
    shapes.infer(model)
    return proto, {v.name: v for v in [*model.graph.inputs, *(o for n in model.graph for o in n.outputs)] if v.name}


def holds(condition: Condition, functions: Functions, sizes: dict[str, int], feed: dict[str, np.ndarray]) -> bool:
    """What the condition says with numbers for sizes and coordinates, and arrays for what is read."""

    def number(p: d.Dim) -> int:
        known = dict(sizes)
        for name in d.all_names(p):
            if name in functions.reads:
                read = functions.reads[name]
                known[name] = int(feed[read.value.name][tuple(number(c) for c in read.at)])
        return d.evaluate(p, known)

    def clause(c: Any) -> bool:
        if c.kind == "or":
            return any(holds(o, functions, sizes, feed) for o in c.options)
        n = number(c.p)
        return {"ge": n >= 0, "eq": n == 0, "ne": n != 0}[c.kind]

    return all(clause(c) for c in condition.clauses)


@pytest.mark.parametrize(("padding", "causal"), [
    *((p, c) for p in PADDING for c in CAUSAL), *((p, None) for p in PADDING), *((None, c) for c in CAUSAL),
])  # fmt: skip
def test_a_web_means_what_it_computes(padding: str | None, causal: str | None) -> None:
    proto, found = load(f"g ({HEADER.replace('{T}', 'T')}) => (bool[A, H, C, K] mask) {{ {web(padding, causal)} }}")
    functions = Functions((B, 1, S, d.add(P, S)))
    condition = functions.condition(found["mask"], AT[-len(shapes.dims(found["mask"])) :])
    random = np.random.default_rng(0)
    run = ReferenceEvaluator(proto)
    for b, s, p in itertools.product((1, 2), (1, 3), (0, 2)):
        feed = {"m": random.integers(-1, 3, (b, p + s)), "x": np.zeros((b, s, 8), np.float32)}
        feed["past"] = np.zeros((b, 2, p, 4), np.float32)
        mask = np.broadcast_to(run.run(["mask"], feed)[0], (b, 1, s, p + s))
        for at in np.ndindex(mask.shape):
            sizes = {"B": b, "S": s, "P": p, "T": p + s} | {f"@{i}": c for i, c in enumerate(at)}
            assert holds(condition, functions, sizes, feed) == mask[at], (at, str(condition))


@pytest.mark.parametrize("causal", [None, *CAUSAL])
@pytest.mark.parametrize("padding", [None, *PADDING])
def test_all_webs_say_the_same(padding: str | None, causal: str | None) -> None:
    if padding is None and causal is None:
        return
    _, found = load(f"g ({HEADER.replace('{T}', 'T')}) => (bool[A, H, C, K] mask) {{ {web(padding, causal)} }}")
    functions = Functions((B, 1, S, d.add(P, S)))
    condition = functions.condition(found["mask"], AT[-len(shapes.dims(found["mask"])) :])
    said = sorted(map(str, condition.clauses))
    expected = (["@2 - @3 + P >= 0"] if causal else []) + (["m[@0, @3] != 0"] if padding else [])
    assert said == sorted(expected)


def test_what_is_assumed_is_said() -> None:
    for padding, assumed in (("gathered", True), ("gathered by pairs", False), ("unsqueezed", False)):
        _, found = load(f"g ({HEADER.replace('{T}', 'T')}) => (bool[A, H, C, K] mask) {{ {web(padding, None)} }}")
        functions = Functions((B, 1, S, d.add(P, S)))
        functions.condition(found["mask"], AT)
        assert functions.assumed == ({COVERS_KEYS} if assumed else set()), padding


def one(body: str, inputs: str = "int64[N] x", bound: str = "N") -> tuple[Functions, Any]:
    _, found = load(f"g ({inputs}) => (int64[M] y) {{ {body} }}")
    functions = Functions((d.symbol(bound),))
    return functions, functions.at(found["y"], (coordinate(0),))


@pytest.mark.parametrize(("body", "text"), [
    # An int8 wraps where an integer does not: 1 - m is never negative for a dim, but may be for the runtime.
    ("a = Cast<to = 3>(x) o = Constant<value = int8 {1}>() b = Sub(o, a) y = Cast<to = 7>(b)", "b[@0]"),
    ("a = Cast<to = 6>(x) o = Constant<value = int32 {1}>() b = Sub(o, a) y = Cast<to = 7>(b)", "b[@0]"),
    ("o = Constant<value_int = 1>() y = Sub(o, x)", "-x[@0] + 1"),
    # An index that a caller gives may count from the end.
    ("y = Gather(x, x)", "y[@0]"),
    ("c = CumSum(x, z) z2 = Constant<value_int = 0>() y = Add(c, z2)", "c[@0]"),
    ("s = Shape(x) o = Constant<value_int = 3>() e = Expand(o, s) a = Constant<value_int = 0>() y = CumSum(e, a)", "3*@0 + 3"),
    ("s = Shape(x) o = Constant<value_int = 1>() e = Expand(o, s) a = Constant<value_int = 0>() "
     "y = CumSum<exclusive = 1>(e, a)", "@0"),
    ("s = Shape(x) o = Constant<value_int = 1>() e = Expand(o, s) a = Constant<value_int = 0>() "
     "y = CumSum<reverse = 1>(e, a)", "y[@0]"),
    ("c = Constant<value_ints = [2, 4, 6]>() y = Gather(c, i)", "y[@0]"),
    ("c = Constant<value_ints = [0]>() e = Constant<value_ints = [2]>() y = Slice(x, e, l, c)", "x[@0 + 2]"),
    ("c = Constant<value_ints = [0]>() e = Constant<value_ints = [-2]>() y = Slice(x, e, l, c)", "y[@0]"),
    ("n = Constant<value_ints = [0]>() y = Expand(i, n)", "i[@0]"),
])  # fmt: skip
def test_what_is_looked_through(body: str, text: str) -> None:
    _, e = one(body, "int64[N] x, int64 z, int64[K] i, int64[1] l")
    assert str(e) == text


def test_constants_of_a_simple_form() -> None:
    assert str(one("y = Constant<value_ints = [3, 5, 7]>()")[1]) == "2*@0 + 3"
    assert one("y = Constant<value_ints = [4, 4]>()")[1] == 4
    assert str(one("y = Constant<value_ints = [4, 4, 5]>()")[1]) == "y[@0]"


def test_a_product_of_coordinates_is_not_proved_and_does_no_harm() -> None:
    functions = Functions((d.symbol("N"), d.symbol("N")))
    assert not functions.nonnegative(d.sub(d.mul(AT[0], AT[1]), 1))
    assert functions.nonnegative(d.sub(d.symbol("N"), d.add(AT[0], 1)))


def test_negation_is_pushed_inwards() -> None:
    functions = Functions((B, 1, S, S))
    both = functions.both((functions.clause("ge", d.sub(AT[2], AT[3])), functions.clause("eq", d.sub(AT[2], AT[0]))))
    assert functions.negation(functions.negation(both)) == both
    assert functions.negation(TRUE) == FALSE
    assert functions.one_of((both, functions.negation(both))) != FALSE


@pytest.mark.parametrize(("padding", "causal", "keeps"), [(None, "less or equal", True), ("unsqueezed", None, False),
                                                         ("unsqueezed", "less or equal", False)])  # fmt: skip
def test_which_masks_are_proved_to_keep_a_key(padding: str | None, causal: str | None, keeps: bool) -> None:
    _, found = load(f"g ({HEADER.replace('{T}', 'T')}) => (bool[A, H, C, K] mask) {{ {web(padding, causal)} }}")
    assert keeps_a_key(found["mask"], (B, 2, S, d.add(P, S))) is keeps


def test_a_key_that_does_not_exist_proves_nothing() -> None:
    # k == q + K - Q holds at a key below 0 for the first queries where there are fewer keys than queries
    text = (
        "g (float[Q, K] x) => (bool[Q, K] mask) { z1 = Constant<value_ints = [0]>() z = Constant<value_int = 0>() "
        "o1 = Constant<value_ints = [1]>() "
        "o = Constant<value_int = 1>() q1 = Shape<start = 0, end = 1>(x) k1 = Shape<start = 1, end = 2>(x) q = Squeeze(q1, z1) "
        "k = Squeeze(k1, z1) qr = Range(z, q, o) kr = Range(z, k, o) qu = Unsqueeze(qr, o1) d = Sub(k, q) own = Add(qu, d) "
        "mask = Equal(kr, own) }"
    )
    _, found = load(text)
    assert not keeps_a_key(found["mask"], (1, 1, d.symbol("Q"), d.symbol("K")))


def test_a_product_is_zero_where_a_factor_is() -> None:
    text = "g (int64[B, S] m) => (bool[A] y) { a = Constant<value_ints = [1]>() b = Constant<value_ints = [2]>() "
    text += "q = Unsqueeze(m, b) k = Unsqueeze(m, a) p = Mul(q, k) y = Cast<to = 9>(p) n = Not(y) }"
    _, found = load(text)
    functions = Functions((B, S, S))
    at = AT[:3]
    each = [functions.condition(found[n], at) for n in "qk"]
    assert functions.condition(found["y"], at) == functions.both(each)
    assert functions.condition(found["n"], at) == functions.one_of(map(functions.negation, each))


def test_a_size_called_like_a_coordinate_is_not_one() -> None:
    text = f"g ({HEADER.replace('{T}', 'T').replace('2, P, 4', '2, @2, 4')}) => (bool[A, H, C, K] mask) {{ {web(None, 'less')} }}"
    text = text.replace("@2", "coordinate")
    proto, _ = load(text)
    proto.graph.input[2].type.tensor_type.shape.dim[2].dim_param = "@2"
    model = serde.deserialize_model(proto)
    shapes.infer(model)
    past = next(v for v in model.graph.inputs if v.name == "past")
    assert "@2" not in d.symbols(shapes.dims(past)[2])


@pytest.mark.parametrize(("dtype", "factor", "seen"), [
    ("int64", 3, True), ("int64", 1 << 40, False), ("int32", 100, True), ("int32", 1000, False),
])  # fmt: skip
def test_arithmetic_that_may_wrap_is_not_looked_through(dtype: str, factor: int, seen: bool) -> None:
    kind = {"int64": 7, "int32": 6}[dtype]
    body = "z = Constant<value_int = 0>() o = Constant<value_int = 1>() n1 = Shape(x) a = Constant<value_ints = [0]>() "
    body += f"n = Squeeze(n1, a) r = Range(z, n, o) c = Cast<to = {kind}>(r) f = Constant<value = {dtype} {{{factor}}}>() "
    _, e = one(f"{body} t = Mul(c, f) y = Cast<to = 7>(t)")
    assert str(e) == (f"{factor}*@0" if seen else "t[@0]")


def test_a_deep_or_wide_web_ends_as_a_read() -> None:
    deep = " ".join(f"t{i + 1} = {'Max' if i % 2 else 'Min'}(t{i}, x)" for i in range(2000))
    assert str(one(f"t0 = Identity(x) {deep} y = Identity(t2000)")[1]).endswith("[@0]")
    chain = "o = Constant<value_int = 1>() k0 = Constant<value_int = 0>() c0 = Greater(x, k0) "
    for i in range(1, 12):  # each doubles the condition
        chain += f"k{i} = Add(k{i - 1}, o) g{i} = Greater(x, k{i}) n{i} = Not(c{i - 1}) c{i} = Where(g{i}, c{i - 1}, n{i}) "
    _, found = load(f"g (int64[N] x) => (bool[M] y) {{ {chain} y = Identity(c11) }}")
    functions = Functions((d.symbol("N"),))
    assert functions.condition(found["y"], (coordinate(0),)).size <= 64


def test_a_dim_of_one_is_read_at_0_however_it_is_asked_for() -> None:
    _, found = load("g (bool[B, 1, S, S] m) => (bool[A] y) { y = Not(m) }")
    functions = Functions((B, 3, S, S))
    assert str(functions.at(found["m"], AT)) == "m[@0, 0, @2, @3]"


@pytest.mark.parametrize(("number", "expected"), [("1.0", TRUE), ("0.0", FALSE)])
def test_floats_that_are_all_one_number_are_a_mask_of_one_truth(number: str, expected: Condition) -> None:
    text = f"s = Shape(x) o = ConstantOfShape<value = float[1] {{{number}}}>(s) u = Identity(o) y = Cast<to = 9>(u)"
    _, found = load(f"g (int64[N] x) => (bool[M] y) {{ {text} }}")
    assert Functions((d.symbol("N"),)).condition(found["y"], (coordinate(0),)) == expected


def table_of(a: np.ndarray) -> ir.Value:
    value = ir.make_constant(a, name="t")
    ir.Graph([], [], nodes=[], initializers=[value])
    return value


@pytest.mark.parametrize("dtype", [bool, np.uint8])
@pytest.mark.parametrize(("rows", "columns"), [(5, 5), (3, 6), (6, 2)])
def test_a_table_of_a_band_is_a_condition_on_row_and_column(rows: int, columns: int, dtype: Any) -> None:
    away = np.arange(rows)[:, None] - np.arange(columns)
    for low, high in itertools.product(range(-columns, rows + 1), repeat=2):
        for table in ((low <= away) & (away <= high), ~((low <= away) & (away <= high))):
            value = table_of(table.astype(dtype)[None, None])
            functions = Functions((1, 1, rows, columns))
            condition = functions.condition(value, (0, 0, *AT[2:]))
            assert not functions.reads
            for i, j in np.ndindex(table.shape):
                assert holds(condition, functions, {"@2": i, "@3": j}, {}) == table[i, j], (low, high, i, j)


def test_a_table_for_each_head_is_a_band_where_all_are_alike() -> None:
    alike = np.tile(np.tril(np.ones((4, 4), bool)), (1, 2, 1, 1))
    functions = Functions((1, 2, 4, 4))
    assert str(functions.condition(table_of(alike), AT)) == str(functions.clause("ge", d.sub(AT[2], AT[3])))
    unlike = alike.copy()
    unlike[0, 1] = True
    functions.condition(table_of(unlike), AT)
    assert functions.reads


def test_a_table_that_is_no_band_is_read() -> None:
    table = np.tril(np.ones((4, 4), bool))
    table[2, 0] = False
    for other in (table, np.tril(np.ones((4, 4), np.uint8)) * 2, np.eye(4, dtype=bool) | np.eye(4, k=2, dtype=bool)):
        functions = Functions((1, 1, 4, 4))
        functions.condition(table_of(other), AT[2:])
        assert functions.reads


@pytest.mark.parametrize("text", ["h = Constant<value_float = 0.5>() f = Add(xf, h)", "f = Identity(w)", "f = Cast<to = 1>(t)"])
def test_of_floats_only_whole_numbers_made_of_sizes_are_followed(text: str) -> None:
    """0.5 > 0 and 1 > 0 are one condition of whole numbers; what a caller's integers become as floats is rounded."""
    _, values = load(
        f"""g (float[B, S] x, float[B, S] w, int64[B, S] t) => (bool[B, S] y) {{
            s1 = Shape<start = 1, end = 2>(x) z1 = Constant<value_ints = [0]>() s = Squeeze(s1, z1)
            zero = Constant<value_int = 0>() one = Constant<value_int = 1>() r = Range(zero, s, one)
            xf = Cast<to = 1>(r) {text} k = Constant<value_float = 3.0>() y = Greater(f, k) }}"""
    )
    functions = Functions((B, S))
    condition = functions.condition(values["y"], (coordinate(0), coordinate(1)))
    assert str(condition) == "y[@0, @1] != 0"


def test_positions_as_floats_are_positions() -> None:
    _, values = load(
        """g (float[B, S] x) => (bool[S] y) {
            s1 = Shape<start = 1, end = 2>(x) z1 = Constant<value_ints = [0]>() s = Squeeze(s1, z1)
            zero = Constant<value_int = 0>() one = Constant<value_int = 1>() r = Range(zero, s, one)
            xf = Cast<to = 1>(r) k = Constant<value_float = 3.0>() y = Greater(xf, k) }"""
    )
    functions = Functions((S,))
    assert str(functions.condition(values["y"], (coordinate(0),))) == "@0 - 4 >= 0"
    assert not functions.reads


def test_positions_that_a_float_rounds_are_not_followed() -> None:
    """2**24 and 2**24 + 1 are one float32, so that the last key but one is not in front of the last."""
    _, values = load(
        """g (float[B, S] x) => (bool[S] y) {
            s1 = Shape<start = 1, end = 2>(x) z1 = Constant<value_ints = [0]>() s = Squeeze(s1, z1)
            far = Constant<value_int = 16777216>() zero = Constant<value_int = 0>() one = Constant<value_int = 1>()
            r = Range(zero, s, one) rb = Add(r, far)
            xf = Cast<to = 1>(rb) sf = Cast<to = 1>(s) y = LessOrEqual(xf, sf) }"""
    )
    assert str(Functions((S,)).condition(values["y"], (coordinate(0),))) == "y[@0] != 0"
