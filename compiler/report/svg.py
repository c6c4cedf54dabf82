"""Small pictures as inline SVG. Colours are classes of the page; a picture without a label stands beside its numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup


def _n(x: float) -> str:
    return f"{x:.2f}".rstrip("0").rstrip(".")


def bar(share: float, kind: str = "after") -> Markup:
    """A bar over ``share`` (0 to 1) of its cell's width; ``kind`` is the class that colours it."""
    width = min(max(share, 0.0), 1.0) * 100
    return Markup('<svg class="bar" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
                  '<rect class="{}" width="{}" height="8"/></svg>').format(kind, _n(width))  # fmt: skip


@dataclass(frozen=True)
class Axis:
    """A range of positive numbers on a line of length 100, by logarithm: half and twice are as far from 1."""

    low: float
    high: float

    @classmethod
    def over(cls, values: Sequence[float]) -> Axis:
        """One that holds all of the values and 1."""
        known = [v for v in values if v > 0 and math.isfinite(v)] + [1.0]
        return cls(min(known) / 1.05, max(known) * 1.05)

    def at(self, x: float) -> float:
        """Where a number lies, 0 to 100."""
        x = min(max(x, self.low), self.high)
        return 100 * (math.log(x) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))


def interval(axis: Axis, low: float, middle: float, high: float, kind: str = "after", one: bool = True) -> Markup:
    """A line from ``low`` to ``high`` with a mark at ``middle``, and where ``one``, a hairline at 1."""
    a, m, b = (axis.at(x) for x in (low, middle, high))
    mark = Markup('<rect class="one" x="{}" width="1" height="16"/>').format(_n(axis.at(1) - 0.25)) if one else Markup("")
    return Markup(
        '<svg class="interval" viewBox="0 0 100 16" preserveAspectRatio="none" aria-hidden="true">{}'
        '<rect class="{}" x="{}" y="7" width="{}" height="2"/><rect class="{}" x="{}" y="3" width="1.5" height="10"/></svg>'
    ).format(mark, kind, _n(a), _n(max(b - a, 0.5)), kind, _n(m - 0.75))


@dataclass(frozen=True)
class Point:
    """A model that was tried: its number in the table, speed, error, and whether it is on the front."""

    number: int
    speed: float
    error: float
    front: bool


_LEFT, _RIGHT, _TOP, _BOTTOM, _WIDTH, _HEIGHT = 56, 16, 16, 44, 420, 280


def scatter(points: Sequence[Point], limit: float | None) -> Markup:
    """Speed to the right and error upwards, the front joined. ``limit``: the largest error that was allowed.

    The error has a logarithmic axis where no point has none.
    """
    errors = [p.error for p in points] + ([limit] if limit else [])
    log = all(e > 0 for e in errors)
    left, right = min(1.0, *(p.speed for p in points)), max(1.0, *(p.speed for p in points))
    pad = 0.06 * max(right - left, 0.1)
    left, right = left - pad, right + pad
    low, high = (min(errors) / 1.6, max(errors) * 1.6) if log else (0.0, max(errors) * 1.1 or 1.0)

    def x(speed: float) -> float:
        return _LEFT + (speed - left) / (right - left) * (_WIDTH - _LEFT - _RIGHT)

    def y(error: float) -> float:
        share = (math.log(error / low) / math.log(high / low)) if log else (error - low) / (high - low)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)

    floor, out = _HEIGHT - _BOTTOM, []
    for t in _steps(left, right):
        out.append(_line("grid", x(t), _TOP, x(t), floor) + _label(x(t), floor + 16, f"{t:g}", "middle"))
    for t in _decades(low, high) if log else _steps(low, high):
        out.append(_line("grid", _LEFT, y(t), _WIDTH - _RIGHT, y(t)) + _label(_LEFT - 6, y(t) + 4, f"{t:g}", "end"))
    if limit:
        out.append(_line("limit", _LEFT, y(limit), _WIDTH - _RIGHT, y(limit)))
        out.append(_label(_WIDTH - _RIGHT, y(limit) - 5, f"budget {limit:.2g}", "end", "limit"))
    on = [p for p in points if p.front]
    # The front may be one of size too: joined are those that no other beats in what is drawn.
    front = sorted((p for p in on if not any(
        q.speed >= p.speed and q.error <= p.error and (q.speed, q.error) != (p.speed, p.error) for q in on
    )), key=lambda p: (p.speed, p.error))  # fmt: skip
    if len(front) > 1:
        path = " ".join(f"{_n(x(p.speed))},{_n(y(p.error))}" for p in front)
        out.append(Markup('<polyline class="front" points="{}"/>').format(path))
    for p in points:
        at_x, at_y = x(p.speed), y(p.error)
        crowded = any(0 <= x(q.speed) - at_x < 26 and abs(y(q.error) - at_y) < 12 for q in points if q is not p)
        out.append(Markup('<circle class="{}" cx="{}" cy="{}" r="4"/>').format("on" if p.front else "off", _n(at_x), _n(at_y)))
        out.append(_label(at_x + (-7 if crowded else 7), at_y + 4, str(p.number), "end" if crowded else "start"))
    told = (f"{p.number}: {p.speed:.2f} times the speed, error {p.error:.2g}{', on the front' * p.front}" for p in points)
    middle = (_TOP + floor) // 2
    return Markup(
        '<svg class="scatter" viewBox="0 0 {} {}" role="img" aria-label="Speed against error. {}">{}{}'
        '<text x="12" y="{}" text-anchor="middle" transform="rotate(-90 12 {})">error</text></svg>'
    ).format(
        _WIDTH, _HEIGHT, "; ".join(told), Markup("").join(out),
        _label((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 8, "times the speed", "middle"), middle, middle,
    )  # fmt: skip


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> Markup:
    return Markup('<line class="{}" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(kind, *map(_n, (x1, y1, x2, y2)))


def _label(x: float, y: float, text: str, anchor: str, kind: str = "") -> Markup:
    return Markup('<text class="{}" x="{}" y="{}" text-anchor="{}">{}</text>').format(kind, _n(x), _n(y), anchor, text)


def _steps(low: float, high: float) -> list[float]:
    """About five round numbers between two."""
    raw = (high - low) / 5
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(s * unit for s in (1, 2, 5, 10) if s * unit >= raw)
    first = math.ceil(low / step)
    return [round(i * step, 10) for i in range(first, math.floor(high / step) + 1)]


def _decades(low: float, high: float) -> list[float]:
    """Powers of ten between two, and where those are few, thirds of them."""
    tens = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [10.0**e for e in tens if low <= 10.0**e <= high]
    return found if len(found) > 2 else [v for e in tens for v in (10.0**e, 3 * 10.0**e) if low <= v <= high]
