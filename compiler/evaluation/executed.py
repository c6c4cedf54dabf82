"""What a runtime really executes of a model: its own optimizer may have fused, added or removed operators after loading.

Read from the runtime's profile of one run, which also says where the time goes.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import ir
from ..session import SessionOptions, run, session
from .turns import alone

if TYPE_CHECKING:
    from ..targets.kernels import Kernels

RUNS = 3
"""Runs profiled; the first warms up and is not counted."""


@dataclass(frozen=True)
class Executed:
    """One operator type of a run.

    Attributes:
        count: nodes of it that one run executes, those of bodies as often as they run.
        microseconds: time in its kernels, per run.
    """

    operator: str
    count: int
    microseconds: float


def executed(
    path: str | os.PathLike[str], feed: Mapping[str, Any], options: SessionOptions | None = None
) -> list[Executed]:
    """The operators that ONNX Runtime runs, most time first.

    Raises:
        OlcError: the model cannot be opened or run.
    """
    counted = _profiled(path, feed, options)
    n = max(len(counted), 1)
    found = _summed(counted, lambda e: str(e["args"]["op_name"]))
    rows = [Executed(op, round(count / n), time / n) for op, (count, time) in found.items()]
    return sorted(rows, key=lambda r: (-r.microseconds, r.operator))


def node_times(
    path: str | os.PathLike[str], feed: Mapping[str, Any], options: SessionOptions | None = None
) -> dict[str, float]:
    """Microseconds per run in the kernel of each node, by its name as the runtime has it.

    Raises:
        OlcError: the model cannot be opened or run.
    """
    counted = _profiled(path, feed, options)
    n = max(len(counted), 1)
    found = _summed(counted, lambda e: str(e["name"]).removesuffix("_kernel_time"))
    return {name: time / n for name, (_, time) in found.items()}


@alone()
def _profiled(
    path: str | os.PathLike[str], feed: Mapping[str, Any], options: SessionOptions | None
) -> list[list[dict[str, Any]]]:
    """Kernel events of each run but the first."""
    with tempfile.TemporaryDirectory(prefix="olc-profile-") as folder:
        opened = session(path, options=options if options is not None else SessionOptions(), profile=Path(folder) / "run")
        for _ in range(RUNS):
            run(opened, feed, where=os.fspath(path))
        events = json.loads(Path(opened.end_profiling()).read_text(encoding="utf-8"))
    runs: list[list[dict[str, Any]]] = [[]]
    for e in sorted((e for e in events if "ts" in e), key=lambda e: (e["ts"] + e.get("dur", 0), e.get("dur", 0))):
        if e.get("cat") == "Node" and e["name"].endswith("_kernel_time"):
            runs[-1].append(e)
        elif e.get("cat") == "Session" and e["name"] == "model_run":
            runs.append([])
    return [_alone(r) for r in runs[1:] if r] or [_alone(r) for r in runs[:1]]


def _summed(counted: list[list[dict[str, Any]]], key: Callable[[dict[str, Any]], str]) -> dict[str, tuple[int, float]]:
    """How many events there are of each key, and their time."""
    found: dict[str, tuple[int, float]] = {}
    for e in (e for events in counted for e in events):
        count, time = found.get(key(e), (0, 0.0))
        found[key(e)] = (count + 1, time + e["dur"])
    return found


def _alone(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The kernels of a run without the time of those that ran within them: a Loop's holds its body's."""
    alone = [dict(e) for e in events]
    open_: list[dict[str, Any]] = []
    for e in sorted(alone, key=lambda e: (e["ts"], -e["dur"])):
        while open_ and e["ts"] >= open_[-1]["end"]:
            open_.pop()
        if open_ and open_[-1]["args"]["op_name"] in ("If", "Loop", "Scan"):
            open_[-1]["dur"] -= e["dur"]
        e["end"] = e["ts"] + e["dur"]
        open_.append(e)
    return alone


def fused_by_the_runtime(model: ir.Model, rows: list[Executed]) -> dict[str, int]:
    """Operator types that run and that the model does not hold, with how many: what the runtime made of it."""
    held = {n.op_type for g in ir.all_graphs(model) for n in g}
    return {r.operator: r.count for r in sorted(rows, key=lambda r: r.operator) if r.operator not in held}


def slower(made: Mapping[str, int], kernels: Kernels) -> list[str]:
    """What to say of operators that the runtime made, by type, although they are slower than their parts."""
    slow = [f"{op} ({n})" for op, n in made.items() if not kernels.pays(f"com.microsoft::{op}")]
    return [f"the runtime fuses {', '.join(slow)} although that is slower than the parts"] if slow else []


def to_dicts(rows: list[Executed]) -> list[dict[str, Any]]:
    """JSON-able."""
    return [{**asdict(r), "microseconds": round(r.microseconds, 1)} for r in rows]
