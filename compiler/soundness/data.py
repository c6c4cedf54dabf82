"""Contents of test tensors: ordinary numbers, and those that break rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..assumptions import DISTINCT, FINITE, KEEPS_A_KEY, UNCLIPPED, UNSELECTED
from ..ir import DataType

EXACT_PROFILES = ("plain", "specials", "mixed", "whole")
# One infinite or huge number takes all resolution from the others of a tensor that is quantized as a whole.
LOSSY_PROFILES = ("plain", "small", "saturating", "whole")
CLOSE_PROFILES = ("plain", "masked", "small", "saturating", "wide", "whole")
"""What floats are filled with. For integers: small non-negative ones ("plain": also good as indices), else any."""

_FLOATS = (DataType.FLOAT, DataType.FLOAT16, DataType.DOUBLE, DataType.BFLOAT16)


def special_numbers(dtype: DataType) -> np.ndarray:
    """Zeros of both signs, infinities, NaN, denormals, the largest and the smallest normal number."""
    import ml_dtypes

    t = dtype.numpy()
    info = ml_dtypes.finfo(t)  # type: ignore[no-untyped-call]
    numbers = [0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0, 0.5]
    limits = [info.max, info.min, info.tiny, -info.tiny, info.smallest_subnormal, -info.smallest_subnormal]
    return np.concatenate([np.asarray(numbers).astype(t), np.asarray(limits, dtype=t)])


def fill(dtype: DataType, shape: tuple[int, ...], profile: str, random: np.random.Generator) -> np.ndarray:
    """An array of that dtype and shape."""
    t = dtype.numpy()
    if dtype in _FLOATS:
        return _floats(dtype, shape, profile, random)
    if dtype == DataType.BOOL:
        return random.integers(0, 2, shape).astype(bool)
    if dtype == DataType.STRING:
        return random.choice(np.array(["", "a", "olc"], dtype=object), size=shape)
    if dtype in (DataType.COMPLEX64, DataType.COMPLEX128):
        return (random.normal(size=shape) + 1j * random.normal(size=shape)).astype(t)
    if dtype.is_integer():
        return _integers(t, shape, profile, random)
    return random.normal(size=shape).astype(t)


def _floats(dtype: DataType, shape: tuple[int, ...], profile: str, random: np.random.Generator) -> np.ndarray:
    t = dtype.numpy()
    normal = random.normal(size=shape)
    if profile == "positive":
        normal = np.abs(normal) + 0.1
    elif profile == "whole":
        normal = random.integers(-3, 4, shape).astype(float)
    elif profile == "small":
        normal = normal * 1e-3
    elif profile == "saturating":
        normal = normal * 6
    elif profile == "wide":
        reach = 2 if dtype == DataType.FLOAT16 else 5
        normal = np.sign(normal) * 10.0 ** random.uniform(-reach, reach, shape)
    elif profile in ("specials", "mixed", "masked"):
        # "mixed" keeps ordinary neighbours, so that sums and maxima do not all end as NaN; "masked" leaves out the
        # largest numbers, at which functions that are only close overflow at different places.
        numbers = special_numbers(dtype)
        chosen = _dealt(numbers[:8] if profile == "masked" else numbers, shape, random)
        share = 0.9 if profile == "specials" else 0.15
        return np.where(random.random(shape) < share, chosen, normal.astype(t)).astype(t)
    return np.asarray(normal).astype(t)


def _dealt(numbers: np.ndarray, shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
    """The numbers in random order, over and over: few elements hold many of them."""
    size = int(np.prod(shape, dtype=np.int64))
    packs = [random.permutation(numbers) for _ in range(size // numbers.size + 1)]
    return np.concatenate(packs)[:size].reshape(shape)


def _integers(t: Any, shape: tuple[int, ...], profile: str, random: np.random.Generator) -> np.ndarray:
    import ml_dtypes

    info = ml_dtypes.iinfo(t)  # type: ignore[no-untyped-call]
    if profile in ("plain", "positive"):
        return random.integers(0, 2, shape).astype(t)
    numbers = np.asarray([0, 1, 2, 3, 7] if info.min == 0 else [0, 1, -1, 2, -3, 7])
    if profile == "specials":
        return random.choice(np.asarray([*numbers.tolist(), info.min, info.max]).astype(t), size=shape)
    return random.choice(numbers, size=shape).astype(t)


def feeds(
    inputs: Mapping[str, tuple[DataType, tuple[int, ...]]], profile: str, seed: Any,
    assumed: frozenset[str] = frozenset(),
) -> dict[str, np.ndarray]:  # fmt: skip
    """Contents for graph inputs, such that what is ``assumed`` of them (``assumptions.py``) holds."""
    random = np.random.default_rng(seed)
    if not assumed.isdisjoint((FINITE, UNCLIPPED, UNSELECTED)) and profile in ("specials", "mixed", "masked", "wide"):
        profile = "plain"
    if DISTINCT in assumed and profile in ("specials", "mixed", "masked", "whole", "wide"):
        profile = "plain"
    made = {name: fill(dtype, shape, profile, random) for name, (dtype, shape) in inputs.items()}
    if KEEPS_A_KEY in assumed:
        for a in made.values():
            if a.dtype == bool and a.ndim:
                a[..., :1] = True
            elif a.dtype == np.int32 and a.ndim == 1:  # where each text ends
                np.maximum(a, 1, out=a)
            elif a.dtype == np.int32 and a.ndim:
                a[..., :1] = 1
    return made


def show(a: Any, limit: int = 12) -> str:
    """An array in one line: ``float32[2] [1.0, -0.0]``; a scalar as its number."""
    a = np.asarray(a)
    if a.ndim == 0:
        return _number(a[()])
    flat = a.reshape(-1)
    text = ", ".join(_number(x) for x in flat[:limit]) + (", …" if flat.size > limit else "")
    return f"{a.dtype}[{', '.join(map(str, a.shape))}] [{text}]"


def _number(x: Any) -> str:
    return repr(x.item() if isinstance(x, np.generic) else x)
