"""Every element of the pattern language (docs/design.md, section 3)."""

from __future__ import annotations

import pytest
from olc.errors import RuleError
from olc.matching import Miss
from olc.patterns import trace
from olc.rules import (
    F16,
    F32,
    Attrs,
    Const,
    Many,
    Scalar,
    Value,
    f16,
    f32,
    floats,
    i64,
)

from tests.pattern_text import Pattern, found, graph, hit, miss, value


def test_a_name_is_any_value_and_twice_the_same() -> None:
    def square(op, x):
        return op.Mul(x, x)

    m = hit(square, graph("y = Mul(x, x)"))
    assert m.x.name == "x"
    other = miss(square, graph("y = Mul(x, z)", "float[N,4] x, float[N,4] z"))
    assert other.reason == "it is not the same value as the other 'x'"
    assert (other.depth, other.size) == (1, 1)


def test_const_is_an_initializer_or_a_constant_node() -> None:
    def add(op, x, b: Const):
        return op.Add(op.Relu(x), b)

    assert hit(add, graph("r = Relu(x) y = Add(r, b)", known="float[4] b = {1,2,3,4}")).b.name == "b"
    assert hit(add, graph("r = Relu(x) b = Constant<value = float[1] {1}>() y = Add(r, b)")).b.name == "b"
    assert hit(add, graph("r = Relu(x) b = Constant<value_float = 1.0>() y = Add(b, r)")).b.name == "b"


def test_const_is_no_input_not_even_one_with_a_default() -> None:
    def sub(op, x, b: Const):
        return op.Sub(x, b)

    two = "float[N,4] x, float[4] b"
    assert miss(sub, graph("y = Sub(x, b)", two)).reason == "'b' is not a constant"
    assert miss(sub, graph("y = Sub(x, b)", two, known="float[4] b = {1,2,3,4}")).reason == "'b' is not a constant"


def test_scalar_has_one_element_and_raises_no_rank() -> None:
    def scale(op, x, s: Scalar):
        return op.Mul(x, s)

    assert hit(scale, graph("y = Mul(x, s)", known="float s = {3}")).s.name == "s"
    assert hit(scale, graph("y = Mul(s, x)", known="float[1,1] s = {3}")).s.name == "s"
    assert "more than one element" in miss(scale, graph("y = Mul(x, s)", known="float[2] s = {3, 4}")).reason
    wide = miss(scale, graph("y = Mul(x, s)", known="float[1,1,1] s = {3}"))
    assert "of rank 3 may raise the rank" in wide.reason
    unknown = graph("y = Mul(x, s)", "float x", known="float[1] s = {3}")
    assert "may raise the rank" in miss(scale, unknown).reason


def test_an_input_may_be_left_out() -> None:
    def clip(op, x, low: Const | None, high: Value | None):
        return op.Clip(x, low, high)

    m = hit(clip, graph('y = Clip(x, "", h)', "float[N,4] x, float h"))
    assert m.low is None
    assert m.high.name == "h"
    m = hit(clip, graph("y = Clip(x)"))
    assert (m.low, m.high) == (None, None)

    def both(op, x, low, high):
        return op.Clip(x, low, high)

    assert miss(both, graph("y = Clip(x)")).reason == "input 'low' is left out"

    def neither(op, x):
        return op.Clip(x, None, None)

    assert hit(neither, graph("y = Clip(x)"))
    assert "left out" in miss(neither, graph('y = Clip(x, "", h)', "float[N,4] x, float h")).reason


def test_a_constant_may_be_optional_and_typed() -> None:
    def gemm(op, x, w: Const[f32["K", "N"]], b: Const[f32["N"]] | None):
        return op.Gemm(x, w, b)

    weights = "float[4,2] w = {1,2,3,4,5,6,7,8}, float[2] b = {1,2}, float[3] c = {1,2,3}"
    m = hit(gemm, graph("y = Gemm(x, w, b)", known=weights))
    assert (m.K, m.N) == (4, 2)
    assert hit(gemm, graph("y = Gemm(x, w)", known=weights)).b is None


