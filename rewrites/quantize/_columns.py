"""What the rules of rounded linear layers share."""

from olc.rules import Spec, i8, u8

SMALLEST = 16
"""Rows or columns below which a product is too small to gain anything."""

bytes_ = Spec((*i8.dtypes, *u8.dtypes))


def columns(a, size, rank):
    """The constant as one number, or one for each of ``size`` columns of a tensor of that rank; None where it is neither."""
    if a is None or a.ndim > rank or a.size not in (1, size) or (a.size != 1 and (a.size,) != a.shape[-1:]):
        return None
    return a.reshape(()) if a.size == 1 else a.reshape(-1)


def too_small(x, shape):
    """Why a layer of that weight [K, N], ``x`` the dims of its activation, is not worth rounding; None where it is."""
    if x is None or len(x) < 2:
        return "the input is not known to have rank 2 or more"
    if min(shape) < SMALLEST:
        return f"the weight is {shape[0]} x {shape[1]}, too small to gain"
    return None


def dynamic(op, x):
    return [op.shared(v) for v in op.DynamicQuantizeLinear(x, outputs=3)]


def dequantized(op, q, scale, zero=None):
    return op.DequantizeLinear(q, scale, zero, **({"axis": 1} if scale.ndim else {}))
