"""-O3 is never slower than -O2 nor than the source, and inside the budget, judged by what did not choose.

``python -m benchmarks never_worse`` compiles every real model and every architecture of the corpus (weights drawn anew) at -O2
and -O3, and measures the three side by side on inputs of another seed. Below a line stands what is worse, where anything is: a
speed below 1, where the interval excludes 1 by more than the margin of a verdict in two measurements, or outputs outside the
budget.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import olc
from olc.assumptions import KEEPS_A_KEY
from olc.errors import OlcError
from olc.evaluation import inputs, numerics
from olc.evaluation.latency import Paired, interleaved
from olc.evaluation.padding import as_it_is, without_padding
from olc.frontend import load
from olc.session import SessionOptions, prepared, recommended, run, session
from olc.settings import Settings

import models
from benchmarks._named import chosen
from benchmarks.peers import sourced
from models import corpus

SEED = 20_000
SAMPLES = 3
SECONDS = 4.0
"""Timed seconds per model, at least 10 rounds."""


def stems() -> list[str]:
    """Every file of the real models, then every file of the corpus."""
    real = [f.stem for r in models.all_recipes().values() for v in r.variants for f in v.files.values()]
    return [*dict.fromkeys(real), *sorted(p.name.removesuffix(".onnx.xz") for p in corpus.FOLDER.glob("*.onnx.xz"))]


def judged(stem: str, folder: Path, seconds: float) -> tuple[str, list[str]]:
    """A line on the model, and what is worse."""
    source = sourced(stem, folder)
    files: list[Path] = [source]
    rounded = 0
    for level in (2, 3):
        files.append(folder / f"O{level}.onnx")
        report = olc.compile(source, files[-1], level=level, threads=1, seconds=seconds, measure=level == 3)
        rounded = sum(bool(row["kept"]) for row in report.layers)
    model = load(source)
    opened = [session(f, threads=1, options=SessionOptions() if f == source else recommended(f)) for f in files]
    made = inputs.plan(model, seed=SEED, run=lambda feed: run(opened[0], feed))
    feeds = [made.make(i) for i in range(SAMPLES)]
    # What a query of padding without a key gives, exports of one model do not agree on either.
    keep = without_padding(model)[1] if rounded or KEEPS_A_KEY in report.assumed else as_it_is
    outputs = [[keep(f, run(s, f)) for f in feeds] for s in opened]
    programs = [[prepared(s, f) for f in feeds] for s in opened]
    found = _measured(programs)
    told = [f"{p.ratio:6.2f} ({p.low:.2f} to {p.high:.2f})" for p in found.values()]
    slower = [what for what, p in found.items() if p.verdict == "slower"]
    again = _measured(programs) if slower else {}  # of so many comparisons some go wrong by chance
    worse = [f"{what} is {again[what].text}, measured twice" for what in slower if again[what].verdict == "slower"]
    compared = [numerics.compare(outputs[0], of) for of in outputs[1:]]
    breaches = [numerics.first_difference(compared[0]),
                Settings().bounds().breach(compared[1]) if rounded else numerics.first_difference(compared[1])]  # fmt: skip
    worse += [f"{level}: {breach}" for level, breach in zip(("-O2", "-O3"), breaches, strict=True) if breach is not None]
    cosines = [d.cosine_min for d in compared[1] if d.cosine_min is not None]
    cosine = f"{min(cosines):.4f}" if cosines else "      "
    return f"{stem:44} {'  '.join(f'{t:22}' for t in told)} {rounded:4} {cosine}", worse


def _measured(programs: Sequence[Sequence[Callable[[], Any]]]) -> dict[str, Paired]:
    rounds = interleaved([lambda ps=ps: [p() for p in ps] for ps in programs], budget_s=SECONDS)  # type: ignore[misc]
    return {what: rounds.compare(*pair) for what, pair in (("-O2", (0, 1)), ("-O3", (0, 2)), ("-O3 over -O2", (1, 2)))}


def main(arguments: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks never_worse")
    parser.add_argument("models", nargs="*", metavar="MODEL", help="beginning of a file's name; all where none is given")
    parser.add_argument("--tune-time", type=float, default=20.0, help="seconds of each search [20]")
    given = parser.parse_args(arguments)
    print(f"one thread; speeds over the source\n{'file':44} {'-O2':22}  {'-O3':22}  {'-O3 over -O2':22} rounded cosine")
    bad: list[str] = []
    count = 0
    for stem in chosen(parser, given.models, stems(), str):
        try:
            with tempfile.TemporaryDirectory(prefix="olc-never-") as folder:
                line, worse = judged(stem, Path(folder), given.tune_time)
        except OlcError as e:
            line, worse = f"{stem:44} not compiled", [str(e)]
        count += 1
        print(line, *(f"    {w}" for w in worse), sep="\n", flush=True)
        bad += [stem] if worse else []
    print(f"\nnothing is worse on {count - len(bad)} of {count} models" + (f"; look at {', '.join(bad)}" if bad else ""))
    if bad:
        sys.exit(1)
