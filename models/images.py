"""Pictures in numpy: resizing, and the test pictures kept in `models/data/`."""

from __future__ import annotations

import lzma
from pathlib import Path

import numpy as np

DATA = Path(__file__).resolve().parent / "data"


def resize(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear resize with half-pixel centres: [h, w] or [h, w, c] of any real dtype -> float32 of the new size."""

    def weights(old: int, new: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        at = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
        low = np.floor(at).astype(int)
        return low, np.minimum(low + 1, old - 1), (at - low).astype(np.float32)

    picture = picture.astype(np.float32)
    extra = (1,) * (picture.ndim - 2)
    low, high, part = weights(picture.shape[0], height)
    part = part.reshape(-1, 1, *extra)
    rows = picture[low] * (1 - part) + picture[high] * part
    low, high, part = weights(picture.shape[1], width)
    part = part.reshape(1, -1, *extra)
    return rows[:, low] * (1 - part) + rows[:, high] * part


def pictures() -> dict[str, np.ndarray]:
    """Name -> uint8 [224, 224, 3]: cat, coffee, rocket."""
    with np.load(DATA / "pictures.npz") as kept:
        return {name: kept[name] for name in kept.files}


def page() -> tuple[np.ndarray, list[str]]:
    """The printed page, uint8 grey [256, 640], and its lines."""
    with np.load(DATA / "page.npz") as kept:
        return kept["page"], kept["lines"].tolist()


def fashion() -> tuple[np.ndarray, np.ndarray]:
    """500 test pictures of Fashion-MNIST: float32 [500, 784] in 0..1, and labels uint8 [500]."""
    raw = np.frombuffer(lzma.decompress((DATA / "fashion_test.u8.xz").read_bytes()), np.uint8)
    return raw[500:].reshape(500, 784).astype(np.float32) / 255, raw[:500]
