"""Names and texts as they may be shown: they come from models that nobody vouches for."""

from __future__ import annotations

import re
import unicodedata

NAME = 160
"""Characters of a name that are shown; models may hold names of any length."""
TEXT = 300
"""Characters of a sentence that are shown where there is not much room."""
_MARKS = {f"&#{ord(c)};" for c in "\\`*_[]|~<>&"}
_COMMAND = re.compile(r"(?:^|(?<=\s))::|::(?=.*::)")
"""What may begin a line that GitHub obeys (``::error::text``), after the text is wrapped too."""
_BREAK = "&#8203;"
"""A space of no width, which ends what would be a link, a mention or a reference."""


def clean(text: str) -> str:
    """Text without controls, halves of pairs and marks that turn the direction of what follows; lines and tabs stay."""
    if text.isascii() and text.isprintable():
        return text
    return "".join("\ufffd" if unicodedata.category(c)[0] == "C" and c not in "\n\t" else c for c in text)


def line(text: str) -> str:
    """The same in one line. A terminal obeys controls, and CI obeys lines that begin in certain ways."""
    flat = clean(" ".join(text.split()) if not text.isprintable() else text)
    return _COMMAND.sub(":\u200b:", flat)


def name(text: str, limit: int = NAME) -> str:
    """A name, cut in its middle where it is longer than ``limit``."""
    return text if len(text) <= limit else f"{text[: limit // 2]}…{text[-limit // 2 + 1 :]}"


def markdown(text: str) -> str:
    """Markdown of a text: nothing in it makes a tag, a link, a mention, emphasis, or another cell or line."""

    def escaped(m: re.Match[str]) -> str:
        shown = f"&#{ord(m[0])};" if len(m[0]) == 1 else m[0]
        return shown if shown in _MARKS else shown + _BREAK

    return re.sub(r"(?i)https?:|ftp:|www|[\\`*_\[\]|~<>&@#]", escaped, name(line(text), TEXT))
