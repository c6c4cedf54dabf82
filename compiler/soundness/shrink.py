"""Makes a failing model and input small enough to read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from ..patterns import Spec
from .case_model import Draw, Invalid
from .data import show
from .mutants import Candidate

MAX_TRIES = 120
"""Models and inputs tried while one failure is made smaller."""


@dataclass(frozen=True)
class Failure:
    """A draw that fails: how to make its model, how to tell, and which inputs show it."""

    draw: Draw
    make: Callable[[Draw], Candidate | None]
    fails: Callable[[Candidate, Any], str | None]
    feed_of: Callable[[Candidate], dict[str, np.ndarray] | None]


def shrink(f: Failure) -> str:
    """The smallest failing model and input found, as text."""
    tries = 0

    def failing(draw: Draw) -> Candidate | None:
        nonlocal tries
        tries += 1
        try:
            c = f.make(draw)
        except Invalid:
            return None
        return c if c is not None and f.fails(c, None) is not None else None

    draw, best = f.draw, failing(f.draw)
    if best is None:
        return ""
    for smaller in _smaller(draw):
        if tries > MAX_TRIES // 3:
            break
        merged = smaller(draw)
        found = failing(merged) if merged != draw else None
        if found is not None:
            draw, best = merged, found
    feed = f.feed_of(best)
    message = f.fails(best, None) or ""
    if feed is not None and f.fails(best, feed) is not None:
        feed = _simplest(feed, lambda d: f.fails(best, d) is not None, MAX_TRIES - tries)
        message = f.fails(best, feed) or message
    lines = [f"{name} = {show(a)}" for name, a in (feed or {}).items()]
    return "\n".join([*lines, message, onnx.printer.to_text(best.proto).strip()])


def _smaller(draw: Draw) -> list[Callable[[Draw], Draw]]:
    """Steps towards a plainer draw."""
    steps: list[Callable[[Draw], Draw]] = [
        lambda d: d.but(rest=()), lambda d: d.but(rest=(1,)), lambda d: d.but(rest=(2,)),
        lambda d: d.but(swap=False), lambda d: d.but(literals="scalar"), lambda d: d.but(constants="initializer"),
        lambda d: d.but(content="plain"),
    ]  # fmt: skip
    for name in draw.dims:
        for size in (1, 2):
            steps.append(lambda d, n=name, s=size: d.but(dims={**d.dims, n: s}) if d.dims[n] > s else d)  # type: ignore[misc]
    numbers = {d for v in draw.values.values() if isinstance(v, Spec) for d in v.dims or () if isinstance(d, int)}
    for number in sorted(numbers, reverse=True):
        for size in (1, 2):
            steps.append(lambda d, n=number, s=size: _with_number(d, n, s) if n > s else d)  # type: ignore[misc]
    return steps


def _with_number(draw: Draw, old: int, new: int) -> Draw:
    def swap(v: Any) -> Any:
        if isinstance(v, Spec) and v.dims is not None:
            return v[tuple(new if d == old else d for d in v.dims)]
        return v

    return draw.but(values={k: swap(v) for k, v in draw.values.items()})


def _simplest(
    feed: Mapping[str, np.ndarray], fails: Callable[[dict[str, np.ndarray]], bool], tries: int
) -> dict[str, np.ndarray]:
    """Inputs with as many elements as possible made 0 or 1, while they still fail."""
    best = dict(feed)
    for name, a in feed.items():
        if a.dtype.kind not in "biuf" or a.size == 0:
            continue
        for number in (0, 1):
            plain = np.full_like(a, number)
            tries -= 1
            if fails({**best, name: plain}):
                best[name] = plain
                break
        else:
            for i in range(min(a.size, 64)):
                if tries <= 0:
                    return best
                one = best[name].copy()
                one.reshape(-1)[i] = 1
                tries -= 1
                if one.reshape(-1)[i] != a.reshape(-1)[i] and fails({**best, name: one}):
                    best[name] = one
    return best
