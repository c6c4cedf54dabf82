"""Tensor protos to tensors. Dims, dtype, byte counts and file ranges are judged first; nothing is allocated on trust.

External data stays in its folder: no absolute path, no ``..``, no symlink that leads out, and no file with several
hard links (one of them may be somebody's secret; onnx and onnx-ir refuse them too). What is opened is the resolved
path, without following links once more.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from . import ir
from .errors import BadInput
from .signatures import Problem, short
from .tensors import DataFile, MappedTensor, SparseTensor

_T = ir.DataType
_INT32 = {
    _T.BFLOAT16, _T.BOOL, _T.FLOAT16, _T.FLOAT4E2M1, _T.FLOAT6E2M3, _T.FLOAT6E3M2, _T.FLOAT8E4M3FN, _T.FLOAT8E4M3FNUZ,
    _T.FLOAT8E5M2, _T.FLOAT8E5M2FNUZ, _T.FLOAT8E8M0, _T.INT16, _T.INT2, _T.INT32, _T.INT4, _T.INT8, _T.UINT16,
    _T.UINT2, _T.UINT4, _T.UINT8,
}  # fmt: skip
#: Which typed field of a TensorProto may hold a dtype, and how many eighths of an entry an element takes.
_FIELDS: dict[ir.DataType, tuple[str, int]] = {
    **{t: ("int32_data", t.bitwidth if t.bitwidth in (2, 4) else 8) for t in _INT32},
    _T.FLOAT: ("float_data", 8),
    _T.COMPLEX64: ("float_data", 16),
    _T.DOUBLE: ("double_data", 8),
    _T.COMPLEX128: ("double_data", 16),
    _T.INT64: ("int64_data", 8),
    _T.UINT64: ("uint64_data", 8),
    _T.UINT32: ("uint64_data", 8),
    _T.STRING: ("string_data", 8),
}
_TYPED = ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")
_MAX_BYTES = 1 << 62
_MAX_RANK = 64
_EMPTY = np.zeros(0, dtype=np.uint8)


class _Wrong(Exception):
    """A tensor that cannot be what it says: what, hint."""


class NotText(Exception):
    """A name or text is not UTF-8; protobuf then gives bytes where a str should be, which nothing may meet."""


def plain_text(*parts: str) -> None:
    """Raise NotText where one is bytes; joining is the fastest way to ask."""
    try:
        "".join(parts)
    except TypeError:
        raise NotText from None


def props(entries: Any) -> dict[str, str] | None:
    """Metadata entries as a dict, None where there are none."""
    if not entries:
        return None
    found = {e.key: e.value for e in entries}
    plain_text(*found, *found.values())
    return found


class TensorReader:
    """Reads the tensors of one model and keeps its data files, each opened once."""

    def __init__(self, folder: str | None) -> None:
        #: Where external data may lie; None for a model that came without a folder.
        self.folder = None if folder is None else os.path.realpath(folder)
        self.problems: list[Problem] = []
        self.files: dict[str, DataFile] = {}

    def dense(self, proto: Any, where: str) -> Any:
        """The tensor; an empty stand-in (and a problem) where the proto is wrong."""
        try:
            return self._dense(proto)
        except _Wrong as wrong:
            self._complain(proto.name, where, wrong)
            return ir.Tensor(_EMPTY, name=proto.name)

    def sparse(self, proto: Any, where: str) -> Any:
        """As ``dense``, for a sparse tensor."""
        try:
            return self._sparse(proto)
        except _Wrong as wrong:
            self._complain(proto.values.name, where, wrong)
            return ir.Tensor(_EMPTY, name=proto.values.name)

    def _complain(self, name: str, where: str, wrong: _Wrong) -> None:
        what, hint = wrong.args
        subject = f"tensor {short(name)!r}" if name else "a tensor"
        self.problems.append(Problem("tensor", f"{subject} {what}", where, hint))

    def _dense(self, proto: Any) -> Any:
        plain_text(proto.name, proto.doc_string)
        dtype, dims = _dtype(proto.data_type), _dims(proto.dims)
        size = _product(dims)
        if proto.data_location == 1:  # TensorProto.EXTERNAL
            return self._external(proto, dtype, dims, size)
        if dtype == _T.STRING:
            if proto.HasField("raw_data") or len(proto.string_data) != size:
                held = f"{len(proto.string_data)} strings" if not proto.HasField("raw_data") else "raw bytes"
                raise _Wrong(f"of shape {dims} needs {size} strings but holds {held}", _REPAIR)
            return ir.StringTensor(
                list(proto.string_data),
                shape=ir.Shape(dims),
                name=proto.name,
                doc_string=proto.doc_string or None,
                metadata_props=props(proto.metadata_props),
            )
        props(proto.metadata_props)
        if proto.HasField("raw_data"):
            need, given = _bytes(dtype, size), len(proto.raw_data)
            if need != given:
                raise _Wrong(f"of {dtype.name}{dims} needs {need:,} bytes but holds {given:,}", _REPAIR)
        else:
            _check_typed(proto, dtype, dims, size)
        return ir.TensorProtoTensor(proto)

    def _external(self, proto: Any, dtype: ir.DataType, dims: list[int], size: int) -> Any:
        if dtype == _T.STRING:
            raise _Wrong("holds strings in external data, which ONNX does not allow", "store the strings in the model")
        entries = props(proto.external_data) or {}
        location = entries.pop("location", "")
        offset, length = _number(entries.pop("offset", "0"), "offset"), entries.pop("length", None)
        need = _bytes(dtype, size)
        given = need if length is None else _number(length, "length")
        if given != need:
            raise _Wrong(f"of {dtype.name}{dims} needs {need:,} bytes but its external data has {given:,}", _REPAIR)
        file = self.files.get(location)
        if file is None:
            file = self.files[location] = self._open(location)
        if offset + need > file.size:
            ends = f"ends at byte {offset + need:,} of {location!r}, which has {file.size:,}"
            raise _Wrong(ends, "the data file is incomplete: download or export it again")
        return MappedTensor(
            file,
            location,
            offset,
            dtype,
            ir.Shape(dims),
            name=proto.name,
            doc_string=proto.doc_string or None,
            metadata_props=props(proto.metadata_props),
            extra=entries,
        )

    def _open(self, location: str) -> DataFile:
        if not location:
            raise _Wrong("is external but names no file", _REPAIR)
        if self.folder is None:
            hint = "load the model from its file, so that the folder of its data is known"
            raise _Wrong(f"lies in the external file {location!r}, but the model came without a folder", hint)
        keep = "external data must lie in the model's own folder: copy it there and export again"
        if len(location) > 4096:
            raise _Wrong("names external data by a path of more than 4,096 characters", _REPAIR)
        windows = location[1:2] == ":" or location.startswith("\\")
        if "\0" in location or os.path.isabs(location) or windows:
            raise _Wrong(f"names external data by an absolute path, {location!r}", keep)
        if ".." in location.replace("\\", "/").split("/"):
            raise _Wrong(f"names external data outside the model's folder, {location!r}", keep)
        path = os.path.join(self.folder, location)
        real = os.path.realpath(path)
        if os.path.commonpath([self.folder, real]) != self.folder:
            hint = "copy the real file next to the model (in a Hugging Face cache: download with local_dir=...)"
            raise _Wrong(f"lies in {location!r}, a link that leads out of the model's folder", hint)
        try:
            links = os.stat(real).st_nlink
            file = DataFile(real)
        except FileNotFoundError:
            raise _Wrong(f"lies in {location!r}, which is missing", f"put the file beside the model ({path})") from None
        except OSError as error:
            raise _Wrong(f"lies in {location!r}, which cannot be read: {error.strerror}", None) from error
        except BadInput as error:
            raise _Wrong(f"lies in {location!r}, which is not a regular file", None) from error
        if links > 1:
            hint = "make a plain copy of the file in the model's folder"
            raise _Wrong(f"lies in {location!r}, a file with {links} hard links", hint)
        if not os.access(real, os.R_OK):
            raise _Wrong(f"lies in {location!r}, which cannot be read: permission denied", None)
        return file

    def _sparse(self, proto: Any) -> Any:
        dims = _dims(proto.dims)
        values, indices = self._dense(proto.values), self._dense(proto.indices)
        count = len(values.shape) == 1 and values.shape[0]
        if len(values.shape) != 1:
            raise _Wrong("is sparse but its values are not a vector", _REPAIR)
        shape = list(indices.shape)
        if indices.dtype != _T.INT64 or shape not in ([count], [count, len(dims)]):
            raise _Wrong(f"is sparse with {count} values but indices {indices.dtype.name}{shape}", _REPAIR)
        at = indices.numpy()
        limit = np.array([min(_product(dims), _MAX_BYTES)] if at.ndim == 1 else dims, dtype=np.int64)
        if at.size and (bool((at < 0).any()) or bool((at.reshape(len(at), -1) >= limit).any())):
            raise _Wrong(f"is sparse of shape {dims} with an index outside it", _REPAIR)
        return SparseTensor(proto, values, indices, name=proto.values.name)


_REPAIR = "the file is damaged or was written by a broken tool: export it again"


def _dtype(code: int) -> ir.DataType:
    try:
        dtype = _T(code)
    except ValueError:
        raise _Wrong(f"has the unknown element type {code}", "upgrade onnx and onnx-ir, or export again") from None
    if dtype == _T.UNDEFINED:
        raise _Wrong("has no element type", _REPAIR)
    return dtype


def _dims(protos: Any) -> list[int]:
    dims = list(protos)
    if any(d < 0 for d in dims):
        raise _Wrong(f"has a negative dimension in its shape {dims}", _REPAIR)
    if len(dims) > _MAX_RANK:
        raise _Wrong(f"has {len(dims)} dimensions", _REPAIR)
    return dims


def _product(dims: list[int]) -> int:
    size = 1
    for d in dims:
        size *= d
    return size


def _bytes(dtype: ir.DataType, size: int) -> int:
    need = (size * dtype.bitwidth + 7) // 8
    if need > _MAX_BYTES:
        raise _Wrong(f"would have {size:,} elements", _REPAIR)
    return need


def _number(text: str, key: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 19:
        raise _Wrong(f"has the {key} {text!r} in its external data, which is no count of bytes", _REPAIR)
    return int(text)


def _check_typed(proto: Any, dtype: ir.DataType, dims: list[int], size: int) -> None:
    field, eighths = _FIELDS[dtype]
    used = [f for f in _TYPED if len(getattr(proto, f))]
    if used and used != [field]:
        raise _Wrong(f"of type {dtype.name} holds its data in {', '.join(used)} instead of {field}", _REPAIR)
    held = len(getattr(proto, field))
    need = (size * eighths + 7) // 8
    if held != need:
        raise _Wrong(f"of {dtype.name}{dims} needs {need:,} entries in {field} but holds {held:,}", _REPAIR)
