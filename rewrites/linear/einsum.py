"""Einsum of two operands as the product that it is."""

import numpy as np
from olc.analysis import dims as dim
from olc.rules import CLOSE, F16, F32, F64, Case, Refused, Spec, dims, f32, floats, rule

from .. import _shapes as s

MULTIPLIED = Spec((F32, F64, F16))
"""Not bfloat16, which ONNX Runtime's CPU provider has an Einsum for and no MatMul."""


def _terms(m):
    """The letters of both operands and of the result, each of the axes that "..." stands for one of its own; a text where an
    axis has no letter of its own. Sets ``m.sizes``."""
    a, b = dims(m.a), dims(m.b)
    if a is None or b is None:
        return s.UNKNOWN
    left, arrow, right = m.equation.replace(" ", "").partition("->")
    given = left.split(",")
    spread = [len(d) - len(term.replace("...", "")) if "..." in term else 0 for d, term in zip((a, b), given, strict=False)]
    if len(given) != 2 or min(spread) < 0:
        return "it is not of two operands"
    if not arrow:
        letters = left.replace("...", "").replace(",", "")
        right = "..." * ("..." in left) + "".join(sorted(k for k in set(letters) if letters.count(k) == 1))
    if ("..." in left) != ("..." in right):
        return "axes that have no letter are summed"
    # aligned at the end, as in a broadcast
    several = "".join(chr(ord("0") + i) for i in range(max(spread)))
    terms = [t.replace("...", several[len(several) - n :]) for t, n in zip((*given, right), (*spread, len(several)), strict=True)]
    m.sizes = {}
    for term, shape in zip(terms, (a, b), strict=False):
        if len(term) != len(shape):
            return "an operand has other axes"
        for letter, n in zip(term, shape, strict=True):
            if m.sizes.setdefault(letter, n) != n:
                return "an axis is not known to have the same size in both operands"
    if any(len(set(t)) != len(t) for t in terms) or not set(terms[2]) <= m.sizes.keys():
        return "a letter stands for two axes of one operand"
    if (set(terms[0]) ^ set(terms[1])) - set(terms[2]):
        return "an axis of one operand alone is summed"
    return terms


def _laid_out(m, a, b, out):
    """Steps that make a product of matrices of operands with these letters: (order, groups) for each operand and for the result.
    A group is letters that are one axis, or none where it is a 1 that is put in."""
    batch = [k for k in out if k in a and k in b]
    rows, columns = ([k for k in out if k in one and k not in other] for one, other in ((a, b), (b, a)))
    summed = [k for k in a if k in b and k not in out]
    # without a batch, MatMul takes any number of rows
    free = [[k] for k in rows[:-1]] if not batch and len(columns) == 1 else []
    rest = rows[len(free) :]
    each = [[k] for k in batch] + free
    return (
        (batch + rows + summed, [*each, rest, summed]),
        (batch + summed + columns, [*([k] for k in batch), summed, columns]),
        (batch + rows + columns, [*each, rest, columns]),
    )


def _moved(letters, order):
    return [letters.index(k) for k in order]


def _steps(m, terms):
    """The steps of the order of the operands that needs fewest Transposes, and of operands rather than of the result."""
    a, b, out = terms
    tries = []
    for first, second, turned in ((a, b, False), (b, a, True)):
        plans = _laid_out(m, first, second, out)
        perms = [_moved(first, plans[0][0]), _moved(second, plans[1][0]), _moved(plans[2][0], out)]
        moves = [p != sorted(p) for p in perms]
        views = _views(m, plans)
        tries.append((isinstance(views, str), sum(moves), moves[2], turned, perms, views))
    return min(tries, key=lambda t: t[:4])


def _views(m, plans):
    """How each operand is viewed as matrices, and the product as the result's axes; a text where that cannot be written."""
    found = []
    for i, (order, groups) in enumerate(plans):
        apart = tuple(m.sizes[k] for k in order)
        joined = tuple(dim.product([m.sizes[k] for k in group]) for group in groups)
        form = s.view(apart, joined) if i < 2 else s.view(joined, apart)
        if isinstance(form, str):
            return form
        found.append(form)
    return found


