"""ONNX's own text (https://onnx.ai/onnx/repo-docs/Syntax.html): a file named .onnxtxt or .txt, or a string."""

from __future__ import annotations

import os
import re
from typing import Any

from olc import ir, storage
from olc.errors import BadInput

from .onnx_file import TEXT_SUFFIXES

NAME = "ONNX text"
MAX_BYTES = 64 << 20
#: The parser is recursive native code: what nests deeper than any real text is refused before it sees it.
MAX_NESTING = 64
_MODEL = re.compile(r"\s*(#[^\n]*\n\s*)*<")


def accepts(source: Any) -> bool | str:
    """A path with a text suffix, or text that begins as a model does (``<ir_version: …>``)."""
    if isinstance(source, str | os.PathLike):
        text = os.fspath(source)
        if isinstance(text, str):
            if text.lower().endswith(TEXT_SUFFIXES) and "\n" not in text:
                return True
            if _MODEL.match(text):
                return True
            return f"neither text that begins with <ir_version: …> nor a {' or '.join(TEXT_SUFFIXES)} file"
    return "not text"


def load(source: Any) -> ir.Model:
    """The verified model that the text describes."""
    text = os.fspath(source)
    if _MODEL.match(text):
        return parse(text, "text")
    raw = storage.read_file(text, MAX_BYTES)
    try:
        return parse(raw.decode("utf-8"), text)
    except UnicodeDecodeError:
        raise BadInput("not text", where=text, hint="a binary model needs the suffix .onnx") from None


def parse(text: str, where: str) -> ir.Model:
    """The verified model, with ``where`` naming its source in messages."""
    import onnx.parser

    if len(text) > MAX_BYTES:
        raise BadInput(f"more than {MAX_BYTES >> 20} MiB of text", where=where, hint="save it as a binary .onnx file")
    if _nesting(text) > MAX_NESTING:
        raise BadInput(f"brackets nest deeper than {MAX_NESTING}", where=where, hint="save it as a binary .onnx file")
    try:
        proto = onnx.parser.parse_model(text)
    except onnx.parser.ParseError as error:
        raise BadInput(_reason(error), where=where, hint="see https://onnx.ai/onnx/repo-docs/Syntax.html") from None
    except (TypeError, RuntimeError, ValueError) as error:  # TypeError: no UTF-8 can say it
        raise BadInput(f"not ONNX text: {error}", where=where) from error
    return storage.load_proto(proto, where=where)


def _reason(error: Exception) -> str:
    """The parser's message on one line: position, cause, the offending line."""
    raw = error.args[0] if error.args else str(error)
    message = raw.decode(errors="replace") if isinstance(raw, bytes) else str(raw)
    return "not ONNX text: " + " | ".join(line.strip() for line in message.splitlines() if line.strip())[:300]


def _nesting(text: str) -> int:
    depth = deepest = 0
    for c in text:
        if c in "([{<":
            depth += 1
            deepest = max(deepest, depth)
        elif c in ")]}>":
            depth = max(0, depth - 1)
    return deepest
