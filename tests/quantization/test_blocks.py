"""Blocked weights against a slow reading of the definition, and against ONNX Runtime's own operators."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from olc import ir
from olc.quantization import BLOCK, block_weight
from olc.quantization.blocks import BlockWeight, dequantize, former_block, pack, quantize_blocks
from onnx import TensorProto as T
from onnx import helper


def weight(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((rows, columns)) * rng.uniform(0.1, 3, columns) + rng.normal(0, 0.5)).astype(np.float32)


def by_loops(w: np.ndarray, bits: int, block: int, symmetric: bool) -> tuple[Any, Any, Any]:
    """Codes, scales and zero points by Python's numbers, one element after another."""
    rows, columns = w.shape
    blocks = (rows + block - 1) // block
    q = np.zeros(w.shape, int)
    scale = np.zeros((blocks, columns))
    zero = np.zeros((blocks, columns), int)
    for n in range(columns):
        for b in range(blocks):
            part = [float(w[k, n]) for k in range(b * block, min(rows, (b + 1) * block))]
            low, high = min([*part, 0.0]), max([*part, 0.0])
            if symmetric:
                z = 2 ** (bits - 1)
                s = float(np.float32(max(high / (z - 1), -low / z))) or 1.0
            else:
                s = float(np.float32((high - low) / (2**bits - 1))) or 1.0
                z = min(max(round(-low / s), 0), 2**bits - 1)
            scale[b, n], zero[b, n] = s, z
            for i, x in enumerate(part):
                q[b * block + i, n] = min(max(round(x / s) + z, 0), 2**bits - 1)
    return q, scale, zero


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(("rows", "block"), [(16, 4), (19, 4), (3, 16), (7, 1), (1, 1)])
def test_codes_are_those_of_the_definition(bits: int, symmetric: bool, rows: int, block: int) -> None:
    w = weight(rows, 6, seed=rows)
    got = quantize_blocks(w, bits, block, symmetric)
    q, scale, zero = by_loops(w, bits, block, symmetric)
    assert (got.q.dtype, got.scale.dtype, got.zero.dtype) == (np.uint8, np.float32, np.uint8)
    np.testing.assert_array_equal(got.scale, scale)
    np.testing.assert_array_equal(got.zero, zero)
    np.testing.assert_array_equal(got.q, q)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [False, True])
def test_error_is_half_a_step_but_where_the_zero_point_was_rounded(bits: int, symmetric: bool) -> None:
    w = weight(100, 20)
    got = quantize_blocks(w, bits, 32, symmetric)
    steps = np.abs(dequantize(got) - w) / np.repeat(got.scale, 32, axis=0)[:100]
    assert steps.max() <= (0.5 if symmetric else 1.0) * (1 + 1e-4)


def test_columns_worked_on_apart_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    w = weight(50, 23)
    whole = quantize_blocks(w, 4, 16)
    packed, back = pack(whole), dequantize(whole)
    monkeypatch.setattr("olc.quantization.blocks._CHUNK", 200)
    parts = quantize_blocks(w, 4, 16)
    np.testing.assert_array_equal(parts.q, whole.q)
    np.testing.assert_array_equal(parts.scale, whole.scale)
    np.testing.assert_array_equal(parts.zero, whole.zero)
    np.testing.assert_array_equal(pack(parts).weight, packed.weight)
    np.testing.assert_array_equal(dequantize(parts), back)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [False, True])
def test_search_is_never_worse_in_any_block(bits: int, symmetric: bool) -> None:
    w = weight(70, 40)
    plain, found = (quantize_blocks(w, bits, 32, symmetric, search=s) for s in (False, True))
    e, f = (np.square(dequantize(g).astype(np.float64) - w) for g in (plain, found))
    blocks = np.arange(0, 70, 32)
    e, f = np.add.reduceat(e, blocks), np.add.reduceat(f, blocks)
    assert (f <= e * (1 + 1e-6)).all()
    if bits == 4:
        assert f.sum() < 0.97 * e.sum()


