"""Every way olc fails on purpose. An error holds its data (what, where, hint); the command line formats it late."""

from __future__ import annotations

from typing import ClassVar

SEVERAL_KINDS = 69
"""The exit code of a command on several models where failures are of several kinds."""


class OlcError(Exception):
    """A failure that a person can act on.

    Args:
        what: the fact, with the culprit named ("initializer 'w' needs 4,000,000 bytes but holds 12").
        where: file, graph, node or option that it is about.
        hint: what the reader should change.
    """

    exit_code: ClassVar[int] = 1
    kind: ClassVar[str] = "internal error"

    def __init__(self, what: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        text = self.what if self.where is None else f"{self.where}: {self.what}"
        return text if self.hint is None else f"{text} ({self.hint})"


class BadInput(OlcError):
    """The model, data or option given is wrong; nothing was written."""

    exit_code = 3
    kind = "bad input"


class Unsupported(OlcError):
    """The model is right, but the target cannot run it.

    Attributes:
        culprits: of each part that cannot run, the node's name ("" where it is none) and the reason.
    """

    exit_code = 4
    kind = "unsupported by target"

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        hint: str | None = None,
        culprits: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(what, where=where, hint=hint)
        self.culprits = culprits


class VerificationFailed(OlcError):
    """What came out is not what went in: structure or numbers differ."""

    exit_code = 5
    kind = "verification failed"


class OverBudget(OlcError):
    """Right, but outside a budget that the user set."""

    exit_code = 6
    kind = "over budget"


class OutputError(OlcError):
    """The result could not be written: permission, disk full, not a folder."""

    exit_code = 7
    kind = "cannot write"


class RuleError(OlcError):
    """A rewrite rule is at fault: badly declared, unsound, or does not terminate."""

    exit_code = 8
    kind = "rule error"
