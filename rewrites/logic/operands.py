"""And, Or, Xor and Equal with a known or repeated operand."""

import numpy as np
from olc.rules import EXACT, Case, Const, Refused, array, boolean, dims, rule

from .. import _shapes as s

WIDER = "the constant may widen the result"


def _all(m, wanted):
    """Why the constant is not ``wanted`` everywhere, or may give the result another shape than x has."""
    a = array(m.c)
    if a.size == 0 or not (a == wanted).all():
        return f"the constant is not {wanted} everywhere"
    return None if dims(m.c) == () or s.same_dims(m.x, m.roots[0]) else WIDER


@rule(group="logic", safety=EXACT, keeps_shape=True)
class DropRepeatedOperand:
    """``x and x``, and ``x or x``, are x. Sound by the definition of And and Or."""

    def pattern(op, x: boolean):
        return op.oneof("And", "Or")(x, x)

    def rewrite(op, m):
        return m.x

    cases = [Case("a mask", x=boolean["B", "S"])]


@rule(group="logic", safety=EXACT, keeps_shape=True)
class DropAndTrue:
    """``x and True`` is x. Sound by the definition of And."""

    def pattern(op, x: boolean, c: Const):
        return op.And(x, c)

    def unless(m):
        return _all(m, True)

    def rewrite(op, m):
        return m.x

    cases = [
        Case("one", x=boolean["B", "S"], c=np.array(True)),
        Case("a full mask", x=boolean["B", 3], c=np.array([[True] * 3])),
        Refused("a hole", x=boolean["B", 3], c=np.array([True, False, True]), because="not True everywhere"),
        Refused("wider", x=boolean["B", 1], c=np.array([True, True]), because=WIDER),
    ]


@rule(group="logic", safety=EXACT, keeps_shape=True)
class DropOrFalse:
    """``x or False``, and ``x xor False``, are x. Sound by the definition of Or and Xor."""

    def pattern(op, x: boolean, c: Const):
        return op.oneof("Or", "Xor")(x, c)

    def unless(m):
        return _all(m, False)

    def rewrite(op, m):
        return m.x

    cases = [
        Case("one", x=boolean["B", "S"], c=np.array(False)),
        Refused("some", x=boolean["B", 2], c=np.array([True, False]), because="not False everywhere"),
        Refused("wider", x=boolean["B", 1], c=np.array([False, False]), because=WIDER),
    ]


@rule(group="logic", safety=EXACT, keeps_shape=True)
class DropEqualTrue:
    """``x == True`` is x. Sound by the definition of Equal."""

    def pattern(op, x: boolean, c: Const):
        return op.Equal(x, c)

    def unless(m):
        return _all(m, True)

    def rewrite(op, m):
        return m.x

    cases = [
        Case("one", x=boolean["B", "S"], c=np.array(True)),
        Refused("false", x=boolean["B", 2], c=np.array(False), because="not True everywhere"),
    ]


@rule(group="logic", safety=EXACT)
class EqualFalseAsNot:
    """``x == False``, and ``x xor True``, are ``not x``. Sound by the definition of Not."""

    def pattern(op, x: boolean, yes: Const, no: Const):
        return op.either(op.Equal(x, no), op.Xor(x, yes))

    def unless(m):
        m.c = m.no if m.root.op_type == "Equal" else m.yes
        return _all(m, m.root.op_type == "Xor")

    def rewrite(op, m):
        return op.Not(m.x)

    cases = [
        Case("one", x=boolean["B", "S"], yes=np.array(True), no=np.array(False)),
        Refused("the other", x=boolean["B", 2], yes=np.array(False), no=np.array(True), because="everywhere"),
    ]
