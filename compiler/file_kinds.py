"""What a file that is no ONNX model probably is, so that the error can say what to do instead."""

from __future__ import annotations

_KINDS: tuple[tuple[bytes, str, str], ...] = (
    (b"PK\x03\x04", "a zip archive, not an ONNX model", "unpack it; a .pt or .keras file must first be exported"),
    (b"version https://git-lfs", "a Git LFS pointer, not the model itself", "run git lfs pull"),
    (b"\x89HDF", "an HDF5 file (Keras?), not an ONNX model", "export it to ONNX first (keras Model.export, tf2onnx)"),
    (b"\x1f\x8b", "a gzip file, not an ONNX model", "unpack it first"),
    (b"\xfd7zXZ", "an xz file, not an ONNX model", "unpack it first"),
    (b"BZh", "a bzip2 file, not an ONNX model", "unpack it first"),
    (b"GGUF", "a GGUF file, not an ONNX model", "export the model to ONNX from its framework"),
    (b"\x80\x02", "a Python pickle, not an ONNX model", "export it to ONNX first (torch.onnx.export)"),
    (b"%PDF", "a PDF, not an ONNX model", "was the right file given?"),
)  # fmt: skip


def explain(raw: bytes, broken: bool = False) -> tuple[str, str | None] | None:
    """(what, hint) for content that cannot be a model, or None. ``broken``: protobuf has refused it already."""
    if not raw:
        return "the file is empty", "download or export it again"
    head = raw[:512]
    for magic, what, hint in _KINDS:
        if head.startswith(magic):
            return what, hint
    if head[4:8] == b"ORTM":
        return "a model in ONNX Runtime's own .ort format", "give the .onnx file that it was made from"
    if head[4:8] == b"TFL3":
        return "a TensorFlow Lite model", "convert it to ONNX first (tf2onnx)"
    text = head.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "a web page, not an ONNX model", "the download went wrong: open the address in a browser to see why"
    if text.startswith(b"{") or head[8:10] == b'{"':
        return "JSON or safetensors, not an ONNX model", "give the .onnx file"
    if not broken:
        return None
    if all(b in b"\t\n\r\f" or 32 <= b < 127 for b in head):
        return "text, not an ONNX model", "ONNX text needs the suffix .onnxtxt or .txt"
    return _scan(raw)


def _scan(raw: bytes) -> tuple[str, str | None]:
    """Why protobuf refused the bytes: cut off, damaged within, or not protobuf at all."""
    at, fields, end = 0, 0, len(raw)
    while at < end:
        start = at
        key, at = _varint(raw, at)
        kind = key & 7
        if key >> 3 == 0 or key >> 3 > 30 or at < 0:  # no field of ModelProto has such a number
            break
        if kind == 0:
            _, at = _varint(raw, at)
        elif kind == 1:
            at += 8
        elif kind == 5:
            at += 4
        elif kind == 2:
            size, at = _varint(raw, at)
            if at >= 0 and at + size > end and fields:
                what = f"cut off: a part that starts at byte {start:,} needs {size:,} bytes, but {end - at:,} are left"
                return what, "download or export it again"
            at += size
        else:
            break
        if at < 0 or at > end:
            return f"cut off at byte {end:,}", "download or export it again"
        fields += 1
    else:
        return "damaged: its outer structure is ONNX, but its parts are not", "download or export it again"
    return "not an ONNX model: its bytes are no protobuf", "give the .onnx file of a model"


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    """A base-128 number and where it ends; -1 where it does not."""
    value = shift = 0
    while at < len(raw) and shift < 70:
        byte = raw[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    return 0, -1
