"""Nodes in float16: which can, what is cast, and that the function stays what it was up to float16's rounding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from olc import ir, storage, targets
from olc.analysis import shapes
from olc.passes import Context, float16
from olc.session import run, session
from olc.strategy.probe import beyond

CUDA = targets.get("onnxruntime-cuda")
RANDOM = np.random.default_rng(3)


def model(body: str, inputs: str = "float[B, 16] x", outputs: str = "float[B, 16] y", **held: Any) -> ir.Model:
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 23]> g ({inputs}) => ({outputs}) {{ {body} }}')
    for i, n in enumerate(proto.graph.node):
        n.name = f"{n.op_type}_{i}"
    sizes = {"w": (16, 16), "b": (16,), "g": (16,)}
    read = {i for n in proto.graph.node for i in n.input}
    held |= {name: RANDOM.normal(size=sizes[name]).astype(np.float32) / 4 for name in sorted(read & sizes.keys())}
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(a, name) for name, a in held.items())
    made = ir.serde.deserialize_model(proto)
    shapes.infer(made)
    return made


def converted(m: ir.Model, keep: tuple[str, ...] = ()) -> int:
    """Convert all that can be; the number of nodes."""
    return float16.run(m, Context(target=CUDA), [n for n in m.graph if n.name not in keep], CUDA)


def outputs(m: ir.Model, tmp_path: Path, **feed: np.ndarray) -> list[np.ndarray]:
    storage.save(m, tmp_path / "m.onnx")
    return list(run(session(tmp_path / "m.onnx", providers=CUDA.providers), feed).values())  # the CPU, as it would round


def operators(m: ir.Model) -> list[str]:
    return [n.op_type for n in m.graph]


X = RANDOM.normal(size=(5, 16)).astype(np.float32)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("h = MatMul(x, w) y = Add(h, b)", ["Cast", "MatMul", "Add", "Cast"]),
        ("h = LayerNormalization(x, g, b) y = Gelu(h)", ["Cast", "LayerNormalization", "Gelu", "Cast"]),
        ("h = Sigmoid(x) i = Relu(x) y = Add(h, i)", ["Cast", "Sigmoid", "Relu", "Add", "Cast"]),
        ("h = Relu(x) c = Greater(h, b) z = Neg(h) y = Where(c, h, z)",  # what compares does so in float32
         ["Cast", "Relu", "Cast", "Greater", "Neg", "Where", "Cast"]),
    ],
)  # fmt: skip
def test_casts_are_at_the_borders(body: str, expected: list[str], tmp_path: Path) -> None:
    m = model(body)
    before = outputs(m, tmp_path, x=X)
    assert converted(m) == sum(op not in ("Cast", "Greater") for op in expected)
    assert operators(m) == expected
    assert [v.dtype for v in (*m.graph.inputs, *m.graph.outputs)] == [ir.DataType.FLOAT] * 2
    assert {v.dtype for v in m.graph.initializers.values() if v.uses()} <= {ir.DataType.FLOAT16} or "Greater" in expected
    after = outputs(m, tmp_path, x=X)
    # Sums of 16 products of numbers of size 1, each rounded to 11 bits.
    np.testing.assert_allclose(after[0], before[0], atol=16 * 2**-10)
    assert not np.array_equal(after[0], before[0]), "it was computed in float16"


def test_an_output_that_is_read_too_keeps_its_name(tmp_path: Path) -> None:
    m = model("h = Relu(x) y = Neg(h)", outputs="float[B, 16] h, float[B, 16] y")
    assert converted(m) == 2
    assert [v.name for v in m.graph.outputs] == ["h", "y"]
    h, y = outputs(m, tmp_path, x=X)
    np.testing.assert_array_equal(h, np.maximum(X.astype(np.float16), 0))
    np.testing.assert_array_equal(y, -h)


def test_a_node_that_is_kept_reads_and_gives_float32(tmp_path: Path) -> None:
    m = model("h = Relu(x) i = MatMul(h, w) y = Neg(i)")
    assert converted(m, keep=("MatMul_1",)) == 2
    assert operators(m) == ["Cast", "Relu", "Cast", "MatMul", "Cast", "Neg", "Cast"]
    product = next(n for n in m.graph if n.op_type == "MatMul")
    assert all(v is not None and v.dtype == ir.DataType.FLOAT for v in (*product.inputs, *product.outputs))
    outputs(m, tmp_path, x=X)


def test_angles_stay_in_float32(tmp_path: Path) -> None:
    # At position 3000 float16 has steps of 2, and the angle would be off by a turn.
    m = model("f = Cast<to = 1>(p) a = Mul(f, g) s = Sin(a) y = Mul(s, b)", "int64[B, 1] p")
    positions = np.array([[0], [7], [3000]])
    before = outputs(m, tmp_path, p=positions)
    converted(m)
    product = next(n for n in m.graph if n.name == "Mul_1")
    assert product.outputs[0].dtype == ir.DataType.FLOAT
    np.testing.assert_allclose(outputs(m, tmp_path, p=positions)[0], before[0], atol=2**-9)


def test_a_masks_lowest_number_stays_finite(tmp_path: Path) -> None:
    lowest = np.finfo(np.float32).min
    m = model("c = Not(k) f = Cast<to = 1>(c) d = Mul(f, low) h = Add(x, d) y = Softmax(h)", "float[B, 16] x, bool[B, 16] k",
              low=np.array(lowest))  # fmt: skip
    kept = RANDOM.random((5, 16)) < 0.5
    kept[0] = False  # and where no key is left there is no NaN
    before = outputs(m, tmp_path, x=X, k=kept)
    converted(m)
    after = outputs(m, tmp_path, x=X, k=kept)[0]
    assert np.isfinite(after).all()
    np.testing.assert_allclose(after[1:], before[0][1:], atol=2**-9)


def test_a_mask_that_comes_from_elsewhere_stays_finite(tmp_path: Path) -> None:
    lowest = float(np.finfo(np.float32).min)
    m = model("s = MatMul(x, w) h = Add(s, mask) y = Softmax(h)", "float[B, 16] x, float[B, 16] mask")
    mask = np.where(RANDOM.random((5, 16)) < 0.5, 0, lowest).astype(np.float32)
    mask[0] = lowest
    before = outputs(m, tmp_path, x=X, mask=mask)
    assert converted(m) == 3
    assert operators(m).count("Clip") == 1
    after = outputs(m, tmp_path, x=X, mask=mask)[0]
    assert np.isfinite(after).all()
    np.testing.assert_allclose(after[1:], before[0][1:], atol=2**-7)
    # Made of a comparison: the lowest number times 0 is 0, infinity times 0 is not.
    made = model("v = Shape(x) f = ConstantOfShape<value = float[1] {-3.4e38}>(v) l = Less(x, b) c = Cast<to = 1>(l) "
                 "d = Mul(f, c) h = Add(x, d) y = Softmax(h)")  # fmt: skip
    before = outputs(made, tmp_path, x=X)
    converted(made)
    np.testing.assert_allclose(outputs(made, tmp_path, x=X)[0], before[0], atol=2**-7)


def test_the_site_of_a_node_without_a_name_is_told_as_it_was() -> None:
    m = model("h = MatMul(x, w) y = Relu(h)")
    for n in m.graph:
        n.name = None
    ctx = Context(target=CUDA)
    sites = [ir.site(n) for n in m.graph]
    float16.run(m, ctx, list(m.graph), CUDA)
    assert [e.site for e in ctx.events] == sites


@pytest.mark.parametrize(("scale", "expected"), [(2**-6, True), (0.01, False)])
def test_scales_that_float16_lacks_stay(scale: float, expected: bool, tmp_path: Path) -> None:
    m = model("q = QuantizeLinear(x, s, z) h = DequantizeLinear(q, s, z) y = MatMul(h, w)",
              s=np.float32(scale), z=np.int8(0))  # fmt: skip
    before = outputs(m, tmp_path, x=X)
    assert converted(m) == (3 if expected else 1)
    np.testing.assert_allclose(outputs(m, tmp_path, x=X)[0], before[0], atol=0.05)


def test_what_a_target_has_no_kernel_for_stays() -> None:
    m = model("h = Relu(x) y = Det(h)", "float[16, 16] x", "float y")
    assert [n.op_type for n in float16.convertible(m, CUDA)] == ["Relu"]


@pytest.mark.parametrize(("number", "taken"), [(1e-12, 0), (1e6, 0), (np.inf, 1), (-3e38, 1), (1e-4, 1), (0.0, 1)])
def test_constants_beyond_the_range_keep_their_nodes(number: float, taken: int) -> None:
    assert converted(model("y = Max(x, c)", c=np.float32(number))) == taken


def test_angles_in_bodies_stay() -> None:
    m = model("a = Mul(x, g) y = If(c) <then_branch = t () => (float[B, 16] s) { s = Sin(a) }, "
              "else_branch = e () => (float[B, 16] r) { r = Neg(a) }>", "float[B, 16] x, bool c")  # fmt: skip
    assert converted(m) == 0


def test_a_dtype_that_is_written_down_stays() -> None:
    m = model("q = QuantizeLinear(x, s, z) y = DequantizeLinear<output_dtype = 1>(q, s, z)", s=np.float32(0.5), z=np.int8(0))
    assert converted(m) == 1


def test_a_sum_in_place_and_a_sequence_stay() -> None:
    m = model("y = ScatterElements<reduction = \"add\">(x, i, x)", "float[B, 16] x, int64[B, 16] i")
    assert converted(m) == 0
    assert converted(model("s = SequenceConstruct(x) t = Identity(s) y = SequenceAt(t, i)", i=np.array(0))) == 0


def test_an_old_opset_stays() -> None:
    m = model("y = Relu(x)")
    m.opset_imports[""] = 12
    assert float16.convertible(m, CUDA) == []


def test_bodies_stay(tmp_path: Path) -> None:
    m = model("h = Relu(x) y = If(c) <then_branch = t () => (float[B, 16] a) { a = Neg(h) }, "
              "else_branch = e () => (float[B, 16] a) { a = Identity(h) }>", "float[B, 16] x, bool c")  # fmt: skip
    assert converted(m) == 1
    (y,) = outputs(m, tmp_path, x=X, c=np.array(True))
    np.testing.assert_array_equal(y, -np.maximum(X.astype(np.float16), 0).astype(np.float32))


def test_magnitudes_beyond_a_limit_are_found() -> None:
    m = model("h = Mul(x, big) i = Relu(h) n = Neg(x) y = Add(i, n)", big=np.float32(1e5))
    small = np.full((1, 16), 1e-4, np.float32)
    names = [n.name or "" for n in m.graph]
    assert beyond(m, names, [{"x": small}], 1, float16.SAFE) == set()
    assert beyond(m, names, [{"x": small}, {"x": X}], 1, float16.SAFE) == {"Mul_0", "Relu_1", "Add_3"}
    masked = model("h = Add(x, low) y = Relu(h)", low=np.full(16, np.finfo(np.float32).min))
    assert beyond(masked, ["Add_0", "Relu_1"], [{"x": X}], 1, float16.SAFE) == set(), "a mask's numbers do not count"
