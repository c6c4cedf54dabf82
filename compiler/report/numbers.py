"""Numbers as a person reads them. Every form of the report writes them the same way."""

from __future__ import annotations


def count(n: int) -> str:
    """12,345"""
    return f"{n:,}"


def size(n: float) -> str:
    """Bytes, in powers of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(n) < 1000 or unit == "GB":
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1000
    return ""


def duration(seconds: float | None) -> str:
    """Three digits in the unit that fits; "?" for None."""
    if seconds is None:
        return "?"
    if seconds < 1e-3:
        return f"{seconds * 1e6:.3g} µs"
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def change(before: float | None, after: float | None) -> str:
    """By how much ``after`` differs from ``before``, in percent; "" where that says nothing."""
    if not before or after is None:
        return ""
    share = round((after / before - 1) * 100)
    return "the same" if share == 0 else f"{share:+d} %".replace("-", "−")


def error(x: float | None) -> str:
    """Two digits; "" for None."""
    return "" if x is None else "0" if x == 0 else f"{x:.2g}"


def ranges(numbers: list[int]) -> str:
    """``[0, 1, 2, 5]`` as "0 to 2, 5"."""
    parts: list[list[int]] = []
    for n in sorted(numbers):
        if parts and parts[-1][1] == n - 1:
            parts[-1][1] = n
        else:
            parts.append([n, n])
    return ", ".join(str(a) if a == b else f"{a}, {b}" if b == a + 1 else f"{a} to {b}" for a, b in parts)
