"""Results of compiles, kept on disk: the same compile again is answered with the same bytes.

An entry is one file, a zip archive that is named by a hash of everything the result depends on. It appears by a rename and
is never changed, so processes need no lock; archives carry checksums, and one that does not agree with its own counts as
missing. The folder is ``OLC_CACHE``, else the user's cache folder; ``OLC_CACHE=off`` keeps nothing. The entries used longest
ago go when all together are larger than ``MOST_BYTES``.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from . import storage, targets
from .errors import BadInput, OlcError
from .evaluation import data as data_files
from .report import Report
from .session import sidecar

MOST_BYTES = 4 << 30
ABANDONED_S = 3600.0
"""Seconds after which a file that was begun and not renamed belongs to nobody."""
LAYOUT = 2
PACKAGES = ("onnx", "onnxruntime", "onnx-ir", "numpy", "ml-dtypes", "onnxsim", "onnx-graphsurgeon")
_BROKEN = (BadInput, OSError, zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError, TypeError, AttributeError,
           RuntimeError)  # fmt: skip
"""What reading and parsing an archive of any content may raise: zipfile RuntimeError, say, for one that is encrypted. It is
not swallowed: the compile is done then, and writes a sound entry."""


def folder() -> Path | None:
    """Where entries are kept; None where the user wants none kept."""
    import platformdirs

    named = os.environ.get("OLC_CACHE")
    if named == "off":
        return None
    return Path(named) if named else platformdirs.user_cache_path("olc") / "compiled"


class Entry:
    """The place of one result.

    Attributes:
        most: bytes that all entries together may take.
        read_from: the files that the key was made of, as they were then.
    """

    def __init__(self, root: Path, key: str, most: int = MOST_BYTES, read_from: Mapping[Path, object] | None = None) -> None:
        self.path = root / f"{key}.zip"
        self.most = most
        self.read_from = read_from or {}

    def read(self, output: Path) -> Report | None:
        """Unpack the result as the files that a compile to ``output`` makes; None, and no file, without a sound entry."""
        report, side = None, sidecar(output)
        made = []
        try:
            with zipfile.ZipFile(self.path) as held:
                _refuse_foreign(held, output)
                for name in held.namelist():
                    made.append(output.with_name(name))
                    with held.open(name) as source, open(made[-1], "wb") as out:
                        shutil.copyfileobj(source, out, 1 << 20)
            if output in made:
                report = Report.loads(side.read_text(encoding="utf-8"))
        except _BROKEN:  # absent, cut off, of another program: as if it were not there, and the compile writes it anew
            report = None
        if report is None:
            for file in made:
                file.unlink(missing_ok=True)
            return None
        with contextlib.suppress(OSError):  # a cache that may only be read
            os.utime(self.path)  # used now: the last to go
        report.cached = True
        report.notes.append("from the cache: neither compiled nor measured now (--no-cache does both again)")
        return report

    def write(self, files: Sequence[Path]) -> str | None:
        """Keep these files; why that was not possible, or None. A cache that cannot be written stops no compile."""
        total = sum(f.stat().st_size for f in files)
        if any(_state(path) != then for path, then in self.read_from.items()):
            return "the result was not kept in the cache: a file that it was made of changed meanwhile"
        if total > self.most // 2:
            return f"the result ({total:,} bytes) is too large for the cache"
        temporary = None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(prefix=".new-", dir=self.path.parent)
            with os.fdopen(handle, "wb") as raw, zipfile.ZipFile(raw, "w", zipfile.ZIP_STORED) as held:
                for file in files:
                    held.write(file, file.name)
            os.replace(temporary, self.path)
            self._bound()
        except OSError as e:
            return f"the result was not kept in the cache: {e.strerror or e}"
        finally:
            if temporary is not None:
                with contextlib.suppress(OSError):  # renamed already
                    os.unlink(temporary)
        return None

    def _bound(self) -> None:
        """Drop the entries used longest ago while all are more than the cache may hold. Others may do so at the same time."""
        found = []
        for file in self.path.parent.glob(".new-*"):  # of a process that was killed as it wrote
            with contextlib.suppress(OSError):
                if time.time() - file.stat().st_mtime > ABANDONED_S:
                    file.unlink()
        for file in self.path.parent.glob("*.zip"):
            with contextlib.suppress(FileNotFoundError):
                info = file.stat()
                found.append((info.st_mtime_ns, info.st_size, file))
        total = sum(size for _, size, _ in found)
        for _, size, file in sorted(found, key=lambda f: f[0]):
            if total <= self.most:
                break
            if file != self.path:
                with contextlib.suppress(OSError):
                    file.unlink()
                total -= size


def _refuse_foreign(held: zipfile.ZipFile, output: Path) -> None:
    """Only what ``write`` writes is unpacked: the artifact, its report and its external data, as they are.

    Raises:
        BadZipFile: there is something else.
    """
    names = {output.name, sidecar(output).name, storage.data_name(output.name)}
    for info in held.infolist():
        if info.filename not in names or info.compress_type != zipfile.ZIP_STORED:
            raise zipfile.BadZipFile(f"{info.filename!r} is not what is kept")


def _state(path: Path) -> object:
    """What tells whether a file was written to or replaced."""
    try:
        info = path.stat()
    except OSError:
        return None
    return info.st_size, info.st_mtime_ns, info.st_ino


def entry(source: Any, output: Path, settings: Any) -> Entry | None:
    """The place of this compile's result, or None where it has none: the source is no file, or nothing is to be kept.

    What cannot be read (a bad model, missing data) has no place either; the compile itself says what is wrong with it.
    """
    root = folder()
    if root is None or not isinstance(source, str | os.PathLike) or not Path(source).is_file():
        return None
    if settings.ranges is not None and not Path(settings.ranges).is_file():
        return None  # calibration will write them, which an answer from here would not
    if any(":" in metric for metric in settings.metrics):
        return None  # a function of the user's, which may count otherwise tomorrow: its code and all that it calls is not known
    if any(_imports_others(Path(file)) for file in settings.rules):
        return None  # the same of a file of rules that needs other files
    key = _Key()
    try:
        _add(key, Path(source), output, settings)
    except (OSError, OlcError):
        return None
    return Entry(root, key.hash.hexdigest()[:40], read_from=key.files)


class _Key:
    """A hash of texts and of files' contents, and which files those were."""

    def __init__(self) -> None:
        self.hash = hashlib.sha256()
        self.files: dict[Path, object] = {}

    def add(self, part: bytes) -> None:
        self.hash.update(len(part).to_bytes(8, "little") + part)

    def file(self, path: Path) -> None:
        self.files[path] = _state(path)
        self.add(_content(path))


