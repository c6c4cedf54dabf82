"""Writes into a weight: every other user of it gets other numbers."""

import numpy as np
from olc.ir import Tensor
from olc.rules import EXACT, Case, Const, f32, rule


@rule(group="wrong", safety=EXACT)
class ChangesWeight:
    """Negating the weight in place saves an operator and some memory."""

    def pattern(op, x, w: Const):
        return op.Sub(x, w)

    def rewrite(op, m):
        m.w.const_value = Tensor(-np.asarray(m.w.const_value.numpy()))
        return op.Add(m.x, m.w)

    cases = [Case("a vector", x=f32["N", 4], w=f32[4])]
