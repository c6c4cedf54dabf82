"""Comparing ONNX protos by what they say, and building small models that say something in every field."""

from __future__ import annotations

from typing import Any


def normal(model: Any) -> Any:
    """A copy with only the documented freedoms of ``olc.deserialize`` and ``olc.serialize`` removed.

    An explicit empty string equals an absent one, the domain ``ai.onnx`` equals ``""``, and ``value_info``,
    ``quantization_annotation`` are sets by name.
    """
    own = type(model)()
    own.CopyFrom(model)
    _clean(own)
    return own


def _clean(message: Any) -> None:
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for part in value if _repeated(field) else [value]:
                _clean(part)
        elif field.type == field.TYPE_STRING and not _repeated(field) and (
            value == "" or (field.name == "domain" and value == "ai.onnx")
        ):
            message.ClearField(field.name)
    kind = message.DESCRIPTOR.name
    if kind in ("GraphProto", "FunctionProto"):
        _sort(message.value_info, lambda v: v.name)
    if kind == "GraphProto":
        _sort(message.quantization_annotation, lambda a: a.tensor_name)


def _repeated(field: Any) -> bool:
    return bool(field.is_repeated)


def _sort(entries: Any, key: Any) -> None:
    ordered = sorted(list(entries), key=key)
    copies = []
    for e in ordered:
        c = type(e)()
        c.CopyFrom(e)
        copies.append(c)
    del entries[:]
    entries.extend(copies)


def difference(a: Any, b: Any) -> str:
    """The first lines in which two protos differ, empty when they are equal."""
    if a == b:
        return ""
    import difflib

    left, right = str(a).splitlines(), str(b).splitlines()
    return "\n".join(list(difflib.unified_diff(left, right, "before", "after", lineterm="", n=2))[:40])
