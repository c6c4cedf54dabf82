"""Sizes of inputs that must be equal get one name; others keep theirs."""

from __future__ import annotations

import pytest
from olc.analysis import shapes
from olc.assumptions import INPUTS_AGREE
from olc.passes import Context, equal_sizes
from pass_oracle import load, parse


def named(text: str, ctx: Context | None = None) -> tuple[list[str], Context]:
    """The shapes of the inputs afterwards."""
    ctx = Context() if ctx is None else ctx
    model = load(parse(text))
    shapes.infer(model)
    gone = equal_sizes.run(model, ctx)
    assert gone == len(ctx.events)
    return [", ".join(map(str, shapes.dims(v) or ())) for v in model.graph.inputs], ctx


def test_ids_and_masks_that_meet() -> None:
    found, ctx = named("g (int64[A, B] ids, int64[C, D] mask) => (int64[E, F] y) { y = Mul(ids, mask) }")
    assert found == ["A, B", "A, B"]
    assert ctx.relied == {INPUTS_AGREE: 1}


def test_sizes_that_a_product_sums_over_need_no_assumption() -> None:
    found, ctx = named("g (float[A, B] x, float[C, D] w) => (float[A, D] y) { y = MatMul(x, w) }")
    assert found == ["A, B", "B, D"]
    assert not ctx.relied


def test_a_length_that_is_a_sum() -> None:
    """The mask of a decoder counts its cache, too."""
    found, _ = named("""g (int64[A, P] past, int64[A, S] ids, int64[C, T] mask) => (int64[E, F] y) {
        all = Concat<axis = 1>(past, ids) y = Mul(all, mask) }""")
    assert found == ["A, P", "A, S", "A, P + S"]


def test_a_factor_of_both_is_none_of_the_sizes() -> None:
    found, _ = named("""g (int64[A, B] ids, int64[C, B] mask) => (int64[E] y) {
        flat = Constant<value_ints = [-1]>() two = Concat<axis = 0>(ids, ids) other = Concat<axis = 0>(mask, mask)
        y = Add(two, other) }""")
    assert found == ["A, B", "A, B"]


@pytest.mark.parametrize("text", [
    "g (float[A, B] x, float[C, D] t) => (float[E, F] y) { y = Mul(x, t) }",  # one time step may be for all images
    "g (int64[A] x, int64[C] t) => (int64[E] y) { y = Mul(x, t) }",
    "g (int64[A, 4] x, int64[1, 4] t) => (int64[A, 4] y) { y = Mul(x, t) }",
    "g (int64[A, B] x, int64[A, B] t) => (int64[A, B] y) { y = Mul(x, t) }",
])  # fmt: skip
def test_others_keep_their_names(text: str) -> None:
    before = [", ".join(map(str, v.shape)) for v in load(parse(text)).graph.inputs]
    found, ctx = named(text)
    assert found == before
    assert not ctx.relied


def test_strict() -> None:
    ctx = Context()
    ctx.unassumed = frozenset({INPUTS_AGREE})
    found, _ = named("g (int64[A, B] ids, int64[C, D] mask) => (int64[E, F] y) { y = Mul(ids, mask) }", ctx)
    assert found == ["A, B", "C, D"]
