"""Operators that rearrange: Reshape, Transpose, Squeeze, Expand, Tile, Pad, Resize and their like."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import dims as d
from ..dims import Dim
from .core import INTEGERS, MOST, Dims, Site, Unknown, count, grid, normal_axis, rule, static

# A quotient of longer polynomials is replaced by a new symbol: it would only slow down whatever uses it.
_LONGEST = 12


# ----------------------------------------------------------------------------------------------------- Reshape


@rule("Reshape")
def reshape(s: Site) -> None:
    known = s.dims_or_none(0)
    target = s.attr("shape") if s.version < 5 else _target(s)
    keep_zero = bool(s.attr("allowzero", 0))
    out = reshaped(s, known, target, keep_zero)
    size = count(out)
    small = size is not None and size <= MOST and s.dtype(0) in INTEGERS
    s.out(0, out, s.elements(0) if small else None, exact=s.reals(0) if size is not None and size <= MOST else None)


def _target(s: Site) -> tuple[Dim, ...]:
    try:
        return s.vector(1)
    except Unknown:
        pass
    known = s.dims(1)
    if len(known) != 1 or not isinstance(known[0], int) or known[0] > MOST:
        raise Unknown
    return tuple(s.unknown() for _ in range(known[0]))


def reshaped(s: Site, known: Dims | None, target: tuple[Dim, ...], keep_zero: bool) -> Dims:
    """The shape that a Reshape to ``target`` gives.

    A symbolic target that is a size of the model stands for itself. (Should it be 0 at run time while ``allowzero`` is
    0, ONNX takes the input's dim instead: that differs only where a second, unrelated dim of an empty tensor is 0 too.)
    A target that comes from a caller's data could be 0 or -1, so it gives a new symbol.
    """
    if s.version < 14:
        keep_zero = False
    everything = None if known is None else d.product(known)
    out: list[Dim | None] = []
    inferred: int | None = None
    for i, t in enumerate(target):
        same = known[i] if known is not None and i < len(known) else None
        if isinstance(t, int):
            if t == -1:
                if inferred is not None:
                    raise Unknown
                inferred = i
                out.append(None)
            elif t == 0 and not keep_zero:
                out.append(s.fresh() if same is None else same)
            elif t < 0:
                raise Unknown
            else:
                out.append(t)
        elif t == same or (s.nonnegative(t) and (keep_zero or d.is_size(t))):
            out.append(t)
        else:
            out.append(None)
    gaps = [i for i, n in enumerate(out) if n is None]
    others = d.product(n for n in out if n is not None)
    for i in gaps:
        out[i] = None
        if len(gaps) == 1 and everything is not None:
            out[i] = _rest(s, everything, others, certain=i == inferred)
        if out[i] is None:
            out[i] = s.fresh()
    found = tuple(n for n in out if n is not None)
    return found if known is None else _whole(known, found)


def _whole(known: Dims, out: Dims) -> Dims:
    """The result's dims, with a size of the input in place of another that has to be it, or elements would be missing and the
    run ends. (Exporters name what a slice of a table lets through, or the frames of a sound, by a formula of their own. An
    empty tensor has no elements to miss.)"""
    everything = d.product(known)
    for i, n in enumerate(out):
        if everything != 0 and isinstance(n, d.Poly) and n not in known:
            size = d.divide_exact(everything, d.product((*out[:i], *out[i + 1 :])))
            if size is not None and size in known:
                return (*out[:i], size, *out[i + 1 :])
    return out


def _rest(s: Site, everything: Dim, others: Dim, certain: bool) -> Dim | None:
    """The one dim missing of a product. ``certain``: it is written as -1, which stands beside no zero in a run."""
    if others == 0:
        return None
    if not certain and not d.is_positive(others):
        return None
    exact = d.divide_exact(everything, others)
    if exact is not None:
        return exact
    if not certain or not isinstance(everything, d.Poly) or len(everything.terms) > _LONGEST:
        return None
    return d.floordiv(everything, others, nonzero=True)


@rule("Flatten")
def flatten(s: Site) -> None:
    known = s.dims(0)
    axis = s.attr("axis", 1)
    axis = axis + len(known) if axis < 0 else axis
    s.out(0, (d.product(known[:axis]), d.product(known[axis:])))


@rule("Squeeze")
def squeeze(s: Site) -> None:
    known = s.dims(0)
    axes = s.axes("axes", 1, from_input=13)
    if axes is None:
        if not all(isinstance(n, int) for n in known):
            raise Unknown
        out = tuple(n for n in known if n != 1)
    else:
        gone = {normal_axis(a, len(known)) for a in axes}
        out = tuple(n for i, n in enumerate(known) if i not in gone)
    s.out(0, out, s.elements(0) if len(known) <= 2 else None, exact=s.reals(0) if len(known) <= 2 else None)


@rule("Unsqueeze")
def unsqueeze(s: Site) -> None:
    known = s.dims(0)
    axes = s.axes("axes", 1, from_input=13)
    if axes is None:
        raise Unknown
    rank = len(known) + len(axes)
    at = {normal_axis(a, rank) for a in axes}
    rest = iter(known)
    out: Dims = tuple(1 if i in at else next(rest) for i in range(rank))
    s.out(0, out, s.elements(0) if rank <= 3 else None, exact=s.reals(0) if rank <= 3 else None)


@rule("Transpose")
def transpose(s: Site) -> None:
    known = s.dims(0)
    order = s.attr("perm")
    if order is None:
        order = tuple(range(len(known)))[::-1]
    if len(order) != len(known):
        raise Unknown
    out = tuple(known[i] for i in order)
    held = s.elements(0) if len(known) <= 2 else None
    items = None if held is None else grid(held, known).transpose(order).reshape(-1).tolist()
    s.out(0, out, items)


@rule("Expand")
def expand(s: Site) -> None:
    known = s.dims(0)
    try:
        target = s.vector(1)
    except Unknown:
        length = s.dims(1)
        if len(length) != 1 or not isinstance(length[0], int):
            raise
        target = tuple(s.unknown() for _ in range(length[0]))
    rank = max(len(known), len(target))
    own: Dims = (1,) * (rank - len(known)) + known
    wanted: Dims = (1,) * (rank - len(target)) + target
    out: list[Dim] = []
    for n, t in zip(own, wanted, strict=True):
        if isinstance(t, int) or s.nonnegative(t) or (isinstance(n, int) and n > 1):
            both = d.broadcast(n, t)
            if both is None:
                raise Unknown
            out.append(both)
        else:
            out.append(s.fresh() if n != 1 else t)  # n is 1: the result is t, which is therefore a size
    s.out(0, tuple(out), _expanded(s, known, tuple(out)))


def _expanded(s: Site, known: Dims, out: Dims) -> Any:
    size = count(out)
    if size is None or size > MOST or len(out) > 2:
        return None
    held = s.elements(0)
    if held is None:
        return None
    return np.broadcast_to(grid(held, known), static(out)).reshape(-1).tolist()


@rule("Tile")
def tile(s: Site) -> None:
    known = s.dims(0)
    if s.version < 6:
        raise Unknown
    times = s.vector(1)
    if len(times) != len(known):
        raise Unknown
    out = tuple(d.mul(n, t) for n, t in zip(known, times, strict=True))
    held = s.elements(0) if len(known) == 1 else None
    n = times[0] if len(times) == 1 else None
    s.out(0, out, held * n if held is not None and isinstance(n, int) and len(held) * n <= MOST else None)


@rule("DepthToSpace", "SpaceToDepth")
def depth_space(s: Site) -> None:
    n, c, *space = s.dims(0)
    b = s.attr("blocksize")
    area = b ** len(space)
    if s.node.op_type == "DepthToSpace":
        s.out(0, (n, d.floordiv(c, area), *(d.mul(k, b) for k in space)))
    else:
        s.out(0, (n, d.mul(c, area), *(d.floordiv(k, b) for k in space)))


# --------------------------------------------------------------------------------------------- Pad, Resize, crops


@rule("Pad")
def pad(s: Site) -> None:
    known = s.dims(0)
    rank = len(known)
    if s.version < 11:
        pads = s.attr("pads", s.attr("paddings"))
        axes = tuple(range(rank))
    else:
        axes = tuple(normal_axis(a, rank) for a in s.ints(3)) if s.has(3) else tuple(range(rank))
        try:
            pads = s.vector(1)
        except Unknown:
            pads = tuple(s.unknown() for _ in range(2 * len(axes)))
    if pads is None or len(pads) != 2 * len(axes):
        raise Unknown
    out = list(known)
    for i, axis in enumerate(axes):
        out[axis] = d.total((known[axis], pads[i], pads[i + len(axes)]))
    s.out(0, tuple(n if s.nonnegative(n) or d.is_size(n) else s.fresh() for n in out))


@rule("CenterCropPad")
def center_crop_pad(s: Site) -> None:
    out = list(s.dims(0))
    axes = s.attr("axes")
    axes = tuple(range(len(out))) if axes is None else axes
    for axis, n in zip(axes, s.vector(1), strict=True):
        out[normal_axis(axis, len(out))] = n
    s.out(0, tuple(out))


@rule("Resize")
def resize(s: Site) -> None:
    known = s.dims(0)
    if s.version < 11:
        s.out(0, _scaled(s, known, 1, range(len(known))))
        return
    chosen = s.attr("axes")
    axes = range(len(known)) if chosen is None else [normal_axis(a, len(known)) for a in chosen]
    policy = s.attr("keep_aspect_ratio_policy", "stretch")
    if s.has(3) and s.dims_or_none(3) != (0,):
        if policy != "stretch":
            s.out(0, _kept_ratio(s, known, axes, policy))
            return
        out = list(known)
        for axis, n in zip(axes, s.vector(3), strict=True):
            out[axis] = n
        s.out(0, tuple(out))
        return
    s.out(0, _scaled(s, known, 2, axes))


@rule("Upsample")
def upsample(s: Site) -> None:
    known = s.dims(0)
    if s.version < 9:
        scales = s.attr("scales", ())
        if len(scales) != len(known):
            raise Unknown
        s.out(0, tuple(_scale(s, n, float(k)) for n, k in zip(known, scales, strict=True)))
        return
    s.out(0, _scaled(s, known, 1, range(len(known))))


def _scaled(s: Site, known: Dims, i: int, axes: Any) -> Dims:
    from ...ir import array

    out = list(known)
    scales = array(s.value(i))
    held = s.reals(i) if scales is None else None
    if scales is None and held is None:
        for axis in axes:
            out[axis] = s.fresh()
        return tuple(out)
    if scales is not None:
        for axis, k in zip(axes, scales.reshape(-1).tolist(), strict=True):
            out[axis] = _scale(s, known[axis], k)
    for axis, (top, bottom, exact) in zip(axes, held or (), strict=held is not None):
        whole = exact and isinstance(top, int)
        out[axis] = _scale(s, known[axis], top / bottom) if whole else s.fresh()  # type: ignore[operator]
    return tuple(out)


def _scale(s: Site, n: Dim, scale: float) -> Dim:
    """``floor(n * scale)`` as runtimes compute it, in float32."""
    if isinstance(n, int):
        return int(np.float32(n) * np.float32(scale))
    top, bottom = scale.as_integer_ratio()
    if bottom > 1024 or top > 1 << 16:
        return s.fresh()
    return d.floordiv(d.mul(n, top), bottom)


def _kept_ratio(s: Site, known: Dims, axes: Any, policy: str) -> Dims:
    sizes = s.ints(3)
    own = [n for n in (known[a] for a in axes) if isinstance(n, int) and n > 0]
    out = list(known)
    if len(own) != len(sizes):
        for axis in axes:
            out[axis] = s.fresh()
        return tuple(out)
    pick = min if policy == "not_larger" else max
    scale = pick(k / n for k, n in zip(sizes, own, strict=True))
    for axis, n in zip(axes, own, strict=True):
        exact = float(scale * n)
        out[axis] = int(np.floor(exact + 0.5))
        if abs(exact - np.floor(exact) - 0.5) < 1e-3:  # a tie, or nearly one: runtimes differ in the last bit
            out[axis] = s.fresh()
    return tuple(out)


@rule("GridSample")
def grid_sample(s: Site) -> None:
    image, at = s.dims(0), s.dims(1)
    s.out(0, (*image[:2], *at[1:-1]))


@rule("AffineGrid")
def affine_grid(s: Site) -> None:
    n, _, *space = s.vector(1)
    s.out(0, (n, *space, len(space)))


@rule("Col2Im")
def col2im(s: Site) -> None:
    known, image, block = s.dims(0), s.vector(1), s.ints(2)
    s.out(0, (known[0], d.floordiv(known[1], int(np.prod(block))), *image))
