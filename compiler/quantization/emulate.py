"""What rounding does to a linear's output, in numpy: |xw - x'w'|^2 / |xw|^2 for each scheme.

The layer-wise error of Nagel et al. 2021, "A White Paper on Neural Network Quantization", section 3. Everywhere ``x`` is
float [..., K], ``w`` float [K, N], both finite, and the result 0 where nothing is lost, infinite where all outputs are 0
and the rounded ones are not.
"""

from __future__ import annotations

import math

import numpy as np

from .blocks import BlockWeight, dequantize, quantize_blocks
from .weights import INT8_LIMIT, half_scale, quantize_linear_weight


def int8_dynamic(x: np.ndarray, w: np.ndarray, weight: tuple[np.ndarray, np.ndarray] | None = None) -> float:
    """DynamicQuantizeLinear of all of ``x`` and an int8 weight: ``weight`` (codes [K, N], scale [N]), else the nearest."""
    x = _rows(x)
    return static(x, w, float(x.min(initial=0.0)), float(x.max(initial=0.0)), weight)


def int8_row(x: np.ndarray, w: np.ndarray, weight: tuple[np.ndarray, np.ndarray] | None = None) -> float:
    """``int8_dynamic`` of ``x`` with its rows brought to the same largest magnitude."""
    x = _rows(x)
    largest = np.maximum(np.abs(x).max(axis=1, keepdims=True, initial=0.0), np.finfo(np.float32).tiny)
    part = x / largest
    q, scale = quantize_linear_weight(w) if weight is None else weight
    rounded = fake_uint8(part, float(part.min(initial=0.0)), float(part.max(initial=0.0)))
    return relative_error(x @ _floats(w), (rounded @ q.astype(np.float32)) * scale * largest)


def int8_outliers(
    x: np.ndarray, w: np.ndarray, apart: np.ndarray, weight: tuple[np.ndarray, np.ndarray] | None = None
) -> float:
    """``int8_dynamic`` with these channels, int64 [C], in float. ``weight``: of ``w`` with 0 in their rows."""
    x, w = _rows(x), _floats(w)
    rest, rest_w = x.copy(), w.copy()
    rest[:, apart] = 0
    rest_w[apart] = 0
    q, scale = quantize_linear_weight(rest_w) if weight is None else weight
    rounded = fake_uint8(rest, float(rest.min(initial=0.0)), float(rest.max(initial=0.0)))
    return relative_error(x @ w, (rounded @ q.astype(np.float32)) * scale + x[:, apart] @ w[apart])


def static(
    x: np.ndarray, w: np.ndarray, low: float, high: float, weight: tuple[np.ndarray, np.ndarray] | None = None
) -> float:
    """QuantizeLinear of ``x`` to uint8 over [low, high] and 0, and an int8 weight as in ``int8_dynamic``."""
    x = _rows(x)
    q, scale = quantize_linear_weight(w) if weight is None else weight
    return relative_error(x @ _floats(w), (fake_uint8(x, low, high) @ q.astype(np.float32)) * scale)


def symmetric(x: np.ndarray, w: np.ndarray) -> float:
    """Both in int8 without zero points, by ``half_scale``: ``x`` with one scale, ``w`` with one for each column."""
    x = _rows(x)
    q, scale = quantize_linear_weight(w, half=True)
    unit = half_scale(np.abs(x).max(initial=0.0))
    rounded = np.clip(np.rint(x / unit), -128, 127)
    return relative_error(x @ _floats(w), (rounded @ q.astype(np.float32)) * (scale * unit))


def int4_weight(x: np.ndarray, w: np.ndarray) -> float:
    """``x`` as it is and ``w`` by ``int4_blocks``, rows past its last whole block left out."""
    from . import BLOCK, int4_blocks

    rows = len(w) // BLOCK * BLOCK
    q, scale = int4_blocks(w[:rows])
    x = _rows(x)[:, :rows]
    return relative_error(x @ _floats(w[:rows]), x @ (q.astype(np.float32) * np.repeat(scale, BLOCK, axis=0)))


