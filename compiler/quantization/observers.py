"""What an activation ranges over: seen a batch at a time, in memory that does not grow with the number of batches.

A histogram's bins are a power of two wide and start at 0, so growing is exact: bins join in pairs, and what is held does
not depend on the order of the batches nor on how the data was cut into them.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from ..errors import BadInput
from ..files import write_text
from .facts import Observed
from .weights import _CHUNK

BINS = 2048
"""Bins on each side of 0."""

_LEAST = -160
"""Exponent of the narrowest bins: 2,048 of them are as wide as the least float32."""


@dataclass
class Histogram:
    """How often numbers occur: ``counts[BINS + i]`` in [i, i + 1) times 2^exponent, and exact zeros apart, too.

    Zeros are in their bin as well; the search for a range takes them out, for every range holds 0 exactly.
    """

    counts: np.ndarray = field(default_factory=lambda: np.zeros(2 * BINS, np.int64))
    exponent: int = _LEAST
    zeros: int = 0
    low: float = math.inf
    high: float = -math.inf

    def add(self, x: np.ndarray, low: float, high: float) -> None:
        """Count finite float64 numbers, of which ``low`` and ``high`` are the least and the largest."""
        self.low, self.high = min(self.low, low), max(self.high, high)
        # Any magnitude is below 2^frexp, and BINS is 2^11.
        needed = math.frexp(max(high, -low))[1] - (BINS.bit_length() - 1)
        if needed > self.exponent:
            into = (np.arange(2 * BINS) - BINS >> min(needed - self.exponent, 63)) + BINS
            grown = np.zeros_like(self.counts)
            np.add.at(grown, into, self.counts)
            self.counts, self.exponent = grown, needed
        at = np.floor(np.ldexp(x, -self.exponent)).astype(np.int64)
        at += BINS
        self.counts += np.bincount(at.ravel(), minlength=2 * BINS)
        self.zeros += int(x.size - np.count_nonzero(x))

    @property
    def total(self) -> int:
        return int(self.counts.sum())

    def nonzero(self) -> np.ndarray:
        """The counts without the exact zeros."""
        counts = self.counts.copy()
        counts[BINS] -= self.zeros
        return counts

    def used(self) -> tuple[int, int]:
        """Bins from 0 to the least and to the largest number."""
        bins = np.flatnonzero(self.counts)
        return max(0, BINS - int(bins[0])), max(0, int(bins[-1]) + 1 - BINS)


class Method(Protocol):
    """How a range is chosen."""

    @property
    def needs_histogram(self) -> bool: ...

    def clip(self, seen: Histogram, bits: int, symmetric: bool) -> tuple[float, float]:
        """The range, which may reach beyond the least and largest number seen; the observer cuts it there."""
        ...


@dataclass(frozen=True)
class MinMax:
    """All that was seen."""

    needs_histogram: ClassVar[bool] = False

    def clip(self, seen: Histogram, bits: int, symmetric: bool) -> tuple[float, float]:
        return seen.low, seen.high


@dataclass(frozen=True)
class Percentile:
    """The middle ``percent`` of the numbers, as much being cut on one side as on the other; of magnitudes if symmetric.

    To the outer edges of the bins that hold the ends.
    """

    percent: float = 99.99
    needs_histogram: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.percent <= 100:
            raise ValueError(f"percent is {self.percent}, not above 0 and at most 100")

    def clip(self, seen: Histogram, bits: int, symmetric: bool) -> tuple[float, float]:
        width = math.ldexp(1.0, seen.exponent)
        kept = self.percent / 100
        if symmetric:
            high = (_bin_of(_folded(seen.counts), kept) + 1) * width
            return -high, high
        low = (_bin_of(seen.counts, (1 - kept) / 2) - BINS) * width
        return low, (_bin_of(seen.counts, (1 + kept) / 2) + 1 - BINS) * width


@dataclass(frozen=True)
class Entropy:
    """The threshold whose quantized distribution diverges least from the one seen.

    Szymon Migacz, "8-bit Inference with TensorRT", GTC 2017: of the histogram's first i bins (the last of which also takes
    all that lies beyond), the distribution P; of the same bins without what lies beyond, merged to as many levels as the
    integers have and spread out again over those that P fills, the distribution Q; the i with the least KL(P || Q).
    There, magnitudes in 128 levels, which is what ``symmetric`` does. Otherwise both sides are clipped at the same
    threshold, where they reach it, and share all levels. Exact zeros are not counted, for they are not rounded.
    """

    stride: int = 8
    needs_histogram: ClassVar[bool] = True

    def clip(self, seen: Histogram, bits: int, symmetric: bool) -> tuple[float, float]:
        counts = seen.nonzero()
        left, right = (0, max(seen.used())) if symmetric else seen.used()
        if symmetric:
            counts = np.concatenate([np.zeros(BINS, np.int64), _folded(counts)])
        levels = 2 ** (bits - 1) if symmetric else 2**bits
        most = max(left, right)
        best, least = most, math.inf
        for i in sorted({*range(self.stride, most, self.stride), most}):
            a, b = min(i, left), min(i, right)
            if a + b < levels:
                continue
            divergence = _divergence(counts, BINS - a, BINS + b, levels)
            if divergence < least:
                best, least = i, divergence
        threshold = math.ldexp(best, seen.exponent)
        return -threshold, threshold


@dataclass(frozen=True)
class Mse:
    """The range with the least expected squared error of quantizing, numbers taken as uniform within a bin.

    Section 3.1 of Nagel et al. 2021, "A White Paper on Neural Network Quantization", on a histogram, where the expectation
    is an exact integral: both sides are shrunk alike, then each by turns, by 1/steps of the side at a time.
    """

    steps: int = 64
    needs_histogram: ClassVar[bool] = True

    def clip(self, seen: Histogram, bits: int, symmetric: bool) -> tuple[float, float]:
        counts = seen.nonzero()
        width = math.ldexp(1.0, seen.exponent)
        low, high = min(seen.low, 0.0) / width, max(seen.high, 0.0) / width
        if symmetric:
            low, high = -max(high, -low), max(high, -low)
        shrunken = [(low * i / self.steps, high * i / self.steps) for i in range(self.steps, 0, -1)]

        def error(r: tuple[float, float]) -> float:
            return _expected_error(counts, r[0], r[1], bits, symmetric)

        best = min(shrunken, key=error)
        while not symmetric:
            before = best
            for side in (0, 1):
                others = [best, *(((x[0], best[1]), (best[0], x[1]))[side] for x in shrunken)]
                best = min(others, key=error)
            if best == before:
                break
        return best[0] * width, best[1] * width


class Observer:
    """Sees arrays, a batch at a time, and says what they range over.

    Attributes:
        count: finite numbers seen.
        ignored: NaN and infinities seen.
    """

    def __init__(self, method: Method) -> None:
        self.method = method
        self.count = 0
        self.ignored = 0
        self._seen = Histogram()
        self._channels: np.ndarray | None = None
        self._same_channels = True

    def add(self, array: np.ndarray) -> None:
        """Any shape, any numeric dtype; what is not finite is counted and left out."""
        array = np.asarray(array)
        if not array.size:
            return
        channels = array.shape[-1] if array.ndim else 0
        rows = array.reshape(-1, max(1, channels))
        self._see_channels(channels)
        step = max(1, _CHUNK // rows.shape[1])
        for i in range(0, len(rows), step):
            self._add(rows[i : i + step].astype(np.float64))

    def range(self, bits: int = 8, symmetric: bool = False) -> tuple[float, float]:
        """The range to quantize over with that many bits, within what was seen; symmetric: (-x, x).

        Raises:
            ValueError: no finite number was seen.
        """
        if not self.count:
            raise ValueError("no finite number was observed")
        low, high = self.method.clip(self._seen, bits, symmetric)
        least, most = self._seen.low, self._seen.high
        if symmetric:
            high = min(max(high, -low), max(most, -least))
            low = -high
        else:
            low, high = min(max(low, least), most), max(min(high, most), least)
        return low + 0.0, high + 0.0  # of zeros, the positive one

    def observed(self, bits: int = 8, symmetric: bool = False) -> Observed:
        """The fact for a value. Raises ValueError as ``range`` does."""
        low, high = self.range(bits, symmetric)
        return Observed(low, high, self.channels)

    @property
    def channels(self) -> np.ndarray | None:
        """float32 [C], largest magnitudes along the last axis; None where its size was not always the same."""
        if self._channels is None or not self._same_channels:
            return None
        return np.minimum(self._channels, np.finfo(np.float32).max).astype(np.float32)

    def _see_channels(self, size: int) -> None:
        if self._channels is None and size:
            self._channels = np.zeros(size)
        elif self._channels is None or len(self._channels) != size:
            self._same_channels = False

    def _add(self, x: np.ndarray) -> None:
        low, high = float(x.min()), float(x.max())
        if math.isfinite(low) and math.isfinite(high):
            finite = x
        else:  # a NaN anywhere is the least and the largest
            keep = np.isfinite(x)
            finite = x[keep]
            self.ignored += x.size - finite.size
            if not finite.size:
                return
            low, high = float(finite.min()), float(finite.max())
            x[~keep] = 0.0
        self.count += finite.size
        if self._channels is not None and self._same_channels:
            np.maximum(self._channels, np.abs(x).max(axis=0), out=self._channels)
        if self.method.needs_histogram:
            self._seen.add(finite, low, high)
        else:
            self._seen.low, self._seen.high = min(self._seen.low, low), max(self._seen.high, high)


def _folded(counts: np.ndarray) -> np.ndarray:
    """Counts of magnitudes: [-(i + 1), -i) is added to [i, i + 1)."""
    return counts[BINS:] + counts[:BINS][::-1]


def _bin_of(counts: np.ndarray, part: float) -> int:
    """The bin up to and with which that part of the numbers lies."""
    below = np.cumsum(counts)
    return int(np.searchsorted(below, min(part, 1.0) * below[-1]))


def _divergence(counts: np.ndarray, a: int, b: int, levels: int) -> float:
    """KL(P || Q) of bins a to b, see ``Entropy``; infinite where Q is 0 and P is not."""
    inside = counts[a:b].astype(np.float64)
    p = inside.copy()
    p[0] += counts[:a].sum()
    p[-1] += counts[b:].sum()
    filled = p > 0
    if not inside.any():
        return math.inf
    # Every level has at least one bin, for there are no more levels than bins.
    starts = -(-np.arange(levels) * (b - a) // levels)
    sums, filling = np.add.reduceat(inside, starts), np.add.reduceat(filled.astype(np.float64), starts)
    level = np.repeat(sums / np.maximum(filling, 1), np.diff(starts, append=b - a))
    p, q = p[filled], level[filled]
    if (q == 0).any():
        return math.inf
    p, q = p / p.sum(), q / q.sum()
    return float((p * np.log(p / q)).sum())


def _expected_error(counts: np.ndarray, low: float, high: float, bits: int, symmetric: bool) -> float:
    """Sum of squared errors of what is counted, in bins, when quantized over [low, high], which holds 0.

    To the grid's point n*s that is nearest, (x - n*s)^2 has the integral (x - n*s)^3 / 3 + n * s^3 / 12; with n held
    within the grid, that is true of what is clipped, too.
    """
    if symmetric:
        top = 2 ** (bits - 1) - 1
        s, least, most = high / top, -top, top
    else:
        s = (high - low) / (2**bits - 1)
        zero = round(-low / s) if s > 0 else 0
        least, most = -zero, 2**bits - 1 - zero
    if s <= 0:
        return math.inf
    edges = np.arange(-BINS, BINS + 1, dtype=np.float64)
    n = np.clip(np.rint(edges / s), least, most)
    integral = (edges - n * s) ** 3 / 3 + n * (s**3 / 12)
    return float(counts @ np.diff(integral))


_FORMAT = "olc ranges 1"


def save_ranges(path: str | os.PathLike[str], ranges: Mapping[str, Observed]) -> None:
    """Write what was observed, by name of value, as JSON; read again, it is the same to the bit.

    Raises:
        OutputError: the file cannot be written.
        ValueError: a range is not finite.
    """
    lines = []
    for name, seen in ranges.items():
        # The shortest decimal that is this float32 and no other; str() of a float64 would be of a different number.
        channels = None if seen.channels is None else [float(str(c)) for c in seen.channels.astype(np.float32)]
        entry = {"low": float(seen.low), "high": float(seen.high), "channels": channels}
        lines.append(f"    {json.dumps(name)}: {json.dumps(entry, allow_nan=False)}")
    body = ",\n".join(lines)
    write_text(path, f'{{\n  "format": {json.dumps(_FORMAT)},\n  "ranges": {{\n{body}\n  }}\n}}\n')


def load_ranges(path: str | os.PathLike[str]) -> dict[str, Observed]:
    """What ``save_ranges`` wrote.

    Raises:
        BadInput: the file cannot be read, or does not hold ranges.
    """
    hint = "calibrate again to make this file"
    try:
        held = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as e:
        raise BadInput(f"cannot be read: {e.strerror or e}", where=str(path), hint="give a file of ranges") from e
    except (ValueError, RecursionError) as e:
        raise BadInput(f"is not JSON: {e}", where=str(path), hint=hint) from e
    if not isinstance(held, dict) or held.get("format") != _FORMAT or not isinstance(held.get("ranges"), dict):
        raise BadInput(f"holds no ranges of the format '{_FORMAT}'", where=str(path), hint=hint)
    found = {}
    for name, entry in held["ranges"].items():
        wrong = _fault(entry)
        if wrong:
            raise BadInput(f"the range of '{name}' {wrong}", where=str(path), hint=hint)
        channels = entry.get("channels")
        found[name] = Observed(
            float(entry["low"]), float(entry["high"]), None if channels is None else np.array(channels, np.float32)
        )
    return found


def _fault(entry: Any) -> str:
    """What is wrong with one range of a file; nothing if all is right."""
    if not isinstance(entry, dict):
        return "is not an object"
    low: Any = entry.get("low")
    high: Any = entry.get("high")
    channels: Any = entry.get("channels")
    if not _finite(low) or not _finite(high):
        return "has no finite low and high"
    if float(low) > float(high):
        return f"is empty: {low} to {high}"
    largest = float(np.finfo(np.float32).max)
    if channels is not None and not (isinstance(channels, list) and all(_finite(c) and 0 <= c <= largest for c in channels)):
        return "has channels that are no magnitudes"
    return ""


def _finite(x: Any) -> bool:
    try:
        return isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x)
    except OverflowError:  # an integer beyond every float
        return False
