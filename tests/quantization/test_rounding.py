"""GPTQ against the paper's equations read slowly, and against rounding to the nearest on rows held apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from olc.quantization import rounding
from olc.quantization.blocks import block_grid, dequantize, quantize_blocks
from olc.quantization.rounding import Gram, round_blocks, round_int8
from olc.quantization.weights import quantize_linear_weight


def activation(rows: int, k: int, seed: int = 0) -> np.ndarray:
    """Channels that go together, and of different sizes."""
    rng = np.random.default_rng(100)
    mix = rng.standard_normal((max(1, k // 3), k)) * np.exp(rng.normal(0, 0.7, k))
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, len(mix))) @ mix + 0.2 * rng.standard_normal((rows, k))
    return x.astype(np.float32)


def matrix(k: int, n: int, seed: int = 7) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((k, n)).astype(np.float32)


def gram(x: np.ndarray) -> Any:
    made = Gram(x.shape[-1])
    made.add(x)
    return made.matrix


def lost(x: np.ndarray, w: np.ndarray, back: np.ndarray) -> float:
    return float(np.square(x.astype(np.float64) @ (w.astype(np.float64) - back)).sum())


def by_equations(w: np.ndarray, h: np.ndarray, order: list[int], quantize: Any) -> np.ndarray:
    """Equations 2 and 3: one row at a time, the inverse Hessian updated by Gaussian elimination, one column of w apart."""
    codes = np.zeros(w.shape, int)
    for n in range(w.shape[1]):
        v = w[:, n].astype(np.float64).copy()
        inverse = np.linalg.inv(h)
        for at, k in enumerate(order):
            codes[k, n], back = quantize(k, n, v)
            gone = (v[k] - back) / inverse[k, k]
            for j in order[at + 1 :]:
                v[j] -= gone * inverse[j, k]
            column = inverse[:, k].copy()
            for i in range(len(w)):
                for j in range(len(w)):
                    inverse[i, j] -= column[i] * column[j] / column[k]
            inverse[k, :] = inverse[:, k] = 0.0
    return codes


@pytest.mark.parametrize("batch", [2, 5, 128])
def test_int8_is_the_papers(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounding, "BATCH", batch)
    w, x = matrix(12, 3), activation(40, 12)
    h = gram(x)
    damped = h + 0.05 * np.diag(h).mean() * np.eye(12)
    q, scale = round_int8(w, h, limit=7, damping=0.05)

    def quantize(k: int, n: int, v: np.ndarray) -> tuple[int, float]:
        code = min(max(round(v[k] / float(scale[n])), -7), 7)
        return code, code * float(scale[n])

    order = sorted(range(12), key=lambda k: -h[k, k])
    np.testing.assert_array_equal(q, by_equations(w, damped, order, quantize))
    np.testing.assert_array_equal(scale, quantize_linear_weight(w, 7)[1])
    assert (q != quantize_linear_weight(w, 7)[0]).any()


@pytest.mark.parametrize("batch", [2, 6, 128])
@pytest.mark.parametrize("symmetric", [False, True])
def test_blocks_are_the_papers(batch: int, symmetric: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounding, "BATCH", batch)
    w, x = matrix(11, 3), activation(40, 11)
    h = gram(x)
    got = round_blocks(w, h, 4, 4, symmetric, damping=0.05)
    members = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]
    grids: dict[tuple[int, int], tuple[float, int]] = {}

    def quantize(k: int, n: int, v: np.ndarray) -> tuple[int, float]:
        if (k // 4, n) not in grids:
            s, z = block_grid(v[members[k // 4], None].astype(np.float32), 4, symmetric)
            grids[k // 4, n] = float(s[0]), int(z[0])
        s, z = grids[k // 4, n]
        code = min(max(round(v[k] / s) + z, 0), 15)
        return code, (code - z) * s

    blocks = sorted(members, key=lambda m: -sum(h[k, k] for k in m))
    order = [k for m in blocks for k in sorted(m, key=lambda k: -h[k, k])]
    damped = h + 0.05 * np.diag(h).mean() * np.eye(11)
    np.testing.assert_array_equal(got.q, by_equations(w, damped, order, quantize))
    for (b, n), (s, z) in grids.items():
        assert got.scale[b, n] == pytest.approx(s, rel=1e-5)
        assert got.zero[b, n] == z


@pytest.mark.parametrize("rows", [60, 2000])
def test_int8_is_better_on_rows_held_apart(rows: int) -> None:
    w, x, apart = matrix(96, 50), activation(rows, 96), activation(500, 96, seed=1)
    for limit, gain in ((127, 0.7), (7, 0.7)):
        q, scale = round_int8(w, gram(x), limit)
        n, same = quantize_linear_weight(w, limit)
        np.testing.assert_array_equal(scale, same)
        assert np.abs(q).max() <= limit
        assert lost(apart, w, q * scale) < gain * lost(apart, w, n * scale)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(("symmetric", "search"), [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize("block", [16, 40, 256])
def test_blocks_are_better_on_rows_held_apart(bits: int, symmetric: bool, search: bool, block: int) -> None:
    w, x, apart = matrix(150, 40), activation(1000, 150), activation(500, 150, seed=1)
    got = round_blocks(w, gram(x), bits, block, symmetric, search)
    nearest = quantize_blocks(w, bits, block, symmetric, search)
    assert (got.scale.shape, got.zero.shape, got.q.dtype) == (nearest.scale.shape, nearest.zero.shape, np.uint8)
    assert lost(apart, w, dequantize(got)) < 0.7 * lost(apart, w, dequantize(nearest))


def test_default_damping_fits_few_rows_less() -> None:
    """Fewer rows than channels, which do not go together: there is nothing to gain, and not much may be lost."""
    x = np.random.default_rng(3).standard_normal((30, 96)).astype(np.float32)
    apart = np.random.default_rng(4).standard_normal((500, 96)).astype(np.float32)
    w = matrix(96, 50)
    nearest = lost(apart, w, dequantize(quantize_blocks(w, 4, 32)))
    errors = [lost(apart, w, dequantize(round_blocks(w, gram(x), 4, 32, damping=d))) for d in (0.01, rounding.DAMPING)]
    assert errors[0] > 2.2 * nearest
    assert errors[1] < 2 * nearest


def test_channels_that_are_the_same_make_up_for_each_other() -> None:
    """Each of eight weights is nearest to 0, but their sum, which is all that matters, is nearly four steps."""
    x = np.repeat(np.random.default_rng(0).standard_normal((100, 1)), 9, axis=1).astype(np.float32)
    w = np.full((9, 5), 0.48, np.float32)
    w[8] = 3
    n, _ = quantize_linear_weight(w, 3)
    q, scale = round_int8(w, gram(x), limit=3)
    assert (n.sum(axis=0) == 3).all()
    assert (q.sum(axis=0) == 7).all()
    assert lost(x, w, q * scale) < 0.01 * lost(x, w, n * scale)
    blocks = round_blocks(w[:, :1], gram(x), 4, 16)
    nearest = np.rint(w[:, :1] / blocks.scale) * blocks.scale
    assert lost(x, w[:, :1], dequantize(blocks)) < 0.1 * lost(x, w[:, :1], nearest)


def test_columns_worked_on_apart_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    w, x = matrix(40, 23), activation(200, 40)
    q, _ = round_int8(w, gram(x))
    b = round_blocks(w, gram(x), 4, 16)
    monkeypatch.setattr(rounding, "_CHUNK", 200)
    assert (round_int8(w, gram(x))[0] == q).mean() > 0.999
    parts = round_blocks(w, gram(x), 4, 16)
    assert (parts.q == b.q).mean() > 0.999
    assert (parts.zero == b.zero).mean() > 0.99


def test_nothing_known_is_the_nearest() -> None:
    w = matrix(20, 6)
    for h in (np.zeros((20, 20)), np.eye(20), np.diag(np.arange(20.0))):
        np.testing.assert_array_equal(round_int8(w, h)[0], quantize_linear_weight(w)[0])
        np.testing.assert_array_equal(round_blocks(w, h, 4, 16).q, quantize_blocks(w, 4, 16).q)


def test_channels_never_seen_are_rounded_to_the_nearest() -> None:
    w, x = matrix(20, 6), activation(100, 20)
    x[:, [2, 11]] = 0
    q, _ = round_int8(w, gram(x))
    np.testing.assert_array_equal(q[[2, 11]], quantize_linear_weight(w)[0][[2, 11]])


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_size_of_the_activation_does_not_matter(scale: float) -> None:
    w, x = matrix(20, 6), activation(100, 20).astype(np.float64)
    np.testing.assert_array_equal(round_int8(w, gram(x * scale))[0], round_int8(w, gram(x))[0])


def test_edges() -> None:
    x = activation(50, 20)
    h = gram(x)
    for w in (np.zeros((20, 3), np.float32), np.full((20, 1), 0.3, np.float32), np.full((20, 2), 1e-42, np.float32)):
        q, scale = round_int8(w, h)
        assert np.abs(q * scale - w).max() <= 1e-6
        got = dequantize(round_blocks(w, h, 8, 16))
        assert np.abs(got - w).max() <= 1e-3
    assert round_int8(np.zeros((0, 3), np.float32), np.zeros((0, 0)))[0].shape == (0, 3)
    assert round_blocks(np.zeros((20, 0), np.float32), h, 4, 16).q.shape == (20, 0)
    q, _ = round_int8(matrix(20, 3), gram(np.tile(x[:1], (5, 1))), damping=0.0)
    assert np.abs(q).max() == 127


def test_what_is_refused() -> None:
    w, h = matrix(8, 2), np.eye(8)
    with pytest.raises(ValueError, match="rank"):
        round_int8(w[0], h)
    with pytest.raises(ValueError, match="shape"):
        round_int8(w, np.eye(7))
    with pytest.raises(ValueError, match="finite"):
        round_int8(np.where(w == w[0, 0], np.nan, w), h)
    with pytest.raises(ValueError, match="finite"):
        round_blocks(w, np.full((8, 8), np.inf), 4, 16)
    with pytest.raises(ValueError, match="bits"):
        round_blocks(w, h, 5, 16)
    with pytest.raises(ValueError, match="positive"):
        round_int8(w, np.eye(8) - 1e9 * (np.ones((8, 8)) - np.eye(8)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gram_is_summed_over_batches(dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounding, "_CHUNK", 30)
    x = activation(60, 7).astype(np.float64)
    made = Gram(7, dtype)
    made.add(x[:12].reshape(3, 4, 7))
    made.add(x[12:].astype(np.float32))
    broken = x[:4].copy()
    broken[0, 1], broken[2, 3] = np.nan, np.inf
    made.add(broken)
    made.add(x[0])
    kept = np.concatenate([x, x[[1, 3]], x[:1]])
    want = [[sum(float(a) * float(b) for a, b in zip(kept[:, i], kept[:, j], strict=True)) for j in range(7)] for i in range(7)]
    np.testing.assert_allclose(made.matrix, want, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(made.mean, kept.mean(axis=0), rtol=1e-4, atol=1e-5)
    assert made.count == 63
    assert made.matrix.dtype == dtype
    with pytest.raises(ValueError, match="shape"):
        made.add(np.ones((2, 6)))


@pytest.mark.parametrize("columns", [1, 3])
def test_many_small_weights_at_once_are_as_one_after_the_other(columns: int) -> None:
    ws = np.stack([matrix(9, columns, seed) * 10.0 ** (seed - 2) for seed in range(5)]).astype(np.float32)
    grams = np.stack([gram(activation(30, 9, seed)) for seed in range(5)])
    grams[4] = 0  # a channel that is never seen
    q, scale = rounding.round_int8_groups(ws, grams, 64)
    for i in range(5):
        one = round_int8(ws[i], grams[i], 64)
        np.testing.assert_array_equal(q[i], one[0])
        np.testing.assert_array_equal(scale[i], one[1])
    with pytest.raises(ValueError, match="Gram matrices of shape"):
        rounding.round_int8_groups(ws, grams[:3])
    broken = grams.copy()
    broken[0] = -np.eye(9)  # is no matrix of products, and takes more damping than the others
    np.testing.assert_array_equal(rounding.round_int8_groups(ws, broken)[0][1], round_int8(ws[1], grams[1])[0])


def test_loud_rows_are_evened() -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(50, 8)).astype(np.float32)
    x[3] *= 1000
    x[7] = 0
    made = rounding.evened(x)
    kept = np.delete(np.arange(50), 3)
    power = (made**2).sum(1)
    np.testing.assert_array_equal(made[kept][power[kept] < rounding.LOUD], x[kept][power[kept] < rounding.LOUD])
    assert power.max() <= 1.01 * rounding.LOUD * np.median(power[power > 0])
    np.testing.assert_allclose(made[3] / np.linalg.norm(made[3]), x[3] / np.linalg.norm(x[3]), atol=1e-6)


def test_rows_alike_stay_as_they_are_and_so_do_those_not_finite() -> None:
    x = np.ones((4, 8), np.float32)
    np.testing.assert_array_equal(rounding.evened(x), x)
    x[1, 2] = np.inf
    np.testing.assert_array_equal(rounding.evened(x), x)
    nothing = np.zeros((4, 8), np.float32)
    np.testing.assert_array_equal(rounding.evened(nothing), nothing)
    assert rounding.evened(np.ones((0, 8), np.float32)).shape == (0, 8)


def test_the_range_is_that_of_the_channels_that_are_heard() -> None:
    """The farthest weight is one of a channel that is next to silent: others get a finer grid than where all count alike."""
    random = np.random.default_rng(0)
    w = random.normal(size=(32, 16)).astype(np.float32)
    w[5] = 5
    x = random.normal(size=(200, 32)).astype(np.float32)
    x[:, 5] *= 0.01
    gram = x.T @ x
    heard = np.diag(gram)[:, None]
    errors = []
    for weight in (None, heard):
        scale, zero = block_grid(w, 4, search=True, weight=weight)
        q = np.clip(np.rint(w / scale) + zero, 0, 15)
        errors.append((heard * ((q - zero) * scale - w) ** 2).sum())
    assert errors[1] < 0.9 * errors[0]
    made = dequantize(round_blocks(w, gram, 4, 32, search=True))
    alike = dequantize(round_blocks(w, np.eye(32), 4, 32, search=True))
    assert ((x @ (made - w)) ** 2).sum() < 0.8 * ((x @ (alike - w)) ** 2).sum()