def test_dtypes_and_dims() -> None:
    def typed(op, x: f32["B", 4], z: f32["B", 4]):
        return op.Add(op.Relu(x), z)

    both = "float[N,4] x, float[N,4] z"
    assert str(hit(typed, graph("r = Relu(x) y = Add(r, z)", both)).B) == "N"
    other = miss(typed, graph("r = Relu(x) y = Add(r, z)", "float[N,4] x, float[M,4] z"))
    assert other.reason == "a dim of 'z' is M, not B of float[B, 4]"
    assert "a dim of 'x' is 5, not 4" in miss(typed, graph("r = Relu(x) y = Add(r, z)", "float[N,5] x, float[N,5] z")).reason
    assert "rank 3" in miss(typed, graph("r = Relu(x) y = Add(r, z)", "float[1,N,4] x, float[N,4] z")).reason
    half = graph("r = Relu(x) y = Add(r, z)", "float16[N,4] x, float16[N,4] z", "float16[N,4] y")
    assert "'x' is float16, not float[B, 4]" in miss(typed, half).reason


def test_dots_stand_for_any_dims() -> None:
    def last(op, x: floats[..., "D"], w: Const[floats["D"]]):
        return op.Mul(x, w)

    known = "float[4] w = {1,2,3,4}"
    for inputs in ("float[4] x", "float[N,4] x", "float[A,B,4] x"):
        assert hit(last, graph("y = Mul(x, w)", inputs, known=known)).D == 4

    def first_and_last(op, x: f32["A", ..., "D"]):
        return op.Relu(x)

    m = hit(first_and_last, graph("y = Relu(x)", "float[7,N,M,4] x"))
    assert (m.A, m.D) == (7, 4)
    assert "rank 1" in miss(first_and_last, graph("y = Relu(x)", "float[4] x")).reason


def test_dims_are_forgotten_when_a_branch_fails() -> None:
    def sums(op, x: f32["A"], z: f32["B"]):
        return op.Add(op.Relu(x), op.Abs(z))

    m = hit(sums, graph("a = Abs(z) r = Relu(x) y = Add(a, r)", "float[3] x, float[1] z"))
    assert (m.A, m.B) == (3, 1)


def test_an_attribute_variable_binds_the_value_or_the_default() -> None:
    def softmax(op, x, axis):
        return op.Softmax(x, axis=axis)

    assert hit(softmax, graph("y = Softmax<axis = 0>(x)")).axis == 0
    assert hit(softmax, graph("y = Softmax(x)")).axis == 1, "the default -1, counted from the front"
    assert hit(softmax, graph("y = Softmax(x)", "float x")).axis in (-1, 0)
    old = graph("y = Softmax(x)", "float[A,B,C] x", opset=11)
    assert hit(softmax, old).axis == 1, "the default of that opset"

    def twice(op, x, perm):
        return op.Transpose(op.Transpose(x, perm=perm), perm=perm)

    assert hit(twice, graph("t = Transpose<perm = [1,0]>(x) y = Transpose<perm = [1,0]>(t)")).perm == (1, 0)
    assert "attribute perm is" in miss(twice, graph("t = Transpose<perm = [1,0]>(x) y = Transpose<perm = [0,1]>(t)")).reason


def test_a_named_attribute_has_that_value() -> None:
    def last(op, x):
        return op.Softmax(x, axis=-1)

    assert hit(last, graph("y = Softmax<axis = -1>(x)"))
    assert hit(last, graph("y = Softmax<axis = 1>(x)")), "the same axis, counted from the front"
    assert hit(last, graph("y = Softmax(x)")), "the default"
    assert miss(last, graph("y = Softmax<axis = 0>(x)")).reason == "attribute axis is 0, not -1"

    def cast(op, x):
        return op.Cast(x, to=F16)

    assert hit(cast, graph("y = Cast<to = 10>(x)", outputs="float16[N,4] y"))
    assert "attribute to is 11" in miss(cast, graph("y = Cast<to = 11>(x)", outputs="double[N,4] y")).reason


