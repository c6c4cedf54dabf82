"""The scale of scores, by the size of a head."""

import numpy as np


def snapped(scale, size):
    """The scale, or the reciprocal root of the size of a head in float32 where it is that up to rounding (or None)."""
    if not isinstance(size, int) or not size:
        return scale
    wanted = float(np.float32(1 / np.sqrt(size)))
    return wanted if scale is None or abs(scale / wanted - 1) < 1e-6 else scale
