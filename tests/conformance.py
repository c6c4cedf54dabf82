"""ONNX's own node tests through -O1 and -O2: what ONNX Runtime passed before, it passes after.

``python -m tests.conformance`` prints the counts. The oracle is the expected output that each case ships with.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

LEVELS = (1, 2)


@dataclass(frozen=True)
class Verdict:
    """``passed``, ``skipped`` (ONNX Runtime did not pass the case before) or ``failed``."""

    name: str
    level: int
    state: str
    reason: str = ""


@lru_cache(maxsize=1)
def cases() -> dict[str, Any]:
    """All node test cases by name."""
    from onnx.backend.test.case.node import collect_testcases

    return {c.name: c for c in collect_testcases(None)}


def run(model: bytes, inputs: list[Any], outputs: int) -> list[Any]:
    """Run with ONNX Runtime's own optimizers off, so that what is tested is ours."""
    from olc.session import SessionOptions, session
    from olc.session import run as run_session

    opened = session(model, options=SessionOptions(threads=1, optimization="none"))
    names = [i.name for i in opened.get_inputs()]
    given = {n: v for n, v in zip(names, inputs, strict=False) if v is not None}
    return list(run_session(opened, given).values())[:outputs]


def same(expected: Any, actual: Any, rtol: float, atol: float) -> str | None:
    """Why the two differ, or None."""
    if isinstance(expected, list):
        if len(expected) != len(actual):
            return f"{len(actual)} elements, not {len(expected)}"
        return next((w for e, a in zip(expected, actual, strict=True) if (w := same(e, a, rtol, atol))), None)
    if expected is None:
        return None if actual is None else "a value where none was expected"
    e, a = np.asarray(expected), np.asarray(actual)
    if e.shape != a.shape:
        return f"shape {a.shape}, not {e.shape}"
    if e.dtype.kind in "OSUT":
        return None if [str(x) for x in e.ravel()] == [str(x) for x in a.ravel()] else "other texts"
    if e.dtype != a.dtype:
        return f"dtype {a.dtype}, not {e.dtype}"
    if e.dtype.kind == "b" or e.dtype.kind in "iu":
        return None if np.array_equal(e, a) else "other values"
    wide_e, wide_a = (x.astype(np.complex128 if x.dtype.kind == "c" else np.float64) for x in (e, a))
    return None if np.allclose(wide_a, wide_e, rtol=rtol, atol=atol, equal_nan=True) else "other values"


def check(name: str) -> list[Verdict]:
    """The case at each level."""
    from olc import targets
    from olc.errors import OlcError
    from olc.frontend import load
    from olc.passes import Context
    from olc.pipeline import Options, optimize
    from olc.storage import to_bytes

    case = cases()[name]
    rtol, atol = case.rtol, case.atol
    if case.model is None or not case.data_sets:
        return [Verdict(name, level, "skipped", "the case ships no model or no data") for level in LEVELS]
    raw = case.model.SerializeToString()

    def problem(model: bytes) -> str | None:
        for inputs, outputs in case.data_sets:
            got = run(model, list(inputs), len(outputs))
            for e, a in zip(outputs, got, strict=True):
                if (why := same(e, a, rtol, atol)) is not None:
                    return why
        return None

    try:
        before = problem(raw)
    except (OlcError, TypeError, ValueError) as error:
        before = str(error)
    if before is not None:
        return [Verdict(name, level, "skipped", f"ONNX Runtime before: {before[:100]}") for level in LEVELS]
    found = []
    judged: dict[bytes, str | None] = {}
    for level in LEVELS:
        try:
            model = load(raw)
            optimize(
                model,
                Options(level=level, verify_each=True, strict=True),
                Context(target=targets.get("onnxruntime-cpu")),
            )
            made = to_bytes(model)
            if made not in judged:  # level 2 mostly gives what level 1 gave
                judged[made] = problem(made)
            after = judged[made]
        except Exception as error:  # whatever goes wrong here is a failure of the case, told with its class
            after = f"{type(error).__name__}: {error}"
        found.append(Verdict(name, level, "passed" if after is None else "failed", after or ""))
    return found


def check_all(names: list[str], workers: int = 2) -> Iterator[Verdict]:
    """Every named case, in parallel."""
    with ProcessPoolExecutor(workers) as pool:
        for found in pool.map(check, names, chunksize=16):
            yield from found


def main() -> int:
    names = sorted(cases())
    states: Counter[tuple[int, str]] = Counter()
    reasons: Counter[str] = Counter()
    for v in check_all(names):
        states[(v.level, v.state)] += 1
        if v.state == "failed":
            print(f"FAILED -O{v.level} {v.name}: {v.reason[:300]}")
        if v.state == "skipped" and v.level == LEVELS[0]:
            reasons[_kind(v.reason)] += 1
    for reason, n in reasons.most_common():
        print(f"skipped {n:4}: {reason}")
    for level in LEVELS:
        counts = ", ".join(f"{states[(level, s)]} {s}" for s in ("passed", "skipped", "failed"))
        print(f"-O{level} over {len(names)} node tests: {counts}")
    return 1 if any(states[(level, "failed")] for level in LEVELS) else 0


def _kind(reason: str) -> str:
    for needle, kind in (
        ("Could not find an implementation", "ONNX Runtime has no kernel"),
        ("is not a registered", "ONNX Runtime does not know the operator"),
        ("other values", "ONNX Runtime gives other values"),
        ("other texts", "ONNX Runtime gives other texts"),
        ("shape", "ONNX Runtime gives another shape"),
        ("opset", "ONNX Runtime does not know the opset"),
        ("ships no", "the case ships no model or no data"),
    ):
        if needle in reason:
            return kind
    return "ONNX Runtime refuses the model or its data"


if __name__ == "__main__":
    sys.exit(main())
