"""Schemes of layers, against every choice that there is."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from olc.strategy.mix import Option, after, chain


def sums(chosen: dict[str, Option[str]]) -> tuple[float, float]:
    return sum(o.time for o in chosen.values()), sum(o.error for o in chosen.values())


@pytest.mark.parametrize("seed", range(20))
def test_no_choice_beats_a_step_of_the_chain_in_both_sums(seed: int) -> None:
    random = np.random.default_rng(seed)
    drawn = {name: random.integers(1, 9, (random.integers(1, 5), 2)).astype(float) for name in "abcd"}
    layers = {name: [Option(f"{name}{i}", t, e) for i, (t, e) in enumerate(rows)] for name, rows in drawn.items()}
    start, steps = chain(layers)
    every = [sums(dict(zip(layers, chosen, strict=True))) for chosen in product(*layers.values())]
    seen = []
    for k in range(len(steps) + 1):
        time, error = sums(after(start, steps, k))
        assert not [other for other in every if other[0] <= time and other[1] <= error and other != (time, error)]
        seen.append((time, error))
    assert seen[0][0] == min(t for t, _ in every)
    assert seen[-1][1] == min(e for _, e in every)
    assert seen == sorted(seen, key=lambda s: -s[1])


def test_an_unknown_error_is_left_first() -> None:
    inf = float("inf")
    layers = {name: [Option(f"{name}8", 1.0, e), Option(f"{name}f", t, 0.0)] for name, e, t in (("a", inf, 2.0), ("b", 9.0, 1.1))}
    layers["c"] = []
    start, steps = chain(layers)
    assert set(start) == {"a", "b"}
    assert [o.what for _, o in steps] == ["af", "bf"]
