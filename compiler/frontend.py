"""Where models come from. A frontend is a module of ``olc.frontends``: what it takes, and how that becomes a Model.

Frontends are found by walking that package, so adding one is adding a file. They are asked in alphabetical order and
the first that accepts the source loads it.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
from functools import cache
from typing import Any, Protocol, cast

from . import ir
from .errors import BadInput

PACKAGE = "olc.frontends"


class Frontend(Protocol):
    """What a module in ``olc.frontends`` holds."""

    #: How messages name it ("ONNX file").
    NAME: str

    def accepts(self, source: Any) -> bool | str:
        """True when ``load`` is the right one for this source, else why not, in words. Cheap, and imports nothing."""

    def load(self, source: Any) -> ir.Model:
        """The verified model. Raises BadInput."""


@cache
def frontends() -> tuple[Frontend, ...]:
    """The frontends that are installed, in the order in which they are asked."""
    package = importlib.import_module(PACKAGE)
    names = sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_"))
    return tuple(cast(Frontend, importlib.import_module(f"{PACKAGE}.{name}")) for name in names)


def load(source: Any) -> ir.Model:
    """The verified model from whatever the source is: a path, bytes, ONNX text, a ModelProto, a ``gs.Graph``, a Model.

    Raises:
        BadInput: no frontend takes the source (the hint says which were tried, and why not), or it is not sound.
    """
    refused = []
    for frontend in frontends():
        answer = frontend.accepts(source)
        if answer is True:
            loaded = frontend.load(source)
            if not loaded.graph.outputs:
                raise BadInput("the graph has no outputs: it computes nothing", where=describe(source),
                               hint="export it with the values wanted as outputs")  # fmt: skip
            return loaded
        refused.append(f"{frontend.NAME}: {answer or 'does not take it'}")
    raise BadInput("nothing here can load this", where=describe(source), hint="tried " + "; ".join(refused))


def describe(source: Any) -> str:
    """A short name for a source, for messages."""
    if isinstance(source, str | os.PathLike):
        text = os.fspath(source)
        line = str(text).splitlines()[0] if text else ""
        return line if len(line) <= 80 and line == text else f"{line[:60]!r}…"
    if isinstance(source, bytes):
        return f"{len(source):,} bytes"
    return f"a {type(source).__module__}.{type(source).__qualname__}"