def _add(key: _Key, source: Path, output: Path, settings: Any) -> None:
    """Everything that a result depends on, and the names that it holds."""
    key.add(_json([LAYOUT, os.fspath(source), output.name, _options(settings), _versions()]))
    _model(key, source)
    target = targets.get(settings.target, settings.machine)
    key.add(_json([target.here, target.features(), target.kernels().dumps(), os.environ.get("OMP_NUM_THREADS")]))
    key.add(sources())
    for file in (*settings.rules, *([settings.ranges] if settings.ranges is not None else [])):
        key.file(Path(file))
    if settings.data is not None:
        _data(key, settings)


def _imports_others(rules: Path) -> bool:
    """Does a file of rules import anything that is neither olc's, nor Python's, nor a package whose version is in the key?"""
    try:
        tree = ast.parse(rules.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return True
    known = {"olc", *(p.replace("-", "_") for p in PACKAGES), *sys.stdlib_module_names}
    for n in ast.walk(tree):
        names = [a.name for a in n.names] if isinstance(n, ast.Import) else [n.module] if isinstance(n, ast.ImportFrom) else []
        if (isinstance(n, ast.ImportFrom) and n.level) or any((name or "").partition(".")[0] not in known for name in names):
            return True
    return False


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


def _options(settings: Any) -> dict[str, str]:
    """The settings as texts that are the same in every process (the order of a set is not)."""
    found = {f.name: getattr(settings, f.name) for f in fields(settings) if f.name != "cache"}
    found["plan"] = settings.plan.dumps() if settings.plan is not None else None
    return {k: repr(sorted(v.items()) if isinstance(v, dict) else sorted(v) if isinstance(v, frozenset) else v)
            for k, v in found.items()}  # fmt: skip


def _versions() -> list[str]:
    found = [platform.python_version()]
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{name} {importlib.metadata.version(name)}")
    return found


def _model(key: _Key, path: Path) -> None:
    """The file and its external data. Data outside of its folder is not read: no model that has it is compiled."""
    key.file(path)
    if path.suffix not in (".onnx", ".pb"):
        return
    for name in storage.external_names(path):
        if os.path.dirname(name) or name in ("", "..") or not (path.parent / name).is_file():
            raise OSError(f"external data {name!r} is not a file beside the model")
        key.add(name.encode())
        key.file(path.parent / name)


def _content(path: Path) -> bytes:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").digest()


@cache
def sources() -> bytes:
    """A hash of the code that compiles: olc's own files, its rules' and frontends', and those of installed rule packages.

    The version alone would not do: in a checkout the code changes and the version does not.
    """
    places = [spec.submodule_search_locations for name in ("olc", "olc.rewrites", "olc.frontends")
              if (spec := importlib.util.find_spec(name)) is not None]  # fmt: skip
    roots = [Path(p) for found in places for p in found or ()]
    h = hashlib.sha256()
    for e in sorted(importlib.metadata.entry_points(group="olc.rules"), key=lambda e: (e.name, e.value)):
        h.update(f"{e.name}={e.value} {e.dist.version if e.dist is not None else ''}\n".encode())
        spec = importlib.util.find_spec(e.module)
        if spec is not None and spec.origin is not None:
            roots.append(Path(spec.origin).parent if spec.submodule_search_locations else Path(spec.origin))
    for root in roots:
        files = [root] if root.is_file() else sorted(f for kind in ("*.py", "*.json") for f in root.rglob(kind))
        for file in files:
            h.update(f"{file.relative_to(root.parent)}\n".encode() + _content(file))
    return h.digest()


def _data(key: _Key, settings: Any) -> None:
    """What ``--data`` gives: the files as they are; of a function, what it yields, as far as a compile reads it."""
    path = Path(settings.data)
    if path.exists():
        for file in sorted(path.glob("*.npz")) if path.is_dir() else [path]:
            key.add(file.name.encode())
            key.file(file)
        return
    import numpy as np

    # Calibration reads all of it, and so does a metric.
    everything = settings.level == 3 or settings.plan is not None or bool(settings.metrics)
    feeds = iter(data_files.load(settings.data))
    for feed in feeds if everything else islice(feeds, 2 * settings.samples):
        for name, value in feed.items():
            array = np.asarray(value)
            content = repr(array.tolist()).encode() if array.dtype.hasobject else array.tobytes()
            key.add(repr((name, array.dtype.str, array.dtype.name, array.shape)).encode())
            key.add(hashlib.sha256(content).digest())
