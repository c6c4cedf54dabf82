"""Adding zeros may still broadcast."""

import numpy as np
from olc.rules import EXACT, Case, Const, array, i64, rule


@rule(group="wrong", safety=EXACT)
class LosesBroadcast:
    """Integers plus zeros are the integers, unless the zeros have a larger shape."""

    def pattern(op, x, z: Const):
        return op.Add(x, z)

    def unless(m):
        return "it is not zero" if array(m.z).any() else None

    def rewrite(op, m):
        return m.x

    cases = [Case("a vector", x=i64[2, 3], z=np.zeros((3,), np.int64))]
