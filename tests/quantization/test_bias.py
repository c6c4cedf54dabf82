"""Bias correction: the mean of the outputs comes back to where it was."""

from __future__ import annotations

import numpy as np
import pytest
from olc.quantization.bias import ChannelMean, expected_conv_error, expected_error
from olc.quantization.weights import quantize_linear_weight


def layer(k: int = 30, n: int = 6) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = np.maximum(rng.standard_normal((400, k)) + rng.normal(0, 1, k), 0).astype(np.float32)
    w = rng.standard_normal((k, n)).astype(np.float32)
    q, scale = quantize_linear_weight(w, limit=7)
    return x, w, q * scale


def mean_of(x: np.ndarray) -> np.ndarray:
    made = ChannelMean()
    made.add(x)
    return made.mean


def test_by_loops() -> None:
    x, w, rounded = layer()
    want = []
    for n in range(6):
        total = 0.0
        for row in x:
            for k in range(30):
                total += float(row[k]) * (float(rounded[k, n]) - float(w[k, n]))
        want.append(total / len(x))
    got = expected_error(mean_of(x), w, rounded)
    np.testing.assert_allclose(got, want, rtol=1e-4)
    assert got.dtype == np.float32


def test_outputs_have_their_mean_again_on_rows_held_apart() -> None:
    x, w, rounded = layer()
    apart = x[200:]
    error = expected_error(mean_of(x[:200]), w, rounded)
    moved = (apart @ rounded - apart @ w).mean(axis=0)
    assert np.abs(moved - error).max() < 0.3 * np.abs(moved).max()
    before = np.square(apart @ rounded - apart @ w).sum()
    assert np.square(apart @ rounded - error - apart @ w).sum() < 0.8 * before


def test_rounded_activation_too() -> None:
    x, w, rounded = layer()
    clipped = np.minimum(x, 1)
    error = expected_error(mean_of(x), w, rounded, mean_of(clipped))
    np.testing.assert_allclose(error, (clipped @ rounded - x @ w).mean(axis=0), rtol=1e-3, atol=1e-4)


def test_columns_worked_on_apart_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    x, w, rounded = layer()
    want = expected_error(mean_of(x), w, rounded, mean_of(x) * 2)
    monkeypatch.setattr("olc.quantization.bias._CHUNK", 60)
    np.testing.assert_allclose(expected_error(mean_of(x), w, rounded, mean_of(x) * 2), want, rtol=1e-6)


@pytest.mark.parametrize(("groups", "channels", "filters"), [(1, 4, 6), (2, 4, 6), (4, 4, 4), (4, 4, 8)])
def test_convolution_by_loops(groups: int, channels: int, filters: int) -> None:
    rng = np.random.default_rng(1)
    mean = rng.standard_normal(channels).astype(np.float32)
    w = rng.standard_normal((filters, channels // groups, 3, 2)).astype(np.float32)
    rounded = np.round(w * 2) / 2
    want = []
    for m in range(filters):
        total = 0.0
        for c in range(channels // groups):
            whole = m // (filters // groups) * (channels // groups) + c
            for i in range(3):
                for j in range(2):
                    total += float(mean[whole]) * (float(rounded[m, c, i, j]) - float(w[m, c, i, j]))
        want.append(total)
    np.testing.assert_allclose(expected_conv_error(mean, w, rounded, groups), want, rtol=1e-4, atol=1e-6)


def test_means_over_batches() -> None:
    rng = np.random.default_rng(2)
    x = rng.standard_normal((10, 5, 7, 3)).astype(np.float32)
    for axis in (-1, 1):
        other = tuple(i for i in range(4) if i != axis % 4)
        made, size = ChannelMean(axis), ChannelMean(axis, magnitudes=True)
        for part in np.array_split(x, 3):
            made.add(part)
            size.add(part)
        np.testing.assert_allclose(made.mean, x.mean(axis=other), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(size.mean, np.abs(x).mean(axis=other), rtol=1e-4)
        assert made.mean.dtype == np.float32


def test_what_is_not_finite_is_left_out() -> None:
    made = ChannelMean()
    made.add(np.array([[1.0, np.nan, np.inf], [3.0, 5.0, -np.inf]]))
    assert made.mean.tolist() == [2, 5, 0]


def test_edges_and_what_is_refused() -> None:
    x, w, rounded = layer()
    assert (expected_error(mean_of(x), w, w) == 0).all()
    assert (expected_error(mean_of(x * 0), w, rounded) == 0).all()
    assert expected_error(mean_of(x), w[:, :1], rounded[:, :1]).shape == (1,)
    with pytest.raises(ValueError, match="shape"):
        expected_error(mean_of(x)[1:], w, rounded)
    with pytest.raises(ValueError, match="shape"):
        expected_error(mean_of(x), w, rounded[:, 1:])
    with pytest.raises(ValueError, match="shape"):
        expected_conv_error(np.ones(4), np.ones((3, 2, 1, 1)), np.ones((3, 2, 1, 1)), 2)
    with pytest.raises(ValueError, match="nothing"):
        _ = ChannelMean().mean
    made = ChannelMean()
    made.add(x)
    with pytest.raises(ValueError, match="channels"):
        made.add(x[:, 1:])
