"""Arithmetic on the weights of matrix products, in float64, rounded once, a few rows at a time to keep memory small."""

import numpy as np
from olc.rules import array, dims

from .._helpers import moderate

SHARED_LIMIT = 1 << 16
"""Elements of a weight that has other users: above it a second copy costs more than the fold is worth."""

LARGEST = 1 << 24
"""Elements of the largest weight that is rewritten: it then lies in memory instead of in the model's file."""


def kept(w):
    """Why the weight must stay as it is, or None."""
    size = array(w).size
    if len(w.uses()) > 1 and size > SHARED_LIMIT:
        return "the weight has other users, and a second copy would be large"
    return "the weight is too large to rewrite in memory" if size > LARGEST else None


def along_last(c, size, rank):
    """The constant as a float64 vector: one number, or ``size`` numbers along the last axis of a tensor of that rank
    (None where it is unknown). None where it varies along other axes or might raise the tensor's rank."""
    a = array(c)
    if a.ndim > 1 and (rank is None or a.ndim > rank):
        return None
    if a.size != 1 and (a.size != size or a.shape[-1] != size):
        return None
    return a.astype(np.float64).reshape(-1)


def rank_of(v):
    d = dims(v)
    return None if d is None else len(d)


def scaled(w, factor):
    """The array times a factor that broadcasts to it, in its own dtype; None where a number gets too large."""
    out = np.empty(w.shape, w.dtype)
    factor = np.broadcast_to(factor, w.shape)
    rows = max(1, (1 << 18) // max(1, w[0].size)) if w.ndim and len(w) else 1
    with np.errstate(all="ignore"):
        for i in range(0, len(w), rows) if w.ndim else [...]:
            part = slice(i, i + rows) if w.ndim else ...
            out[part] = (w[part].astype(np.float64) * factor[part]).astype(w.dtype)
            if not moderate(out[part]):
                return None
    return out
