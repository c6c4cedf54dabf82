"""Regions of linear layers work on rows where that saves more than it costs, and give what they gave."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from olc import ir, storage, targets
from olc.analysis import shapes
from olc.passes import Context
from olc.pipeline import Options, optimize
from olc.session import session
from olc.targets import rows
from olc.targets.kernels import Kernels, Row

TARGET = targets.get("onnxruntime-cpu")
UNKNOWN = Kernels("onnxruntime", "0", {}, ())
WEIGHTS = "float[8, 8] w, float[8] b, float[8] g, float[8, 3] narrow, float[3] few"


def block(x: str = "x", y: str = "y") -> str:
    """A feed-forward block of x."""
    return f"""
        p = MatMul({x}, w) q = Add(p, b) t = Gelu(q) u = MatMul(t, w) v = Add(b, u) s = Add(v, {x})
        {y} = LayerNormalization<axis = 2>(s, g, b)
    """


BLOCK = block()


def model(body: str, sizes: str = "B, S, 8", results: str = "float[B, S, 8] y", more: str = "") -> ir.Model:
    proto = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": 23, "com.microsoft": 1]> g (float[{sizes}] x{more}) => ({results}) '
        f"<{WEIGHTS}> {{ {body} }}"
    )
    random = np.random.default_rng(0)
    del proto.graph.initializer[:]
    for name, size in (("w", (8, 8)), ("b", (8,)), ("g", (8,)), ("narrow", (8, 3)), ("few", (3,))):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(random.normal(size=size).astype(np.float32), name))
    found = ir.serde.deserialize_model(proto)
    shapes.infer(found)
    return found


def operators(m: ir.Model) -> Counter[str]:
    return Counter(n.op_type for g in ir.all_graphs(m) for n in g)


def lowered(m: ir.Model, kernels: Kernels = UNKNOWN, threads: int = 1) -> int:
    return rows.run(m, Context(target=TARGET), "lower", kernels, threads)


def outputs(m: ir.Model, path: Path, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    storage.save(m, path)
    return [np.asarray(a) for a in session(path, threads=1).run(None, feed)]


def same(made: ir.Model, tmp_path: Path, *sizes: tuple[int, ...], **more: np.ndarray) -> int:
    """Lower it, and compare its results at these sizes of x; the number of Gemms."""
    feeds = [{"x": np.random.default_rng(1).normal(size=size).astype(np.float32), **more} for size in sizes]
    declared = [(v.name, v.shape) for v in made.graph.outputs]
    expected = [outputs(made, tmp_path / "m.onnx", feed) for feed in feeds]
    changed = lowered(made)
    assert [(v.name, v.shape) for v in made.graph.outputs] == declared
    for feed, before in zip(feeds, expected, strict=True):
        for a, b in zip(outputs(made, tmp_path / "m.onnx", feed), before, strict=True):
            assert a.shape == b.shape
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)  # sums of 8 products that start elsewhere
    return changed


def test_a_block_of_two_layers(tmp_path: Path) -> None:
    made = model(BLOCK)
    assert same(made, tmp_path, (2, 5, 8), (1, 1, 8), (0, 3, 8), (3, 0, 8), (0, 0, 8)) == 2
    assert operators(made) == Counter(Reshape=2, Gemm=2, Gelu=1, Add=1, LayerNormalization=1, Shape=1)
    assert shapes.dims(made.graph.outputs[0]) == shapes.dims(model(BLOCK).graph.outputs[0])


@pytest.mark.parametrize(("sizes", "given"), [
    ("2, 5, 8", [(2, 5, 8)]), ("2, S, 8", [(2, 5, 8), (2, 0, 8)]), ("B, 3, 8", [(4, 3, 8)]),
])  # fmt: skip
def test_known_sizes_are_not_asked_for(sizes: str, given: list[tuple[int, ...]], tmp_path: Path) -> None:
    made = model(BLOCK, sizes)
    assert same(made, tmp_path, *given) == 2
    assert operators(made)["Shape"] == 0


def test_two_dims_need_no_reshape(tmp_path: Path) -> None:
    made = model("p = MatMul(x, w) y = Add(p, b)", "N, 8", "float[N, 8] y")
    assert same(made, tmp_path, (3, 8), (0, 8)) == 1
    assert operators(made) == Counter(Gemm=1)


def test_four_dims_and_a_norm_whose_axis_counts_from_the_front(tmp_path: Path) -> None:
    body = "p = MatMul(x, w) q = Add(p, b) r = RMSNormalization<axis = 3>(q, g) t = MatMul(r, w) y = Add(t, b)"
    assert same(model(body, "A, B, C, 8", "float[A, B, C, 8] y"), tmp_path, (2, 3, 4, 8), (2, 0, 4, 8)) == 2


def test_a_bias_may_be_one_number(tmp_path: Path) -> None:
    body = """
        c = Constant<value_float = 2.0>() d = Constant<value_floats = [3.0]>()
        p = MatMul(x, w) q = Add(p, c) t = MatMul(q, w) y = Add(d, t)
    """
    made = model(body)
    assert same(made, tmp_path, (2, 5, 8), (0, 3, 8)) == 2
    assert operators(made)["Add"] == 0


def test_what_is_made_inside_may_be_an_output_too(tmp_path: Path) -> None:
    body = "p = MatMul(x, w) q = Add(p, b) t = Relu(q) u = MatMul(t, w) v = Add(u, b) z = MatMul(v, w) y = Add(z, b)"
    made = model(body, results="float[B, S, 8] y, float[B, S, 8] q")
    assert same(made, tmp_path, (2, 5, 8)) == 3
    assert operators(made)["Reshape"] == 3


def test_another_width_than_what_entered(tmp_path: Path) -> None:
    body = "p = MatMul(x, w) q = Add(p, b) t = MatMul(q, w) r = Add(t, b) u = MatMul(r, narrow) y = Add(u, few)"
    made = model(body, results="float[B, S, 3] y, float[B, S, 8] r")
    assert same(made, tmp_path, (2, 5, 8)) == 3
    assert operators(made) == Counter(Reshape=3, Gemm=3, Shape=2, Concat=1)


def test_a_region_begins_and_ends_at_reshapes_that_are_there(tmp_path: Path) -> None:
    body = """
        first = Constant<value_ints = [0, 0, 8]>() last = Constant<value_ints = [-1, 4, 2]>() h = Reshape(x, first)
        p = MatMul(h, w) q = Add(p, b) y = Reshape(q, last)
    """
    made = model(body, "B, S, 4, 2", "float[N, 4, 2] y")
    assert same(made, tmp_path, (2, 5, 4, 2)) == 1
    assert operators(made) == Counter(Constant=2, Reshape=2, Gemm=1)


def test_bodies_and_readers_in_them(tmp_path: Path) -> None:
    body = f"""
        p0 = MatMul(x, w) q0 = Add(p0, b) u0 = MatMul(q0, w) h = Add(u0, b)
        y = If(c) <
            then_branch = one () => (float[B, S, 8] one) {{ {block("h", "one")} }},
            else_branch = two () => (float[B, S, 8] other) {{ other = Softmax<axis = 1>(h) }}
        >
    """
    for flag in (True, False):
        made = model(body, more=", bool c")
        assert same(made, tmp_path, (2, 5, 8), c=np.array(flag)) == 4


@pytest.mark.parametrize("body", [
    "p = MatMul(x, w) y = Add(p, b)",  # two Reshapes for one Add
    "p = MatMul(x, w) q = Softmax<axis = 1>(p) r = Add(q, b) t = MatMul(r, w) y = Relu(t)",  # nothing to save
    "p = MatMul(x, w) q = Add(p, b) r = Add(p, q) t = MatMul(r, w) y = Add(t, b)",  # what is added to is read twice
])  # fmt: skip
def test_where_it_does_not_gain_nothing_is_changed(body: str) -> None:
    made = model(body)
    before = operators(made)
    assert lowered(made) == 0
    assert operators(made) == before


def test_what_broadcasts_over_rows_stays_outside(tmp_path: Path) -> None:
    body = """
        p = MatMul(x, w) q = Add(p, b) r = Mul(q, row) t = MatMul(r, w) u = Add(t, b) a = MatMul(u, w) y = Add(a, b)
    """
    made = model(body, more=", float[1, S, 8] row")
    assert same(made, tmp_path, (2, 5, 8), row=np.ones((1, 5, 8), np.float32)) == 2
    assert operators(made)["Mul"] == 1


@pytest.mark.parametrize(("ratio", "threads", "done"), [(0.9, 1, 0), (1.0, 1, 2), (1.0, 2, 2), (1.0, 3, 0)])
def test_the_table_and_the_threads_decide(ratio: float, threads: int, done: int) -> None:
    size = {"rows": 16, "inner": 384, "columns": 1536}
    assert lowered(model(BLOCK), Kernels("onnxruntime", "0", {}, (Row(rows.NAME, size, ratio, ratio, ratio),)), threads) == done


@pytest.mark.parametrize(("body", "results", "layers"), [
    (BLOCK, "float[B, S, 8] y", 2),
    ("c = Constant<value_float = 2.0>()" + BLOCK.replace("p, b", "p, c"), "float[B, S, 8] y", 2),
    (f"o = Transpose(w) k = MatMul(x, o) l = Add(k, b) {BLOCK}", "float[B, S, 8] y, float[B, S, 8] l", 3),  # linear-detour: l
])  # fmt: skip
def test_compiling_again_gives_the_same(body: str, results: str, layers: int) -> None:
    made, found = model(body, results=results), []
    for _ in range(3):
        optimize(made, Options(level=2), Context(target=TARGET, threads=1))
        found.append(operators(made))
    assert found[0]["Gemm"] == layers
    assert found[1] == found[2] == found[0]