def test_an_attribute_that_is_not_named_must_be_the_default() -> None:
    def gemm(op, a, b):
        return op.Gemm(a, b)

    known = "float[4,4] w = {1,2,3,4,1,2,3,4,1,2,3,4,1,2,3,4}"
    assert hit(gemm, graph("y = Gemm<transB = 0, alpha = 1.0>(x, w)", known=known))
    m = miss(gemm, graph("y = Gemm<transB = 1>(x, w)", known=known))
    assert m.reason == "attribute transB=1 is not named by the pattern and not the default"


def test_attrs_takes_the_rest() -> None:
    def conv(op, x, w: Const, group, attrs: Attrs):
        return op.Conv(x, w, group=group, **attrs)

    known = "float[1,1,1,1] w = {1}"
    m = hit(conv, graph("y = Conv<pads = [1,1,1,1], strides = [2,2]>(x, w)", "float[N,1,4,4] x", known=known))
    assert m.group == 1
    assert {k: a.value for k, a in m.attrs.items()} == {"pads": (1, 1, 1, 1), "strides": (2, 2)}

    def pair(op, x, attrs: Attrs):
        return op.Elu(op.Elu(x, **attrs), **attrs)

    assert hit(pair, graph("e = Elu<alpha = 0.5>(x) y = Elu<alpha = 0.5>(e)"))
    assert "other attributes differ" in miss(pair, graph("e = Elu<alpha = 0.5>(x) y = Elu(e)")).reason


def test_many_inputs_backtrack() -> None:
    def concat(op, before: Many, inner: Many, after: Many, axis):
        return op.Concat(*before, op.Concat(*inner, axis=axis), *after, axis=axis)

    model = graph(
        "c = Concat<axis = 0>(a, b) y = Concat<axis = 0>(x, c, a, b)", "float[N,4] x, float[N,4] a, float[N,4] b"
    )
    m = hit(concat, model)
    assert [[v.name for v in vs] for vs in (m.before, m.inner, m.after)] == [["x"], ["a", "b"], ["a", "b"]]
    m = hit(concat, graph("c = Concat<axis = 0>(x) y = Concat<axis = 0>(c)"))
    assert (m.before, m.after) == ((), ())

    def same(op, xs: Many):
        return op.Sub(op.Max(*xs), op.Min(*xs))

    three = "float[N,4] x, float[N,4] a, float[N,4] b"
    assert len(hit(same, graph("p = Max(x, a, b) q = Min(x, a, b) y = Sub(p, q)", three)).xs) == 3
    assert "differ" in miss(same, graph("p = Max(x, a, b) q = Min(x, b, a) y = Sub(p, q)", three)).reason


def test_either_and_optional_nodes() -> None:
    def maybe(op, x, y):
        inner = op.Relu(x)
        return op.Add(op.either(op.Cast(inner, to=F32), inner), y)

    two = "float[N,4] x, float[N,4] z"
    assert len(hit(maybe, graph("r = Relu(x) y = Add(r, z)", two)).nodes) == 2
    assert len(hit(maybe, graph("r = Relu(x) c = Cast<to = 1>(r) y = Add(c, z)", two)).nodes) == 3

    def alternatives(op, x, alpha, low: Const):
        return op.either(op.Elu(x, alpha=alpha), op.Max(x, low))

    assert trace(alternatives).root_ops == {("", "Elu"), ("", "Max")}
    m = hit(alternatives, graph("y = Max(x, low)", known="float low = {0}"))
    assert m.alpha is None, "only the other alternative binds it"
    assert hit(alternatives, graph("y = Elu(x)")).alpha == 1.0


def test_interior_values_are_used_inside_only() -> None:
    def pair(op, x):
        return op.Neg(op.Relu(x))

    used = graph("r = Relu(x) y = Neg(r) z = Abs(r)", outputs="y, z")
    assert miss(pair, used).reason.startswith("'r' is also used by Abs")
    out = graph("r = Relu(x) y = Neg(r)", outputs="y, r")
    assert miss(pair, out).reason == "'r' is also a graph output"

    def shared(op, x):
        return op.Neg(op.shared(op.Relu(x)))

    assert hit(shared, used)
    assert hit(shared, out)


