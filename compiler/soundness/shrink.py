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
from .oracle import Difference

MAX_TRIES = 120
"""Models and inputs tried while one failure is made smaller."""


Feed = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Failure:
    """A draw that fails: how to make its model, how to tell (on a feed, or on the one that its seed gives), and what
    that feed is."""

    draw: Draw
    make: Callable[[Draw], Candidate | None]
    fails: Callable[[Candidate, Any], Difference | None]
    feed_of: Callable[[Candidate], dict[str, np.ndarray] | None]


@dataclass
class _State:
    """The smallest so far."""

    draw: Draw
    candidate: Candidate
    feed: Feed
    difference: Difference


def shrink(f: Failure) -> str:
    """The smallest failing model and input found, as text."""
    now = _first(f)
    if now is None:
        return ""
    for tries, step in enumerate(_smaller(f.draw)):
        if tries > MAX_TRIES // 3:
            break
        smaller = step(now.draw)
        if smaller != now.draw:
            now = _try(f, smaller, now) or now
    if now.feed:
        simplest = _simplest(now.feed, lambda d: f.fails(now.candidate, d) is not None)
        now.difference, now.feed = f.fails(now.candidate, simplest) or now.difference, simplest
    lines = [f"{name} = {show(a)}" for name, a in now.feed.items()]
    return "\n".join([*lines, now.difference.text, onnx.printer.to_text(now.candidate.proto).strip()])


def _first(f: Failure) -> _State | None:
    c = f.make(f.draw)
    if c is None:
        return None
    feed = f.feed_of(c) or {}
    found = f.fails(c, feed or None)
    return None if found is None else _State(f.draw, c, feed, found)


def _try(f: Failure, draw: Draw, now: _State) -> _State | None:
    """The failure in a smaller model: with what of the feed lies around the element that failed, or with a feed of its
    own."""
    try:
        c = f.make(draw)
        feeds = [] if c is None else [_cropped(now, c), f.feed_of(c)]
    except Invalid:
        return None
    for feed in feeds:
        if c is not None and feed is not None:
            found = f.fails(c, feed or None)
            if found is not None:
                return _State(draw, c, feed, found)
    return None


def _cropped(now: _State, c: Candidate) -> Feed | None:
    """The feed cut to the smaller model's shapes, the element that failed kept where inputs are as the output."""
    if now.difference.at is None or set(c.inputs) != set(now.feed):
        return None
    feed = {}
    for name, (_, shape) in c.inputs.items():
        a = now.feed[name]
        if a.ndim != len(shape) or a.ndim > len(now.difference.at):
            return None
        skipped = len(now.difference.at) - a.ndim
        cuts = []
        for size, old, at, whole in zip(
            shape, a.shape, now.difference.at[skipped:], now.difference.shape[skipped:], strict=True
        ):
            if size > old:
                return None
            start = min(at, old - size) if old == whole else 0
            cuts.append(slice(start, start + size))
        feed[name] = np.ascontiguousarray(a[tuple(cuts)])
    return feed


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


def _simplest(feed: Feed, fails: Callable[[Feed], bool]) -> Feed:
    """Inputs with as many elements as possible made 0 or 1, while they still fail."""
    best = dict(feed)
    tries = MAX_TRIES - MAX_TRIES // 3
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
            for i in range(a.size):
                if tries <= 0:
                    return best
                one = best[name].copy()
                one.reshape(-1)[i] = 1
                if one.reshape(-1)[i] != a.reshape(-1)[i]:
                    tries -= 1
                    if fails({**best, name: one}):
                        best[name] = one
    return best
