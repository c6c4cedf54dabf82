"""How patterns match: numbers, either order, misses and what they say, bodies and functions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from olc import matching
from olc.errors import RuleError
from olc.matching import Match, Miss, match
from olc.patterns import literals, trace
from olc.rules import (
    CLOSE,
    EXACT,
    F16,
    F32,
    Case,
    Const,
    Scalar,
    f32,
    rule,
    scalar,
)

from tests.pattern_text import Pattern, found, graph, hit, load, miss, value

# --- numbers --------------------------------------------------------------------------------------------------------


def times(number: float) -> Pattern:
    def pattern(op, x):
        return op.Mul(x, number)

    return pattern


def test_a_number_is_a_one_element_constant() -> None:
    for known in ("float c = {0.5}", "float[1] c = {0.5}", "float[1,1] c = {0.5}"):
        assert hit(times(0.5), graph("y = Mul(c, x)", known=known))
    assert miss(times(0.5), graph("y = Mul(x, c)", known="float c = {0.25}")).reason == "the constant is 0.25, not 0.5"
    assert miss(times(0.5), graph("y = Mul(x, c)", known="float[2] c = {0.5, 0.5}")).reason == (
        "it is not a one-element constant"
    )
    assert hit(times(2), graph("y = Mul(x, c)", "int64[N] x", "int64[N] y", "int64 c = {2}"))


def test_a_number_that_is_exact_is_matched_exactly() -> None:
    assert isinstance(found(times(1), graph("y = Mul(x, c)", known="float c = {1.000001}")), Miss)
    assert hit(times(1.4142135), graph("y = Mul(x, c)", known="float c = {1.41421}"))
    assert isinstance(found(times(1.4142135), graph("y = Mul(x, c)", known="float c = {1.414}")), Miss)


def test_a_number_is_matched_within_its_own_dtype() -> None:
    assert matching.same_number(np.float16(1.4142135), 1.4142135, F16)
    assert not matching.same_number(np.float32(np.float16(1.4142135)), 1.4142135, F32)


def test_the_sign_of_zero_counts() -> None:
    assert matching.same_number(np.float32(0.0), 0, F32)
    assert not matching.same_number(np.float32(-0.0), 0, F32)
    assert matching.same_number(np.float32(-0.0), -0.0, F32)


def test_an_exact_rule_names_exact_numbers_only() -> None:
    def declare(safety: Any) -> Any:
        @rule(group="t", safety=safety)
        class Root:
            """A product with the root of two, which no float holds."""

            def pattern(op, x):
                return op.Mul(x, 1.4142135)

            def rewrite(op, m):
                return op.Mul(m.x, 1.4142135)

            cases = [Case("a vector", x=f32["N"])]

        return Root

    with pytest.raises(RuleError, match="within a tolerance"):
        declare(EXACT)
    assert [x.value for x in literals(declare(CLOSE("rounds")).pattern.roots[0])] == [1.4142135]


# --- commutativity --------------------------------------------------------------------------------------------------


def test_commutative_operators_match_in_both_orders() -> None:
    def pattern(op, x, y, z):
        return op.Add(op.Mul(op.Relu(x), y), op.Abs(z))

    three = "float[N,4] x, float[N,4] b, float[N,4] c"
    for product in ("Mul(r, b)", "Mul(b, r)"):
        for total in ("Add(p, a)", "Add(a, p)"):
            m = hit(pattern, graph(f"r = Relu(x) a = Abs(c) p = {product} y = {total}", three))
            assert (m.x.name, m.y.name, m.z.name) == ("x", "b", "c")


def test_backtracking_across_operators() -> None:
    # Only one order of the inner Add lets the outer one use the same value.
    def pattern(op, x, y):
        return op.Mul(op.Add(x, y), x)

    m = hit(pattern, graph("s = Add(x, z) y = Mul(s, z)", "float[N,4] x, float[N,4] z"))
    assert (m.x.name, m.y.name) == ("z", "x")


def test_other_operators_keep_their_order() -> None:
    def pattern(op, x, y):
        return op.Sub(op.Relu(x), y)

    assert isinstance(found(pattern, graph("r = Relu(x) y = Sub(x, r)")), Miss)


def test_a_tall_commutative_tree_takes_few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    depth = 20

    def pattern(op, x):
        tree = op.Relu(x)
        for _ in range(depth):
            tree = op.Add(op.Neg(x), tree)
        return tree

    body = "r = Relu(x) " + " ".join(
        f"n{i} = Neg(x) t{i + 1} = Add({'r' if i == 0 else f't{i}'}, n{i})" for i in range(depth)
    )
    model = graph(f"{body} y = Identity(t{depth})")
    calls = 0
    original = matching._value

    def counted(*args: Any) -> bool:
        nonlocal calls
        calls += 1
        return original(*args)

    monkeypatch.setattr(matching, "_value", counted)
    assert hit(pattern, model, f"t{depth}")
    assert calls < 10 * depth, "not 2^20"


# --- misses and unless ----------------------------------------------------------------------------------------------


def test_the_deepest_failure_is_kept() -> None:
    def pattern(op, x):
        return op.Add(op.Relu(op.Neg(op.Abs(x))), 1.0)

    known = "float one = {1}, float two = {2}"
    near = miss(pattern, graph("a = Tanh(x) n = Neg(a) r = Relu(n) y = Add(one, r)", known=known))
    assert (near.depth, near.size) == (3, 4)
    assert near.reason.startswith("it is from Tanh")
    assert near.element == "Abs(x)"
    assert near.at == "'a'"
    far = miss(pattern, graph("r = Tanh(x) y = Add(r, one)", known=known))
    assert far.depth < near.depth
    assert "3 of 4 operators matched" in str(near)
    assert not near


def test_an_input_is_no_operator() -> None:
    def pattern(op, x):
        return op.Relu(op.Neg(x))

    assert miss(pattern, graph("y = Relu(x)")).reason == "it is an input or constant, not from Neg"
    model = graph("y = Relu(x)")
    m = match(trace(pattern), model.graph.inputs[0], {"": 18})
    assert isinstance(m, Miss)
    assert "not produced by an operator" in m.reason


def test_without_explanation_a_miss_is_none() -> None:
    def pattern(op, x):
        return op.Relu(op.Neg(x))

    model = graph("y = Relu(x)")
    assert match(trace(pattern), value(model, "y"), {"": 18}, explain=False) is None


def test_unless_refuses_or_lets_the_search_go_on() -> None:
    def pattern(op, x, y):
        return op.Add(x, y)

    seen = []

    def unless(m: Match) -> str | None:
        seen.append(m.x.name)
        return "x comes first" if m.x.name == "x" else None

    model = graph("y = Add(x, z)", "float[N,4] x, float[N,4] z")
    assert hit(pattern, model, unless=unless).x.name == "z"
    assert seen == ["x", "z"]
    m = miss(pattern, model, unless=lambda m: "the moon is full")
    assert m.refused
    assert (m.depth, m.size) == (1, 1)
    assert str(m) == f"at {m.at}: the moon is full"
    kept = match(trace(pattern), value(model, "y"), {"": 18}, explain=False, unless=lambda m: "no")
    assert isinstance(kept, Miss), "a refusal is kept even without explanations"


def test_unless_may_keep_what_it_computed() -> None:
    def pattern(op, x, s: Scalar):
        return op.Mul(x, s)

    def unless(m: Match) -> None:
        m.double = 2 * scalar(m.s)

    assert hit(pattern, graph("y = Mul(x, s)", known="float s = {3}"), unless=unless).double == 6


def test_refusals_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    def pattern(op, a, b, c, d, e):
        return op.Add(op.Add(op.Add(op.Add(a, b), c), d), e)

    names = ", ".join(f"float[N,4] {n}" for n in ("x", "b", "c", "d", "e"))
    model = graph("p = Add(x, b) q = Add(p, c) r = Add(q, d) y = Add(r, e)", names)
    monkeypatch.setattr(matching, "MAX_TRIES", 1)
    asked = []

    def unless(m: Match) -> str:
        asked.append(m)
        return "never"

    assert miss(pattern, model, unless=unless).refused
    assert len(asked) == 1


def test_an_unbound_name_is_the_rules_fault() -> None:
    def pattern(op, x):
        return op.Relu(x)

    m = hit(pattern, graph("y = Relu(x)"))
    with pytest.raises(RuleError, match=r"m\.zeta"):
        _ = m.zeta


# --- bodies and functions -------------------------------------------------------------------------------------------

BRANCHES = """<ir_version: 10, opset_import: ["" : 18]>
g (bool c, float[N,4] x) => (float[N,4] y) <float one = {1}> {
  n = Neg(x)
  y = If(c) <
    then_branch = t () => (float[N,4] a) { r = Relu(n) a = Add(r, one) },
    else_branch = e () => (float[N,4] b) { b = Identity(x) }
  >
}"""


def test_leaves_may_come_from_outer_graphs_interior_may_not() -> None:
    model = load(BRANCHES)

    def leaves(op, n, c: Const):
        return op.Add(op.Relu(n), c)

    m = hit(leaves, model, "a")
    assert (m.n.name, m.c.name) == ("n", "one")

    def interior(op, x):
        return op.Add(op.Relu(op.Neg(x)), 1.0)

    assert miss(interior, model, "a").reason == "it lies in an outer graph"

    def shared(op, x):
        return op.Add(op.Relu(op.shared(op.Neg(x))), 1.0)

    assert hit(shared, model, "a").x.name == "x"


def test_a_use_in_a_body_is_a_use() -> None:
    model = load(BRANCHES.replace("y = If", "z = Abs(n) w = Neg(z) y = If").replace("Relu(n)", "Relu(z)"))

    def pattern(op, x):
        return op.Neg(op.Abs(x))

    assert miss(pattern, model, "w").reason.startswith("'z' is also used by Relu")


def test_an_attribute_of_the_enclosing_function_matches_nothing() -> None:
    model = load(
        """<ir_version: 10, opset_import: ["" : 18, "f" : 1]>
        g (float[N,4] x) => (float[N,4] y) { y = f.Body<k = 0>(x) }
        <opset_import: ["" : 18], domain: "f"> Body <k> (x) => (s) { s = Softmax<axis: int = @k>(x) }"""
    )

    def pattern(op, x, axis):
        return op.Softmax(x, axis=axis)

    assert miss(pattern, model, "s").reason == "attribute axis is the enclosing function's 'k'"
