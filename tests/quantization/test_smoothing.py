"""SmoothQuant against its equation read slowly, and where it must win."""

from __future__ import annotations

import math

import numpy as np
import pytest
from olc.quantization.emulate import int8_dynamic
from olc.quantization.smoothing import ALPHAS, best_smoothing, factors, row_maxima


def outlying(rows: int = 200, k: int = 64, size: float = 60, seed: int = 0) -> np.ndarray:
    """A few channels are far larger than the rest, in every row: what LayerNorms of transformers give."""
    x = np.random.default_rng(seed).standard_normal((rows, k)).astype(np.float32)
    x[:, [3, 17]] *= size
    return x


def weights(k: int = 64, seed: int = 5) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((k, n)).astype(np.float32) * 0.05 for n in (64, 32, 1)]


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
def test_factors_by_the_equation(alpha: float) -> None:
    x, ws = outlying(), weights()
    got = factors(np.abs(x).max(axis=0), row_maxima(ws), alpha)
    assert got.dtype == np.float32
    for j in range(64):
        a = max(abs(float(x[i, j])) for i in range(len(x)))
        w = max(abs(float(v)) for m in ws for v in m[j])
        assert got[j] == pytest.approx(math.pow(a, alpha) / math.pow(w, 1 - alpha), rel=1e-5)


def test_half_way_both_sides_have_the_same_maxima() -> None:
    x, ws = outlying(), weights()
    s = factors(np.abs(x).max(axis=0), row_maxima(ws), 0.5)
    np.testing.assert_allclose(np.abs(x / s).max(axis=0), row_maxima([w * s[:, None] for w in ws]), rtol=1e-5)


def test_zeros_and_extremes_are_guarded() -> None:
    a = np.array([0, 1, 0, 1e-45, 3e38, 1e-45, 3e38], np.float32)
    w = np.array([1, 0, 0, 3e38, 1e-45, 1e-45, 3e38], np.float32)
    for alpha in (0.0, 0.5, 1.0):
        s = factors(a, w, alpha)
        assert s[:3].tolist() == [1, 1, 1]
        assert (np.isfinite(s) & (s >= 1e-5 * (1 - 1e-6)) & (s <= 1e5 * (1 + 1e-6))).all()


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        factors(np.ones(3), np.ones(4), 0.5)
    with pytest.raises(ValueError, match="finite"):
        factors(np.array([np.nan]), np.ones(1), 0.5)
    with pytest.raises(ValueError, match="shapes"):
        best_smoothing([np.ones((2, 3))], [])
    with pytest.raises(ValueError, match="shapes"):
        best_smoothing([np.ones((2, 3))], [np.ones((3, 1)), np.ones((4, 1))])


def test_same_function_before_rounding() -> None:
    x, ws = outlying(), weights()
    s = best_smoothing([x], ws).factors
    for w in ws:
        np.testing.assert_allclose((x / s) @ (w * s[:, None]), x @ w, rtol=1e-3, atol=1e-4)


def test_outliers_are_won_on_rows_that_did_not_choose() -> None:
    ws = weights()
    found = best_smoothing([outlying()], ws)
    assert found.alpha > 0
    assert found.left < 1 / 5
    apart = outlying(seed=9)
    for w in ws:
        assert int8_dynamic(apart / found.factors, w * found.factors[:, None]) < int8_dynamic(apart, w) / 3


def test_least_of_those_tried() -> None:
    x, ws = outlying(), weights()
    found = best_smoothing([x], ws)
    errors = {}
    for alpha in ALPHAS:
        s = factors(np.abs(x).max(axis=0), row_maxima(ws), alpha)
        errors[alpha] = sum(int8_dynamic(x / s, w * s[:, None]) for w in ws) / 3
    assert found.alpha == min(errors, key=lambda a: errors[a])
    assert found.left == pytest.approx(min(errors.values()) / (sum(int8_dynamic(x, w) for w in ws) / 3))


def test_a_batch_is_judged_by_factors_of_the_others() -> None:
    """Its outliers are elsewhere: factors that fit the first batch make its range larger by what they divide least."""
    ws, first, second = weights(), outlying(), outlying()
    second[:, [3, 17]] /= 60
    second[:, 40] *= 60
    assert best_smoothing([first], ws).left < 1 / 5
    assert best_smoothing([second], ws).left < 1 / 5
    assert best_smoothing([first, second], ws).left > 1 / 2
    assert best_smoothing([first, first], ws).left < 1 / 5


def test_nothing_is_done_where_nothing_helps() -> None:
    rng = np.random.default_rng(0)
    x = rng.choice([-1.0, 1.0], (50, 16)).astype(np.float32)
    w = np.ones((16, 4), np.float32)
    w[3] = 100
    found = best_smoothing([x], [w], alphas=(0.01,))
    assert found.alpha == 0
    assert (found.factors == 1).all()
    assert found.left == 1
    empty = best_smoothing([x * 0], [w])
    assert (empty.alpha, empty.left) == (0.0, 1.0)


def test_maxima_of_more_rows_are_taken() -> None:
    x, ws = outlying(), weights()
    channels = np.abs(x).max(axis=0) * np.linspace(1, 2, 64).astype(np.float32)
    found = best_smoothing([x], ws, alphas=(0.5,), channels=channels)
    assert found.alpha == 0.5
    np.testing.assert_array_equal(found.factors, factors(channels, row_maxima(ws), 0.5))


def test_what_is_not_worth_it_is_not_looked_for_further(monkeypatch: pytest.MonkeyPatch) -> None:
    batches, ws = [outlying(seed=i) for i in range(4)], weights()
    found, computed = best_smoothing(batches, ws), []

    def counted(x: np.ndarray, w: np.ndarray) -> float:
        computed.append(w.shape)
        return int8_dynamic(x, w)

    monkeypatch.setattr("olc.quantization.smoothing.int8_dynamic", counted)
    again = best_smoothing(batches, ws, worth=found.left * 1.01)
    assert (again.alpha, again.left) == (found.alpha, found.left)
    computed.clear()
    assert best_smoothing(batches, ws, worth=found.left / 100).alpha == 0
    assert len(computed) == len(ws) * (1 + len(ALPHAS)), "the first batch rules every alpha out"


def test_of_a_wide_weight_some_columns_tell_the_error() -> None:
    x = outlying()
    wide = np.random.default_rng(9).standard_normal((64, 5000)).astype(np.float32) * 0.05
    wide[7, 1] = 3.0  # a maximum in a column that is not looked at counts for the factors all the same
    found = best_smoothing([x], [wide])
    assert found.factors == pytest.approx(factors(np.abs(x).max(axis=0), row_maxima([wide]), found.alpha))
    s = found.factors
    assert found.left == pytest.approx(int8_dynamic(x / s, wide * s[:, None]) / int8_dynamic(x, wide), rel=0.1)
