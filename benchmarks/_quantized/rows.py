"""The rows of the table: each a model with trained weights (or of published size with random ones), and samples to run it on.

Even samples judge and odd ones choose, as ``olc.compile`` splits its ``--data``. Text is the topics of Python's own help
(``pydoc_data``), so that there is enough of it; pictures are crops, speech is clips one after the other.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import models
from models import audio, corpus, images

Sample = dict[str, np.ndarray]


@dataclass(frozen=True)
class Row:
    """One model at one size.

    Attributes:
        kind: ``arrays`` or ``text`` (``engines.py``).
        source: (a folder to write to) -> the model's file.
        samples: what engines take, even ones to judge.
        transformer: tells NNCF to treat it as one.
        cosine: the lowest that olc may give, and that a peer's speed counts for.
        note: what a reader of the row should know.
    """

    name: str
    kind: str
    source: Callable[[Path], Path]
    samples: Callable[[], list[Sample]]
    transformer: bool = True
    cosine: float = 0.99
    note: str = ""


def recipe(stem: str) -> Callable[[Path], Path]:
    """A file of the cache of models, built if it has to be."""

    def build(folder: Path) -> Path:
        found, variant, role = models.locate(stem)
        found.require()
        return variant.files[role].build()

    return build


@cache
def words() -> list[str]:
    from pydoc_data.topics import topics

    return " ".join(topics[name] for name in sorted(topics)).split()


def passage(number: int, count: int) -> str:
    """The ``number``-th stretch of so many words; it begins again after the last."""
    start = number * count % (len(words()) - count)
    return " ".join(words()[start : start + count])


# --- text -------------------------------------------------------------------------------------------------------------


def sentences(batch: int) -> Callable[[], list[Sample]]:
    """MiniLM's inputs of 128 tokens, 16 samples. In a batch, every second text is shorter and padded."""

    def samples() -> list[Sample]:
        encode = models.find("minilm-l6").encode
        lengths = [128 if i % 2 == 0 else 50 for i in range(batch)]
        return [encode([passage(s * batch + i, n) for i, n in enumerate(lengths)]) for s in range(16)]

    return samples


def decoding(context: int, new: int, count: int = 8) -> Callable[[], list[Sample]]:
    """Tokens of SmolLM2, the last ``new`` of which are appended to a cache of ``context``."""

    def samples() -> list[Sample]:
        encode = models.find("smollm2-135m").encode
        texts = [encode(passage(i, context + new))[:, : context + new] for i in range(count)]
        return [{"tokens": text, "context": np.array(context)} for text in texts]

    return samples


#: Factor of query and key weights of BERT-base: attention scores then differ by some 8 within a row, as trained ones do.
SHARPER = 2.5


def bert_base(folder: Path) -> Path:
    """The corpus's BERT of published size, random weights, its attention sharpened: else all tokens count the same."""
    import onnx

    proto = corpus.load("bert-base_dynamo_op18")
    weights = {w.name: w for w in proto.graph.initializer}
    makers = {name: node for node in proto.graph.node for name in node.output}
    for node in proto.graph.node:
        if node.op_type == "Add" and any(name.endswith((".query.bias", ".key.bias")) for name in node.input):
            product = next(makers[name] for name in node.input if name in makers)
            weight = weights[product.input[1]]
            weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) * np.float32(SHARPER), weight.name))
    path = folder / "bert-base.onnx"
    onnx.save(proto, path)
    return path


def ids(seq: int) -> Callable[[], list[Sample]]:
    def samples() -> list[Sample]:
        rng, ones = np.random.default_rng(0), np.ones((1, seq), np.int64)
        drawn = [rng.integers(0, 300, (1, seq)) for _ in range(16)]
        return [{"input_ids": d, "attention_mask": ones, "token_type_ids": 0 * ones} for d in drawn]

    return samples


# --- speech and pictures ----------------------------------------------------------------------------------------------


def speech() -> list[Sample]:
    """The three clips, and two and three of them one after the other: 15 samples."""
    clips = [samples for samples, _ in audio.clips().values()]
    orders = [order for n in (1, 2, 3) for order in itertools.permutations(range(len(clips)), n)]
    return [{"input_features": audio.log_mel(np.concatenate([clips[i] for i in order]))[None]} for order in orders]


