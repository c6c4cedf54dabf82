"""Masks of attention, rebuilt from what they mean: same results, one form, and nothing where that is not proved."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from olc import ir
from olc.analysis import shapes
from olc.assumptions import COVERS_KEYS, FINITE, KEEPS_A_KEY
from olc.digest import digest
from olc.passes import Context, cse, dce, masks, size_queries
from onnx.reference import ReferenceEvaluator
from onnx_ir import serde

from tests.mask_webs import CAUSAL, HEADER, PADDING, SIZES, web

ATTENTION = (
    "qs = Constant<value_ints = [0, 0, 2, 4]>() x4 = Reshape(x, qs) q = Transpose<perm = [0, 2, 1, 3]>(x4) "
    "y, pk, pv = Attention(q, q, q, mask, past, past)"
)


def model_of(text: str, length: str = "T", more: str = ATTENTION) -> Any:
    outputs = "(float[A, 2, C, 4] y, float[A, 2, K, 4] pk)"
    return onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 23]>\ng ({HEADER.replace("{T}", length)}) => {outputs} {{ {text} {more} }}'
    )


def cleaned(proto: Any, ctx: Context | None = None) -> tuple[ir.Model, int]:
    ctx = ctx if ctx is not None else Context()
    model = serde.deserialize_model(proto)
    shapes.infer(model)
    changes = masks.run(model, ctx)
    for module in (size_queries, cse, dce):
        module.run(model, ctx)
    return model, changes


def feed(b: int, s: int, p: int, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    f = {"m": random.integers(-1, 3, (b, p + s)), "x": random.normal(size=(b, s, 8)), "past": random.normal(size=(b, 2, p, 4))}
    return {k: v if k == "m" else v.astype(np.float32) for k, v in f.items()}


@pytest.mark.parametrize(("padding", "causal"), [
    *((p, c) for p in PADDING for c in CAUSAL), *((p, None) for p in PADDING), *((None, c) for c in CAUSAL),
])  # fmt: skip
def test_a_rebuilt_mask_gives_the_same_attention(padding: str | None, causal: str | None) -> None:
    proto = model_of(web(padding, causal))
    model, changes = cleaned(proto)
    after = ReferenceEvaluator(serde.serialize_model(model))
    assert changes == 1
    for b, s, p in ((1, 1, 0), (2, 3, 2), (1, 3, 0), (3, 1, 4)):
        f = feed(b, s, p)
        for was, now in zip(ReferenceEvaluator(proto).run(None, f), after.run(None, f), strict=True):
            np.testing.assert_allclose(now, was, rtol=0, atol=1e-6)  # the same products in the same order


@pytest.mark.parametrize("causal", [None, *CAUSAL])
@pytest.mark.parametrize("padding", [None, *PADDING])
def test_one_meaning_is_one_graph(padding: str | None, causal: str | None) -> None:
    if padding is None and causal is None:
        return
    first = cleaned(model_of(web(padding and "unsqueezed", causal and "less or equal")))[0]
    model, _ = cleaned(model_of(web(padding, causal)))
    assert digest(model) == digest(first)
    assert masks.run(model, Context()) == 0


def test_a_mask_that_keeps_everything_goes() -> None:
    model, changes = cleaned(model_of(web(None, "less or equal").replace("LessOrEqual(ki, qi)", "LessOrEqual(zero, ki)")))
    attention = next(n for n in model.graph if n.op_type == "Attention")
    assert changes == 1
    assert attention.inputs[3] is None


def test_a_mask_that_keeps_nothing_stays() -> None:
    assert cleaned(model_of(web(None, "less or equal").replace("LessOrEqual(ki, qi)", "Less(ki, zero)")))[1] == 0


def test_an_entry_at_a_computed_place_stays() -> None:
    text = web("unsqueezed", None).replace("Unsqueeze(mb, a12)", "Gather(mb4, mo)")
    odd = text.replace("mb = Cast<to = 9>(m)", "mb = Cast<to = 9>(m) mb4 = Unsqueeze(mb, a12) mo = ReduceMax<keepdims = 0>(m)")
    model, _ = cleaned(model_of(odd))
    assert "Gather" in {n.op_type for n in model.graph}
    assert masks.run(model, Context()) == 0


@pytest.mark.parametrize("padding", [None, "expanded"])  # the reference mishandles a mask of one query beside is_causal
def test_causal_alone_is_an_attribute_and_beside_padding_a_part_of_the_mask(padding: str | None) -> None:
    attribute = ATTENTION.replace("Attention(", "Attention<is_causal = 1>(")
    text = web(padding, None) if padding else f"{web(None, 'less or equal')} "
    model, changes = cleaned(model_of(text, more=attribute))
    other, _ = cleaned(model_of(web(padding, "less or equal")))
    assert changes == 1
    assert digest(model) == digest(other)
    node = next(n for n in model.graph if n.op_type == "Attention")
    assert (ir.attr(node, "is_causal", 0), node.inputs[3] is None) == ((0, False) if padding else (1, True))
    f = feed(2, 3, 2)
    was, now = (ReferenceEvaluator(p).run(None, f)[0] for p in (model_of(text, more=attribute), serde.serialize_model(model)))
    np.testing.assert_allclose(now, was, rtol=0, atol=1e-6)


def test_without_the_assumption_a_gathered_mask_stays() -> None:
    ctx = Context(unassumed=frozenset({COVERS_KEYS}))
    assert cleaned(model_of(web("gathered", "less or equal")), ctx)[1] == 0
    assert not ctx.relied
    granted = Context()
    assert cleaned(model_of(web("gathered", "less or equal")), granted)[1] == 1
    assert granted.relied == {COVERS_KEYS: 1}


def test_windows_and_alternatives_are_built() -> None:
    window = "two = Constant<value_int = 2>() near = Sub(qi, two) in = Greater(ki, near) c = LessOrEqual(ki, qi) "
    for text in (f"{window} mask = And(in, c)", f"{window} nc = Not(c) mask = Or(in, nc)", f"{window} mask = Equal(ki, near)"):
        proto = model_of(web(None, None) + text)
        model, changes = cleaned(proto)
        assert changes == 1
        f = feed(2, 3, 2)
        was, now = (ReferenceEvaluator(p).run(None, f)[0] for p in (proto, serde.serialize_model(model)))
        np.testing.assert_allclose(now, was, rtol=0, atol=1e-6)
        assert masks.run(model, Context()) == 0


def test_what_cannot_be_built_leaves_nothing_behind() -> None:
    """An entry times a position is no form that is built; constants left by the attempt would be dead code in each round."""
    text = f"{SIZES} mu = Unsqueeze(m, a12) far = Mul(mu, ki) mask = GreaterOrEqual(far, one)"
    model = serde.deserialize_model(model_of(text))
    shapes.infer(model)
    before = len(model.graph), set(model.graph.initializers)
    assert masks.run(model, Context()) == 0
    assert (len(model.graph), set(model.graph.initializers)) == before


def test_keys_in_use_that_are_an_input_are_left_alone() -> None:
    """At opset 24 the causal attribute counts from the number of keys in use."""
    text = f'<ir_version: 10, opset_import: ["": 24]>\ng ({HEADER.replace("{T}", "T")}, int64[B] used) => (float[A, 2, C, 4] y) '
    text += f"{{ {web(None, 'less or equal')} {ATTENTION.replace('y, pk, pv', 'y').replace('past, past', ', , used')} }}"
    assert cleaned(onnx.parser.parse_model(text))[1] == 0


def test_a_mask_that_does_not_depend_on_keys_stays() -> None:
    size = "st = Concat<axis = 0>(s1, t1) few = Less(s, t) mask = Expand(few, st)"
    assert cleaned(model_of(SIZES + size))[1] == 0


def test_a_comparison_with_a_number_settles() -> None:
    """`m == 1` is built with the number second, as rules want it."""
    proto = model_of(f"{SIZES} mu = Unsqueeze(m, a12) mask = Equal(one, mu)")
    model, changes = cleaned(proto)
    assert changes == 1
    equal = next(n for n in model.graph if n.op_type == "Equal")
    assert ir.is_constant(equal.inputs[1])
    assert masks.run(model, Context()) == 0


@pytest.mark.parametrize(("low", "assumed"), [("-inf", False), ("-3.4e38", True)])
def test_a_float_mask_of_zeros_is_its_condition(low: str, assumed: bool) -> None:
    text = f"{web('unsqueezed', 'less')} l = Constant<value = float {{{low}}}>() fa = Constant<value_ints = [1]>() "
    text += "z1 = ConstantOfShape<value = float[1] {0.0}>(s1) zu = Unsqueeze(z1, fa) "
    more = f"fm = Where(mask, zu, l) {ATTENTION.replace('mask', 'fm')}"
    ctx = Context()
    model, changes = cleaned(model_of(text, more=more), ctx)
    assert changes == 1
    attention = next(n for n in model.graph if n.op_type == "Attention")
    assert attention.inputs[3] is not None
    assert attention.inputs[3].dtype == ir.DataType.BOOL
    assert bool(ctx.relied) is assumed
    strict, _ = cleaned(model_of(text, more=more), Context(unassumed=frozenset({KEEPS_A_KEY})))
    kept = next(n for n in strict.graph if n.op_type == "Attention").inputs[3]
    assert kept is not None
    assert kept.dtype == (ir.DataType.FLOAT if assumed else ir.DataType.BOOL)
    f = feed(2, 3, 2)
    f["m"][:] = 1
    was, now = (ReferenceEvaluator(p).run(None, f)[0] for p in (model_of(text, more=more), serde.serialize_model(model)))
    np.testing.assert_allclose(now, was, rtol=0, atol=1e-6)


def test_a_float_mask_of_other_numbers_keeps_them() -> None:
    text = f"{web('gathered', 'less')} z = Constant<value = float {{0.5}}>() l = Constant<value = float {{-inf}}>() "
    text += "fm0 = Where(mask, z, l)"
    model, _ = cleaned(model_of(text, more=ATTENTION.replace("mask", "fm0")))
    attention = next(n for n in model.graph if n.op_type == "Attention")
    assert attention.inputs[3].dtype == ir.DataType.FLOAT
    assert "Gather" not in {n.op_type for n in model.graph}  # but its condition is rebuilt


@pytest.mark.parametrize("form", [
    "w1 = Where(mask, nil, l) w2 = Where(kept, nil, l) fm = Add(w1, w2)",
    "w1 = Where(mask, nil, l) fm = Where(kept, w1, l)",
    "w1 = Where(mask, nil, l) gone = Not(kept) fm = Where(gone, l, w1)",
    "w1 = Where(mask, nil, l) gone = Not(kept) w2 = Where(gone, l, nil) w3 = Add(w2, nil) fm = Add(w3, w1)",
])  # fmt: skip
def test_float_masks_that_are_summed_and_nested_are_one_condition(form: str) -> None:
    text = f"{web(None, 'less')} l = Constant<value = float {{-3.4e38}}>() nil = Constant<value = float {{0.0}}>() "
    text += f"both = Constant<value_ints = [1, 2]>() m4 = Unsqueeze(m, both) kept = Cast<to = 9>(m4) {form} "
    proto = model_of(text, more=ATTENTION.replace("mask", "fm"))
    ctx = Context()
    model, changes = cleaned(proto, ctx)
    assert changes == 1
    attention = next(n for n in model.graph if n.op_type == "Attention")
    assert attention.inputs[3].dtype == ir.DataType.BOOL
    assert KEEPS_A_KEY in ctx.relied
    for b, s, p in ((1, 1, 0), (2, 3, 2)):
        f = feed(b, s, p)
        f["m"][:, 0] = 1
        was, now = (ReferenceEvaluator(m).run(None, f)[0] for m in (proto, serde.serialize_model(model)))
        np.testing.assert_allclose(now, was, rtol=0, atol=1e-6)


def test_a_mask_of_one_entry_for_all_keys_stays_and_leaves_nothing_behind() -> None:
    text = f"{web(None, 'less')} l = Constant<value = float {{-3.4e38}}>() none = Constant<value = float {{0.0}}>() "
    text += "fi = Constant<value_int = 0>() f = Gather<axis = 1>(m, fi) fa = Constant<value_ints = [1, 2, 3]>() "
    text += "f4 = Unsqueeze(f, fa) b4 = Cast<to = 9>(f4) fm = Where(b4, l, none) "
    model = serde.deserialize_model(model_of(text, more=ATTENTION.replace("mask", "fm")))
    shapes.infer(model)
    before = [n.name for n in model.graph]
    assert masks.run(model, Context()) == 0
    assert [n.name for n in model.graph] == before


TRI = np.tri(6, dtype=bool)


@pytest.mark.parametrize(
    ("kept", "low", "left", "assumed"),
    [
        (TRI, -np.inf, "is_causal", set()),
        (TRI, -3.4e38, "is_causal", set()),
        (TRI, -1e9, "is_causal", {FINITE}),
        (TRI & ~np.tri(6, k=-3, dtype=bool), -np.inf, "web", set()),
        (np.tri(6, k=-1, dtype=bool), -np.inf, "web", {KEEPS_A_KEY}),
        (TRI, -1e4, "mask", set()),
        (np.eye(6)[::-1] > 0, -np.inf, "mask", set()),
    ],
)
@pytest.mark.parametrize("lead", [(), (1, 1)])
def test_a_float_mask_that_was_folded_is_what_it_drops(
    kept: np.ndarray, low: float, left: str, assumed: set[str], lead: tuple[int, ...]
) -> None:
    """A model for a fixed number of tokens has its mask as numbers."""
    table = np.where(kept, 0.0, low).astype(np.float32).reshape(*lead, 6, 6)
    proto = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 23]> g (float[A, 2, 6, 4] q) => (float[A, 2, 6, 4] y) { y = Attention(q, q, q, m) }'
    )
    proto.graph.initializer.append(onnx.numpy_helper.from_array(table, "m"))
    ctx = Context()
    model, changes = cleaned(proto, ctx)
    node = next(n for n in model.graph if n.op_type == "Attention")
    mask = node.inputs[3] if len(node.inputs) > 3 else None
    assert left == ("is_causal" if mask is None else "mask" if mask.name == "m" else "web")
    assert (changes, set(ctx.relied)) == (int(left != "mask"), assumed)
    if assumed:
        assert cleaned(proto, Context(unassumed=frozenset(assumed)))[1] == 0
    elif left != "mask":
        q = np.random.default_rng(0).normal(size=(2, 2, 6, 4)).astype(np.float32)
        before, after = (ReferenceEvaluator(p).run(None, {"q": q})[0] for p in (proto, serde.serialize_model(model)))
        np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-6)