def test_search_gives_up_one_outlier_for_the_rest() -> None:
    w = np.tile(np.array([0.33, -0.33, 0.4, -0.4], np.float32), 64)[:, None].copy()
    w[5] = 6.0
    error = [np.square(dequantize(quantize_blocks(w, 4, 256, symmetric=True, search=s)) - w).sum() for s in (False, True)]
    assert error[1] < 0.8 * error[0]


def test_what_the_grid_holds_comes_back_exactly() -> None:
    w = np.zeros((40, 4), np.float32)
    w[:, 1] = 0.3
    w[:, 2] = -2.5
    w[7, 3] = 1e-40
    for bits in (4, 8):
        for symmetric in (False, True):
            got = quantize_blocks(w, bits, 16, symmetric, search=True)
            back = dequantize(got)
            np.testing.assert_allclose(back[:, :3], w[:, :3], rtol=1e-6)
            assert (got.scale > 0).all()
            assert np.abs(back[:, 3] - w[:, 3]).max() <= 1e-41


@pytest.mark.parametrize("group", [32, 64])
@pytest.mark.parametrize("kept_as", [np.float32, np.float16, "bfloat16"])
@pytest.mark.parametrize("symmetric", [False, True])
def test_weights_that_were_4_bits_before_are_found_again(symmetric: bool, kept_as: Any, group: int) -> None:
    """A checkpoint of 4 bits that was made floats again: few blocks use both ends of their grid."""
    rng = np.random.default_rng(5)
    zero = 8 if symmetric else rng.integers(0, 16, (256 // group, 1, 40))
    codes = np.clip(np.rint(rng.normal(7.5, 2.5, (256 // group, group, 40))), 0, 15)
    w = ((codes - zero) * rng.uniform(0.01, 0.1, (256 // group, 1, 40))).astype(np.float32).reshape(256, 40)
    given = rounded_to(w, kept_as)
    back = dequantize(quantize_blocks(given, 4, 32, symmetric))
    # A unit in the last place of what it was kept as, at the largest number.
    bits = {np.float32: 24, np.float16: 11, "bfloat16": 8}[kept_as]
    assert np.abs(back - w).max() <= 2.0 ** (1 - bits) * 16 * 0.1


def rounded_to(w: np.ndarray, kept_as: Any) -> np.ndarray:
    if kept_as != "bfloat16":
        return w.astype(kept_as).astype(np.float32)
    return ((w.view(np.uint32) + 0x8000) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def test_a_former_grid_is_never_worse_in_any_block() -> None:
    rng = np.random.default_rng(6)
    for rows in (1, 2, 3, 5, 32):
        w = rng.normal(size=(rows, 500)).astype(np.float32)
        w[:, ::2] = rng.integers(-3, 4, (rows, 250)) * np.float32(0.37)
        ours = np.square(dequantize(quantize_blocks(w, 4, 32)) - w).sum(axis=0)
        low, high = w.min(axis=0, initial=0), w.max(axis=0, initial=0)
        step = np.where(high > low, (high - low) / 15, 1)
        plain = np.square(np.clip(np.rint(w / step), -np.rint(-low / step), 15 - np.rint(-low / step)) * step - w).sum(axis=0)
        assert (ours <= plain * 1.0001 + 1e-9).all()


def test_smallest_and_largest_numbers() -> None:
    w = np.array([[1e-45, 3e38, 1e-45], [0.0, -3e38, 3e38]], np.float32)
    with np.errstate(all="raise", under="ignore"):
        got = quantize_blocks(w, 8, 2, search=True)
        back = dequantize(got)
    assert np.isfinite(back).all()
    np.testing.assert_allclose(back[:, 1], w[:, 1], rtol=0.02)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
def test_nothing_is_nothing(shape: tuple[int, int]) -> None:
    got = quantize_blocks(np.zeros(shape, np.float32), 4, 16)
    assert dequantize(got).shape == shape
    assert pack(got).weight.shape == (shape[1], -(-shape[0] // 16), 8)


def test_what_is_refused() -> None:
    w = weight(8, 2)
    for bad in (np.nan, np.inf, -np.inf):
        broken = w.copy()
        broken[3, 1] = bad
        with pytest.raises(ValueError, match="not finite"):
            quantize_blocks(broken, 4, 4)
    with pytest.raises(ValueError, match="rank 1"):
        quantize_blocks(w[0], 4, 4)
    with pytest.raises(ValueError, match="bits"):
        quantize_blocks(w, 5, 4)
    with pytest.raises(ValueError, match="0 rows"):
        quantize_blocks(w, 4, 0)
    for block in (8, 24):
        with pytest.raises(ValueError, match="power of two"):
            pack(quantize_blocks(w, 4, block))


def test_low_nibble_is_the_first_row() -> None:
    q = (np.arange(16, dtype=np.uint8) % 16)[:, None]
    made = BlockWeight(q, np.ones((1, 1), np.float32), np.full((1, 1), 5, np.uint8), 4, 16)
    assert pack(made).weight.tolist() == [[[0x10, 0x32, 0x54, 0x76, 0x98, 0xBA, 0xDC, 0xFE]]]
    assert pack(made).zero.tolist() == [[5]]  # type: ignore[union-attr]


def session(nodes: list[Any], inputs: list[Any], constants: dict[str, np.ndarray], out: list[Any]) -> Any:
    held = [onnx.numpy_helper.from_array(v, k) for k, v in constants.items()]
    graph = helper.make_graph(nodes, "g", inputs, out, held)
    opset = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(("rows", "columns", "block"), [(64, 8, 32), (70, 9, 32), (100, 5, 16), (33, 40, 32), (5, 3, 16)])
@pytest.mark.parametrize("m", [1, 7])
def test_runtime_multiplies_by_the_packed_weight(
    bits: int, symmetric: bool, rows: int, columns: int, block: int, m: int
) -> None:
    made = quantize_blocks(weight(rows, columns), bits, block, symmetric)
    packed = pack(made)
    assert (packed.zero is None) == symmetric
    constants = {"b": packed.weight, "s": packed.scale}
    if packed.zero is not None:
        constants["z"] = packed.zero
    node = helper.make_node(
        "MatMulNBits", ["x", *constants], ["y"], domain="com.microsoft",
        K=rows, N=columns, bits=bits, block_size=block, accuracy_level=0,
    )  # fmt: skip
    x = np.random.default_rng(1).standard_normal((m, rows)).astype(np.float32)
    float_in = helper.make_tensor_value_info("x", T.FLOAT, [m, rows])
    float_out = helper.make_tensor_value_info("y", T.FLOAT, [m, columns])
    (got,) = session([node], [float_in], constants, [float_out]).run(None, {"x": x})
    want = x.astype(np.float64) @ dequantize(made).astype(np.float64)
    size = np.abs(x).astype(np.float64) @ np.abs(dequantize(made)).astype(np.float64)
    assert (np.abs(got - want) <= 1e-6 * size).all()


@pytest.mark.parametrize("rows", [64, 70])
def test_runtime_dequantizes_bit_for_bit(rows: int) -> None:
    made = quantize_blocks(weight(rows, 9), 8, 32)
    node = helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], axis=0, block_size=32)
    q = helper.make_tensor_value_info("q", T.UINT8, [rows, 9])
    out = helper.make_tensor_value_info("y", T.FLOAT, [rows, 9])
    (got,) = session([node], [q], {"s": made.scale, "z": made.zero}, [out]).run(None, {"q": made.q})
    np.testing.assert_array_equal(got, dequantize(made))


@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize("bits", [4, 8])
def test_the_blocks_are_those_of_before(group: int, bits: int) -> None:
    rng = np.random.default_rng(8)
    codes = np.clip(np.rint(rng.normal(0, 2.5, (384 // group, group, 24))), -8, 7)
    w = (codes * rng.uniform(0.01, 0.1, (384 // group, 1, 24))).reshape(384, 24).astype(np.float32)
    value = ir.make_constant(w, "w")
    ir.Graph([], [], nodes=[], initializers=[value])
    made = block_weight(value, bits)
    assert made.block == (group if bits == 4 else BLOCK)
    assert np.abs(dequantize(made) - w).max() <= (1e-6 if bits == 4 else 0.01)
    assert former_block(rng.normal(size=(384, 24)).astype(np.float32)) is None
    assert former_block(np.zeros((384, 24), np.float32)) is None
    assert former_block(np.zeros((0, 24), np.float32)) is former_block(np.zeros((24, 0), np.float32)) is None
