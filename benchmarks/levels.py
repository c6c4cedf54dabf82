"""Every real model through every level: verified, still doing its job, and how fast beside the source.

``python -m benchmarks levels`` does all; ``python -m benchmarks levels minilm-l6`` some.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import olc
from olc.errors import OlcError
from olc.session import session

import models


def rows(name: str, variant: str, levels: tuple[int, ...] = (0, 1, 2, 3), seconds: float = 60.0) -> list[dict[str, object]]:
    """One row per level: nodes, speed against the source and its interval, and what ``check()`` says of the artifact."""
    recipe = models.find(name)
    paths = recipe.build(variant)
    found: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory(prefix="olc-levels-") as folder:
        for level in levels:
            compiled: dict[str, Path] = {}
            for role, path in paths.items():
                compiled[role] = Path(folder) / f"O{level}" / f"{path.stem}.onnx"
                compiled[role].parent.mkdir(exist_ok=True)
                start = time.perf_counter()
                report = olc.compile(path, compiled[role], level=level, seconds=seconds)
                assert report.evaluation is not None
                found.append({
                    "file": path.stem, "level": level, "nodes": report.changes["nodes"],
                    "paired": report.evaluation["paired"], "seconds": time.perf_counter() - start,
                })  # fmt: skip
            checked = recipe.check(compiled, session)
            for row in found[-len(paths) :]:
                row["check"] = ("passed: " if checked.passed else "FAILED: ") + checked.text
    return found


def main(names: Sequence[str] = ()) -> None:
    print(f"{'file':42} -O {'nodes':>14} {'speed':>6} {'95 %':>13} {'compile':>8}  check")
    for recipe in models.all_recipes().values():
        if names and recipe.name not in names:
            continue
        for variant in recipe.variants:
            try:
                found = rows(recipe.name, variant.name)
            except OlcError as e:
                print(f"{recipe.name}:{variant.name} FAILED: {e}", flush=True)
                continue
            for r in found:
                p, (before, after) = r["paired"], r["nodes"]  # type: ignore[misc]
                interval = f"{p['low']:.2f} to {p['high']:.2f}"  # type: ignore[index]
                print(f"{r['file']:42} {r['level']:>2} {before:>6}->{after:>6} {p['ratio']:6.2f} {interval:>13} "  # type: ignore[index]
                      f"{r['seconds']:6.1f} s  {str(r['check'])[:60]}", flush=True)  # fmt: skip
