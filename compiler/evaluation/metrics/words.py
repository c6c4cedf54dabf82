"""Texts: word errors of what was recognized."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...errors import BadInput
from . import Metric, Outputs, Sample


def edits(reference: Sequence[str], found: Sequence[str]) -> int:
    """Levenshtein distance: insertions, deletions and substitutions that turn one sequence into the other."""
    row = list(range(len(found) + 1))
    for i, wanted in enumerate(reference, 1):
        diagonal, row[0] = row[0], i
        for j, given in enumerate(found, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (wanted != given))
    return row[-1]


def words(text: str) -> list[str]:
    """Lower-case words; punctuation, apostrophes apart, parts them."""
    return re.findall(r"[^\W_]+(?:'[^\W_]+)*", text.lower())


def _texts(value: Any) -> list[str]:
    return [t.decode("utf-8", "replace") if isinstance(t, bytes) else str(t) for t in np.asarray(value).reshape(-1)]


def word_error_rate(decode: Callable[[Outputs, Sample], Any]) -> Metric:
    """Word errors over words of the references in ``label_text``; may exceed 1.

    Args:
        decode: gives the text that the outputs of a sample say, or a text for each of its rows.
    """

    def reduce(outputs: Outputs, sample: Sample) -> tuple[int, int]:
        said, heard = _texts(sample["label_text"]), _texts(decode(outputs, sample))
        if len(said) != len(heard):
            raise BadInput(f"'label_text' holds {len(said)} texts, and {len(heard)} were decoded")
        return sum(edits(words(a), words(b)) for a, b in zip(said, heard, strict=True)), sum(len(words(a)) for a in said)

    def total(found: list[tuple[int, int]], source: list[tuple[int, int]]) -> float:
        spoken = sum(n for _, n in found)
        if not spoken:
            raise BadInput("'label_text' holds no words", where="--data")
        return sum(wrong for wrong, _ in found) / spoken

    return Metric("wer", reduce, total, needs=("label_text",), higher=False)


METRICS: dict[str, Any] = {"wer": word_error_rate}
