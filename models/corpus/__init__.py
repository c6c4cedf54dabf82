"""A corpus of generated architectures: real depths, tiny widths, random weights, by every exporter.

The graphs are what torch's exporters make of the published architectures; the weights are drawn from the tensors' names
(`weights.py`). It shows how a compiler takes many architectures and spellings, not how it takes trained weights: for
those see the recipes. Needs no torch::

    from models import corpus
    proto = corpus.load("bert_dynamo_op18")
"""

from __future__ import annotations

from pathlib import Path

import onnx

from models import skeleton
from models.corpus.architectures import ARCHITECTURES, Architecture
from models.corpus.weights import Seeded

FOLDER = Path(__file__).resolve().parent / "skeletons"


def path(stem: str) -> Path:
    """The skeleton of a file."""
    return FOLDER / f"{stem}.onnx.xz"


def load(stem: str) -> onnx.ModelProto:
    """The model of that name with its weights."""
    return skeleton.fill(path(stem), Seeded())


__all__ = ["ARCHITECTURES", "FOLDER", "Architecture", "Seeded", "load", "path"]
