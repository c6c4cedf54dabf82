"""The one error this package raises on purpose: it names the culprit, states the fact, says what to change."""

from __future__ import annotations


class ModelsError(Exception):
    """A model can't be built or exported.

    what:  the fact, in one sentence.
    where: the culprit (a package, a file, a tensor).
    hint:  what to change.
    """

    def __init__(self, what: str, where: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}\n  hint: {self.hint}" if self.hint else text
