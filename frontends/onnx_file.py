"""ONNX models: a file, its bytes, a ``ModelProto``, or a graph that is ours already."""

from __future__ import annotations

import os
from typing import Any

from olc import ir, storage
from olc.verifier import check

NAME = "ONNX file"
TEXT_SUFFIXES = (".onnxtxt", ".txt")


def accepts(source: Any) -> bool | str:
    """Paths (except those of ONNX text), bytes, a ModelProto, an ir.Model."""
    if isinstance(source, bytes | ir.Model) or _is_proto(source):
        return True
    if not isinstance(source, str | os.PathLike):
        return "not a path, bytes, ModelProto or Model"
    path = os.fspath(source)
    if not isinstance(path, str) or "\n" in path or len(path) > 4096:
        return "not a path"
    if path.lower().endswith(TEXT_SUFFIXES):
        return "its suffix says ONNX text"
    if path.lower().endswith((".onnx", ".pb")) or isinstance(source, os.PathLike) or os.path.exists(path):
        return True
    return "no such file" if "<" not in path else "not a path"


def load(source: Any) -> ir.Model:
    """The verified model. A Model is checked and given back as it is; a ModelProto is copied."""
    if isinstance(source, ir.Model):
        check(source)
        return source
    if isinstance(source, bytes):
        return storage.load_bytes(source)
    if _is_proto(source):
        return storage.load_proto(source)
    return storage.load(source)


def _is_proto(source: Any) -> bool:
    # by name: importing onnx costs more than asking
    return type(source).__name__ == "ModelProto" and hasattr(source, "opset_import")
