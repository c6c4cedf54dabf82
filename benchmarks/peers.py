"""olc beside its peers: who makes a real model faster than plain ONNX Runtime runs it, in float32 on one thread.

    python -m benchmarks peers [MODEL...] [--seconds S]

MODEL is the beginning of a file's name (``minilm``, ``ppocrv4-rec``); all of ``CASES`` where none is named.

Every candidate makes its file in a child process under a time limit, with its own default options. A file counts only
if ONNX Runtime opens it and its outputs are the source's up to float32 rounding; else the table says what is wrong.
All sessions of one table are live at once and run in random order in each round, so that a slow phase of the machine
hits all of them; a candidate's speed is the median over the rounds of the source's time to its own. ONNX Runtime
applies all its optimizations to every file, the source's too. Inputs are synthesised, as ``olc evaluate --dim`` does.

The peers that are no dependencies of olc come with ``pip install 'olc-compiler[peers]'``.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from olc import frontend
from olc.errors import OlcError
from olc.evaluation import inputs, latency, numerics
from olc.evaluation.latency import Rounds, interleaved
from olc.session import SessionOptions, native_options, prepared, run, session, shorten

import models
from benchmarks._named import chosen
from models import corpus

#: Seconds that a candidate may take to make its file.
LIMIT_S = 120.0
#: Inputs per table, compared and timed in turn; from the second on, masks have padding even at batch 1.
SAMPLES = 2

SOURCE, OLC, TRANSFORMERS = "plain ONNX Runtime", "olc -O2", "onnxruntime transformers"


@dataclass(frozen=True)
class Case:
    """One file of a recipe or of the corpus, and the sizes to run it at; a table for each.

    Attributes:
        stem: the file's name, without ``.onnx``.
        sizes: what ``olc evaluate --dim`` takes, once per table.
        transformer: what ONNX Runtime's transformers optimizer wants to be told: model type, heads, hidden size. It is
            left out where None. ``bart`` is its type for Whisper, ``gpt2`` its nearest for a decoder with a cache.
    """

    stem: str
    sizes: tuple[dict[str, int], ...]
    transformer: tuple[str, int, int] | None = None


_SENTENCES = ({"batch": 1, "seq": 128}, {"batch": 8, "seq": 128})
_BASE = ({"batch": 1, "seq": 128}, {"batch": 1, "seq": 384})
_TOKENS = tuple({"batch": 1, "seq": seq, "past_seq": past} for seq, past in ((1, 128), (1, 1024), (512, 0)))
CASES = (
    Case("minilm-l6_dynamo_op18", _SENTENCES, ("bert", 12, 384)),
    Case("minilm-l6_ts_op17", _SENTENCES, ("bert", 12, 384)),
    Case("bert-base_dynamo_op18", _BASE, ("bert", 12, 768)),
    Case("smollm2-135m-kv_dynamo_op18", _TOKENS, ("gpt2", 9, 576)),
    Case("whisper-tiny-en-encoder_dynamo_op18", ({"batch": 1},), ("bart", 6, 384)),
    Case("whisper-tiny-en-decoder-kv_dynamo_op18", ({"batch": 1, "seq": 1, "past_seq": 32},), ("bart", 6, 384)),
    Case("efficientnet-lite0_dynamo_op18", ({"batch": 1},)),
    Case("ppocrv4-det", ({"batch": 1, "height": 640, "width": 640},)),
    Case("ppocrv4-rec", ({"batch": 1, "height": 48, "width": 320},)),
    Case("silero-vad", ({"batch": 1, "samples": 576},)),
    Case("keras-mlp", ({"batch": 32},)),
)


# --- making the files -------------------------------------------------------------------------------------------------


def _olc(source: str, out: str) -> None:
    import olc

    olc.compile(source, out, level=2, evaluate=False, threads=1)  # the outputs of all candidates are compared below


def _onnxsim(source: str, out: str) -> None:
    import onnx
    import onnxsim

    made, same = onnxsim.simplify(source)
    if not same:
        raise RuntimeError("its own check failed")
    onnx.save(made, out)


def _onnxslim(source: str, out: str) -> None:
    import onnx
    import onnxslim

    onnx.save(onnxslim.slim(source), out)


def _onnxscript(source: str, out: str) -> None:
    import onnx
    import onnxscript.optimizer

    onnx.save(onnxscript.optimizer.optimize(onnx.load(source)), out)


def _transformers(source: str, out: str, model_type: str, heads: str, hidden: str) -> None:
    """Its first step, ONNX Runtime's basic optimizations, imports torch for no need of the CPU; so it is done here."""
    import onnxruntime
    from onnxruntime.transformers.optimizer import optimize_model

    options = native_options(SessionOptions(optimization="basic"))
    options.optimized_model_filepath = basic = f"{out}.basic.onnx"
    onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"], disabled_optimizers=["ConstantSharing"])
    fused = optimize_model(basic, model_type, num_heads=int(heads), hidden_size=int(hidden), opt_level=0)
    fused.save_model_to_file(out)


