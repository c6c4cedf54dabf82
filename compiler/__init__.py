"""olc: an operator-level compiler for ONNX.

    import olc
    model = olc.load("model.onnx")
    result = olc.compile("model.onnx", "model.olc.onnx", level=3)
    session = olc.session("model.olc.onnx")
    decoder = olc.decoder("decoder.olc.onnx", capacity=2048)

Importing this package imports nothing heavy; each name loads what it needs on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

# Not lazily: importing the submodule of the same name later would bind the module here.
from .session import session

if TYPE_CHECKING:
    from .decoding import decoder
    from .driver import compile
    from .errors import OlcError
    from .evaluation.evaluate import evaluate
    from .frontend import load
    from .storage import save

__version__ = "0.1.0"
__all__ = ["OlcError", "__version__", "compile", "decoder", "evaluate", "load", "save", "session"]

_HOME = {
    "OlcError": "errors", "compile": "driver", "decoder": "decoding", "evaluate": "evaluation.evaluate", "load": "frontend",
    "save": "storage",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'olc' has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value
