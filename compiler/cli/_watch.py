"""A process that outlives a crash of native code: it says that there was one, and takes away what was left behind.

ONNX Runtime and the libraries below it can bring the whole process down on a model that is malformed in a way that they do
not check, and a system that runs out of memory kills without a word. So on Linux the command forks a watcher before it loads
anything. The command itself stays what its caller started: signals, exit codes and time limits are as ever.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ..files import BESIDE, PREFIX, SCRATCH

_TOLD = (
    "olc: crashed: the process was killed, or ONNX Runtime or a library broke down; no half-written file is left\n"
    "  try: more memory or a smaller model, if memory ran out. olc evaluate runs the source alone; if that is sound, a rewrite\n"
    "  may be to blame: olc bisect finds it, in processes that may crash\n"
)


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """What happens within is watched, where the system can."""
    if sys.platform != "linux":
        yield
        return
    try:
        scratch = Path(tempfile.mkdtemp(prefix="olc-"))
    except OSError:  # what needs temporary files will say so
        yield
        return
    try:
        read, write = os.pipe()
        watcher = os.fork()
    except OSError:
        shutil.rmtree(scratch, ignore_errors=True)
        yield
        return
    if watcher == 0:
        # Whatever goes wrong in here must not come out as a second run of the command.
        try:
            os.close(write)
            _watch(read, scratch)
        finally:
            os._exit(0)
    os.close(read)
    # Temporary files lie in one folder, so that they can be removed by who did not make them.
    tempfile.tempdir, os.environ[SCRATCH] = str(scratch), str(scratch)
    try:
        yield
    finally:
        _clear(scratch)
        with contextlib.suppress(OSError):
            os.write(write, b".")


def _watch(read: int, scratch: Path) -> None:
    """Wait until the command says that it is done, or is gone."""
    os.setsid()  # what a terminal sends to the command does not end the watcher
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1):  # a reader of the command's output need not wait for the watcher
        os.dup2(nowhere, stream)
    if os.read(read, 1):
        return
    _clear(scratch)
    with contextlib.suppress(OSError):
        os.write(2, _TOLD.encode())


def _clear(scratch: Path) -> None:
    with contextlib.suppress(OSError):
        for name in (scratch / BESIDE).read_bytes().split(b"\0"):
            if os.path.basename(name).startswith(PREFIX.encode()):
                shutil.rmtree(name, ignore_errors=True)
    shutil.rmtree(scratch, ignore_errors=True)
