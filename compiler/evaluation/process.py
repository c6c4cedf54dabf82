"""Load time, first run and peak memory of a model, measured in a process of its own so that nothing else is counted.

The child is this module::

    python -m olc.evaluation.process REQUEST.json
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import OlcError
from ..session import SessionOptions
from .turns import alone


@dataclass(frozen=True)
class Measured:
    """One process that opened a model and ran it.

    Attributes:
        load_s: wall time to open the session, in seconds.
        first_run_s: wall time of the first inference.
        run_s: shortest wall time among the later ones; None where only one was asked for.
        peak_bytes: highest resident memory of the process; None where the system does not say.
        base_bytes: resident memory before the model was opened (Python, numpy, the runtime).
    """

    load_s: float
    first_run_s: float
    run_s: float | None
    peak_bytes: int | None
    base_bytes: int | None

    @property
    def model_bytes(self) -> int | None:
        """What the model itself took at its peak."""
        if self.peak_bytes is None or self.base_bytes is None:
            return None
        return max(0, self.peak_bytes - self.base_bytes)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"model_bytes": self.model_bytes}


@alone()
def measure(
    path: str | os.PathLike[str],
    feed: Mapping[str, Any],
    *,
    threads: int | None = None,
    options: SessionOptions | None = None,
    runs: int = 2,
    timeout_s: float = 600.0,
    memory_bytes: int | None = None,
) -> Measured:
    """Open and run a model in a child process.

    Args:
        feed: one sample; arrays only.
        options: session options; those recorded beside the model where None.
        runs: inferences, the first one included.
        timeout_s: the child is killed after so long.
        memory_bytes: limit on the child's own memory, where the system can set one; mapped files do not count.

    Raises:
        OlcError: inference fails, the child crashes, or a limit is reached; the message says which.
    """
    with tempfile.TemporaryDirectory(prefix="olc-") as folder:
        return Measured(**_child(path, [feed], Path(folder), False, threads, options, runs, timeout_s, memory_bytes)["measured"])


def outputs(
    path: str | os.PathLike[str],
    feeds: Sequence[Mapping[str, Any]],
    *,
    threads: int | None = None,
    options: SessionOptions | None = None,
    timeout_s: float = 600.0,
) -> list[dict[str, Any]]:
    """The outputs for each feed, by name, of a model that runs in a child process: a crash of the runtime ends only that.

    Raises:
        OlcError: as ``measure``.
    """
    with tempfile.TemporaryDirectory(prefix="olc-") as folder:
        kinds = _child(path, feeds, Path(folder), True, threads, options, 1, timeout_s, None)["outputs"]
        return [_restore(str(Path(folder) / f"outputs{i}.npz"), k) for i, k in enumerate(kinds)]


def _child(
    path: str | os.PathLike[str], feeds: Sequence[Mapping[str, Any]], folder: Path, outputs: bool, threads: int | None,
    options: SessionOptions | None, runs: int, timeout_s: float, memory_bytes: int | None,
) -> dict[str, Any]:
    """Have a child process open and run the model, and give its answer; its outputs lie in the folder, one file a feed."""
    where = os.fspath(path)
    request, answer = folder / "request.json", folder / "answer.json"
    dtypes = [_store(feed, folder / f"feed{i}.npz") for i, feed in enumerate(feeds)]
    request.write_text(json.dumps({
        "path": os.path.abspath(where), "folder": str(folder), "dtypes": dtypes, "outputs": outputs, "threads": threads,
        "options": None if options is None else options.to_dict(), "runs": runs, "memory_bytes": memory_bytes,
        "answer": str(answer),
    }))  # fmt: skip
    command = [sys.executable, "-m", __name__, str(request)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise OlcError(
            f"did not load and run within {timeout_s:g} s",
            where=where,
            hint="allow more time, or give smaller inputs",
        ) from error
    found = json.loads(answer.read_text()) if answer.is_file() else None
    if done.returncode == 0 and found is not None and "error" not in found:
        return dict(found)
    if found is not None and "error" in found:
        raise OlcError(found["error"], where=where, hint=found["hint"])
    raise OlcError(f"the process that ran it {_end(done.returncode)}{_last_words(done.stderr)}", where=where,
                   hint=_advice(done.returncode, done.stderr))  # fmt: skip


def _end(code: int) -> str:
    if code < 0:
        try:
            return f"was killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"was killed by signal {-code}"
    return f"ended with code {code}"


def _last_words(stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    return f": {lines[-1][:300]}" if lines else ""


def _advice(code: int, stderr: str) -> str:
    kill = getattr(signal, "SIGKILL", None)
    if "MemoryError" in stderr or "bad_alloc" in stderr or (kill is not None and code == -kill):
        return "it most likely ran out of memory: give smaller inputs with --dim"
    return "ONNX Runtime crashed on this model: update it, or report the model to its makers"


def _store(feed: Mapping[str, Any], file: Path) -> dict[str, str]:
    """Write the arrays so that any dtype survives without pickling; the dtypes of those stored as something else."""
    import numpy as np

    stored, dtypes = {}, {}
    items: list[tuple[str, Any]] = []
    for name, value in feed.items():
        if not isinstance(value, list):
            items.append((name, value))
            continue
        if any(isinstance(v, list | dict) for v in value):
            raise OlcError(f"{name!r} is a sequence of maps, which is not passed to or from a child process", where=name,
                           hint="measure without memory")  # fmt: skip
        dtypes[f"{name}[]"] = str(len(value))  # no array has this name: indices are within the brackets
        items += [(f"{name}[{i}]", v) for i, v in enumerate(value)]
    for name, value in items:
        array = np.asarray(value)
        if array.dtype.kind == "O":
            dtypes[name], array = "string", array.astype(np.str_)
        elif array.dtype.kind == "V" or not array.dtype.isbuiltin:
            dtypes[name] = array.dtype.name
            array = array.view(np.uint8 if array.dtype.itemsize == 1 else np.uint16)
        stored[f"input:{name}"] = array
    np.savez(file, allow_pickle=False, **stored)
    return dtypes


def _restore(file: str, dtypes: Mapping[str, str]) -> dict[str, Any]:
    import ml_dtypes
    import numpy as np

    feed: dict[str, Any] = {}
    with np.load(file, allow_pickle=False) as held:
        for key in held.files:
            name, array = key.removeprefix("input:"), held[key]
            kind = dtypes.get(name)
            if kind == "string":
                array = array.astype(object)
            elif kind is not None:
                array = array.view(getattr(ml_dtypes, kind))
            feed[name] = array
    for name, length in dtypes.items():
        if name.endswith("[]"):
            feed[name[:-2]] = [feed.pop(f"{name[:-1]}{i}]") for i in range(int(length))]
    return feed


def resident() -> tuple[int | None, int | None]:
    """(now, peak) resident memory of this process in bytes, None where the system does not say."""
    status = Path("/proc/self/status")
    if status.is_file():
        # Not getrusage: on Linux its maximum is inherited from the parent across exec.
        sizes = {}
        for line in status.read_text().splitlines():
            key, _, value = line.partition(":")
            if key in ("VmRSS", "VmHWM"):
                sizes[key] = int(value.split()[0]) * 1024
        return sizes.get("VmRSS"), sizes.get("VmHWM")
    if sys.platform == "win32":
        return None, None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS
    return peak, peak


def _limit(memory_bytes: int | None) -> None:
    if memory_bytes is None or sys.platform == "win32":
        return
    import resource

    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))


def child(request: str) -> None:
    """Do what the request file says and write the answer where it says."""
    import onnxruntime  # noqa: F401  loaded before the base is read, so as not to be counted

    from ..session import run, session

    asked = json.loads(Path(request).read_text())
    folder = Path(asked["folder"])
    feeds = [_restore(str(folder / f"feed{i}.npz"), kinds) for i, kinds in enumerate(asked["dtypes"])]
    _limit(asked["memory_bytes"])
    base, _ = resident()
    options = None if asked["options"] is None else SessionOptions.from_dict(asked["options"])
    answer: dict[str, Any]
    try:
        begin = time.perf_counter()
        opened = session(asked["path"], asked["threads"], options=options)
        load_s = time.perf_counter() - begin
        times, kinds = [], []
        for i, feed in enumerate(feeds):
            for _ in range(max(1, asked["runs"])):
                begin = time.perf_counter()
                found = run(opened, feed)
                times.append(time.perf_counter() - begin)
            if asked["outputs"]:
                kinds.append(_store(found, folder / f"outputs{i}.npz"))
    except OlcError as error:
        answer = {"error": error.what, "hint": error.hint}
    else:
        later = min(times[1:]) if len(times) > 1 else None
        measured = Measured(load_s, times[0], later, resident()[1], base)
        answer = {"measured": asdict(measured), "outputs": kinds}
    partial = Path(asked["answer"] + ".part")
    partial.write_text(json.dumps(answer))
    partial.replace(asked["answer"])


if __name__ == "__main__":
    child(sys.argv[1])
