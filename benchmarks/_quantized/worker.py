"""One candidate in a process of its own, in the environment of its tool: ``python -m benchmarks._quantized.worker``.

Requests come as JSON objects, a line each, on standard input; each is answered by one on standard output:

    {"do": "make", "maker", "source", "folder", "choosing": [npz…], …}   -> {"file"}
    {"do": "open", "engine", "kind", "file", "threads", …}               -> {"versions"}
    {"do": "outputs", "sample": npz, "to": npz}                         -> {}
    {"do": "time", "sample": npz}                                       -> {"wall", "cpu"}, seconds of one run

or by {"error"}. A timed run follows one that is not, which brings its weights back into the caches that others have used
meanwhile; the clocks are read in this process, so that what the two processes say to each other does not count.
"""

from __future__ import annotations

import json
import os
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._quantized import engines, makers

Sample = dict[str, np.ndarray]


class Worker:
    """Answers requests; keeps the opened engine and the samples that it has read."""

    def __init__(self) -> None:
        self.engine: Any = None
        self.samples: dict[str, Sample] = {}

    def sample(self, path: str) -> Sample:
        if path not in self.samples:
            with np.load(path) as held:
                self.samples[path] = {name: held[name] for name in held.files}
        return self.samples[path]

    def make(self, maker: str, source: str, folder: str, choosing: list[str], **options: Any) -> dict[str, Any]:
        os.chdir(folder)  # some tools write beside them what nobody asked for
        made = makers.MAKERS[maker](Path(source), Path(folder), [self.sample(path) for path in choosing], **options)
        return {"file": str(made)}

    def open(self, engine: str, kind: str, file: str, threads: int, **options: Any) -> dict[str, Any]:
        self.engine = engines.ENGINES[engine, kind](Path(file), threads, **options)
        return {"versions": {name: metadata.version(name) for name in self.engine.packages}}

    def outputs(self, sample: str, to: str) -> dict[str, Any]:
        self.engine.ready(self.sample(sample))
        self.engine.run()
        np.savez(to, **self.engine.outputs())
        return {}

    def time(self, sample: str) -> dict[str, Any]:
        held = self.sample(sample)
        self.engine.ready(held)
        self.engine.run()
        self.engine.ready(held)
        cpu, begin = time.process_time(), time.perf_counter()
        self.engine.run()
        wall = time.perf_counter() - begin
        return {"wall": wall, "cpu": time.process_time() - cpu}


def answer(worker: Any, line: str) -> dict[str, Any]:
    """What is said to one request."""
    request = json.loads(line)
    try:
        return getattr(worker, request.pop("do"))(**request)
    except Exception as error:  # what a peer may raise is not known
        said = next((part.strip() for part in str(error).splitlines() if part.strip()), "")
        return {"error": f"{type(error).__name__}: {said}" if said else type(error).__name__}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    worker = Worker()
    for line in sys.stdin:
        print(json.dumps(answer(worker, line)), file=answers, flush=True)


if __name__ == "__main__":
    main()
