"""Sizes of inputs that must be equal get one name; others keep theirs."""

from __future__ import annotations

import pytest
from olc import ir
from olc.analysis import shapes
from olc.assumptions import INPUTS_AGREE
from olc.evaluation.inputs import synthesize
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


def inferred(text: str) -> ir.Model:
    model = load(parse(text))
    shapes.infer(model)
    return model


def unnamed(text: str) -> ir.Model:
    """The model without the names of its inputs' dims."""
    proto = parse(text)
    for value in proto.graph.input:
        for dim in value.type.tensor_type.shape.dim:
            dim.ClearField("dim_param")
    model = load(proto)
    shapes.infer(model)
    return model


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
    # GPT-NeoX's table of angles was cut to as many rows as there are tokens, of its one row for all texts
    """g (int64[A, B] x) => (int64[A, B] y) <int64[1, 1] table = {7}> { zero = Constant<value_ints = [0]>()
        rows = Shape<start = 1>(x) t = Slice(table, zero, rows, zero) y = Mul(x, t) }""",
])  # fmt: skip
def test_others_keep_their_names(text: str) -> None:
    before = [", ".join(map(str, v.shape)) for v in load(parse(text)).graph.inputs]
    found, ctx = named(text)
    assert found == before
    assert not ctx.relied


@pytest.mark.parametrize("text", [
    "g (float[N, 4] img, float[M, 4] t, int64[B, 4] ids) => (float[E, 4] y) { f = Cast<to = 1>(ids) z = Add(f, t) "
    "y = Add(z, img) }",
    "g (float[N, 4] img, int64[1, 4] one, int64[B, 4] ids) => (float[E, 4] y) { f = Cast<to = 1>(ids) y = Add(f, img) }",
])  # fmt: skip
def test_what_meets_other_inputs_element_by_element_keeps_its_name(text: str) -> None:
    assert named(text)[0] == [", ".join(map(str, shapes.dims(v) or ())) for v in inferred(text).graph.inputs]


def test_a_batch_of_texts_and_of_what_a_product_pairs_it_with() -> None:
    found, ctx = named("""g (float[N, 4, F] sound, int64[B, S] ids) => (float[E, 4, 4] y) {
        f = Cast<to = 1>(ids) axes = Constant<value_ints = [2]>() q = Unsqueeze(f, axes) one = Constant<value_float = 1.0>()
        four = Constant<value_ints = [1, 1, 4]>() w = Expand(one, four) qw = Mul(q, w) y = MatMul(qw, sound) }""")
    assert found == ["N, 4, F", "N, S"]
    assert ctx.relied == {INPUTS_AGREE: 1}


def test_dims_without_a_name_get_one_where_they_are_equal() -> None:
    model = unnamed("g (int64[A, B] ids, int64[C, D] mask) => (int64[E, F] y) { y = Mul(ids, mask) }")
    assert equal_sizes.run(model, Context()) == 2
    assert [[str(n) for n in v.shape] for v in model.graph.inputs] == [["ids_0", "ids_1"]] * 2


def test_dims_without_a_name_stay_so_elsewhere() -> None:
    model = unnamed("g (int64[A, B] ids, float[C, D] x) => (float[C, D] y) { y = Neg(x) }")
    assert equal_sizes.run(model, Context()) == 0
    assert all(n.value is None for v in model.graph.inputs for n in v.shape)


def test_a_caller_names_dims_by_their_own_names() -> None:
    model = load(parse("g (int64[A, B] input_ids, int64[C, D] mask) => (int64[E, F] y) { y = Mul(input_ids, mask) }"))
    feed = synthesize(model, {"A": 3, "B": 4, "C": 1, "D": 4})[0]
    assert [feed[n].shape for n in ("input_ids", "mask")] == [(3, 4), (1, 4)]


def test_strict() -> None:
    ctx = Context()
    ctx.unassumed = frozenset({INPUTS_AGREE})
    found, _ = named("g (int64[A, B] ids, int64[C, D] mask) => (int64[E, F] y) { y = Mul(ids, mask) }", ctx)
    assert found == ["A, B", "C, D"]


def test_inputs_are_made_up_alike() -> None:
    """A mask of one entry for all tokens would run, and be none."""
    text = "g (int64[A, B] input_ids, int64[C, D] encoder_mask) => (int64[E, F] y) { y = Mul(input_ids, encoder_mask) }"
    model = load(parse(text))
    feed = synthesize(model)[0]
    assert feed["input_ids"].shape == feed["encoder_mask"].shape == (1, 128)
    assert [str(n) for n in model.graph.inputs[1].shape] == ["C", "D"]  # a look at a model changes nothing


def test_a_size_that_a_product_sums_over_with_a_number() -> None:
    found, ctx = named("g (float[A, B] x) => (float[A, D] y) <float[3, 2] w = {1, 2, 3, 4, 5, 6}> { y = MatMul(x, w) }")
    assert found == ["A, 3"]
    assert not ctx.relied


CACHED = """g (float[B, S, 64] q, float[B, 2, P, D] k, float[B, 2, P, D] v, int32[B] last, int32 total) => (float[B, S, 32] y) {
    y, pk, pv = com.microsoft.GroupQueryAttention<num_heads = 4, kv_num_heads = 2>(q, , , k, v, last, total) }"""


def test_heads_in_a_cache_are_as_large_as_those_of_the_keys() -> None:
    proto = parse(CACHED, imports=', "com.microsoft" : 1', check=False)
    model = load(proto)
    shapes.infer(model)
    equal_sizes.run(model, Context())
    assert [str(d) for d in shapes.dims(model.graph.inputs[1]) or ()] == ["B", "2", "P", "8"]


def viewed(target: str, shape: str = "S, C, 32") -> list[str]:
    """The inputs' shapes where the second, or one of [batch, sequence, 32], gets a shape made of the first's batch B."""
    return named(f"""g (float[S, B, 32] q, float[{shape}] k) => (float[E, F, 8] y) {{
        b = Shape<start = 1, end = 2>(q) s = Shape<start = 0, end = 1>(q) four = Constant<value_ints = [4]>()
        eight = Constant<value_ints = [8]>() seven = Constant<value_ints = [7]>() any = Constant<value_ints = [-1]>()
        heads = Mul(b, four) target = Concat<axis = 0>({target}) y = Reshape(k, target) }}""")[0]


def test_a_view_has_as_many_elements_as_what_it_is_of() -> None:
    """Heads of keys split by the batch of the queries, and by the length of the example, as TorchScript exports them."""
    assert viewed("s, heads, eight") == ["S, B, 32", "S, B, 32"]
    assert viewed("seven, heads, eight", "T, B, 32") == ["S, B, 32", "7, B, 32"]
    assert viewed("any, heads, eight") == ["S, B, 32", "S, C, 32"]
    assert viewed("s, heads, eight", "T, C, 32") == ["S, B, 32", "T, C, 32"]  # both may differ
    ctx = Context()
    ctx.unassumed = frozenset({INPUTS_AGREE})
    text = "g (float[N, 4] x) => (float[A, B] y) { s = Constant<value_ints = [2, 8]>() y = Reshape(x, s) }"
    assert named(text, ctx)[0] == ["N, 4"]


def test_inputs_of_the_size_that_a_view_proves() -> None:
    text = "g (float[B, S, 4] x) => (float[B, 28] y) { s = Constant<value_ints = [0, 28]>() y = Reshape(x, s) }"
    assert synthesize(load(parse(text)))[0]["x"].shape[1] == 7
