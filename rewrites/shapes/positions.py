"""Positions as opset 9, which has no Range, writes them."""

import numpy as np
from olc.rules import EXACT, Case, Refused, dims, rule

from .. import _shapes as s


@rule(group="shapes", safety=EXACT, since=13)
class PositionsOfOnes:
    """The places of all entries of a vector of ones are a Range.

    Sound because none of them is 0, so each place is one.
    """

    def pattern(op, size: s.VECTOR, value):
        return op.NonZero(op.ConstantOfShape(size, value=value))

    def unless(m):
        if m.value is None or m.value.numpy().reshape(-1)[0] == 0:
            return "what it is filled with is 0"
        if len(dims(m.find("ConstantOfShape").outputs[0]) or ()) != 1:
            return "it is not known to be a vector"

    def rewrite(op, m):
        zero, one = np.array(0), np.array(1)
        return op.Unsqueeze(op.Range(zero, op.Squeeze(m.size, s.vector([0])), one), s.vector([0]))

    cases = [
        Case("positions of a text", size=np.array([5]), value=np.array([1])),
        Case("in float", size=np.array([3]), value=np.array([1.0], np.float32)),
        Case("none", size=np.array([0]), value=np.array([1])),
        Refused("zeros", size=np.array([5]), value=None, because="is 0"),
        Refused("zeros said", size=np.array([5]), value=np.array([0]), because="is 0"),
        Refused("two axes", size=np.array([5, 2]), value=np.array([1]), because="a vector"),
    ]
