"""Where downloads and built models live, and how files get there whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from models.errors import ModelsError

ENV = "OLC_MODELS_CACHE"


def root() -> Path:
    """The cache folder: `$OLC_MODELS_CACHE`, else `models/.cache` beside this file."""
    chosen = os.environ.get(ENV)
    return Path(chosen).expanduser().resolve() if chosen else Path(__file__).resolve().parent / ".cache"


def folder(name: str) -> Path:
    """A subfolder of the cache, made if absent."""
    path = root() / name
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ModelsError(
            f"the cache folder cannot be made ({error.strerror})", str(path), f"set {ENV} to a folder you can write to"
        ) from error
    return path


@contextlib.contextmanager
def atomic(target: Path) -> Iterator[Path]:
    """Yield a temporary path in the target's folder; rename it to the target only if the block succeeds.

    A killed build so leaves no half-written model that a later run would take for a whole one.
    """
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(target)
    except OSError as error:
        raise ModelsError(
            f"the file cannot be written ({error.strerror or error})",
            str(target),
            f"free some disk space, or set {ENV} to another folder",
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
