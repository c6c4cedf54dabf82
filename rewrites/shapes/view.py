"""The one spelling of a change of shape."""

import numpy as np
from olc.rules import EXACT, Attrs, Case, Refused, Value, dims, f32, i64, rule

from .. import _shapes as s


def _spelled(m):
    """Why there is no other spelling; else sets ``m.form``."""
    src, out = dims(m.x), dims(m.roots[0])
    if src is None or out is None or s.odd(m.nodes):
        return s.UNKNOWN
    form = s.view(src, out, s.inferred_dim(m.root))
    if isinstance(form, str):
        return form
    if form == s.view_of(m.root):
        return s.SPELLED
    m.form = form


@rule(group="shapes", safety=EXACT, since=13)
class CanonicalView:
    """A Reshape, Squeeze or Unsqueeze is written with constants, and as what it is.

    Sizes of 1 that go or come are a Squeeze or Unsqueeze; else it is a Reshape, with 0 for a dim that is the input's,
    -1 for at most one other, and numbers. A target computed from shapes thus becomes a constant.
    Sound because the elements stay in their order, and the shape is proved to be the same.
    """

    def pattern(op, x, numbers: Value | None, attrs: Attrs):
        return op.oneof("Reshape", "Squeeze", "Unsqueeze")(x, numbers, **attrs)

    def unless(m):
        return _spelled(m)

    def rewrite(op, m):
        return s.write(op, m.x, m.form)

    cases = [
        Case("sizes that stay", x=f32["B", 7, 8], numbers=np.array([-1, 7, 2, 4])),
        Case("the same size", x=f32["B", 9], numbers=np.array([0, 9])),
        Case("one dim left to be inferred", x=f32["B", 9, 4], numbers=np.array([0, -1])),
        Case("a dim of 1 comes", x=f32[8, 9], numbers=np.array([8, 1, -1])),
        Case("a dim of 1 goes", x=f32[8, 1, 1, 9], numbers=np.array([8, -1])),
        Case("an axis from the end", x=f32["B", 1], numbers=np.array([-1])),
        Refused("as it should be", x=f32[8, 9], numbers=np.array([9, 8]), because="canonical form already"),
        Refused("sizes of the caller", x=f32[6, 9], numbers=i64[2], because="known"),
    ]


@rule(group="shapes", safety=EXACT, since=13)
class FlattenAsView:
    """A Flatten is a Reshape, or a Squeeze or Unsqueeze. Sound because the elements stay in their order."""

    def pattern(op, x, axis):
        return op.Flatten(x, axis=axis)

    def unless(m):
        return _spelled(m)

    def rewrite(op, m):
        return s.write(op, m.x, m.form)

    cases = [
        Case("pooled features", x=f32["N", 8, 1, 1], axis=1),
        Case("an image", x=f32["N", 2, 3, 4], axis=1),
        Case("flat already", x=f32["N", 4], axis=-1),
        Refused("two sizes", x=f32["A", "B", "C", "D"], axis=9, because="no"),
    ]
