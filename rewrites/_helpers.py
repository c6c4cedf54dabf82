"""What several rule files share."""

import numpy as np
from olc.rules import BF16, F16, F32, Spec

narrow_floats = Spec((F32, F16, BF16))
"""Floats that are no finer than the constants of an ONNX attribute (float32), and than exporters' literals."""


def near(number, wanted, dtype, tolerance=1e-4):
    """Is a number from the graph the wanted one, up to the tolerance or what its dtype can hold, whichever is wider?"""
    rounding = {F16: 1e-3, BF16: 8e-3}.get(dtype, 0.0)
    return abs(number - wanted) <= max(tolerance, rounding) * abs(wanted)


def moderate(a):
    """Are all numbers of the array finite and so far from its dtype's limits that products with it do not overflow?"""
    import ml_dtypes

    limit = float(ml_dtypes.finfo(a.dtype).max) ** 0.75
    return bool((np.abs(a.astype(np.float64)) <= limit).all())
