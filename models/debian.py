"""Debian packages that carry data: downloaded once by apt, checked by sha256, read without installing them."""

from __future__ import annotations

import io
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from models import cache
from models.errors import ModelsError


@dataclass(frozen=True)
class DebianPackage:
    """One package, pinned: name, version and the sha256 of its file."""

    name: str
    version: str
    sha256: str

    @property
    def filename(self) -> str:
        return f"{self.name}_{self.version}_all.deb"

    def file(self) -> Path:
        """The package in the cache; downloads it on first use.

        Raises:
            ModelsError: there is no apt, the download fails, or the file is another one.
        """
        target = cache.folder("debs") / self.filename
        if not target.is_file():
            with tempfile.TemporaryDirectory(prefix=".download.", dir=target.parent) as work:
                said = _run(["apt-get", "download", f"{self.name}={self.version}"], Path(work))
                found = next(Path(work).glob("*.deb"), None)
                if found is None:
                    raise ModelsError(
                        f"the download failed, apt said: {said or 'nothing'}", f"{self.name}={self.version}",
                        f"run `apt-get update` on a Debian system, or put {self.filename} into {target.parent}",
                    )  # fmt: skip
                found.replace(target)
        if (digest := cache.sha256(target)) != self.sha256:
            raise ModelsError(f"the package's sha256 is {digest}, {self.sha256} is expected", str(target), "delete the file")
        return target

    @cached_property
    def files(self) -> dict[str, bytes]:
        """What it installs: path without the leading slash -> content."""
        command = ["dpkg-deb", "--fsys-tarfile", str(self.file())]
        try:
            done = subprocess.run(command, capture_output=True, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise ModelsError(f"the package cannot be unpacked: {error}", self.filename, "install dpkg") from error
        with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
            members = [(m, archive.extractfile(m)) for m in archive if m.isfile()]
            return {m.name.removeprefix("./"): file.read() for m, file in members if file is not None}


def _run(command: list[str], folder: Path) -> str:
    """The last line that a command says of what went wrong."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    except FileNotFoundError:
        return f"{command[0]} is not there"
    return next((line for line in reversed(done.stderr.splitlines()) if line.startswith("E:")), "")