def test_an_interior_value_may_be_used_twice_inside() -> None:
    def silu_like(op, x):
        inner = op.Relu(x)
        return op.Mul(inner, op.Sigmoid(inner))

    assert len(hit(silu_like, graph("r = Relu(x) s = Sigmoid(r) y = Mul(s, r)")).nodes) == 3
    other = graph("r = Relu(x) q = Relu(x) s = Sigmoid(q) y = Mul(r, s)")
    assert miss(silu_like, other).reason == "it is another node than the one matched before"


def test_several_outputs_and_roots() -> None:
    def second(op, x, sizes: Const, axis):
        _, b = op.Split(x, sizes, axis=axis, outputs=2)
        return op.Relu(b)

    known = "int64[2] sizes = {1, 3}"
    assert hit(second, graph("a, b = Split<axis = 1>(x, sizes) y = Relu(b)", known=known))
    assert miss(second, graph("a, b = Split<axis = 1>(x, sizes) y = Relu(a)", known=known)).reason == (
        "output 0 is used, not 1"
    )

    def both(op, x, sizes: Const, axis):
        a, b = op.Split(x, sizes, axis=axis, outputs=2)
        return op.Relu(a), op.Neg(b)

    model = graph("a, b = Split<axis = 1>(x, sizes) y = Relu(a) z = Neg(b)", outputs="y, z", known=known)
    m = hit(both, model)
    assert [v.name for v in m.roots] == ["y", "z"]
    assert m.root.op_type == "Relu"


def test_further_roots_are_found_by_climbing_uses() -> None:
    def pair(op, x, a: Const, b: Const):
        return op.MatMul(x, a), op.MatMul(x, b)

    known = "float[4,1] a = {1,2,3,4}, float[4,1] b = {5,6,7,8}"
    m = hit(pair, graph("y = MatMul(x, a) n = Neg(x) z = MatMul(x, b)", outputs="y, n, z", known=known))
    assert [v.name for v in m.roots] == ["y", "z"], "never the first root twice"
    assert isinstance(found(pair, graph("y = MatMul(x, a)", known=known)), Miss)


def test_domains_and_operators_by_choice() -> None:
    def contrib(op, x):
        return op.domain("com.microsoft").Gelu(x)

    assert hit(contrib, graph("y = com.microsoft.Gelu(x)"))
    assert miss(contrib, graph("y = Gelu(x)", opset=20)).reason.endswith("not from com.microsoft.Gelu")

    def activation(op, x, attrs: Attrs):
        return op.oneof("Relu", "LeakyRelu")(op.Neg(x), **attrs)

    assert hit(activation, graph("n = Neg(x) y = Relu(n)")).root.op_type == "Relu"
    m = hit(activation, graph("n = Neg(x) y = LeakyRelu<alpha = 0.5>(n)"))
    assert m.find("LeakyRelu") is m.root
    assert m.find("Abs") is None
    assert isinstance(found(activation, graph("n = Neg(x) y = Tanh(n)")), Miss)


@pytest.mark.parametrize(
    "body",
    [
        "h = Mul(x, half) y = Mul(h, e)",
        "h = Mul(half, e) y = Mul(x, h)",
        "h = Mul(x, e) y = Mul(half, h)",
        "h = Div(x, two) y = Mul(e, h)",
        "h = Mul(x, e) y = Div(h, two)",
    ],
)
def test_a_product_in_any_form(body: str) -> None:
    def gelu(op, x):
        return op.product(x, op.Erf(x), scale=0.5)

    known = "float half = {0.5}, float two = {2}"
    m = hit(gelu, graph(f"e = Erf(x) {body}", known=known))
    assert m.x.name == "x"
    assert {n.op_type for n in m.nodes} <= {"Mul", "Div", "Erf"}


