"""Train the Keras classifier and write its weights: `python -m models.exporters.train_keras --fashion DIR`.

DIR holds Fashion-MNIST's four IDX files, as Debian's dataset-fashion-mnist has them in /usr/share/datasets.
"""

from __future__ import annotations

import os
from pathlib import Path

import click
import numpy as np

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras

from models.exporters.data import mnist
from models.exporters.keras_mlp import network
from models.recipes.keras_mlp import WEIGHTS


@click.command()
@click.option("--fashion", type=click.Path(exists=True, path_type=Path), required=True)
def main(fashion: Path) -> None:
    """Eight epochs of Adam on the 60,000 training pictures; prints the accuracy on all 10,000 test pictures."""

    def pictures(name: str) -> np.ndarray:
        return mnist(fashion / f"{name}-images-idx3-ubyte.gz", 16).reshape(-1, 784).astype(np.float32) / 255

    def labels(name: str) -> np.ndarray:
        return mnist(fashion / f"{name}-labels-idx1-ubyte.gz", 8)

    keras.utils.set_random_seed(0)
    model = network()
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(pictures("train"), labels("train"), batch_size=128, epochs=8, verbose=2)
    _, accuracy = model.evaluate(pictures("t10k"), labels("t10k"), batch_size=500, verbose=0)
    weights = {variable.path: keras.ops.convert_to_numpy(variable) for variable in model.trainable_variables}
    np.savez_compressed(WEIGHTS.path, **weights)
    click.echo(f"accuracy {accuracy:.4f}; wrote {WEIGHTS.path}")


if __name__ == "__main__":
    main()
