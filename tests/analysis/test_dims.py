"""Symbolic sizes against plain integer arithmetic: canonical forms, proofs, text."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product as pairs

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from olc.analysis import dims as d
from olc.analysis.dims import Dim, symbol

from tests.work import calls

B, S, T = symbol("b"), symbol("s"), symbol("t")
NAMES = ("b", "s", "t")

# An expression built twice: as a dim, and as a function of the symbols' values (None where it has no value there).
Both = tuple[Dim, Callable[[dict[str, int]], "int | None"]]


def _leaf() -> st.SearchStrategy[Both]:
    def named(n: str) -> Both:
        return symbol(n), lambda env: env[n]

    def number(k: int) -> Both:
        return k, lambda env: k

    return st.one_of(st.sampled_from(NAMES).map(named), st.integers(-4, 9).map(number))


def _joined(op: Callable[[Dim, Dim], Dim], plain: Callable[[int, int], int | None]) -> Callable[[Both, Both], Both]:
    def join(x: Both, y: Both) -> Both:
        def value(env: dict[str, int]) -> int | None:
            a, b = x[1](env), y[1](env)
            return None if a is None or b is None else plain(a, b)

        return op(x[0], y[0]), value

    return join


def _floor(x: Both, k: int) -> Both:
    def value(env: dict[str, int]) -> int | None:
        a = x[1](env)
        return None if a is None else a // k

    return d.floordiv(x[0], k), value


def _extend(inner: st.SearchStrategy[Both]) -> st.SearchStrategy[Both]:
    joins = [
        _joined(d.add, lambda a, b: a + b),
        _joined(d.sub, lambda a, b: a - b),
        _joined(d.mul, lambda a, b: a * b),
        _joined(d.maximum, max),
        _joined(d.minimum, min),
    ]
    return st.one_of(
        st.builds(lambda j, x, y: j(x, y), st.sampled_from(joins), inner, inner),
        st.builds(_floor, inner, st.integers(1, 6)),
        st.builds(lambda x, k: (d.mod(x[0], k), lambda env: _mod(x[1](env), k)), inner, st.integers(1, 5)),
    )


def _mod(a: int | None, k: int) -> int | None:
    return None if a is None else a % k


expressions = st.recursive(_leaf(), _extend, max_leaves=8)
sizes = st.fixed_dictionaries({n: st.integers(0, 12) for n in NAMES})
ENVIRONMENTS = [dict(zip(NAMES, v, strict=True)) for v in pairs((0, 1, 2, 5, 7), repeat=3)]


@settings(max_examples=400, deadline=None)
@given(expressions, sizes)
def test_canonical_form_keeps_the_value(e: Both, env: dict[str, int]) -> None:
    assert d.evaluate(e[0], env) == e[1](env)


@settings(max_examples=300, deadline=None)
@given(expressions)
def test_proofs_hold_everywhere(e: Both) -> None:
    values = [d.evaluate(e[0], env) for env in ENVIRONMENTS]
    if d.is_nonnegative(e[0]):
        assert min(values) >= 0
    if d.is_positive(e[0]):
        assert min(values) >= 1


@settings(max_examples=300, deadline=None)
@given(expressions, expressions)
def test_comparisons_hold_everywhere(x: Both, y: Both) -> None:
    values = [(d.evaluate(x[0], env), d.evaluate(y[0], env)) for env in ENVIRONMENTS]
    if d.known_equal(x[0], y[0]):
        assert all(a == b for a, b in values)
    if d.known_different(x[0], y[0]):
        assert all(a != b for a, b in values)
    if d.at_least(x[0], y[0]):
        assert all(a >= b for a, b in values)


@settings(max_examples=300, deadline=None)
@given(expressions, expressions, sizes)
def test_division(x: Both, y: Both, env: dict[str, int]) -> None:
    """With a divisor that may be 0 the quotient is right wherever there is one; so is one that presumes it is not."""
    a, b = d.evaluate(x[0], env), d.evaluate(y[0], env)
    if y[0] == 0:
        with pytest.raises(ZeroDivisionError):
            d.floordiv(x[0], y[0])
        return
    plain, sure = d.floordiv(x[0], y[0]), d.floordiv(x[0], y[0], nonzero=True)
    exact = d.divide_exact(x[0], y[0])
    if b != 0:
        assert d.evaluate(plain, env) == d.evaluate(sure, env) == a // b
        if exact is not None:
            assert d.evaluate(exact, env) * b == a


@settings(max_examples=300, deadline=None)
@given(expressions, expressions, sizes)
def test_broadcast(x: Both, y: Both, env: dict[str, int]) -> None:
    a, b = d.evaluate(x[0], env), d.evaluate(y[0], env)
    if a < 0 or b < 0 or (a != b and 1 not in (a, b)):
        return  # no sizes, or they do not fit
    both = d.broadcast(x[0], y[0])
    assert both is not None
    assert d.evaluate(both, env) == (a if b == 1 else b)


@settings(max_examples=300, deadline=None)
@given(expressions)
def test_text_reads_back(e: Both) -> None:
    assert d.parse(str(e[0])) == e[0]


@settings(max_examples=200, deadline=None)
@given(expressions, expressions, sizes)
def test_substitution(x: Both, y: Both, env: dict[str, int]) -> None:
    inner = d.evaluate(y[0], env)
    if inner >= 0:
        changed = d.substitute(x[0], {"s": y[0]})
        assert d.evaluate(changed, env) == d.evaluate(x[0], {**env, "s": inner})


@settings(max_examples=200, deadline=None)
@given(expressions, expressions, expressions)
def test_ring_laws_hold_as_objects(x: Both, y: Both, z: Both) -> None:
    a, b, c = x[0], y[0], z[0]
    assert d.add(a, b) == d.add(b, a)
    assert hash(d.add(a, b)) == hash(d.add(b, a))
    assert d.mul(a, d.add(b, c)) == d.add(d.mul(a, b), d.mul(a, c))
    assert d.sub(d.add(a, b), b) == a
    assert d.total([a, b, c]) == d.add(d.add(a, b), c)


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (d.add(S, symbol("past")), "past + s"),
        (d.mul(2, S), "2*s"),
        (d.floordiv(d.add(S, 1), 2), "floor((s + 1)/2)"),
        (d.add(d.mul(S, -1), 3), "-s + 3"),
        (d.mul(d.add(B, 1), d.add(S, 1)), "b*s + b + s + 1"),
        (d.maximum(d.sub(S, 1), 0), "max(s - 1, 0)"),
    ],
)
def test_text(made: Dim, text: str) -> None:
    assert str(made) == text


def test_quotients() -> None:
    assert d.floordiv(d.mul(384, B), 384) == B
    assert d.floordiv(d.mul(B, S), S) != B  # s may be 0
    assert d.floordiv(d.mul(B, S), S, nonzero=True) == B
    assert d.floordiv(d.mul(384, d.mul(B, S)), d.mul(12, B), nonzero=True) == d.mul(32, S)
    assert d.floordiv(d.mul(d.mul(B, d.add(S, 1)), 64), d.add(S, 1)) == d.mul(64, B)
    assert d.mul(2, d.floordiv(S, 2)) != S
    # two convolutions of stride 2, written in the two usual ways
    once = d.floordiv(d.sub(S, 1), 2)
    assert d.floordiv(once, 2) == d.floordiv(d.sub(S, 1), 4)
    assert d.add(d.floordiv(d.sub(S, 3), 2), 1) == d.floordiv(d.sub(S, 1), 2)


def test_remainders_are_bounded() -> None:
    rest = d.mod(S, 7)
    assert d.is_nonnegative(rest)
    assert d.is_positive(d.sub(7, rest))
    assert d.add(d.mul(7, d.floordiv(S, 7)), rest) == S


def test_the_last_of_several_broadcast_to_as_many() -> None:
    last = d.sub(d.add(S, T), d.mul(T, d.minimum(S, 1)))  # `x[-S:]` of S + T
    assert d.broadcast(last, S) == S
    assert d.broadcast(last, T) not in (S, T, last)
    assert d.broadcast(d.add(S, T), S) != S


def test_position_ids_cut_from_a_table_broadcast_to_the_sequence() -> None:
    assert d.broadcast(d.minimum(512, S), S) == S
    assert d.broadcast(d.minimum(512, d.add(S, T)), d.add(S, T)) == d.add(S, T)
    assert d.broadcast(B, S) not in (B, S)
    assert d.broadcast(d.broadcast(B, S), B) == d.broadcast(S, B)
    assert d.broadcast(3, 4) is None


@pytest.mark.parametrize(
    ("text", "dim"),
    [
        ("s0 + s70", d.add(symbol("s0"), symbol("s70"))),
        ("2*seq", d.mul(2, symbol("seq"))),
        ("(seq + 1)//2", d.floordiv(d.add(symbol("seq"), 1), 2)),
        ("FloorDiv(s, 2)", d.floordiv(S, 2)),
        ("floor(s/2)", d.floordiv(S, 2)),
        ("ceiling(s/2)", d.ceildiv(S, 2)),
        ("Max(1, s)", d.maximum(1, S)),
        ("s**2", d.mul(S, S)),
        ("s % 4", d.mod(S, 4)),
        ("batch-size", symbol("batch-size")),
        ("p2o.DynamicDimension.0", symbol("p2o.DynamicDimension.0")),
        ("Gemmlogits_dim_0", symbol("Gemmlogits_dim_0")),
        ("7", 7),
    ],
)
def test_exporters_texts(text: str, dim: Dim) -> None:
    assert d.parse(text) == dim


@pytest.mark.parametrize(
    "text",
    ["", "a b", "s +", "s/2", "f(s)", "s.t + 1", "[s]", "s if s else 1", "__import__('os')", "1.5*s", "s//0", "x" * 900,
     "(" * 300 + "s" + ")" * 300, "9**9**9", "Max()", "lambda: 1", "True"],
)  # fmt: skip
def test_other_texts_are_refused(text: str) -> None:
    found = d.parse(text)
    assert found is None or found == symbol(text)


def test_new_symbols_are_equal_to_themselves_only() -> None:
    supply = d.Supply()
    a, b, k = supply.fresh(), supply.fresh(), supply.unknown()
    assert a == a
    assert a != b
    assert d.is_nonnegative(a)
    assert not d.is_nonnegative(k)
    assert d.is_size(a)
    assert not d.is_size(d.maximum(k, 0))
    supply.reset()
    assert supply.fresh() == a


def _nested(depth: int) -> Dim:
    deep: Dim = S
    for i in range(depth):
        deep = d.floordiv(d.add(d.mul(deep, deep), symbol(f"n{i}")), 2)
    return deep


def test_blown_up_sizes_are_refused_with_little_work() -> None:
    def refused() -> None:
        many = d.total(symbol(f"n{i}") for i in range(300))
        with pytest.raises(OverflowError):
            d.mul(many, many)
        with pytest.raises(OverflowError):
            d.product([S] * 100)
        with pytest.raises(OverflowError):
            _nested(1000)
        assert not d.is_nonnegative(d.sub(d.total(d.minimum(symbol(f"n{i}"), T) for i in range(20)), d.mul(20, T)))

    assert calls(refused) < 100_000


@pytest.mark.parametrize(("n", "whole", "same"), [
    ("S", "S", True), ("min(S, 128)", "S", True), ("min(S, 2)", "S", True), ("min(S, 1)", "S", False),
    ("min(S, T)", "S", False), ("S", "T", False), ("1", "S", False), ("max(S, 128)", "S", False),
    ("S + T - T*min(1, S)", "S", True), ("S + T - T*min(1, T)", "S", False), ("S + T*min(1, S)", "S", False), ("5", "5", True),
])  # fmt: skip
def test_the_first_entries_of_a_table_are_as_many_or_the_run_ends(n: str, whole: str, same: bool) -> None:
    a, b = d.parse(n), d.parse(whole)
    assert a is not None
    assert b is not None
    assert d.fits(a, b) == same


@pytest.mark.parametrize(("shape", "whole", "fitted"), [
    # GPT-2 with a cache: rows P to P + S, columns up to P + S of a table of 64
    (("max(min(64 - P, S), 0)", "min(P + S, 64)"), ("S", "P + S"), ("S", "P + S")),
    (("max(min(64 - P, S), 0)", "min(P + S, 65)"), ("S", "P + S"), ("max(min(64 - P, S), 0)", "P + S")),
    (("max(min(64 - P, S), 0)", "64"), ("S", "P + S"), ("max(min(64 - P, S), 0)", "64")),
    (("max(min(64 - P, S), 0)", "min(P + S, 1)"), ("S", "P + S"), ("max(min(64 - P, S), 0)", "min(P + S, 1)")),
    (("min(P + S, 64)",), ("max(min(64 - P, S), 0)", "P + S"), ("P + S",)),
])  # fmt: skip
def test_what_one_axis_proves_settles_the_others(shape: tuple[str, ...], whole: tuple[str, ...], fitted: tuple[str, ...]) -> None:
    def dims(texts: tuple[str, ...]) -> tuple[d.Dim, ...]:
        found = [d.parse(t) for t in texts]
        return tuple(n for n in found if n is not None)

    a, b, wanted = dims(shape), dims(whole), dims(fitted)
    for first, second, place in ((a, b, 0), (b, a, 1)):
        assert d.met(first, second)[place] == wanted
    one, other = d.met(a, b)
    for p, s in pairs((0, 1, 5, 63, 64, 65, 70), repeat=2):
        sizes = [[d.evaluate(n, {"P": p, "S": s}) for n in shape] for shape in (a, b, one, other)]
        if all(x == y or 1 in (x, y) for x, y in zip(sizes[0][::-1], sizes[1][::-1], strict=False)):
            assert sizes[:2] == sizes[2:]