def test_a_product_binds_its_scale() -> None:
    def product(op, x, s):
        return op.product(x, op.Erf(x), scale=s)

    known = "float a = {3}, float b = {2}"
    assert hit(product, graph("e = Erf(x) p = Mul(e, a) q = Div(p, b) y = Mul(q, x)", known=known)).s == 1.5
    assert hit(product, graph("e = Erf(x) y = Mul(e, x)")).s == 1.0

    def half(op, x):
        return op.product(x, op.Erf(x), scale=0.5)

    assert "scaled by 1.0, not 0.5" in miss(half, graph("e = Erf(x) y = Mul(e, x)")).reason
    assert "3 factors, not 2" in miss(half, graph("e = Erf(x) p = Mul(e, x) y = Mul(p, x)")).reason
    assert "floating point" in miss(half, graph("y = Mul(x, x)", "int64[N] x", "int64[N] y")).reason
    used = graph("e = Erf(x) p = Mul(e, half) y = Mul(p, x) z = Neg(p)", outputs="y, z", known="float half = {0.5}")
    assert isinstance(found(half, used), Miss), "an inner product with another user is a factor of its own"
    wide = graph("e = Erf(x) p = Mul(e, x) y = Mul(p, h)", known="float[1,1,1] h = {0.5}")
    assert isinstance(found(half, wide), Miss), "the number would raise the rank"


# --- declaring patterns ---------------------------------------------------------------------------------------------


def bad_annotation(op, x: int):
    return op.Relu(x)


def unused(op, x, y):
    return op.Relu(x)


def two_roles(op, x):
    return op.Relu(op.Elu(x, alpha=x))


def no_operator(op, x):
    return x


def a_list(op, x):
    return op.ReduceSum(x, [1, 2])


def star_without_many(op, x):
    return op.Concat(*x, axis=0)


def stars_without_attrs(op, x, attrs):
    return op.Elu(x, **attrs)


def shared_leaf(op, x):
    return op.Relu(op.shared(x))


def leaf_as_root(op, x):
    return op.either(op.Relu(x), x)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (bad_annotation, "annotation that patterns do not know"),
        (unused, "parameter 'y' is not used"),
        (two_roles, "both as an input and as an attribute"),
        (no_operator, "must return operators' results"),
        (a_list, "must be a parameter, an operator's result or a number"),
        (star_without_many, "not annotated Many"),
        (stars_without_attrs, "not annotated Attrs"),
        (shared_leaf, "takes the result of an operator"),
        (leaf_as_root, "root must be an operator"),
    ],
)
def test_what_the_language_does_not_have(function: Pattern, words: str) -> None:
    with pytest.raises(RuleError, match=words):
        trace(function)


def test_a_pattern_prints_as_it_is_read() -> None:
    def pattern(op, x, before: Many, w: Const, attrs: Attrs):
        a, _ = op.Split(op.shared(op.Conv(x, w, group=2, **attrs)), outputs=2)
        return op.Concat(*before, op.either(op.oneof("Relu", "Elu")(a), op.Mul(a, 0.5)), axis=1)

    text = str(trace(pattern))
    assert text == (
        "t1 = Split(shared(Conv(x, w, group=2, **attrs))); "
        "Concat(*before, either(Relu|Elu(t1[0]), Mul(t1[0], 0.5)), axis=1)"
    )


def test_types_print_as_they_are_written() -> None:
    assert str(f32["B", ..., 4]) == "float[B, …, 4]"
    assert str(i64) == "int64"
    assert str(f16[()]) == "float16[]"


# --- the screen -----------------------------------------------------------------------------------------------------


def test_the_screen_never_rejects_what_matches() -> None:
    def pattern(op, x, c: Const):
        return op.Add(op.either(op.Relu(x), op.Neg(x)), c)

    traced = trace(pattern)
    known = "float[4] c = {1,2,3,4}"
    for body in ("r = Relu(x) y = Add(r, c)", "r = Neg(x) y = Add(c, r)"):
        assert traced.may_match(value(graph(body, known=known), "y").producer())
    constant = graph("r = Relu(x) c = Constant<value_float = 1.0>() y = Add(c, r)")
    assert traced.may_match(value(constant, "y").producer())
    for body in ("r = Abs(x) y = Add(r, c)", "y = Add(x, c)", "r = Relu(x) s = Relu(x) y = Add(r, s)"):
        assert not traced.may_match(value(graph(body, known=known), "y").producer())
