"""Weights in blocks along K, each with a scale and a zero point: what MatMulNBits and a blocked DequantizeLinear hold."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .weights import _CHUNK

SHRUNKEN = tuple(1 - 0.04 * i for i in range(12))
"""The parts of a block's range that the search tries."""


ON_GRID = 0.1
"""Steps that a number may be off a grid to lie on it: what bfloat16 leaves of one. Of 32 numbers by chance none do."""


@dataclass(frozen=True)
class BlockWeight:
    """A matrix [K, N] in blocks of ``block`` rows: ``w`` is about ``(q - zero) * scale``, the block's of each row.

    Attributes:
        q: uint8 [K, N], codes 0 to 2^bits - 1, not packed.
        scale: float32 [ceil(K / block), N], greater than 0.
        zero: uint8 [ceil(K / block), N], codes too.
    """

    q: np.ndarray
    scale: np.ndarray
    zero: np.ndarray
    bits: int
    block: int


@dataclass(frozen=True)
class Packed:
    """The inputs of com.microsoft.MatMulNBits.

    Attributes:
        weight: uint8 [N, ceil(K / block), block * bits / 8], of two 4-bit codes the lower first; past K it holds zero points.
        scale: float32 [N, ceil(K / block)].
        zero: uint8 [N, ceil(ceil(K / block) * bits / 8)], or None where all are the operator's default, 2^(bits - 1).
    """

    weight: np.ndarray
    scale: np.ndarray
    zero: np.ndarray | None


