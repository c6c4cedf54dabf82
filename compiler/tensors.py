"""Tensors that onnx-ir lacks: mapped from a data file that is checked and shared, and sparse ones.

A data file is opened at most once and mapped at first use; its identity is noted when the model is loaded, so that a
file swapped or truncated in between is an error and not wrong numbers. Saving over it pins the mapping first, which
on POSIX keeps the old content alive for as long as the model lives.
"""

from __future__ import annotations

import math
import mmap
import os
import stat
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from . import ir
from .errors import BadInput

#: Data files kept mapped at a time; a mapping costs one file descriptor (older exporters write a file per tensor).
MAPPED_FILES = 128
CHUNK = 1 << 20
#: A sparse tensor whose dense form is larger than this is never made dense.
DENSE_BYTES = 1 << 32

_open: OrderedDict[DataFile, mmap.mmap] = OrderedDict()


class DataFile:
    """One file of external data below a model's folder."""

    __slots__ = ("identity", "path", "pinned", "size")

    def __init__(self, path: str) -> None:
        """Note what the file is. Raises OSError where it cannot be read, BadInput where it may not be."""
        self.path = path
        info = os.stat(path)
        if not stat.S_ISREG(info.st_mode):
            raise BadInput(f"external data {path!r} is not a regular file")
        self.identity = _identity(info)
        self.size = info.st_size
        self.pinned: mmap.mmap | None = None

    def mapping(self) -> mmap.mmap:
        """The whole file, mapped read-only."""
        if self.pinned is not None:
            return self.pinned
        found = _open.get(self)
        if found is None:
            found = self._map()
            _open[self] = found
            while len(_open) > MAPPED_FILES:
                _open.popitem(last=False)  # arrays that still view it keep it alive
        else:
            _open.move_to_end(self)
        return found

    def pin(self) -> None:
        """Keep the present content readable even if the path is about to be replaced (POSIX)."""
        if self.pinned is None and self.size:
            self.pinned = self.mapping()
            _open.pop(self, None)

    def chunks(self, offset: int, length: int) -> Iterator[bytes | memoryview]:
        """The bytes of a range in pieces; read through a descriptor, so that no page counts as our memory."""
        if self.pinned is not None:
            for start in range(offset, offset + length, CHUNK):
                yield self.pinned[start : min(start + CHUNK, offset + length)]
            return
        buffer = bytearray(min(CHUNK, length))
        with self._reopen() as file:
            file.seek(offset)
            left = length
            while left:
                got = file.readinto(memoryview(buffer)[: min(left, CHUNK)])
                if not got:
                    raise BadInput(f"external data {self.path!r} ended early", hint="it changed while it was read")
                yield memoryview(buffer)[:got]
                left -= got

    def _map(self) -> mmap.mmap:
        with self._reopen() as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def _reopen(self) -> Any:
        try:
            file = open(self.path, "rb", buffering=0)  # noqa: SIM115  (the callers close it)
        except OSError as error:
            raise BadInput(
                f"external data {self.path!r} cannot be read: {error.strerror}",
                hint="it was there when the model was loaded",
            ) from error
        if _identity(os.fstat(file.fileno())) != self.identity:
            file.close()
            raise BadInput(f"external data {self.path!r} changed since the model was loaded", hint="load it again")
        return file


def _identity(info: os.stat_result) -> tuple[int, int, int, int]:
    return info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns


class MappedTensor(ir.ExternalTensor):
    """A tensor in a data file: nothing is read until it is asked for, and nothing is kept but a view of the mapping."""

    __slots__ = ("extra", "file")

    def __init__(
        self,
        file: DataFile,
        location: str,
        offset: int,
        dtype: ir.DataType,
        shape: ir.Shape,
        *,
        name: str,
        doc_string: str | None = None,
        metadata_props: dict[str, str] | None = None,
        extra: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(
            location, offset, 0, dtype, shape=shape, name=name, doc_string=doc_string, metadata_props=metadata_props
        )
        self._length = self.nbytes
        self.file = file
        #: Entries of external_data beyond location, offset and length (``checksum``).
        self.extra = dict(extra or {})

    @property
    def path(self) -> str:
        return self.file.path

    def numpy(self) -> np.ndarray:
        """A read-only view of the mapped file (sub-byte types are unpacked into memory)."""
        shape = self.shape.numpy()
        if self.size == 0:
            return np.empty(shape, dtype=self.dtype.numpy())
        start = self.offset or 0
        if self.dtype.bitwidth >= 8:
            dtype = self.dtype.numpy().newbyteorder("<")
            return np.frombuffer(self.file.mapping(), dtype=dtype, count=self.size, offset=start).reshape(shape)
        packed = np.frombuffer(self.file.mapping(), dtype=np.uint8, count=self.nbytes, offset=start)
        return ir.PackedTensor(packed, self.dtype, shape=shape).numpy()

    def __array__(self, dtype: Any = None) -> np.ndarray:
        return self.numpy().__array__(dtype)

    def tobytes(self) -> bytes:
        return b"".join(self.chunks())

    def tofile(self, file: Any) -> None:
        for chunk in self.chunks():
            file.write(chunk)

    def chunks(self) -> Iterator[bytes | memoryview]:
        """The tensor's bytes in pieces of at most 1 MiB."""
        return self.file.chunks(self.offset or 0, self.nbytes)

    def release(self) -> None:
        """Nothing to release: the mapping belongs to the file."""


class SparseTensor(ir.LazyTensor):
    """A sparse tensor that keeps its proto, and is dense only while somebody looks at it."""

    __slots__ = ("parts", "proto")

    def __init__(self, proto: Any, values: Any, indices: Any, *, name: str | None = None) -> None:
        shape = ir.Shape(proto.dims, frozen=True)
        super().__init__(lambda: _dense(values, indices, shape), values.dtype, shape, name=name)
        #: The ``onnx.SparseTensorProto`` as read.
        self.proto = proto
        #: The values and the indices, as tensors.
        self.parts = (values, indices)


def _dense(values: Any, indices: Any, shape: ir.Shape) -> Any:
    dims = shape.numpy()
    if math.prod(dims) * values.dtype.itemsize > DENSE_BYTES:
        raise BadInput(f"sparse tensor {values.name!r} of shape {list(dims)} is too large to be made dense")
    at = indices.numpy()
    data = values.numpy()
    dense = np.zeros(dims, dtype=data.dtype)
    if at.ndim == 1:
        dense.reshape(-1)[at] = data
    else:
        dense[tuple(at.T)] = data
    return ir.Tensor(dense, dtype=values.dtype, name=values.name)
