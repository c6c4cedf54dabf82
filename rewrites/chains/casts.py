"""Cast of a Cast."""

from olc.rules import (
    BOOL,
    EXACT,
    F16,
    F32,
    F64,
    I32,
    I64,
    Attrs,
    Case,
    DataType,
    Refused,
    Spec,
    any_type,
    boolean,
    elements,
    f16,
    f32,
    f64,
    i64,
    rule,
)

T = DataType
CAST = Spec((T.FLOAT, T.DOUBLE, T.FLOAT16, T.BFLOAT16, T.INT8, T.UINT8, T.INT32, T.INT64, T.BOOL))
# Significant bits, and whether there is a sign; what a float holds beyond that (its range) suffices for these integers.
_INTEGERS = {
    T.BOOL: (1, False), T.UINT8: (8, False), T.INT8: (7, True), T.UINT16: (16, False), T.INT16: (15, True),
    T.UINT32: (32, False), T.INT32: (31, True), T.UINT64: (64, False), T.INT64: (63, True),
}  # fmt: skip
_FLOATS = {T.FLOAT16: (T.FLOAT, T.DOUBLE), T.BFLOAT16: (T.FLOAT, T.DOUBLE), T.FLOAT: (T.DOUBLE,), T.DOUBLE: ()}
_EXACT_BITS = {T.BFLOAT16: 8, T.FLOAT16: 11, T.FLOAT: 24, T.DOUBLE: 53}


def widens(a, b):
    """Can the second type hold every value of the first?"""
    if a == b:
        return True
    if a in _FLOATS:
        return b in _FLOATS[a]
    if a not in _INTEGERS:
        return False
    bits, signed = _INTEGERS[a]
    if b in _EXACT_BITS:
        return bits <= _EXACT_BITS[b]
    return b in _INTEGERS and b != BOOL and (_INTEGERS[b][1] or not signed) and bits <= _INTEGERS[b][0]


@rule(group="chains", safety=EXACT, keeps_shape=True)
class ComposeCasts:
    """Cast straight to the last type where the middle type loses nothing, and not at all where that is the first type.

    Sound because a widening cast is exact, so that the second cast sees the original value. Sizes are known to fit.
    """

    def pattern(op, x: any_type, mid, to, first: Attrs, attrs: Attrs):
        return op.Cast(op.shared(op.Cast(x, to=mid, **first)), to=to, **attrs)

    def unless(m):
        if widens(m.x.dtype, DataType(m.mid)):
            return None
        if m.to == m.x.dtype and elements(m.x) is not None and elements(m.x) == elements(m.roots[0]):
            return None
        return "the middle type may round or cut the input"

    def rewrite(op, m):
        return m.x if m.to == m.x.dtype else op.Cast(m.x, to=m.to, **m.attrs)

    cases = [
        Case("half to double", x=f16["N"], mid=F32, to=F64),
        Case("there and back", x=f16["N", 2], mid=F32, to=F16),
        Case("a truth value", x=boolean["N"], mid=F32, to=I64),
        Refused("narrow in the middle", x=f64["N"], mid=F32, to=F64, because="round or cut"),
        Refused("cut in the middle", x=i64["N"], mid=I32, to=I64, because="round or cut"),
        Refused("to truth value and back", x=f32["N"], mid=BOOL, to=F32, because="round or cut"),
    ]


@rule(group="chains", safety=EXACT, since=15)
class CastLikeAsCast:
    """CastLike is a Cast to the type of its second input. Sound by its definition."""

    def pattern(op, x: CAST, like: CAST, attrs: Attrs):
        return op.CastLike(x, like, **attrs)

    def unless(m):
        if m.attrs:
            return "it says how to round to eight bits"

    def rewrite(op, m):
        return op.Cast(m.x, to=m.like.dtype)

    cases = [
        Case("a number like a tensor", x=f32[()], like=f16["N"], attrs={}),
        Case("indices", x=i64["N"], like=f64["N", 2], attrs={}),
        Refused("saturated", x=f32["N"], like=f16["N"], attrs={"saturate": 0}, opset=19, because="how to round"),
    ]
