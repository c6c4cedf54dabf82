"""Cross-layer equalization: the same function, and the same ranges on both sides."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from olc.quantization.equalization import conv_columns, conv_rows, equalizing_factors, linear_columns, linear_rows


def weights(i: int = 5, c: int = 7, o: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    first = rng.standard_normal((i, c)) * np.exp(rng.normal(0, 2, c))
    second = rng.standard_normal((c, o)) * np.exp(rng.normal(0, 2, c))[:, None]
    return first.astype(np.float32), second.astype(np.float32)


def test_by_the_equation() -> None:
    w1, w2 = weights()
    s = equalizing_factors(linear_rows(w1), linear_columns(w2))
    assert s.dtype == np.float32
    for c in range(7):
        r1 = max(abs(float(w1[i, c])) for i in range(5))
        r2 = max(abs(float(w2[c, o])) for o in range(4))
        assert s[c] == pytest.approx(math.sqrt(r1 * r2) / r2, rel=1e-5)


@pytest.mark.parametrize("between", [lambda x: x, lambda x: np.maximum(x, 0)])
def test_same_function_and_same_ranges(between: Any) -> None:
    w1, w2 = weights()
    b1 = np.linspace(-1, 1, 7).astype(np.float32)
    s = equalizing_factors(linear_rows(w1), linear_columns(w2))
    x = np.random.default_rng(1).standard_normal((20, 5)).astype(np.float32)
    want = between(x @ w1 + b1) @ w2
    got = between(x @ (w1 / s) + b1 / s) @ (w2 * s[:, None])
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(np.abs(w1 / s).max(axis=0), np.abs(w2 * s[:, None]).max(axis=1), rtol=1e-5)


def rounded(w: np.ndarray) -> np.ndarray:
    """int8 with one scale for the whole weight, which is where equalization matters."""
    scale = np.abs(w).max() / 127
    return np.round(w / scale) * scale


def test_rounding_loses_less() -> None:
    """Channels that the first layer makes large and the second takes back, as folded batch norms leave them."""
    rng = np.random.default_rng(0)
    size = np.exp(rng.normal(0, 1.5, 60)).astype(np.float32)
    w1 = rng.standard_normal((50, 60)).astype(np.float32) * size
    w2 = rng.standard_normal((60, 40)).astype(np.float32) / size[:, None]
    s = equalizing_factors(linear_rows(w1), linear_columns(w2))
    x = np.random.default_rng(1).standard_normal((200, 50)).astype(np.float32)
    want = np.maximum(x @ w1, 0) @ w2
    before = np.square(np.maximum(x @ rounded(w1), 0) @ rounded(w2) - want).sum()
    after = np.square(np.maximum(x @ rounded(w1 / s), 0) @ rounded(w2 * s[:, None]) - want).sum()
    assert after < before / 50


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_convolutions(groups: int) -> None:
    rng = np.random.default_rng(0)
    w1 = rng.standard_normal((6, 3, 2, 2)).astype(np.float32)
    w2 = rng.standard_normal((12, 6 // groups, 3, 3)).astype(np.float32)
    s = equalizing_factors(conv_rows(w1), conv_columns(w2, groups))
    for c in range(6):
        r1 = max(abs(float(v)) for v in w1[c].ravel())
        group, inside = divmod(c, 6 // groups)
        filters = range(group * (12 // groups), (group + 1) * (12 // groups))
        r2 = max(abs(float(v)) for m in filters for v in w2[m, inside].ravel())
        assert s[c] == pytest.approx(math.sqrt(r1 / r2), rel=1e-5)


def test_zeros_and_extremes() -> None:
    a = np.array([[0.0], [1.0], [0.0], [1e-45], [3e38]], np.float32)
    b = np.array([[1.0, 0.0, 0.0, 3e38, 1e-45]], np.float32)
    s = equalizing_factors(a, b)
    assert s[:3].tolist() == [1, 1, 1]
    assert np.isfinite(s).all()
    assert (s > 0).all()
    assert np.isfinite(a[:, 0] / s).all()
    assert equalizing_factors(np.zeros((3, 0)), np.zeros((0, 3))).tolist() == [1, 1, 1]


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="no channels"):
        equalizing_factors(np.ones((3, 2)), np.ones((2, 2)))
    with pytest.raises(ValueError, match="finite"):
        equalizing_factors(np.full((2, 1), np.nan), np.ones((1, 2)))
    with pytest.raises(ValueError, match="groups"):
        conv_columns(np.ones((3, 2, 1, 1)), 2)
