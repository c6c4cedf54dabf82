"""Channels of an activation that stand out so far that they are better computed apart, in float.

Tim Dettmers et al. 2022, "LLM.int8(): 8-bit Matrix Multiplication for Transformers at Scale", section 3.2: a few channels,
the same ones for all inputs, are tens of times larger than the rest, and with one scale for the whole tensor it is they who say
how coarse it is. There a channel stands out from a magnitude of 6 on; here it is compared with the others of its tensor.
"""

from __future__ import annotations

import numpy as np

MOST = 16
"""Channels that are taken out of an activation at most."""
WORTH = 0.6
"""What has to be left of the range without them: the squared error of rounding is then 0.36 of what it was."""
EACH = 1 / 32
"""By which part the range has to shrink for one more of them."""


def outlier_channels(channels: np.ndarray) -> np.ndarray:
    """Numbers of the channels that stand out, int64, rising; none where taking them out leaves most of the range.

    Args:
        channels: float [C], the largest magnitude seen of each.
    """
    most = min(MOST, len(channels) // 4)
    order = np.argsort(-channels, kind="stable")
    left = channels[order[: most + 1]].astype(np.float64)  # left[k]: how far the tensor reaches without the k largest
    if not most or not np.isfinite(left).all() or left[0] == 0:
        return np.zeros(0, np.int64)
    count = int(np.argmin(left * (1 + EACH * np.arange(most + 1))))
    found = order[:count] if left[count] <= WORTH * left[0] else order[:0]
    return np.sort(found).astype(np.int64)
