"""Comparing texts: word errors for speech, character errors for pages."""

from __future__ import annotations

import re
from collections.abc import Sequence


def edits(reference: Sequence[str], found: Sequence[str]) -> int:
    """Levenshtein distance: insertions, deletions and substitutions that turn one sequence into the other."""
    row = list(range(len(found) + 1))
    for i, wanted in enumerate(reference, 1):
        diagonal, row[0] = row[0], i
        for j, given in enumerate(found, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (wanted != given))
    return row[-1]


def words(text: str) -> list[str]:
    """Lower-case words without punctuation; a hyphen parts words."""
    return re.sub(r"[^a-z' ]", "", text.lower().replace("-", " ")).split()


def letters(text: str) -> str:
    """Lower-case letters and digits only: spacing and punctuation are not what reading is judged by."""
    return re.sub(r"[^a-z0-9]", "", text.lower())
