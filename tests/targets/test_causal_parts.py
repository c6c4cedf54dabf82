"""Causal attention in parts gives what the whole gave, and is only done where no query can see a later key."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from olc import ir, storage, targets
from olc.analysis import shapes
from olc.assumptions import KEEPS_A_KEY
from olc.passes import Context
from olc.passes import shapes as shapes_pass
from olc.session import session
from olc.targets import causal_parts
from olc.targets.causal_parts import MANY, PARTS
from olc.targets.kernels import Kernels, Row

TARGET = targets.get("onnxruntime-cpu")
UNKNOWN = Kernels("onnxruntime", "0", {}, ())
IN_PLACE = """
    i = Shape<start = 1, end = 2>(q) j = Squeeze(i) p = Shape<start = 2, end = 3>(pk) o = Squeeze(p) t = Add(j, o)
    r = Range(zero, j, one) s = Range(zero, t, one) u = Add(r, o) v2 = Unsqueeze(u, last) w = LessOrEqual(s, v2)
"""
"""``w`` says of queries and keys, those in the cache included, that the key is not later."""


def model(mask: str = "w", queries: str = "S", attributes: str = "", web: str = IN_PLACE, more: str = "", results: bool = True,
          heads: tuple[int, int] = (4, 2)) -> ir.Model:  # fmt: skip
    q, kv = heads
    present = (f", float[B, {kv}, L, 8] nk, float[B, {kv}, L, 8] nv", ", nk, nv") if results else ("", ", n1, n2")
    proto = onnx.parser.parse_model(f"""
        <ir_version: 10, opset_import: ["": 23]>
        g (float[B, {queries}, {8 * q}] q, float[B, {queries}, {8 * kv}] k, float[B, {queries}, {8 * kv}] v,
           float[B, {kv}, P, 8] pk, float[B, {kv}, P, 8] pv{more}) => (float[B, {queries}, {8 * q}] y{present[0]})
        <int64 zero = {{0}}, int64 one = {{1}}, int64[1] last = {{1}}, int64[2] first = {{1, 2}}>
        {{ {web}
           [attention] y{present[1]} = Attention<q_num_heads = {q}, kv_num_heads = {kv}{attributes}>(q, k, v, {mask}, pk, pv) }}
    """)
    found = ir.serde.deserialize_model(proto)
    shapes.infer(found)
    return found


def feed(queries: int, past: int = 0, heads: tuple[int, int] = (4, 2), batch: int = 2) -> dict[str, np.ndarray]:
    random = np.random.default_rng(queries + past)
    sizes = {"q": (queries, 8 * heads[0]), "k": (queries, 8 * heads[1]), "v": (queries, 8 * heads[1])}
    made = {n: random.normal(size=(batch, *s)).astype(np.float32) for n, s in sizes.items()}
    return made | {n: random.normal(size=(batch, heads[1], past, 8)).astype(np.float32) for n in ("pk", "pv")}


def operators(m: ir.Model) -> Counter[str]:
    return Counter(n.op_type for g in ir.all_graphs(m) for n in g)


def context(*unassumed: str) -> Context:
    return Context(target=TARGET, unassumed=frozenset(unassumed))


def lowered(m: ir.Model, kernels: Kernels = UNKNOWN, ctx: Context | None = None) -> int:
    return causal_parts.run(m, ctx or context(), "lower", kernels)


def outputs(m: ir.Model, path: Path, given: dict[str, np.ndarray]) -> list[np.ndarray]:
    storage.save(m, path)
    return [np.asarray(a) for a in session(path, threads=1).run(None, given)]


def same(m: ir.Model, tmp_path: Path, *feeds: dict[str, np.ndarray], by_if: bool = False) -> None:
    """Split it, and compare its results. The same sums in another order: a few units in the last place."""
    declared = [(v.name, v.shape) for v in m.graph.outputs]
    known = shapes.dims(m.graph.outputs[0])
    expected = [outputs(m, tmp_path / "m.onnx", given) for given in feeds]
    changed = causal_parts.split(m, context(), {"attention"}) if by_if else lowered(m)
    assert changed == 1
    assert operators(m)["Attention"] == PARTS + by_if
    assert [(v.name, v.shape) for v in m.graph.outputs] == declared
    assert shapes.dims(m.graph.outputs[0]) == known is not None, "rules that come after it look at shapes"
    shapes_pass.run(m, context())
    for given, before in zip(feeds, expected, strict=True):
        for a, b in zip(outputs(m, tmp_path / "m.onnx", given), before, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("queries", [MANY, MANY + 1, MANY + 7, 3 * MANY + 5])
@pytest.mark.parametrize("past", [0, 3])
def test_a_fixed_number_of_queries(queries: int, past: int, tmp_path: Path) -> None:
    same(model(queries=str(queries)), tmp_path, feed(queries, past))


def test_the_attribute_needs_no_mask(tmp_path: Path) -> None:
    made = model("", str(MANY), ", is_causal = 1, scale = 0.3", web="")
    same(made, tmp_path, feed(MANY), feed(MANY, 5))
    assert not operators(made)["Slice"]


def test_what_else_the_mask_drops_stays_dropped(tmp_path: Path) -> None:
    web = IN_PLACE + "m2 = Cast<to = 9>(m) m3 = Unsqueeze(m2, first) x = And(w, m3)"
    kept = np.ones((2, MANY + 4), np.int64)
    kept[1, MANY - 20 :] = 0
    made = model("x", str(MANY), web=web, more=", int64[B, L] m")
    same(made, tmp_path, feed(MANY, 4) | {"m": kept})


def test_a_mask_beside_the_attribute(tmp_path: Path) -> None:
    kept = np.random.default_rng(0).random((MANY, MANY)) < 0.9
    kept[:, 0] = True
    made = model("m", str(MANY), ", is_causal = 1", web="", more=f", bool[{MANY}, L] m")
    same(made, tmp_path, feed(MANY) | {"m": kept})


def test_without_a_cache(tmp_path: Path) -> None:
    proto = onnx.parser.parse_model(f"""
        <ir_version: 10, opset_import: ["": 23]> g (float[B, {MANY}, 32] q, float[B, {MANY}, 32] k, float[B, {MANY}, 16] v)
            => (float[B, {MANY}, 16] y) {{ [attention] y = Attention<q_num_heads = 4, kv_num_heads = 4, is_causal = 1>(q, k, v) }}
    """)
    made = ir.serde.deserialize_model(proto)
    shapes.infer(made)
    random = np.random.default_rng(0)
    given = {n: random.normal(size=(2, MANY, w)).astype(np.float32) for n, w in (("q", 32), ("k", 32), ("v", 16))}
    same(made, tmp_path, given)


@pytest.mark.parametrize("results", [True, False])
@pytest.mark.parametrize("heads", [(4, 2), (3, 3), (2, 1)])
def test_an_open_number_of_queries(heads: tuple[int, int], results: bool, tmp_path: Path) -> None:
    """From one on: a step, the last number for which the whole runs, and the first for parts."""
    made = model(heads=heads, results=results)
    assert causal_parts.fit(made, context()) == ["attention"]
    assert lowered(made) == 0
    sizes = [(1, 0), (1, 7), (5, 0), (MANY - 1, 2), (MANY, 0), (MANY + 1, 3), (2 * MANY + 3, 0)]
    same(made, tmp_path, *(feed(s, p, heads) for s, p in sizes), by_if=True)


def test_done_once() -> None:
    made = model("", str(32 * MANY), ", is_causal = 1", web="")
    assert lowered(made) == 1
    assert lowered(made) == 0
    opened = model()
    assert causal_parts.split(opened, context(), {"attention"}) == 1
    assert causal_parts.fit(opened, context()) == [], "what is left whole has few queries"


@pytest.mark.parametrize("queries", [str(MANY), "S"])
def test_queries_that_were_cut_out_of_one_product_are_split_for_all_that(queries: str) -> None:
    """GPT-2's queries, keys and values are thirds of one: a Split, but not along the tokens."""
    proto = onnx.parser.parse_model(f"""
        <ir_version: 10, opset_import: ["": 23]> g (float[B, {queries}, 96] x) => (float[B, {queries}, 32] y)
        {{ q, k, v = Split<axis = 2, num_outputs = 3>(x)
           [attention] y = Attention<q_num_heads = 4, kv_num_heads = 4, is_causal = 1>(q, k, v) }}
    """)
    made = ir.serde.deserialize_model(proto)
    shapes.infer(made)
    assert lowered(made) + len(causal_parts.fit(made, context())) == 1


