"""The Keras classifier by Keras' own ONNX export (torch backend)."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras

from models import images
from models.exporters.tidy import tidy
from models.exporters.pack import Candidates, plain_candidates
from models.recipe import cpu_session
from models.recipes.keras_mlp import WEIGHTS
from models.sources import Source


def network() -> keras.Model:
    """784 pixels -> 64 -> 64 -> 10 probabilities."""
    return keras.Sequential(
        [
            keras.Input((784,), name="pixels"),
            keras.layers.Dense(64, activation="relu", name="hidden1"),
            keras.layers.Dense(64, activation="relu", name="hidden2"),
            keras.layers.Dense(10, activation="softmax", name="classes"),
        ],
        name="mlp",
    )


@dataclass
class KerasExport:
    """One file made by `Model.export(format="onnx")`."""

    stem: str
    opset: int
    source: Source = WEIGHTS
    candidates: Candidates = plain_candidates

    def run(self) -> onnx.ModelProto:
        model = network()
        for variable in model.trainable_variables:
            variable.assign(WEIGHTS[variable.path])
        pixels, _ = images.fashion()
        wanted = model.predict(pixels[:64], verbose=0)  # Keras exports only a model that has been called
        with tempfile.TemporaryDirectory() as work:
            path = Path(work) / f"{self.stem}.onnx"
            model.export(str(path), format="onnx", verbose=False, opset_version=self.opset)
            exported = tidy(onnx.load(str(path)))
            path.write_bytes(exported.SerializeToString())
            session = cpu_session(path)
        found = session.run(None, {session.get_inputs()[0].name: pixels[:64]})[0]
        error = float(np.abs(found - wanted).max())
        if not error <= 1e-5:
            raise SystemExit(f"{self.stem}: ONNX Runtime differs from Keras by {error:.2e}")
        print(f"    {self.stem}: |ort - keras| <= {error:.1e}", flush=True)
        return exported


def exports() -> Iterator[KerasExport]:
    yield KerasExport("keras-mlp", 18)
