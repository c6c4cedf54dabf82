"""How much work something is, without a clock: the function calls that it makes, the same on every machine.

A loop that grows with the square of its input makes calls that do (or is found by the benchmarks, which time).
"""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable
from typing import Any


def calls(action: Callable[[], Any]) -> int:
    """Calls of Python and C functions during the action."""
    counted = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal counted
        counted += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        action()
    finally:
        sys.setprofile(before)
    return counted


def peak_bytes(action: Callable[[], Any]) -> int:
    """Most memory that Python and numpy held at once during the action."""
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