MAKERS: dict[str, Callable[..., None]] = {
    OLC: _olc, "onnxsim": _onnxsim, "onnxslim": _onnxslim, "onnxscript optimizer": _onnxscript,
    TRANSFORMERS: _transformers,
}  # fmt: skip
#: Candidate -> the package that it comes in, for those that olc does not depend on.
PACKAGES = {"onnxslim": "onnxslim", "onnxscript optimizer": "onnxscript"}


def make(name: str, source: str, out: str, *more: str) -> None:
    """Make one candidate's file; runs in the child process, whose last word is the reason where it fails."""
    try:
        MAKERS[name](source, out, *more)
    except Exception as error:  # what a peer may raise is not known
        sys.exit(f"{type(error).__name__}: {shorten(str(error))}")


@dataclass
class Made:
    """A candidate's file, or why there is none; ``seconds`` is the child's wall time, Python's start included."""

    path: Path
    seconds: float = 0.0
    problem: str | None = None


def made(name: str, source: Path, folder: Path, more: Sequence[str] = (), limit_s: float = LIMIT_S) -> Made:
    """Have a child process make the file of candidate ``name``, in a folder of its own within ``folder``."""
    found = Made(folder / name.replace(" ", "") / source.name)
    package = PACKAGES.get(name)
    if package is not None and importlib.util.find_spec(package) is None:
        found.problem = f"not installed: pip install {package}"
        return found
    found.path.parent.mkdir()
    code = "import sys; from benchmarks.peers import make; make(*sys.argv[1:])"
    command = [sys.executable, "-c", code, name, str(source.resolve()), str(found.path.resolve()), *more]
    begin = time.perf_counter()
    child = subprocess.Popen(
        command, cwd=Path(__file__).resolve().parent.parent, start_new_session=True, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True, errors="replace",
        env={**os.environ, "TMPDIR": str(found.path.parent.resolve())},  # nothing is left behind by one that is killed
    )  # fmt: skip
    try:
        _, said = child.communicate(timeout=limit_s)
        found.problem = reason(child.returncode, said)
    except subprocess.TimeoutExpired:
        found.problem = f"not done within {limit_s:g} s"
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)  # its own children too, or they would go on beside the timings
            child.communicate()
    found.seconds = time.perf_counter() - begin
    if found.problem is None and not found.path.is_file():
        found.problem = "wrote no file"
    return found


def reason(code: int, said: str) -> str | None:
    """Why a child failed, in a few words, from its exit status and standard error; None where it did not."""
    if code == 0:
        return None
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    lines = [line for line in said.splitlines() if line.strip()]
    return shorten(lines[-1], 100) if lines else f"ended with code {code}"


def nodes(graph: Any) -> int:
    """Nodes of a GraphProto, those of its subgraphs included."""
    within = (g for n in graph.node for a in n.attribute for g in ([a.g] if a.HasField("g") else a.graphs))
    return len(graph.node) + sum(nodes(g) for g in within)


# --- one table --------------------------------------------------------------------------------------------------------


@dataclass
class Row:
    """One candidate in one table; ``paired`` compares it with the source, and is None where there is a problem."""

    name: str
    nodes: int | None = None
    seconds: float = 0.0
    paired: latency.Paired | None = None
    problem: str | None = None

    def __str__(self) -> str:
        count = "" if self.nodes is None else f"{self.nodes}"
        if self.paired is None:
            return f"  {self.name:26} {count:>6}  {self.problem}"
        p = self.paired
        interval = f"{p.low:.2f} to {p.high:.2f}"
        return (f"  {self.name:26} {count:>6} {p.ratio:6.2f} {interval:>14} {p.cpu_ratio:6.2f} {self.seconds:7.1f} s"
                f"  {p.verdict}")  # fmt: skip


@dataclass
class Table:
    """The rows of one file at one size, and ``against``: olc (as b) beside each peer that works (as a)."""

    title: str
    rows: list[Row]
    against: dict[str, latency.Paired]


def table(case: Case, dims: Mapping[str, int], source: Path, files: Mapping[str, Made], seconds: float) -> Table:
    """Open all candidates' files, compare their outputs with the source's, and time those that agree."""
    import onnx

    rows = {name: Row(name, seconds=m.seconds, problem=m.problem) for name, m in files.items()}
    sessions = {SOURCE: session(source, 1, options=SessionOptions())}
    plan = inputs.plan(frontend.load(source), dims, run=lambda feed: run(sessions[SOURCE], feed, where=case.stem))
    feeds = [plan.make(i) for i in range(SAMPLES)]
    for name, row in rows.items():
        if row.problem is None:
            try:
                row.nodes = nodes(onnx.load(files[name].path, load_external_data=False).graph)
                sessions[name] = session(files[name].path, 1)
            except Exception as error:  # a file that is no model at all, besides what the runtime refuses
                row.problem = shorten(getattr(error, "what", str(error)), 100)
    comparisons = {name: numerics.Comparison() for name in sessions if name != SOURCE}
    for feed in feeds:
        reference = run(sessions[SOURCE], feed, where=case.stem)
        for name in list(comparisons):
            try:
                comparisons[name].add(reference, run(sessions[name], feed))
            except OlcError as error:
                rows[name].problem = shorten(error.what, 100)
                del comparisons[name], sessions[name]
    for name, comparison in comparisons.items():
        wrong = next((o for o in comparison.results() if not o.within()), None)
        if wrong is not None:
            rows[name].problem = f"other outputs: {wrong.name!r}: {wrong.why_not()}"
            del sessions[name]
    times = timed([[prepared(s, feed) for feed in feeds] for s in sessions.values()], seconds)
    names = list(sessions)
    for i, name in enumerate(names[1:], 1):
        rows[name].paired = times.compare(0, i)
    peers = [n for n in names if n not in (SOURCE, OLC)] if OLC in names else []
    against = {n: times.compare(names.index(n), names.index(OLC)) for n in peers}
    count = nodes(onnx.load(source, load_external_data=False).graph)
    return Table(f"{titled(case, dims)}: {count} nodes, {len(times.walls)} rounds", list(rows.values()), against)


