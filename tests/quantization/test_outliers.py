"""Which channels stand out, against a plain reading: of all numbers of channels that might go, the one that leaves least."""

from __future__ import annotations

import numpy as np
import pytest
from olc.quantization.outliers import EACH, MOST, WORTH, outlier_channels


def plainly(channels: list[float]) -> list[int]:
    """Take the largest away, one after the other, and see what is left."""
    left, gone, best = dict(enumerate(channels)), [], (max(channels), [])
    for k in range(1, min(MOST, len(channels) // 4) + 1):
        gone = [*gone, max(left, key=lambda c: (left[c], -c))]
        del left[gone[-1]]
        if max(left.values()) * (1 + EACH * k) < best[0]:
            best = max(left.values()) * (1 + EACH * k), gone
    taken = set(best[1])
    reach = max(c for i, c in enumerate(channels) if i not in taken)
    return sorted(taken) if reach <= WORTH * max(channels) else []


@pytest.mark.parametrize("seed", range(8))
def test_a_plain_reading(seed: int) -> None:
    random = np.random.default_rng(seed)
    channels = np.exp(random.normal(0, random.uniform(0.1, 1.5), int(random.integers(8, 200)))).astype(np.float32)
    assert outlier_channels(channels).tolist() == plainly([float(c) for c in channels])


def test_few_that_stand_out_are_found_and_no_more() -> None:
    channels = np.ones(64, np.float32)
    channels[[9, 40, 3]] = 30, 200, 31
    assert outlier_channels(channels).tolist() == [3, 9, 40]


def test_where_nothing_stands_out_there_are_none() -> None:
    for channels in (np.ones(64), np.zeros(64), np.linspace(1, 2, 64), np.full(64, np.inf), np.ones(3), np.zeros(0)):
        assert outlier_channels(channels.astype(np.float32)).size == 0