@pytest.mark.parametrize(
    ("why", "options"),
    [
        ("too few queries", {"queries": str(MANY - 1)}),
        ("one key later", {"queries": str(MANY), "web": IN_PLACE.replace("Add(r, o)", "Add(r, t)")}),
        ("every key", {"queries": str(MANY), "mask": "", "web": ""}),
        ("a mask of the user's", {"queries": str(MANY), "mask": "m", "web": "", "more": f", bool[{MANY}, L] m"}),
        ("a number is added", {"queries": str(MANY), "mask": "m", "web": "", "more": f", float[{MANY}, L] m"}),
        ("one row for all queries", {"queries": str(MANY), "mask": "m", "web": "", "more": ", bool[1, L] m",
                                     "attributes": ", is_causal = 1"}),
        ("as many rows as a run tells", {"queries": str(MANY), "mask": "m", "web": "", "more": ", bool[N, L] m",
                                         "attributes": ", is_causal = 1"}),
        ("only later keys", {"queries": str(MANY), "web": IN_PLACE.replace("LessOrEqual(s, v2)", "Less(v2, s)")}),
    ],
)
def test_refused(why: str, options: dict[str, str]) -> None:
    made = model(**options)
    assert lowered(made) == 0, why
    assert operators(made)["Attention"] == 1
    opened = model(**{**options, "queries": "S"})
    assert causal_parts.fit(opened, context()) == [] or why == "too few queries"


