"""Writing small text files whole or not at all, and folders for what is not finished."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from .errors import OutputError

SCRATCH, BESIDE = "OLC_SCRATCH", "beside"
"""Environment variable: a folder of temporary files that is removed when the command is gone (``cli/_watch.py``); and the file
in it that lists unfinished folders elsewhere."""
PREFIX = ".olc-"


def scratch(folder: Path) -> Path:
    """A new folder within that one, for what is renamed into place once it is whole. The caller removes it."""
    made = Path(tempfile.mkdtemp(prefix=PREFIX, dir=folder))
    if SCRATCH in os.environ:
        with contextlib.suppress(OSError), open(os.path.join(os.environ[SCRATCH], BESIDE), "ab") as f:
            f.write(os.fsencode(made.absolute()) + b"\0")
    return made


def temporary_files_as_watched() -> None:
    """In a process that the command starts: temporary files go where the command's go."""
    if os.path.isdir(os.environ.get(SCRATCH, "")):
        tempfile.tempdir = os.environ[SCRATCH]


def refuse_overwriting(made: Iterable[str | os.PathLike[str]], kept: Iterable[str | os.PathLike[str]]) -> None:
    """Raise where one of the files to be made is one of those to be kept, by whatever name.

    Raises:
        OutputError: names the file.
    """
    held = [path for path in kept if os.path.exists(path)]
    for path in made:
        for other in held if os.path.exists(path) else ():
            if os.path.samefile(path, other):
                raise OutputError(f"the output would overwrite {os.fspath(other)}, which is read", where=os.fspath(path),
                                  hint="choose another --output")  # fmt: skip


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write UTF-8 text to a temporary file in the same folder, flush it, and rename it into place.

    Raises:
        OutputError: the file cannot be written; what was there before is unchanged.
    """
    target = Path(path)
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        try:
            # A file's name may be no text: in JSON its odd bytes are escaped as they should be.
            with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as f:
                f.write(text)
                f.flush()
                os.fsync(f.fileno())
            mask = os.umask(0)
            os.umask(mask)
            os.chmod(temporary, 0o666 & ~mask)
            os.replace(temporary, target)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as e:
        raise OutputError(f"cannot be written: {e.strerror or e}", where=str(target)) from e