def crops(count: int = 16, size: int = 224) -> list[np.ndarray]:
    """Parts of the test pictures at random places, half of them mirrored: uint8 [size, size, 3]."""
    rng, pictures = np.random.default_rng(0), list(images.pictures().values())
    found = []
    for i in range(count):
        picture = pictures[i // 2 % len(pictures)]
        side = int(rng.integers(size // 2, size + 1))
        top, left = (int(x) for x in rng.integers(0, size - side + 1, 2))
        part = images.resize(picture[top : top + side, left : left + side], size, size).round().astype(np.uint8)
        found.append(part[:, ::-1] if rng.random() < 0.5 else part)
    return found


def efficientnet() -> list[Sample]:
    return [{"input": models.find("efficientnet-lite0").prepare(picture)} for picture in crops()]


def ocr() -> list[Sample]:
    """Stretches of the printed page's lines, 48 by 320."""
    _, _, role = models.locate("ppocrv4-rec")
    found = models.find("ppocrv4")
    lines = [feed["x"] for feed in found.feeds(found.build())[role]]
    return [{"x": line[..., x : x + 320]} for line in lines for x in range(0, line.shape[-1] - 319, 320)]


def resnet50(folder: Path) -> Path:
    """ResNet-50 of the published sizes with random weights, its BatchNormalizations within the convolutions."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    nodes: list[Any] = []
    weights: list[Any] = []

    def node(op: str, *inputs: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(op, inputs, [f"v{len(nodes)}"], name=f"n{len(nodes)}", **attributes))
        return f"v{len(nodes) - 1}"

    def weight(name: str, *shape: int, scale: float) -> str:
        values = rng.standard_normal(shape).astype(np.float32) * np.float32(scale)
        weights.append(numpy_helper.from_array(values, name))
        return name

    def conv(x: str, into: int, out: int, kernel: int, stride: int = 1, gain: float = 1.0) -> str:
        name = f"w{len(nodes)}"
        scale = gain * (2 / (into * kernel * kernel)) ** 0.5
        parts = weight(name, out, into, kernel, kernel, scale=scale), weight(f"{name}.bias", out, scale=0.05)
        return node("Conv", x, *parts, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[kernel // 2] * 4)

    x = node("Relu", conv("input", 3, 64, 7, 2))
    x = node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    into = 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        width = 64 << stage
        for block in range(blocks):
            stride = 2 if stage > 0 and block == 0 else 1
            inner = node("Relu", conv(node("Relu", conv(x, into, width, 1)), width, width, 3, stride))
            inner = conv(inner, width, 4 * width, 1, gain=0.5)  # else each block would double the variance
            x = node("Relu", node("Add", inner, conv(x, into, 4 * width, 1, stride) if block == 0 else x))
            into = 4 * width
    x = node("Flatten", node("GlobalAveragePool", x))
    x = node("Gemm", x, weight("head", 1000, into, scale=into**-0.5), weight("head.bias", 1000, scale=0.05), transB=1)
    graph = helper.make_graph(
        nodes, "resnet50", [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, 224, 224])],
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, ["batch", 1000])], weights,
    )  # fmt: skip
    path = folder / "resnet50.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def photographs() -> list[Sample]:
    """Colours to mean 0 and variance 1, channels first."""
    pictures = [picture.astype(np.float32).transpose(2, 0, 1)[None] for picture in crops()]
    return [{"input": (p - p.mean((2, 3), keepdims=True)) / (p.std((2, 3), keepdims=True) + 1)} for p in pictures]


_BERT, _SMOLLM, _WHISPER = "minilm-l6_dynamo_op18", "smollm2-135m-kv_dynamo_op18", "whisper-tiny-en-encoder_dynamo_op18"
_LAST = "all logits in ONNX files, the last token's alone in genai and llama.cpp; errors are of the last token's"
ROWS = (
    Row("minilm-b1", "arrays", recipe(_BERT), sentences(1)),
    Row("minilm-b8", "arrays", recipe(_BERT), sentences(8)),
    Row("bert-base-128", "arrays", bert_base, ids(128), note="random weights"),
    Row("bert-base-384", "arrays", bert_base, ids(384), note="random weights"),
    Row("smollm2-decode-128", "text", recipe(_SMOLLM), decoding(128, 1)),
    Row("smollm2-decode-1024", "text", recipe(_SMOLLM), decoding(1024, 1)),
    Row("smollm2-prefill-512", "text", recipe(_SMOLLM), decoding(0, 512), note=_LAST),
    Row("whisper-encoder", "arrays", recipe(_WHISPER), speech),
    Row("resnet50", "arrays", resnet50, photographs, transformer=False, note="random weights"),
    Row("efficientnet-lite0", "arrays", recipe("efficientnet-lite0_dynamo_op18"), efficientnet, transformer=False, cosine=0.98),
    Row("ppocr-rec", "arrays", recipe("ppocrv4-rec"), ocr, transformer=False, cosine=0.95),
)
