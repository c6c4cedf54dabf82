"""What the two normalisations share."""

import numpy as np
from olc.rules import F32, F64, array, dims, scalar

from .._helpers import moderate


def inverse_root(op, x, mark=lambda value: value):
    """``1 / sqrt(x)`` in its spellings; ``mark`` is `op.shared` where others may use what is on the way."""
    root = mark(op.Sqrt(x))
    return op.either(mark(op.Reciprocal(root)), mark(op.Div(1.0, root)), mark(op.Pow(x, -0.5)))


def over_root(op, x, mean_square, scale):
    """``x / sqrt(mean_square)`` in its spellings, times ``scale``, a constant or None, where that multiplies the root."""
    inverse = inverse_root(op, mean_square)
    return op.either(op.Div(x, op.Sqrt(mean_square)), op.Mul(x, op.either(inverse, op.Mul(inverse, scale))))


def mean(op, x, axes):
    """A mean, which may be summed in double precision."""
    return op.either(op.ReduceMean(x, axes), op.Cast(op.ReduceMean(op.Cast(x, to=F64), axes), to=F32))


def why_not(m, *axes):
    """Why this is no normalisation over trailing axes of known size; else sets ``m.shape`` and ``m.epsilon``."""
    d = dims(m.x)
    if not d:
        return "the input is not known to have an axis"
    first, *others = ({int(a) % len(d) for a in array(v).reshape(-1)} for v in axes)
    if any(other != first for other in others):
        return "the two means are over different axes"
    if first != set(range(len(d) - len(first), len(d))) or not first:
        return "the means are not over the last axes"
    m.shape = d[len(d) - len(first) :]
    if not all(isinstance(n, int) for n in m.shape):
        return "the size of the normalised axes is unknown"
    m.epsilon = float(scalar(m.eps))
    if not 0 <= m.epsilon < np.inf:
        return "epsilon is not a finite number of at least 0"
    return None


def aligned(c, m):
    """The constant ``c`` as an array of the shape of a norm's scale ``m.w``, in float64; a text where it has no place
    there."""
    shape, d = array(m.w).shape, dims(m.x)
    if d is None or d[len(d) - len(shape) :] != shape:
        return "the scale is not known to have the shape of the normalised axes"
    a = array(c).astype(np.float64)
    if a.ndim > len(shape):
        extra = a.ndim - len(shape)
        if a.ndim > len(d) or a.shape[:extra] != (1,) * extra:
            return "the constant varies along other axes than the scale"
        a = a.reshape(a.shape[extra:])
    try:
        return np.broadcast_to(a, shape)
    except ValueError:
        return "the constant varies along other axes than the scale"


def rounded(a, like):
    """An array in the dtype of the value ``like``; a text where a number gets too large."""
    with np.errstate(all="ignore"):
        out = a.astype(like.dtype.numpy())
    return out if moderate(out) else "the combined constant would be too large"


def why_not_in_half(m):
    """Why a norm between casts to float32 and back is not that norm in half precision; else sets ``m.scale``."""
    with np.errstate(over="ignore"):
        m.scale = array(m.w).astype(np.float16)
    if not np.array_equal(m.scale, array(m.w)):
        return "the scale is not exact in half precision"
    if "stash_type" in m.attrs and m.attrs["stash_type"].value != 1:
        return "the operator does not compute in float32"
    return None
