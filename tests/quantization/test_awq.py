"""AWQ's search against its equation, and where it must win."""

from __future__ import annotations

import math

import numpy as np
import pytest
from olc.quantization.awq import STEPS, awq_factors, best_awq
from olc.quantization.blocks import dequantize, quantize_blocks
from olc.quantization.emulate import block


def salient(rows: int = 200, k: int = 64, seed: int = 0) -> np.ndarray:
    """One channel in a hundred is far larger than the others."""
    x = np.random.default_rng(seed).standard_normal((rows, k)).astype(np.float32)
    x[:, 5] *= 40
    return x


def weights() -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [rng.standard_normal((64, n)).astype(np.float32) for n in (32, 16)]


@pytest.mark.parametrize("alpha", [0.0, 0.25, 1.0])
def test_factors_by_the_equation(alpha: float) -> None:
    m = np.abs(salient()).mean(axis=0)
    powers = [math.pow(float(v), alpha) for v in m]
    want = [p / math.sqrt(min(powers) * max(powers)) for p in powers]
    got = awq_factors(m, alpha)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    assert got.dtype == np.float32


def test_least_of_those_tried() -> None:
    x, ws = salient(), weights()
    found = best_awq(x, ws, 4, 32)
    magnitudes = np.array([sum(abs(float(v)) for v in x[:, k]) / len(x) for k in range(64)])
    errors = {}
    for i in range(STEPS + 1):
        s = awq_factors(magnitudes, i / STEPS) if i else np.ones(64, np.float32)
        errors[i / STEPS] = sum(block(x / s, w * s[:, None], 4, 32) for w in ws) / 2
    assert found.alpha == min(errors, key=lambda a: errors[a])
    assert found.error == pytest.approx(min(errors.values()), rel=1e-3)
    assert found.before == pytest.approx(errors[0.0], rel=1e-3)


def test_salient_channels_are_won_on_rows_that_did_not_choose() -> None:
    ws = weights()
    found = best_awq(salient(), ws, 4, 64)
    assert found.alpha > 0
    assert found.error < found.before / 2
    apart = salient(seed=9)
    for w in ws:
        s = found.factors
        assert block(apart / s, w * s[:, None], 4, 64) < block(apart, w, 4, 64) / 2
        np.testing.assert_allclose((apart / s) @ (w * s[:, None]), apart @ w, rtol=1e-3, atol=1e-3)


def test_other_ways_to_round() -> None:
    x, ws = salient(), weights()
    same = best_awq(x, ws, 4, 32, quantize=lambda w: dequantize(quantize_blocks(w, 4, 32)))
    assert same.alpha == best_awq(x, ws, 4, 32).alpha
    exact = best_awq(x, ws, 4, 32, quantize=lambda w: w)
    assert exact.before < 1e-10


def test_magnitudes_of_more_rows_are_taken() -> None:
    x, ws = salient(), weights()
    m = np.abs(x).mean(axis=0) * np.linspace(1, 1.5, 64).astype(np.float32)
    found = best_awq(x, ws, 4, 32, magnitudes=m)
    np.testing.assert_array_equal(found.factors, awq_factors(m, found.alpha))


def test_edges() -> None:
    x, ws = salient(), weights()
    none = best_awq(x * 0, ws, 4, 32)
    assert (none.alpha, none.error) == (0, 0)
    assert (none.factors == 1).all()
    assert best_awq(x[:0], ws, 4, 32).alpha == 0
    assert best_awq(x, [w * 0 for w in ws], 4, 32).alpha == 0
    s = awq_factors(np.array([0, 1e-45, 3e38, 1], np.float32), 1.0)
    assert (np.isfinite(s) & (s > 0)).all()
    assert s[0] == s[1]
    assert awq_factors(np.zeros(3), 0.5).tolist() == [1, 1, 1]


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="shapes"):
        best_awq(np.ones((2, 3)), [], 4, 32)
    with pytest.raises(ValueError, match="shapes"):
        best_awq(np.ones((2, 3)), [np.ones((4, 3))], 4, 32)
    with pytest.raises(ValueError, match="finite"):
        awq_factors(np.array([np.inf]), 0.5)
