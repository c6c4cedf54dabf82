"""Webs of operators that exporters write for masks, as ONNX text: what they share is what they mean.

Each computes ``mask`` from ``m`` (int64[B, T], the padding mask; T = P + S where there is a cache), ``x`` (float[B, S, 8])
and, with a cache, ``past`` (float[B, 2, P, 4]); the queries are S, the keys P + S.
"""

from __future__ import annotations

SIZES = """
    b1 = Shape<start = 0, end = 1>(x) s1 = Shape<start = 1, end = 2>(x) p1 = Shape<start = 2, end = 3>(past)
    zero1 = Constant<value_ints = [0]>() zero = Constant<value_int = 0>() one = Constant<value_int = 1>()
    b = Squeeze(b1, zero1) s = Squeeze(s1, zero1) p = Squeeze(p1, zero1) t = Add(p, s) t1 = Add(p1, s1)
    a123 = Constant<value_ints = [1, 2, 3]>() a013 = Constant<value_ints = [0, 1, 3]>() a012 = Constant<value_ints = [0, 1, 2]>()
    four = Constant<value_ints = [4]>() a12 = Constant<value_ints = [1, 2]>()
    br = Range(zero, b, one) qr0 = Range(zero, s, one) kr = Range(zero, t, one) qr = Add(qr0, p)
    bi = Unsqueeze(br, a123) qi = Unsqueeze(qr, a013) ki = Unsqueeze(kr, a012)
"""

PADDING = {
    "gathered": "mb = Cast<to = 9>(m) flat = Constant<value_ints = [-1, 1]>() mf = Reshape(mb, flat) "
    "row = Shape<start = 1, end = 2>(m) o = Mul(bi, row) i = Add(ki, o) g = Gather(mf, i) pad = Squeeze(g, four)",
    "gathered by pairs": "mb = Cast<to = 9>(m) bk = Max(bi, ki) bks = Shape(bk) be = Expand(bi, bks) ke = Expand(ki, bks) "
    "bu = Unsqueeze(be, four) ku = Unsqueeze(ke, four) i = Concat<axis = -1>(bu, ku) pad = GatherND(mb, i)",
    "unsqueezed": "mb = Cast<to = 9>(m) pad = Unsqueeze(mb, a12)",
    "compared": "mu = Unsqueeze(m, a12) no = Equal(mu, zero) pad = Not(no)",
    "expanded": "mu = Unsqueeze(m, a12) qk = Concat<axis = 0>(s1, t1) me = Expand(mu, qk) pad = Cast<to = 9>(me)",
}
CAUSAL = {
    "less or equal": "causal = LessOrEqual(ki, qi)",
    "greater": "late = Greater(ki, qi) causal = Not(late)",
    "less": "q1 = Add(qi, one) causal = Less(ki, q1)",
    "difference": "ahead = Sub(ki, qi) causal = LessOrEqual(ahead, zero)",
    "with what is always so": "front = GreaterOrEqual(qi, zero) c = LessOrEqual(ki, qi) causal = And(front, c)",
    "floats": "qf = Cast<to = 1>(qi) kf = Cast<to = 1>(ki) causal = GreaterOrEqual(qf, kf)",
    "triangle": "st = Concat<axis = 0>(s1, t1) all = ConstantOfShape<value = int64[1] {1}>(st) "
    "late = Add(p, one) tri = Trilu<upper = 1>(all, late) on = Cast<to = 9>(tri) causal = Not(on)",
}


def web(padding: str | None, causal: str | None) -> str:
    """The text that computes ``mask``: a padding mask, a causal one, or both; the sizes alone where it is neither."""
    parts = [SIZES, *([PADDING[padding]] if padding else []), *([CAUSAL[causal]] if causal else [])]
    last = {(True, True): "And(causal, pad)", (True, False): "Identity(pad)", (False, True): "Identity(causal)"}
    return " ".join([*parts, *([f"mask = {last[bool(padding), bool(causal)]}"] if padding or causal else [])])


HEADER = "int64[B, {T}] m, float[B, S, 8] x, float[B, 2, P, 4] past"
"""Inputs; ``T`` is how the file calls the mask's length."""
