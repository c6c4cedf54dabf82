"""Readers of the weight formats found in packages: tensor name -> numpy array, without torch."""

from __future__ import annotations

import io
import json
import pickle
import struct
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from models import cache
from models.errors import ModelsError
from models.packages import Package


class Source(Mapping[str, np.ndarray]):
    """Named tensors of one file, read when first asked for."""

    @abstractmethod
    def identity(self) -> str:
        """Changes whenever the tensors do."""

    @abstractmethod
    def tensors(self) -> Mapping[str, np.ndarray]:
        """The tensors by name; read at most once."""

    @cached_property
    def _tensors(self) -> Mapping[str, np.ndarray]:
        return self.tensors()

    def __getitem__(self, name: str) -> np.ndarray:
        return self._tensors[name]

    def __contains__(self, name: object) -> bool:
        return name in self._tensors  # Mapping's own would read (and dequantize) the tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def release(self) -> None:
        """Forget what was read: a gigabyte of dequantized weights need not outlive the build."""
        self.__dict__.pop("_tensors", None)


@dataclass(frozen=True)
class InPackage(Source):
    """Tensors in one file of one package."""

    package: Package
    member: str

    def identity(self) -> str:
        return f"{self.package.sha256} {self.member}"


@dataclass(frozen=True)
class Npz(Source):
    """Tensors kept in this repository, for a model so small that no package is needed."""

    name: str

    @property
    def path(self) -> Path:
        return Path(__file__).resolve().parent / "data" / self.name

    def identity(self) -> str:
        return cache.sha256(self.path)

    def tensors(self) -> Mapping[str, np.ndarray]:
        with np.load(self.path) as kept:
            return {name: kept[name] for name in kept.files}


class Safetensors(InPackage):
    """A .safetensors file: u64 header length, JSON header, raw little-endian tensors; memory-mapped."""

    def tensors(self) -> Mapping[str, np.ndarray]:
        dtypes = {"F32": "<f4", "F16": "<f2", "F64": "<f8", "I64": "<i8", "I32": "<i4", "U8": "u1", "I8": "i1"}
        data = np.memmap(self.package.extract(self.member), np.uint8, "r")
        (length,) = struct.unpack("<Q", data[:8].tobytes())
        header = json.loads(data[8 : 8 + length].tobytes())
        header.pop("__metadata__", None)
        base = 8 + length
        found = {}
        for name, entry in header.items():
            start, stop = entry["data_offsets"]
            found[name] = data[base + start : base + stop].view(dtypes[entry["dtype"]]).reshape(entry["shape"])
        return found


class CTranslate2(InPackage):
    """A CTranslate2 `model.bin` of binary version 6; half floats are given as stored (float16)."""

    DTYPES = ("<f4", "i1", "<i2", "<i4", "<f2")

    def tensors(self) -> Mapping[str, np.ndarray]:
        stream = io.BytesIO(self.package.read(self.member))

        def number(code: str) -> int:
            return struct.unpack(f"<{code}", stream.read(struct.calcsize(f"<{code}")))[0]

        def string() -> str:
            return stream.read(number("H")).rstrip(b"\0").decode()

        version = number("I")
        if version != 6:
            raise ModelsError(f"binary version {version}, this reader knows 6", self.member, "extend the reader")
        string()  # the specification's name
        number("I")  # its revision
        found = {}
        for _ in range(number("I")):
            name = string()
            shape = [number("I") for _ in range(number("B"))]
            dtype = np.dtype(self.DTYPES[number("B")])
            found[name] = np.frombuffer(stream.read(number("I")), dtype).reshape(shape)
        return found


class Gguf(InPackage):
    """A GGUF file, each tensor dequantized to float32 by the `gguf` package (the code transformers uses too).

    Dequantized anew at every access: all tensors at once are seven times the file.
    """

    def tensors(self) -> Mapping[str, np.ndarray]:
        return _Dequantizing(self.reader().tensors)

    def reader(self) -> Any:
        try:
            from gguf import GGUFReader
        except ImportError as error:
            raise ModelsError("the Python package gguf is missing", self.member, "pip install gguf") from error
        return GGUFReader(self.package.extract(self.member))


class _Dequantizing(Mapping[str, np.ndarray]):
    """Name -> float32 array of a GGUF reader's tensors, made on demand."""

    def __init__(self, tensors: Iterable[Any]) -> None:
        self.by_name = {tensor.name: tensor for tensor in tensors}

    def __getitem__(self, name: str) -> np.ndarray:
        from gguf import dequantize

        tensor = self.by_name[name]
        return np.ascontiguousarray(dequantize(tensor.data, tensor.tensor_type), np.float32)

    def __contains__(self, name: object) -> bool:
        return name in self.by_name

    def __iter__(self) -> Iterator[str]:
        return iter(self.by_name)

    def __len__(self) -> int:
        return len(self.by_name)


class TorchLegacy(InPackage):
    """A state dict saved by `torch.save` before torch 1.6: five pickles, then the storages one after another.

    The unpickler knows tensors and nothing else, so a tampered file can't run code.
    """

    STORAGES = {"FloatStorage": "<f4", "HalfStorage": "<f2", "LongStorage": "<i8", "DoubleStorage": "<f8"}

    def tensors(self) -> Mapping[str, np.ndarray]:
        stream = io.BytesIO(self.package.read(self.member))
        member, dtypes, storages = self.member, self.STORAGES, {}

        class Unpickler(pickle.Unpickler):
            def find_class(self, module: str, name: str) -> Any:
                if name in dtypes:
                    return name
                if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
                    return lambda key, offset, size, stride, *_: (key, offset, size, stride)
                if (module, name) == ("collections", "OrderedDict"):
                    return OrderedDict
                raise ModelsError(f"the checkpoint refers to {module}.{name}", member, "only tensors are read")

            def persistent_load(self, pid: tuple[Any, ...]) -> str:
                _, kind, key, _device, count, _view = pid
                storages[key] = (np.dtype(dtypes[kind]), count)
                return key

        _magic, _protocol, _system, state, keys = [Unpickler(stream).load() for _ in range(5)]
        data = {}
        for key in keys:
            dtype, count = storages[key]
            stream.seek(8, io.SEEK_CUR)  # the storage's own element count
            data[key] = np.frombuffer(stream.read(count * dtype.itemsize), dtype)
        return {name: _strided(data[key], *place) for name, (key, *place) in state.items()}


def _strided(storage: np.ndarray, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> np.ndarray:
    """torch's (storage, offset, size, stride) as a numpy view; strides there count elements, here bytes."""
    steps = tuple(step * storage.itemsize for step in stride)
    return np.lib.stride_tricks.as_strided(storage[offset:], size, steps)
