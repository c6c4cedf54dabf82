"""Random weights that come back from a name: the same bytes on every machine, and no file to keep them in."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Mapping

import numpy as np

from models.sources import Source

KEY = re.compile(r"(?P<name>.+):(?P<shape>\d*(?:x\d+)*)")


def key(name: str, shape: Iterable[int]) -> str:
    """`encoder.bias:64`, `linear.weight:64x32`: all that `draw` needs, so that a skeleton needs no table beside it."""
    return f"{name}:{'x'.join(map(str, shape))}"


def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The float32 tensor of a parameter. Uniform numbers only: those are integers times a power of two everywhere.

    Matrices and kernels have variance 1 / (inputs of an output), as in a usual initialisation. Biases are not zero and
    scales of norms not one, as in a trained model: exporters drop the zeros and the ones of an untrained one.
    """
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    uniform = np.random.default_rng(seed).random(shape, np.float32) * np.float32(2) - np.float32(1)
    leaf = name.rpartition(".")[2]
    if leaf == "running_var" or (len(shape) <= 1 and leaf == "weight"):
        return np.float32(1) + np.float32(0.25) * uniform
    if len(shape) <= 1:
        return np.float32(0.25) * uniform
    return uniform * np.float32(math.sqrt(3 / math.prod(shape[1:])))


class Seeded(Source):
    """Key -> drawn tensor. Any well-formed key is there; `keys` are those that iteration gives, for an export's search."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self.listed = tuple(keys)

    def identity(self) -> str:
        return "seeded 1"

    def tensors(self) -> Mapping[str, np.ndarray]:
        return {name: self[name] for name in self.listed}

    def __getitem__(self, name: str) -> np.ndarray:
        found = KEY.fullmatch(name)
        if found is None:
            raise KeyError(name)
        return draw(found["name"], tuple(int(size) for size in found["shape"].split("x") if size))

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and KEY.fullmatch(name) is not None

    def __iter__(self):
        return iter(self.listed)

    def __len__(self) -> int:
        return len(self.listed)
