"""A process that outlives a crash of native code: it says what happened and takes away what was left behind.

ONNX Runtime and the libraries below it can bring the whole process down on a model that is malformed in a way that they do
not check. So on Linux a command runs in a forked child, and the parent, which has loaded nothing that could crash, waits.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from types import FrameType

from ..files import SCRATCH

CRASHED = 9
"""Exit code."""
CALLED_OFF = tuple(s for s in signal.Signals if s.name in ("SIGINT", "SIGTERM", "SIGHUP"))  # there is no SIGHUP everywhere


def guard() -> None:
    """Returns in the child, which does the work; the parent ends with the child's exit code, or ``CRASHED``.

    Elsewhere than on Linux it returns at once.
    """
    if sys.platform != "linux":
        return
    try:
        scratch = Path(tempfile.mkdtemp(prefix="olc-"))
        child = os.fork()
    except OSError:
        return  # no room for temporary files or a process: what needs them says so
    if child == 0:
        # Its temporary files lie in one folder, which the parent removes.
        tempfile.tempdir = str(scratch)
        os.environ[SCRATCH] = str(scratch / "beside")
        return
    for sig in CALLED_OFF:
        # A terminal sends its signals to both, who calls off a job to the parent alone; the child heeds the first.
        if signal.getsignal(sig) != signal.SIG_IGN:
            signal.signal(sig, lambda number, frame: os.kill(child, number))
    _, status = os.waitpid(child, 0)
    beside = scratch / "beside"
    if os.WIFSIGNALED(status) and beside.is_file():
        for line in beside.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
            shutil.rmtree(line, ignore_errors=True)
    shutil.rmtree(scratch, ignore_errors=True)
    if not os.WIFSIGNALED(status):
        os._exit(os.waitstatus_to_exitcode(status))
    sys.stderr.write(_told(signal.Signals(os.WTERMSIG(status))))
    sys.stderr.flush()
    os._exit(CRASHED)


def heed() -> None:
    """What calls the process off interrupts it, once: a second signal must not stop it from clearing away."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        for sig in CALLED_OFF:
            signal.signal(sig, signal.SIG_IGN)
        raise KeyboardInterrupt

    for sig in CALLED_OFF:
        if signal.getsignal(sig) != signal.SIG_IGN:
            signal.signal(sig, interrupt)


def _told(sig: signal.Signals) -> str:
    if sig == signal.SIGKILL:
        return "olc: killed; no half-written file is left\n  try: where memory ran out, a smaller model, or a machine with more\n"
    return (
        f"olc: crashed: ONNX Runtime or a library broke down ({sig.name}); no half-written file is left\n"
        "  try: olc evaluate runs the source alone. If that is sound, a rewrite is to blame: olc bisect finds it, in processes\n"
        "  that may crash\n"
    )
