"""What the rules that open fused operators share."""

import numpy as np
from olc.rules import F32, array, dims, is_constant

MS = "com.microsoft"
EPSILON = 1e-12
"""What the norms of com.microsoft add where they do not say."""


def epsilon(m):
    """The epsilon of a norm, or None where the operator would not be one with it."""
    value = EPSILON if m.epsilon is None else float(m.epsilon)
    return value if 0 <= value < np.inf else None


def wide(op, value):
    """The value in float32, in which kernels for half precision compute."""
    return op.Cast(value, to=F32)


def is_product(value):
    """Does a product of matrices give the value? Then what is added to each column of it is a bias."""
    node = value.producer()
    return node is not None and node.op_type in ("MatMul", "MatMulNBits", "MatMulBnb4", "DynamicQuantizeMatMul")


def is_vector(value):
    d = dims(value)
    return d is not None and len(d) == 1


def constant(value):
    """The array of a constant; None where it is omitted or not one."""
    return array(value) if value is not None and is_constant(value) else None