def titled(case: Case, dims: Mapping[str, int]) -> str:
    """What a table is of."""
    return f"{case.stem} at {', '.join(f'{k}={v}' for k, v in dims.items())}"


def timed(ready: Sequence[Sequence[Callable[[], Any]]], seconds: float) -> Rounds:
    """Time programs, each given once per feed; all have the same feed in a round, and the feeds take turns."""
    current = 0

    def choose(number: int) -> None:
        nonlocal current
        current = number % len(ready[0])

    def program(runs: Sequence[Callable[[], Any]]) -> Callable[[], Any]:
        return lambda: runs[current]()

    return interleaved([program(runs) for runs in ready], budget_s=seconds, before_round=choose)


def behind(found: Table) -> str | None:
    """Why olc is not ahead of every peer in a table, in words; None where it is.

    It is ahead where its speed is not more than ``latency.MARGIN`` below the best peer's.
    """
    speeds = {row.name: row.paired.ratio for row in found.rows if row.paired is not None}
    mine = speeds.pop(OLC, None)
    if mine is None:
        return f"olc: {next(row.problem for row in found.rows if row.name == OLC)}"
    best = max(speeds, key=lambda name: speeds[name], default=None)
    if best is None or mine * (1 + latency.MARGIN) >= speeds[best]:
        return None
    direct = f": olc beside it is {found.against[best].text}" if best in found.against else ""
    return f"{mine:.2f}, {best} {speeds[best]:.2f}{direct}"


# --- all of them ------------------------------------------------------------------------------------------------------


def tables(cases: Iterable[Case], seconds: float) -> Iterable[Table]:
    """Every table of the cases; a candidate makes its file once per case."""
    for case in cases:
        with tempfile.TemporaryDirectory(prefix="olc-peers-") as folder:
            source = sourced(case.stem, Path(folder))
            files = {}
            for name in MAKERS:
                if name != TRANSFORMERS:
                    files[name] = made(name, source, Path(folder))
                elif case.transformer is not None:
                    files[name] = made(name, source, Path(folder), [str(x) for x in case.transformer])
            for dims in case.sizes:
                try:
                    yield table(case, dims, source, files, seconds)
                except OlcError as error:  # the source itself does not run so; the other tables are still wanted
                    yield Table(titled(case, dims), [Row(OLC, problem=f"not measured: {error.what}")], {})


def sourced(stem: str, folder: Path) -> Path:
    """A recipe's file as the cache of models has it; one of the corpus, with weights drawn anew, in ``folder``."""
    if corpus.path(stem).is_file():
        path = folder / f"{stem}.onnx"
        path.write_bytes(corpus.load(stem).SerializeToString())
        return path
    recipe, variant, role = models.locate(stem)
    recipe.require()
    return variant.files[role].build()


def main(arguments: Sequence[str] = ()) -> None:
    """Print the tables. ``arguments`` are those of the command line, after ``peers``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks peers")
    parser.add_argument("models", nargs="*", metavar="MODEL", help="beginning of a file's name; all where none is given")
    parser.add_argument("--seconds", type=float, default=30.0, help="timing per model and size [30], but at least "
                        f"{latency.MIN_ROUNDS} rounds")  # fmt: skip
    given = parser.parse_args(arguments)
    cases = chosen(parser, given.models, CASES, lambda c: c.stem)
    print("float32, one thread; speed: times that of plain ONNX Runtime on the source")
    lost: list[str] = []
    count = absent = 0
    for found in tables(cases, given.seconds):
        count += 1
        absent += sum(row.problem is not None for row in found.rows if row.name != OLC)
        print(f"\n{found.title}\n  {'candidate':26} {'nodes':>6} {'speed':>6} {'95 %':>14} {'cpu':>6} {'compile':>9}")
        print("\n".join(str(row) for row in found.rows), flush=True)
        why = behind(found)
        if why is not None:
            lost.append(f"  not on {found.title.partition(':')[0]}: {why}")
    beside = f" (in {absent} places a peer has no file that works: see above)" if absent else ""
    print("\n".join([f"\nahead of every peer on {count - len(lost)} of {count}{beside}", *lost]))
