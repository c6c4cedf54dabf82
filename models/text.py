"""Texts as they are compared: words of speech, letters of pages."""

from __future__ import annotations

import re


def words(text: str) -> list[str]:
    """Lower-case words without punctuation; a hyphen parts words."""
    return re.sub(r"[^a-z' ]", "", text.lower().replace("-", " ")).split()


def letters(text: str) -> str:
    """Lower-case letters and digits only: spacing and punctuation are not what reading is judged by."""
    return re.sub(r"[^a-z0-9]", "", text.lower())
