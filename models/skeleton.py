"""Skeletons: an exporter's real graph without its large weights, and how numpy puts the weights back.

A skeleton is an xz-compressed ModelProto. Its large tensors have a name, dims and data_type but no bytes. The model's
metadata entry `olc.skeleton` is JSON that says, for each of them, where its bytes come from::

    {"format": 1,
     "sha256": "...",                     # over all restored bytes, in walk order
     "origins": {"17": {"from": ["encoder.layer.0.output.dense.weight"], "steps": [["transpose", [1, 0]]]}}}

The key is the tensor's ordinal in `walk()`, which visits initializers and attribute tensors, subgraphs and functions
included, in a fixed order. `from` names tensors of the package (see `models.sources`); the first step takes them all,
each next step takes the result of the one before.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from models.errors import ModelsError

KEY = "olc.skeleton"
FORMAT = 1
FOLDER = Path(__file__).resolve().parent / "skeletons"


def walk(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every dense tensor of a model in a fixed order: main graph first, then functions; subgraphs where they occur."""

    def of_graph(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
        yield from graph.initializer
        for node in graph.node:
            yield from of_node(node)

    def of_node(node: onnx.NodeProto) -> Iterator[onnx.TensorProto]:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                yield attribute.t
            elif attribute.type == onnx.AttributeProto.TENSORS:
                yield from attribute.tensors
            elif attribute.type == onnx.AttributeProto.GRAPH:
                yield from of_graph(attribute.g)
            elif attribute.type == onnx.AttributeProto.GRAPHS:
                for graph in attribute.graphs:
                    yield from of_graph(graph)

    yield from of_graph(model.graph)
    for function in model.functions:
        for node in function.node:
            yield from of_node(node)


# Steps. Each takes the arrays that `from` names (later steps: one array) and JSON arguments. All are plain IEEE
# arithmetic or data movement in numpy, so every machine restores the same bytes.


def _cast(arrays: list[np.ndarray], dtype: str) -> np.ndarray:
    return arrays[0].astype(dtype)


def _transpose(arrays: list[np.ndarray], axes: list[int]) -> np.ndarray:
    return arrays[0].transpose(axes)


def _rows(arrays: list[np.ndarray], start: int, stop: int) -> np.ndarray:
    return arrays[0][start:stop]


def _concat(arrays: list[np.ndarray], axis: int) -> np.ndarray:
    return np.concatenate(arrays, axis)


def _unpair(arrays: list[np.ndarray], heads: int) -> np.ndarray:
    """Rows of a rotary projection from GGUF's interleaved pairs back to halves: [heads * size, width], same shape."""
    weight = arrays[0]
    return weight.reshape(heads, -1, 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def _scale(arrays: list[np.ndarray], factor: float) -> np.ndarray:
    return arrays[0] * arrays[0].dtype.type(factor)


def _batchnorm_scale(gamma: np.ndarray, var: np.ndarray, epsilon: float, ulps: str) -> np.ndarray:
    """gamma / sqrt(var + epsilon), float32 [channels].

    torch takes this square root from a vector library that is at times one unit in the last place off; `ulps` has one
    sign a channel, which says how the exporting machine rounded: `=` rightly, `+` and `-` one too far.
    """
    root = np.sqrt(var + np.float32(epsilon))
    signs = np.array(list(ulps))
    root = np.where(signs == "+", np.nextafter(root, np.float32(np.inf)), root)
    root = np.where(signs == "-", np.nextafter(root, np.float32(-np.inf)), root)
    return gamma / root


def _batchnorm_weight(arrays: list[np.ndarray], epsilon: float, ulps: str) -> np.ndarray:
    """Convolution weight [out, in, kh, kw] with the BatchNorm after it folded in."""
    weight, gamma, _beta, _mean, var = arrays
    return weight * _batchnorm_scale(gamma, var, epsilon, ulps).reshape(-1, *[1] * (weight.ndim - 1))


def _batchnorm_bias(arrays: list[np.ndarray], epsilon: float, ulps: str) -> np.ndarray:
    """Bias [out] of a convolution that had none, with the BatchNorm after it folded in."""
    _weight, gamma, beta, mean, var = arrays
    return (0 - mean) * _batchnorm_scale(gamma, var, epsilon, ulps) + beta


STEPS: dict[str, Callable[..., np.ndarray]] = {
    "cast": _cast,
    "transpose": _transpose,
    "rows": _rows,
    "concat": _concat,
    "unpair": _unpair,
    "scale": _scale,
    "batchnorm_weight": _batchnorm_weight,
    "batchnorm_bias": _batchnorm_bias,
}


def evaluate(origin: Mapping[str, Any], source: Mapping[str, np.ndarray]) -> np.ndarray:
    """The array an origin describes."""
    arrays = [source[name] for name in origin["from"]]
    for name, *arguments in origin["steps"]:
        arrays = [STEPS[name](arrays, *arguments)]
    return arrays[0]


def read(path: Path) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """A skeleton file as (model without the `olc.skeleton` entry, that entry parsed)."""
    if not path.is_file():
        raise ModelsError(
            "the skeleton is missing", str(path), "run `python -m models export` where torch is installed"
        )
    try:
        model = onnx.ModelProto.FromString(lzma.decompress(path.read_bytes()))
        found = [p for p in model.metadata_props if p.key == KEY]
        index = json.loads(found[0].value)
    except (lzma.LZMAError, IndexError, ValueError) as error:
        raise ModelsError(f"not a readable skeleton ({error})", str(path), "restore the file from git") from error
    if index["format"] != FORMAT:
        raise ModelsError(f"skeleton format {index['format']}, this code reads {FORMAT}", str(path), "export again")
    model.metadata_props.remove(found[0])
    return model, index


def fill(path: Path, source: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """The whole model: skeleton at `path` plus weights of `source` (tensor name -> array)."""
    model, index = read(path)
    digest = hashlib.sha256()
    tensors = list(walk(model))
    for ordinal, origin in sorted(index["origins"].items(), key=lambda entry: int(entry[0])):
        tensor = tensors[int(ordinal)]
        where = f"{path.name}: tensor {tensor.name!r}"
        missing = [name for name in origin["from"] if name not in source]
        if missing:
            raise ModelsError(f"the package holds no tensor {missing[0]!r}", where, "export the skeleton again")
        array = np.ascontiguousarray(evaluate(origin, source))
        wanted = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
        if array.dtype != wanted or array.size != math.prod(tensor.dims):
            raise ModelsError(
                f"its origin gives {array.dtype}{list(array.shape)}, the graph wants {wanted}{list(tensor.dims)}",
                where,
                "export the skeleton again",
            )
        tensor.raw_data = array.tobytes()
        digest.update(array.data.cast("B"))
    if digest.hexdigest() != index["sha256"]:
        raise ModelsError(
            "the restored weights differ from those exported", str(path), "export again: package or transforms changed"
        )
    return model
