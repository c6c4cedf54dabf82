"""Candidates in processes of their own, asked in turn: one runs at a time, and what counts is what its own clocks say."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from olc.session import shorten

ROOT = Path(__file__).resolve().parent.parent.parent
WORKER = ("-m", "benchmarks._quantized.worker")


class Failed(Exception):
    """A candidate cannot do what it was asked; the text is its reason."""

    def __init__(self, what: str, child: Child | None = None) -> None:
        super().__init__(what)
        self.child = child


class Child:
    """A process that runs ``worker``: ``ask`` it, and ``close`` it.

    Args:
        python: the interpreter.
        threads: of the libraries that take them from the environment (OpenMP and the like).
        arguments: of the interpreter.
    """

    def __init__(self, python: str, threads: int, arguments: Sequence[str] = WORKER) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - standard error until close(); a pipe would fill up
        self._process = subprocess.Popen(
            [python, *arguments], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said,
            start_new_session=True, env={**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)},
        )  # fmt: skip
        self._left = b""

    def ask(self, limit_s: float, **request: Any) -> dict[str, Any]:
        """Its answer.

        Raises:
            Failed: it answers with an error, ends, or takes longer than ``limit_s``. It is closed then.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None
        line = self._line(time.monotonic() + limit_s)
        if line is None:
            self.close()
            raise Failed(f"{request['do']}: not done within {limit_s:g} s", self)
        if not line:
            raise self._ended()
        answer = json.loads(line)
        if "error" in answer:
            self.close()
            raise Failed(shorten(answer["error"], 160), self)
        return answer

    def _line(self, until: float) -> bytes | None:
        """The next line; None where there is none in time, empty where there will be none."""
        assert self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        while b"\n" not in self._left:
            if not select.select([pipe], [], [], max(0.0, until - time.monotonic()))[0]:
                return None
            more = os.read(pipe, 1 << 16)
            if not more:
                return b""
            self._left += more
        line, _, self._left = self._left.partition(b"\n")
        return line

    def _ended(self) -> Failed:
        code = self._process.wait()
        self._said.seek(0)
        lines = [line for line in self._said.read().decode(errors="replace").splitlines() if line.strip()]
        end = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        self.close()
        return Failed(shorten(f"{end}: {lines[-1]}" if lines and code >= 0 else end, 160), self)

    def close(self) -> None:
        """End it and all that it started. May be called twice."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._said):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()  # type: ignore[union-attr]


class Meter:
    """Clocks that go on while a candidate runs and stand still otherwise: those of ``latency.interleaved``."""

    def __init__(self) -> None:
        self._wall = self._cpu = 0.0

    def wall(self) -> float:
        return self._wall

    def cpu(self) -> float:
        return self._cpu

    def program(self, child: Any, limit_s: float, sample: Callable[[], str]) -> Callable[[], None]:
        """A function that has the child run once on the sample that is current then."""

        def run() -> None:
            answer = child.ask(limit_s, do="time", sample=sample())
            self._wall += answer["wall"]
            self._cpu += answer["cpu"]

        return run
