"""The Keras architectures of the corpus: published depths, tiny widths, weights drawn from their names."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import keras_hub

from models.corpus import Architecture, Seeded
from models.corpus.weights import draw, key
from models.exporters.pack import Candidates, Origin
from models.exporters.tidy import tidy
from models.recipe import cpu_session
from models.sources import Source

HIDDEN, HEADS, KV_HEADS, INNER, VOCABULARY, LENGTH = 64, 4, 2, 96, 300, 160
BATCH, SEQ = 2, 7
TEXT = {"vocabulary_size": VOCABULARY, "hidden_dim": HIDDEN, "intermediate_dim": INNER}
HEADED = {**TEXT, "num_heads": HEADS, "max_sequence_length": LENGTH}

NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "keras-bert": ("Bert", HEADED),
    "keras-gpt2": ("GPT2", HEADED),
    "keras-gpt-neox": ("GPTNeoX", HEADED),
    "keras-llama": ("Llama3", {**TEXT, "num_query_heads": HEADS, "num_key_value_heads": KV_HEADS}),
    "keras-t5": ("T5", {**TEXT, "num_heads": HEADS}),
    "keras-whisper": (
        "Whisper", {**HEADED, "max_encoder_sequence_length": LENGTH, "max_decoder_sequence_length": LENGTH},
    ),
    "keras-vit": ("ViT", {"image_shape": (32, 32, 3), "patch_size": 8, "num_heads": HEADS, "hidden_dim": HIDDEN,
                          "mlp_dim": INNER}),
}  # fmt: skip
LEAVES = {"gamma": "weight", "scale": "weight"}
"""How `draw` calls the scale of a norm, which is about 1."""


def named(path: str) -> str:
    """A Keras variable's path as the corpus names weights."""
    *owner, leaf = path.split("/")
    return ".".join([*owner, LEAVES.get(leaf, leaf)])


def candidates(source: Mapping[str, np.ndarray]) -> Iterator[Origin]:
    """Each tensor with its axes in any order: tf2onnx turns kernels and multiplies by what Einsums are for."""
    for name, array in source.items():
        for order in itertools.permutations(range(array.ndim)):
            steps = [] if list(order) == sorted(order) else [["transpose", list(order)]]
            yield {"from": [name], "steps": steps}


def runnable(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with Erfc, which tf2onnx writes and no runtime knows, spelled out."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    nodes = []
    for node in model.graph.node:
        if node.op_type != "Erfc":
            nodes.append(node)
            continue
        x, y = node.input[0], node.output[0]
        one = onnx.helper.make_tensor(f"{y}.one", onnx.TensorProto.FLOAT, [], [1.0])
        nodes += [
            onnx.helper.make_node("Erf", [x], [f"{y}.erf"]),
            onnx.helper.make_node("Constant", [], [f"{y}.one"], value=one),
            onnx.helper.make_node("Sub", [f"{y}.one", f"{y}.erf"], [y]),
        ]
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    return copy


def sample(tensor: Any) -> np.ndarray:
    """Values for an input: token ids, a mask of ones, or noise."""
    shape = [size or (BATCH if axis == 0 else SEQ) for axis, size in enumerate(tensor.shape)]
    random = np.random.default_rng(0)
    if "int" not in str(tensor.dtype):
        return random.standard_normal(shape, np.float32)
    return np.ones(shape, np.int32) if "mask" in tensor.name else random.integers(0, 2, shape, np.int32)


@dataclass
class KerasExport:
    """One file made by `Model.export(format="onnx")`, with the dims that it leaves unnamed."""

    stem: str
    network: str
    depths: tuple[int, ...]
    source: Source
    model: keras.Model
    candidates: Candidates = candidates

    def run(self) -> onnx.ModelProto:
        """Export, tidy, compare with Keras."""
        feeds = keras.tree.map_structure(sample, self.model.input)
        wanted = keras.tree.flatten(self.model(feeds))  # Keras exports only a model that has been called
        with tempfile.TemporaryDirectory() as work:
            path = Path(work) / f"{self.stem}.onnx"
            self.model.export(str(path), format="onnx", verbose=False)
            exported = tidy(onnx.load(str(path)))
            path.write_bytes(runnable(exported).SerializeToString())
            session = cpu_session(path)
        given = {t.name: v for t, v in zip(keras.tree.flatten(self.model.input), keras.tree.flatten(feeds), strict=True)}
        for lost in session.get_inputs():  # tf2onnx makes an input of the positions of an image's patches
            if lost.name not in given:
                given[lost.name] = np.arange(np.prod(lost.shape), dtype=np.int32).reshape(lost.shape)
        found = session.run(None, {i.name: given[i.name] for i in session.get_inputs()})
        for a in wanted:
            off = min(np.abs(b - np.asarray(a)).max() for b in found if b.shape == tuple(a.shape))
            if off > 1e-4:
                raise SystemExit(f"{self.stem}: differs from Keras by {off}")
        return exported


def exports(architecture: Architecture) -> Iterator[KerasExport]:
    """Every file of an architecture."""
    kind, options = NETWORKS[architecture.name]
    for stem in architecture.stems:
        keras.utils.clear_session()
        model = getattr(keras_hub.models, f"{kind}Backbone")(num_layers=architecture.depths[0], **options)
        keys = []
        for variable in model.weights:
            if "float" in str(variable.dtype):
                name, shape = named(variable.path), tuple(variable.shape)
                variable.assign(draw(name, shape))
                keys.append(key(name, shape))
        yield KerasExport(stem, kind, architecture.depths, Seeded(keys), model)
