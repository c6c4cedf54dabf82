"""Classification: the share of right answers."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...errors import BadInput
from ..numerics import is_distribution
from . import Metric, Outputs, Sample, floating, joined

Answers = tuple[np.ndarray, np.ndarray | None]
"""Best class of each row, -1 where it has a NaN, int [rows]; and the right ones, where the sample has labels."""


def best(scores: np.ndarray) -> np.ndarray:
    """Index of the largest element along the last axis; -1 where one of them is NaN."""
    found = np.argmax(scores, axis=-1)
    return np.where(np.isnan(scores).any(axis=-1), -1, found)


def _answers(outputs: Outputs, sample: Sample) -> Answers:
    scores = next(
        (v for k, v in outputs.items() if isinstance(v, np.ndarray) and v.dtype.kind == "f" and is_distribution(k, v)), None
    )
    if scores is None:
        _, scores = floating(outputs, (1, 2, 3, 4), "top1")
    found = best(scores).reshape(-1)
    if "label" not in sample:
        return found, None
    label = np.asarray(sample["label"])
    if label.dtype.kind not in "iub" or label.size != found.size:
        raise BadInput(f"'label' is {label.dtype.name} {list(label.shape)}; 'top1' needs {found.size} integers",
                       hint="give the number of the right class for each row of the output")  # fmt: skip
    return found, label.reshape(-1)


def _share(found: list[Answers], source: list[Answers]) -> float:
    labelled = {label is not None for _, label in found}
    if len(labelled) > 1:
        raise BadInput("some samples have a 'label', others have none", where="--data", hint="label all of them, or none")
    right = [label if label is not None else of_source for of_source, label in source]
    given, wanted = joined([answer for answer, _ in found], right, "top1")
    return float(((given == wanted) & (given >= 0)).mean())


METRICS: dict[str, Any] = {"top1": Metric("top1", _answers, _share)}
