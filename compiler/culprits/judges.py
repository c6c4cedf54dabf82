"""Is a candidate good? Each judge answers that for a model file; one that cannot tell says so."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import BadInput, OlcError
from ..evaluation import numerics, process
from ..evaluation.evaluate import timed
from ..evaluation.numerics import OutputDifference
from ..evaluation.padding import Keep, as_it_is
from ..session import SessionOptions, session

CANNOT_TELL = 125
"""Exit code of a check that cannot tell, as ``git bisect run`` has it."""

NOT_RUN = (126, 127)
"""A shell's exit codes for a command that it cannot run or find."""

SLOWER_S = 2.0
"""Seconds that the two models are timed against each other."""


@dataclass(frozen=True)
class Verdict:
    """``good`` is None where it cannot be told. ``kind``: ``fails``, ``differs``, ``slower`` or ``check``, if bad."""

    good: bool | None
    kind: str = ""
    why: str = ""


GOOD = Verdict(True)
Judge = Callable[[Path], Verdict]


@dataclass
class Outputs:
    """Bad where the model cannot be opened or run, or gives other outputs than the source; each runs in a child process.

    Attributes:
        breach: what is wrong with the differences, in words, or None.
        source_options, options: session options of source and candidates.
    """

    source: Path
    feeds: Sequence[Mapping[str, Any]]
    breach: Callable[[Sequence[OutputDifference]], str | None]
    keep: Keep = as_it_is
    source_options: SessionOptions | None = None
    options: SessionOptions | None = None

    @cached_property
    def reference(self) -> list[dict[str, Any]]:
        found = process.outputs(self.source, self.feeds, options=self.source_options)
        return [self.keep(f, o) for f, o in zip(self.feeds, found, strict=True)]

    def __call__(self, path: Path) -> Verdict:
        reference = self.reference
        try:
            found = process.outputs(path, self.feeds, options=self.options)
        except OlcError as e:
            return Verdict(False, "fails", e.what)
        found = [self.keep(f, o) for f, o in zip(self.feeds, found, strict=True)]
        why = self.breach(numerics.compare(reference, found))
        return GOOD if why is None else Verdict(False, "differs", why)


@dataclass
class Slower:
    """Bad where the model is shown to be slower than the source, both measured in this process."""

    source: Path
    feeds: Sequence[dict[str, Any]]
    source_options: SessionOptions | None = None
    options: SessionOptions | None = None

    def __call__(self, path: Path) -> Verdict:
        reference = session(self.source, options=self.source_options)
        try:
            process.outputs(path, self.feeds[:1], options=self.options)
        except OlcError as e:
            return Verdict(False, "fails", e.what)
        found = timed((reference, session(path, options=self.options)), self.feeds, SLOWER_S, 0)
        return Verdict(False, "slower", found.text) if found.verdict == "slower" else GOOD


def _end_all(process: subprocess.Popen[str]) -> None:
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
    else:
        process.terminate()
    process.wait()


@dataclass
class Check:
    """A user's command, with the model's path in place of ``{}``: 0 is good, 125 cannot tell, anything else bad."""

    command: str

    def __call__(self, path: Path) -> Verdict:
        done = subprocess.Popen(
            self.command.replace("{}", shlex.quote(str(path))), shell=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, errors="replace", start_new_session=True,
        )  # fmt: skip
        try:
            out, err = done.communicate()
        except BaseException:  # interrupted: what the shell has begun ends too
            _end_all(done)
            raise
        if done.returncode == 0:
            return GOOD
        said = [line.strip() for line in (err or out).splitlines() if line.strip()]
        last = f": {said[-1][:300]}" if said else ""
        if done.returncode == CANNOT_TELL:
            return Verdict(None, "check", f"the check could not tell{last}")
        if done.returncode in NOT_RUN:
            raise BadInput(f"the command cannot be run (code {done.returncode}){last}", where="--check", hint="try it in a shell")
        return Verdict(False, "check", f"the check ended with code {done.returncode}{last}")