def _transposed(op, x, perm):
    return x if list(perm) == sorted(perm) else op.Transpose(x, perm=tuple(perm))


@rule(group="linear", safety=CLOSE("another kernel may sum in another order"), since=13)
class EinsumAsMatMul:
    """Einsum of two operands that sums over axes of both is a product of matrices, between Transposes.

    Sound because that is its definition: axes of both operands that stay number the matrices, those of one alone are its rows
    or columns, and what is summed lies between. Equal letters are proved to be equal sizes, so that nothing is broadcast.
    """

    def pattern(op, a: MULTIPLIED, b, equation):
        return op.Einsum(a, b, equation=equation)

    def unless(m):
        terms = _terms(m)
        if isinstance(terms, str):
            return terms
        if not set(terms[0]) - set(terms[2]):
            return "nothing is summed"
        *_, m.turned, m.perms, m.views = _steps(m, terms)
        return m.views if isinstance(m.views, str) else None

    def rewrite(op, m):
        operands = (m.b, m.a) if m.turned else (m.a, m.b)
        matrices = [
            s.write(op, _transposed(op, x, perm), form) for x, perm, form in zip(operands, m.perms, m.views, strict=False)
        ]
        return _transposed(op, s.write(op, op.MatMul(*matrices), m.views[2]), m.perms[2])

    cases = [
        Case("scores", a=f32["B", "S", 2, 4], b=f32["B", "T", 2, 4], equation="...qhd,...khd->...hqk"),
        Case("weights and values", a=f32["B", 2, "S", "T"], b=f32["B", "T", 2, 4], equation="bhqk,bkhd->bqhd"),
        Case("values and weights", a=f32["B", "T", 2, 4], b=f32["B", 2, "S", "T"], equation="bkhd,bhqk->bqhd"),
        Case("a linear layer", a=f32["B", "S", 8], b=f32[8, 4], equation="abc,cd->abd"),
        Case("heads from a layer", a=f32["B", "S", 8], b=f32[8, 2, 4], equation="abc,cde->abde"),
        Case("heads into a layer", a=f32["B", "S", 2, 4], b=f32[2, 4, 8], equation="abcd,cde"),
        Case("a matrix for each row", a=f32["B", 3, 4], b=f32["B", 4], equation="bkh,bh->bk"),
        Case("a number", a=f32["N"], b=f32["N"], equation="i,i->"),
        Refused("broadcast", a=f32["B", 1, 4], b=f32["B", 3, 4], equation="bkh,bkh->bk", because="same size"),
        Refused("a diagonal", a=f32[3, 3], b=f32[3], equation="ii,i->i", because="two axes"),
        Refused("a sum of its own", a=f32[3, 4], b=f32[4], equation="ij,j->", because="of one operand alone"),
        Refused("nothing summed", a=f32["B", "S"], b=f32[4], equation="bs,d->bsd", because="nothing is summed"),
    ]  # fmt: skip


@rule(group="linear", safety=CLOSE("a zero may get a sign"), since=13)
class EinsumAsMul:
    """Einsum of two operands that sums nothing is a product of their entries.

    Sound because that is its definition: each entry of the result is one entry of either operand, multiplied.
    """

    def pattern(op, a: floats, b, equation):
        return op.Einsum(a, b, equation=equation)

    def unless(m):
        terms = _terms(m)
        if isinstance(terms, str):
            return terms
        if set(terms[0] + terms[1]) != set(terms[2]):
            return "something is summed"
        m.terms = terms
        return None

    def rewrite(op, m):
        *given, out = m.terms
        spread = []
        for x, letters in zip((m.a, m.b), given, strict=True):
            x = _transposed(op, x, _moved(letters, [k for k in out if k in letters]))
            lacking = [i for i, k in enumerate(out) if k not in letters]
            spread.append(op.Unsqueeze(x, np.array(lacking)) if lacking else x)
        return op.Mul(*spread)

    cases = [
        Case("angles", a=f32["B", "S"], b=f32[4], equation="bs,d->bsd"),
        Case("entries", a=f32["B", 3], b=f32[3, "B"], equation="ij,ji->ij"),
        Refused("a product", a=f32["B", 3], b=f32[3, 4], equation="ij,jk->ik", because="is summed"),
    ]