def quantize_blocks(w: np.ndarray, bits: int, block: int, symmetric: bool = False, search: bool = False) -> BlockWeight:
    """A float matrix [K, N] to the nearest codes of each block's grid (see ``block_grid``).

    Works on some columns at a time, so that beside the result little memory is used.

    Raises:
        ValueError: the weight is not a matrix or holds what is not finite; ``bits`` is not 4 or 8; ``block`` is below 1.
    """
    if w.ndim != 2:
        raise ValueError(f"the weight has rank {w.ndim}, not 2")
    if bits not in (4, 8):
        raise ValueError(f"{bits} bits; 4 and 8 can be packed")
    if block < 1:
        raise ValueError(f"blocks of {block} rows")
    rows, columns = w.shape
    blocks = -(-rows // block)
    q = np.empty((rows, columns), np.uint8)
    scale = np.empty((blocks, columns), np.float32)
    zero = np.empty((blocks, columns), np.uint8)
    for at in _columns(blocks * block, columns):
        # Rows past K are zeros: every grid holds 0 exactly, and no range grows by it.
        flat = np.zeros((blocks * block, at.stop - at.start), np.float32)
        flat[:rows] = w[:, at]
        if not np.isfinite(flat).all():
            raise ValueError("the weight holds numbers that are not finite")
        part = flat.reshape(blocks, block, flat.shape[1])
        scale[:, at], zero[:, at] = block_grid(part, bits, symmetric, search)
        codes = nearest_codes(part, scale[:, None, at], zero[:, None, at], bits)
        q[:, at] = codes.reshape(flat.shape)[:rows]
    return BlockWeight(q, scale, zero, bits, block)


def former_block(w: np.ndarray) -> int | None:
    """The most rows of a matrix [K, N], of 128, 64 and 32, that share a grid of 16 points, if it was rounded to such before.

    Checkpoints of 4 bits have 128 of them (GPTQ, AWQ) or 32 (GGUF).
    """
    if not w.size:
        return None
    columns = np.unique(np.linspace(0, w.shape[1] - 1, 8, dtype=np.int64))
    for block in (128, 64, 32):
        some = np.zeros((-(-len(w) // block) * block, len(columns)), np.float32)
        some[: len(w)] = w[:, columns]
        part = some.reshape(-1, block, len(columns))
        if _was_rounded(part, part.min(axis=1, initial=0.0), part.max(axis=1, initial=0.0)):
            return block
    return None


def block_grid(
    part: np.ndarray, bits: int, symmetric: bool = False, search: bool = False, weight: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The scale float32 [..., N] and zero point uint8 [..., N] of blocks float [..., block, N], finite.

    The grid covers the block's least to its largest number, and 0; a symmetric one has its zero at 2^(bits - 1), one code
    more below than above. With ``search`` the range is that part of it, of ``SHRUNKEN``, whose squared error is least
    (minmax against mse range setting: Nagel et al. 2021, "A White Paper on Neural Network Quantization", section 3.1);
    ``weight`` float [..., block, 1]: how much each row's counts. Blocks of 4 bits that were on a grid of so many points before
    (a checkpoint of GPTQ, AWQ or GGUF, made floats again) get that one.
    """
    low = part.min(axis=-2, initial=0.0).astype(np.float64)
    high = part.max(axis=-2, initial=0.0).astype(np.float64)
    scale, zero = _grid(low, high, bits, symmetric)
    if bits == 4 and _was_rounded(part, low, high):
        scale, zero = _former_grid(part, low, high, scale, zero, symmetric)
    if not search:
        return scale, zero
    least = _squared_error(part, scale, zero, bits, weight)
    for shrink in SHRUNKEN[1:]:
        s, z = _grid(low * shrink, high * shrink, bits, symmetric)
        error = _squared_error(part, s, z, bits, weight)
        better = error < least
        scale[better], zero[better], least[better] = s[better], z[better], error[better]
    return scale, zero


def nearest_codes(part: np.ndarray, scale: np.ndarray, zero: np.ndarray, bits: int) -> np.ndarray:
    """uint8 codes of the points of a grid that are nearest; scale and zero broadcast against ``part``."""
    codes = np.rint(part / scale)
    codes += zero
    return np.clip(codes, 0, 2**bits - 1, out=codes).astype(np.uint8)


def dequantize(w: BlockWeight) -> np.ndarray:
    """float32 [K, N]: bit for bit what DequantizeLinear with ``block_size`` gives."""
    out = np.empty(w.q.shape, np.float32)
    for at in _columns(*w.q.shape):
        out[:, at] = w.q[:, at].astype(np.int16) - _rows(w.zero[:, at], w)
        out[:, at] *= _rows(w.scale[:, at], w)
    return out


def pack(w: BlockWeight, zeros: bool = False) -> Packed:
    """The weight in the layout of com.microsoft.MatMulNBits (ONNX Runtime, ContribOperators.md).

    Args:
        zeros: give the zero points where all are the operator's default, too.

    Raises:
        ValueError: the operator takes no blocks of that size: it must be a power of two, 16 at least.
    """
    if w.block < 16 or w.block & (w.block - 1):
        raise ValueError(f"MatMulNBits takes blocks of a power of two from 16 up, not of {w.block}")
    rows, columns = w.q.shape
    blocks = len(w.scale)
    weight = np.empty((columns, blocks, w.block * w.bits // 8), np.uint8)
    for at in _columns(blocks * w.block, columns):
        codes = np.repeat(w.zero[:, at].T, w.block, axis=1)
        codes[:, :rows] = w.q[:, at].T
        weight[at] = _pairs(codes.reshape(len(codes), blocks, w.block), w.bits)
    default = bool((w.zero == 2 ** (w.bits - 1)).all())
    return Packed(weight, np.ascontiguousarray(w.scale.T), None if default and not zeros else _pairs(w.zero.T, w.bits))


def _columns(rows: int, columns: int) -> list[slice]:
    step = max(1, _CHUNK // max(1, rows))
    return [slice(i, min(i + step, columns)) for i in range(0, columns, step)]


def _rows(per_block: np.ndarray, w: BlockWeight) -> np.ndarray:
    return np.repeat(per_block, w.block, axis=0)[: len(w.q)]


def _grid(low: np.ndarray, high: np.ndarray, bits: int, symmetric: bool) -> tuple[np.ndarray, np.ndarray]:
    top, half = 2**bits - 1, 2 ** (bits - 1)
    # In float64 to here, and never 0, so that a block of denormals divides by what its scale really is.
    width = np.maximum(high / (half - 1), -low / half) if symmetric else (high - low) / top
    scale = width.astype(np.float32)
    scale[scale == 0] = 1.0
    if symmetric:
        return scale, np.full(scale.shape, half, np.uint8)
    return scale, np.clip(np.rint(-low / scale), 0, top).astype(np.uint8)


def _was_rounded(part: np.ndarray, low: np.ndarray, high: np.ndarray) -> bool:
    """Do some of the blocks, from all over, lie on grids of 16 points each? Of fewer numbers than points any might."""
    if part.shape[-2] < 16 or not part.size:
        return False
    columns = np.unique(np.linspace(0, part.shape[-1] - 1, 8, dtype=np.int64))
    some, low, high = (a[..., columns] for a in (part, low, high))
    found = np.zeros(low.shape, bool)
    for step in _steps(low, high):
        found |= _on_grid(some, step)
    return bool(found.all()) and bool((high > low).any())


def _former_grid(
    part: np.ndarray, low: np.ndarray, high: np.ndarray, scale: np.ndarray, zero: np.ndarray, symmetric: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The widest grid on which each block lies, and the one given where it lies on none or is closer to that."""
    left, found, at = np.ones(low.shape, bool), scale.copy(), zero.copy()
    blocks = np.moveaxis(part, -2, -1)
    for step in _steps(low, high):
        below, above = np.rint(-low / step), np.rint(high / step)
        fits = left & ((below <= 8) & (above <= 7) if symmetric else below + above <= 15)
        fits[fits] = _on_grid(blocks[fits, :4].T, step[fits])  # few get farther
        numbers, steps = blocks[fits], step[fits]
        codes = np.rint(numbers / steps[:, None])
        fitted = np.sum(numbers * codes, axis=1) / np.maximum(np.square(codes).sum(axis=1), 1)  # of all numbers, not of two
        fitted = fitted.astype(np.float32)
        held = _on_grid(numbers.T, steps) & (fitted > 0)
        fits[fits] = held
        found[fits], left = fitted[held], left & ~fits
        at[fits] = 8 if symmetric else below[fits].astype(np.uint8)
    closer = _squared_error(part, found, at, 4) < _squared_error(part, scale, zero, 4)
    return np.where(closer, found, scale), np.where(closer, at, zero)


def _steps(low: np.ndarray, high: np.ndarray) -> Iterator[np.ndarray]:
    """Steps float64 of grids that reach from the lowest to the highest, widest first; 1 where that is no way."""
    for count in range(1, 16):
        step = (high - low) / count
        yield np.where(step > np.finfo(np.float32).tiny, step, 1.0)


def _on_grid(part: np.ndarray, step: np.ndarray) -> np.ndarray:
    """bool [..., N]: are all numbers of the block multiples of its step?"""
    steps = part / step[..., None, :]
    return np.abs(steps - np.rint(steps)).max(axis=-2, initial=0.0) < ON_GRID


def _squared_error(
    part: np.ndarray, scale: np.ndarray, zero: np.ndarray, bits: int, weight: np.ndarray | None = None
) -> np.ndarray:
    scale, zero = scale[..., None, :], zero[..., None, :]
    back = nearest_codes(part, scale, zero, bits).astype(np.float32)
    back -= zero
    back *= scale
    back -= part
    if weight is not None:
        back *= np.sqrt(weight)
    return np.einsum("...kn,...kn->...n", back, back, dtype=np.float64)


def _pairs(codes: np.ndarray, bits: int) -> np.ndarray:
    """8-bit codes as they are; 4-bit codes two to the byte along the last axis, the lower first."""
    if bits == 8:
        return np.ascontiguousarray(codes)
    if codes.shape[-1] % 2:
        codes = np.concatenate([codes, np.zeros_like(codes[..., :1])], axis=-1)
    return codes[..., 0::2] | codes[..., 1::2] << 4
