"""Symmetric codes with scales of float16, beside plain readings of what they should be."""

from __future__ import annotations

import numpy as np
import pytest
from olc.quantization import BLOCK, INT4_LIMIT, half_scale, int4_blocks
from olc.quantization.weights import quantize_linear_weight

RANDOM = np.random.default_rng(6)


@pytest.mark.parametrize("limit", [127, 7])
def test_a_scale_is_the_least_of_float16_that_reaches(limit: int) -> None:
    largest = np.concatenate([10.0 ** RANDOM.uniform(-4, 4, 500), [0.0]])
    scale = half_scale(largest, limit)
    np.testing.assert_array_equal(scale, scale.astype(np.float16))
    assert scale[-1] == 1
    below = np.nextafter(scale[:-1].astype(np.float16), np.float16(0)).astype(np.float64)
    assert (scale[:-1].astype(np.float64) * limit >= largest[:-1]).all()
    assert (below * limit < largest[:-1]).all()


def test_columns_are_rounded_to_the_nearest() -> None:
    w = (RANDOM.normal(size=(48, 8)) * np.geomspace(1e-3, 1e3, 8)).astype(np.float32)
    q, scale = quantize_linear_weight(w, half=True)
    np.testing.assert_array_equal(scale, half_scale(np.abs(w).max(axis=0)))
    assert np.abs(q).max() <= 127
    assert (np.abs(w - q * scale) <= scale / 2 * (1 + 1e-6)).all()


def test_blocks_of_int4_are_rounded_to_the_nearest() -> None:
    w = RANDOM.normal(size=(2 * BLOCK, 5)).astype(np.float32)
    w[:BLOCK] *= 100
    w[:, 4] = 0
    q, scale = int4_blocks(w)
    assert (q.shape, scale.shape) == (w.shape, (2, 5))
    codes = q.astype(np.int32)
    assert np.abs(codes).max() == INT4_LIMIT
    each = np.repeat(scale, BLOCK, axis=0)
    assert (np.abs(w - codes * each) <= each / 2 * (1 + 1e-6)).all()
    assert not codes[:, 4].any()
