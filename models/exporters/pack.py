"""Find where each large weight of an export comes from, and write the skeleton without it."""

from __future__ import annotations

import hashlib
import json
import lzma
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from models import skeleton

Origin = dict[str, Any]
Candidates = Callable[[Mapping[str, np.ndarray]], Iterator[Origin]]

SMALL = 512  # bytes: below this a tensor stays in the skeleton without a search
KEPT = 24_000  # bytes after xz: the largest tensor without an origin that may stay in the skeleton


def with_transposes(origin: Origin, shape: tuple[int, ...]) -> Iterator[Origin]:
    """The origin itself and, if it is a matrix, its transpose (what MatMul wants of a Linear's weight)."""
    yield origin
    if len(shape) == 2:
        yield {**origin, "steps": [*origin["steps"], ["transpose", [1, 0]]]}


def plain_candidates(source: Mapping[str, np.ndarray]) -> Iterator[Origin]:
    """Each tensor as it is and transposed, as float32 if stored as half."""
    for name, array in source.items():
        steps = [["cast", "float32"]] if array.dtype == np.float16 else []
        yield from with_transposes({"from": [name], "steps": steps}, array.shape)


def _digest(array: np.ndarray) -> tuple[str, int, bytes]:
    """Bytes decide, not shapes: a reshape moves nothing."""
    data = np.ascontiguousarray(array)
    return data.dtype.str, data.nbytes, hashlib.sha1(data.data.cast("B")).digest()


def pack(
    model: onnx.ModelProto,
    source: Mapping[str, np.ndarray],
    candidates: Candidates = plain_candidates,
    small: int = SMALL,
) -> onnx.ModelProto:
    """A copy of the model whose tensors of more than `small` bytes are empty, with metadata to restore them.

    Raises SystemExit naming every large tensor whose bytes no candidate gives.
    """
    slim = onnx.ModelProto()
    slim.CopyFrom(model)
    wanted: dict[tuple[str, int, bytes], list[int]] = {}
    tensors = list(skeleton.walk(slim))
    for ordinal, tensor in enumerate(tensors):
        if len(tensor.raw_data) > small:
            wanted.setdefault(_digest(numpy_helper.to_array(tensor)), []).append(ordinal)
    sizes = {(dtype, size) for dtype, size, _ in wanted}
    origins: dict[int, Origin] = {}
    missing = dict(wanted)
    for origin in candidates(source):
        if not missing:
            break
        array = skeleton.evaluate(origin, source)
        if (array.dtype.str, array.nbytes) in sizes:
            for ordinal in missing.pop(_digest(array), ()):
                origins[ordinal] = origin
    lost = []
    for ordinals in missing.values():
        tensor = tensors[ordinals[0]]
        kept = len(lzma.compress(tensor.raw_data)) * len(ordinals)
        if kept > KEPT:
            lost.append(f"  {tensor.name} {list(tensor.dims)} used {len(ordinals)} times, {kept:,} bytes compressed")
    if lost:
        raise SystemExit("large weights come from no tensor of the package:\n" + "\n".join(lost))
    digest = hashlib.sha256()
    for ordinal in sorted(origins):
        digest.update(tensors[ordinal].raw_data)
        tensors[ordinal].ClearField("raw_data")
    index = {
        "format": skeleton.FORMAT,
        "sha256": digest.hexdigest(),
        "origins": {str(ordinal): origins[ordinal] for ordinal in sorted(origins)},
    }
    slim.metadata_props.add(key=skeleton.KEY, value=json.dumps(index, separators=(",", ":"), sort_keys=True))
    return slim


def write(path: Path, slim: onnx.ModelProto) -> int:
    """Store a skeleton; returns its size in bytes. The same model always gives the same bytes."""
    data = lzma.compress(slim.SerializeToString(deterministic=True), preset=9 | lzma.PRESET_EXTREME)
    path.write_bytes(data)
    return len(data)


def pack_and_prove(
    path: Path,
    model: onnx.ModelProto,
    source: Mapping[str, np.ndarray],
    candidates: Candidates = plain_candidates,
    small: int = SMALL,
) -> str:
    """Write the skeleton of `model` to `path`, fill it again, and raise unless that gives the model byte for byte."""
    size = write(path, pack(model, source, candidates, small))
    again = skeleton.fill(path, source)
    fresh = model.SerializeToString(deterministic=True)
    if again.SerializeToString(deterministic=True) != fresh:
        for ours, theirs in zip(skeleton.walk(again), skeleton.walk(model), strict=True):
            if ours != theirs:
                raise SystemExit(f"{path.name}: tensor {theirs.name} is not restored")
        raise SystemExit(f"{path.name}: the restored graph differs from the export")
    return f"{path.name}: {len(fresh):,} bytes restored exactly from a skeleton of {size:,}"
