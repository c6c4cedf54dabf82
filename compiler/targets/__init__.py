"""Targets: where a compiled model runs. One module each, which holds a ``TARGET``; found by walking this package."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping, Sequence, Set
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from ..errors import BadInput

if TYPE_CHECKING:
    import os

    from .. import ir
    from ..passes import Context
    from ..session import SessionOptions
    from .capabilities import Table
    from .kernels import Kernels


@runtime_checkable
class Target(Protocol):
    """What the compiler asks of a target.

    Attributes:
        name: as given to ``--target``.
        opset: version of the standard domain that the target likes best.
        half: arithmetic in float16 is faster there, as a rule; then it is lowered to after that was decided.
        beside: a constant in 8 or 4 bits has to stand in the graph of the DequantizeLinear that reads it.
    """

    name: str
    opset: int
    half: bool
    beside: bool

    @property
    def here(self) -> bool:
        """Does this machine have what artifacts run on, so that they can be timed?"""
        ...

    @property
    def table(self) -> Table:
        """Operators, versions and dtypes that it runs."""
        ...

    def on(self, machine: Kernels) -> Target:
        """The same target on another machine, of which only that table is known."""
        ...

    def kernels(self) -> Kernels:
        """What was measured of its fused operators."""
        ...

    def opset_for(self, model: ir.Model) -> int:
        """The version to raise this model to: ``opset``, or less where one of its operators would lose its kernel."""
        ...

    def why_not(self, node: ir.Node, model: ir.Model) -> str | None:
        """Why the node cannot run as it stands, in words, or None where it can."""
        ...

    def check(self, model: ir.Model) -> list[str]:
        """What the target cannot run, one line a culprit with a hint."""
        ...

    def lower(self, model: ir.Model, ctx: Context, before: Set[tuple[str, str]] | None = None) -> int:
        """Replace what the target lacks by what it has; the number of changes.

        Args:
            before: names and operators of the nodes that were there before olc rounded; None where it did not.

        Raises:
            Unsupported: something is left; the message lists every culprit.
        """
        ...

    def finish(self, model: ir.Model, ctx: Context, before: Set[tuple[str, str]] | None) -> int:
        """The last part of ``lower``, which does not depend on dtypes; the number of changes."""
        ...

    def arrange(self, model: ir.Model, ctx: Context) -> int:
        """Write what is left in float in the way that is fastest, once all is rounded that shall be; the number of changes."""
        ...

    def proof(self, path: str | os.PathLike[str], feeds: Sequence[Mapping[str, Any]]) -> str | None:
        """What can be shown of an artifact without running it, in words; None for nothing.

        Raises:
            Unsupported: it is shown that the artifact does not run there.
        """
        ...

    def features(self) -> dict[str, Any]:
        """What the hardware can do, JSON-able."""
        ...

    def session_options(self) -> SessionOptions:
        """How an artifact should be opened, where nothing has been measured."""
        ...

    def session(self, path: str | os.PathLike[str], threads: int | None = None,
                options: SessionOptions | None = None) -> Any:  # fmt: skip
        """Open the artifact."""
        ...

    def run(self, path: str | os.PathLike[str], feed: Mapping[str, Any], threads: int | None = None) -> dict[str, Any]:
        """Open the artifact and run it once; outputs by name."""
        ...


@lru_cache(maxsize=1)
def _found() -> dict[str, Target]:
    found: dict[str, Target] = {}
    for module in sorted(m.name for m in pkgutil.iter_modules(__path__)):
        target = getattr(importlib.import_module(f"{__name__}.{module}"), "TARGET", None)
        if target is not None:
            found[target.name] = target
    return found


def names() -> list[str]:
    """Names of all targets, sorted."""
    return sorted(_found())


def get(name: str, machine: str | None = None) -> Target:
    """The target of that name, on another machine where the path of its table is given.

    Raises:
        BadInput: there is none; the message lists those that there are. Or the file is no table.
    """
    if name not in _found():
        raise BadInput(f"no target is called {name!r}", where="--target", hint=f"one of: {', '.join(names())}")
    found = _found()[name]
    if machine is None:
        return found
    from . import kernels

    return found.on(kernels.read(machine))
