"""What an artifact was made of, as files with digests: for provenance and bill of materials."""

from __future__ import annotations

import hashlib
import importlib.util
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..errors import BadInput
from . import Report

EXTRA = "pip install 'olc-compiler[provenance]'"


@dataclass(frozen=True)
class Material:
    """A file that went in. ``role``: source, data, rules or ranges."""

    role: str
    name: str
    sha256: str


def parts(described: dict[str, Any]) -> list[dict[str, Any]]:
    """The files of a source or artifact as a report describes it: the model, then its external data."""
    return described.get("files") or [described]


def materials(report: Report) -> list[Material]:
    """The source with its external data, and what the options name.

    Raises:
        BadInput: a file that the compile read is gone.
    """
    found = [Material("source", f["path"], f["sha256"]) for f in parts(report.source)]
    data, ranges = report.options["data"], report.options["ranges"]
    files = {"data": _data(data) if data else [], "rules": report.options["rules"], "ranges": [ranges] if ranges else []}
    for role, paths in files.items():
        found += [Material(role, str(p), _sha256(p)) for p in paths]
    return found


def moment() -> datetime | None:
    """The time that SOURCE_DATE_EPOCH gives, else None: the same input gives the same bytes.

    Raises:
        BadInput: it is no number of seconds.
    """
    text = os.environ.get("SOURCE_DATE_EPOCH")
    if text is None:
        return None
    try:
        return datetime.fromtimestamp(int(text), UTC)
    except (ValueError, OverflowError, OSError) as e:
        raise BadInput(f"{text!r} is no time", where="SOURCE_DATE_EPOCH", hint="give seconds since 1970") from e


def _data(spec: str) -> list[Path]:
    """The files behind ``--data``; of a function that of its module."""
    path = Path(spec)
    if path.is_dir():
        return sorted(path.glob("*.npz"))
    if path.is_file():
        return [path]
    try:
        module = importlib.util.find_spec(spec.partition(":")[0])
    except (ImportError, ValueError):
        module = None
    return [_shown(Path(module.origin))] if module is not None and module.origin and Path(module.origin).is_file() else []


def _shown(path: Path) -> Path:
    """Without the folders of this machine."""
    return Path(os.path.relpath(path)) if path.is_relative_to(Path.cwd()) else path


def _sha256(path: str | Path) -> str:
    try:
        with open(path, "rb") as f:
            return hashlib.file_digest(f, "sha256").hexdigest()
    except OSError as e:
        raise BadInput(f"cannot be read: {e.strerror or e}", where=str(path)) from e