@pytest.mark.parametrize("gone", [0, 1, 2])
@pytest.mark.parametrize("queries", [str(MANY), "S"])
def test_not_where_one_half_of_the_cache_is_a_result(queries: str, gone: int) -> None:
    """The kernel gives keys alone, or values, only without a cache; and nobody needs parts for a cache alone."""
    made = model("", queries, ", is_causal = 1", web="")
    node = next(n for n in made.graph if n.op_type == "Attention")
    made.graph.outputs.remove(node.outputs[gone])
    node.outputs[gone].name = ""
    assert lowered(made) + len(causal_parts.fit(made, context())) == 0


@pytest.mark.parametrize("skip", [causal_parts.NAME, f"{causal_parts.NAME}@attention"])
@pytest.mark.parametrize("queries", [str(MANY), "S"])
def test_it_can_be_skipped(queries: str, skip: str) -> None:
    made, ctx = model("", queries, ", is_causal = 1", web=""), Context(target=TARGET, skip=frozenset({skip}))
    assert lowered(made, ctx=ctx) + causal_parts.split(made, ctx, {"attention"}) == 0
    other = Context(target=TARGET, skip=frozenset({f"{causal_parts.NAME}@another"}))
    assert lowered(made, ctx=other) + causal_parts.split(made, other, {"attention"}) == 1


def test_not_where_the_table_says_that_it_is_slower() -> None:
    size = {"queries": MANY, "heads": 4, "size": 8}
    slow = Kernels("onnxruntime", "0", {}, (Row(causal_parts.TABLE, size, 0.8, 0.8, 0.8),))
    assert lowered(model(queries=str(MANY)), slow) == 0


def test_what_is_assumed_is_told_and_can_be_forbidden() -> None:
    web = IN_PLACE + "m2 = Cast<to = 9>(m) m3 = Unsqueeze(m2, first) x = And(w, m3)"
    options = {"mask": "x", "queries": str(MANY), "web": web, "more": ", int64[B, L] m"}
    ctx = context()
    assert lowered(model(**options), ctx=ctx) == 1
    assert KEEPS_A_KEY in ctx.relied
    assert lowered(model(**options), ctx=context(KEEPS_A_KEY)) == 0
    ctx = context(KEEPS_A_KEY)
    assert lowered(model(queries=str(MANY)), ctx=ctx) == 1, "every query sees at least its own key"
    assert not ctx.relied