def block(
    x: np.ndarray, w: np.ndarray, bits: int, block: int, weight: BlockWeight | None = None, level4: bool = False
) -> float:
    """A blocked weight: ``weight``, else the nearest. ``x`` stays float, but for accuracy level 4 of MatMulNBits.

    That level (``level4``), the fast one, makes int8 of each row's blocks of ``x``, symmetric, by their largest magnitude.
    """
    x = _rows(x)
    held = quantize_blocks(w, bits, block) if weight is None else weight
    return relative_error(x @ _floats(w), (fake_int8_blocks(x, block) if level4 else x) @ dequantize(held))


def attention(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, mask: np.ndarray | None, heads: tuple[int, int], scale: float | None = None,
    limit: int = INT8_LIMIT, most: int = 128,
) -> float:  # fmt: skip
    """Attention as ``int8-attention`` computes it: of q [B, S, heads x D], k [B, T, kv heads x D] and v [B, T, kv heads x E].

    Args:
        mask: broadcast to [B, heads, S, T]: bool, False where a key is hidden, or float, added.
        heads: of queries, and of keys and values.
        scale: of the scores; 1 / sqrt(D) by default.
        most: queries that are looked at, spread over all.
    """
    count, kv = heads
    step = max(1, -(-q.shape[1] // most))
    rounded_q = fake_uint8(q, float(q.min(initial=0.0)), float(q.max(initial=0.0)))
    mean_k, mean_v = k.mean(axis=1, keepdims=True), v.mean(axis=1, keepdims=True)
    rounded_k, rounded_v = fake_int8(k - mean_k, limit), fake_int8(v - mean_v, limit)

    def split(x: np.ndarray, n: int) -> np.ndarray:
        return np.repeat(x.reshape(*x.shape[:2], n, x.shape[2] // n).swapaxes(1, 2), count // n, axis=1)

    added = None if mask is None else np.broadcast_to(mask, (len(q), count, q.shape[1], k.shape[1]))[:, :, ::step]

    def grown(q: np.ndarray, k: np.ndarray) -> np.ndarray:
        scores = split(q[:, ::step], count) @ split(k, kv).swapaxes(2, 3)
        scores *= q.shape[2] ** -0.5 * count**0.5 if scale is None else scale
        if added is not None:
            scores = np.where(added, scores, -1e37) if added.dtype == bool else scores + added
        return np.asarray(np.exp(scores - scores.max(axis=3, keepdims=True)))

    def divided(e: np.ndarray, whole: np.ndarray, v: np.ndarray) -> np.ndarray:
        return np.asarray(e @ split(v, kv) / whole.sum(axis=3, keepdims=True))

    exact, near = grown(q, k), grown(rounded_q, rounded_k)
    rounded = divided(np.rint(near * 255) / np.float32(255), near, rounded_v) + split(mean_v, kv)
    return relative_error(divided(exact, exact, v), rounded)


def experts(
    x: np.ndarray, router: np.ndarray, up: np.ndarray, down: np.ndarray, bits: int, block: int, picked: int,
    gate: tuple[float, float] = (1.0, 0.0), limit: float = math.inf,
    biases: tuple[np.ndarray | None, np.ndarray | None] = (None, None), most: int = 2,
) -> float:  # fmt: skip
    """Gated experts as QMoE computes them at accuracy level 4, of tokens x [T, H] and what a router says of each [T, E].

    Args:
        up: float [E, 2 I, H], rows of gates and of what they gate in turn; ``down`` [E, H, I].
        picked: the experts of a token; each of its outputs is weighed alike, for by which share it counts is not rounded.
        gate: by what the gate is multiplied within its sigmoid, and what is added to what it gates.
        limit: that gates are clipped to, and what they gate to its negative too.
        biases: of the two products, [E, 2 I] and [E, H].
        most: experts that are looked at, those which most tokens want.
    """
    x, wanted = _rows(x), np.argsort(-router, axis=1, kind="stable")[:, :picked]
    exact, rounded = [], []

    def added(product: np.ndarray, bias: np.ndarray | None, e: int) -> np.ndarray:
        return product if bias is None else product + bias[e]

    def within(product: np.ndarray) -> np.ndarray:
        a, b = np.minimum(product[:, ::2], limit), np.clip(product[:, 1::2], -limit, limit)
        return np.asarray(a / (1 + np.exp(-np.clip(gate[0] * a, -80, 80))) * (b + gate[1]), np.float32)

    def back(w: np.ndarray) -> np.ndarray:
        return dequantize(quantize_blocks(w.T, bits, block, search=bits < 8))

    for e in np.argsort(-np.bincount(wanted.reshape(-1), minlength=len(up)), kind="stable")[:most]:
        mine = x[(wanted == e).any(axis=1)]
        exact.append(added(within(added(mine @ up[e].T, biases[0], e)) @ down[e].T, biases[1], e))
        inner = within(added(fake_int8_blocks(mine, block) @ back(up[e]), biases[0], e))
        rounded.append(added(fake_int8_blocks(inner, block) @ back(down[e]), biases[1], e))
    return relative_error(np.concatenate(exact), np.concatenate(rounded))


def fake_int8(x: np.ndarray, limit: int = INT8_LIMIT) -> np.ndarray:
    """float32 of x's shape: x in int8 with one scale, symmetric, codes of at most ``limit``, and back."""
    scale = np.float32(max(float(np.abs(x).max(initial=0.0)), float(np.finfo(np.float32).tiny)) / limit)
    return np.asarray(np.clip(np.rint(x / scale), -limit, limit) * scale, np.float32)


def uint8_grid(low: float, high: float) -> tuple[np.float32, np.float32]:
    """Scale and zero point (0 to 255) that cover [low, high] and 0, as DynamicQuantizeLinear has them; scale 1 for [0, 0]."""
    low32, high32 = np.float32(min(low, 0.0)), np.float32(max(high, 0.0))
    scale = (high32 - low32) / np.float32(255)
    if scale == 0:
        return np.float32(1), np.float32(0)
    return scale, np.clip(np.rint(-low32 / scale), np.float32(0), np.float32(255))


def fake_uint8(x: np.ndarray, low: float, high: float) -> np.ndarray:
    """float32 of x's shape: x quantized to uint8 over [low, high] and 0, and back."""
    scale, zero = uint8_grid(low, high)
    codes = np.rint(x.astype(np.float32) / scale)
    codes += zero
    np.clip(codes, 0, 255, out=codes)
    codes -= zero
    codes *= scale
    return codes


def fake_int8_blocks(x: np.ndarray, block: int) -> np.ndarray:
    """float32 [R, K]: each row's blocks along K in int8, symmetric, and back."""
    rows, k = x.shape
    blocks = -(-k // block)
    part = np.zeros((rows, blocks * block), np.float32)
    part[:, :k] = x
    part = part.reshape(rows, blocks, block)
    scale = np.abs(part).max(axis=2, keepdims=True, initial=0.0) / np.float32(127)
    scale[scale == 0] = 1.0
    back = np.clip(np.rint(part / scale), -127, 127) * scale
    return np.ascontiguousarray(back.reshape(rows, blocks * block)[:, :k])


def relative_error(exact: np.ndarray, rounded: np.ndarray) -> float:
    """|exact - rounded|^2 / |exact|^2."""
    noise = float(np.square(exact - rounded).sum(dtype=np.float64))
    signal = float(np.square(exact).sum(dtype=np.float64))
    if noise == 0:
        return 0.0
    return noise / signal if signal > 0 else math.inf


def _rows(x: np.ndarray) -> np.ndarray:
    return _floats(x).reshape(math.prod(x.shape[:-1]), x.shape[-1])


def _floats(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float32, copy=False)
