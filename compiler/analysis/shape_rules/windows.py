"""Operators with sliding windows: convolutions and pools."""

from __future__ import annotations

from typing import Any

from .. import dims as d
from ..dims import Dim
from .core import Dims, Site, Unknown, rule


def _per_axis(s: Site, name: str, count: int) -> tuple[int, ...]:
    found: Any = s.attr(name)
    if found is None:
        return (1,) * count
    if len(found) != count:
        raise Unknown
    return tuple(found)


def _pads(s: Site, count: int) -> tuple[tuple[int, int], ...]:
    found = s.attr("pads") or (0,) * (2 * count)
    if len(found) != 2 * count:
        raise Unknown
    return tuple(zip(found[:count], found[count:], strict=True))


def slid(s: Site, space: Dims, kernel: Dims, ceil: bool = False, must_fit: bool = False) -> Dims:
    """How often a window of the given kernel fits along each axis, by the node's strides, dilations and padding.

    Args:
        ceil: a window may end behind the last element.
        must_fit: runtimes refuse an axis that is shorter than the window.
    """
    rank = len(space)
    if len(kernel) != rank:
        raise Unknown
    strides, dilations = _per_axis(s, "strides", rank), _per_axis(s, "dilations", rank)
    auto = s.attr("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        return tuple(d.ceildiv(n, step) for n, step in zip(space, strides, strict=True))
    pads = ((0, 0),) * rank if auto == "VALID" else _pads(s, rank)
    out: list[Dim] = []
    for n, k, step, wide, (before, after) in zip(space, kernel, strides, dilations, pads, strict=True):
        reach = d.add(d.mul(d.sub(k, 1), wide), 1)
        span = d.sub(d.add(n, before + after), reach)
        if must_fit:
            s.engine.note_fitting(span, s.node)
        if not ceil:
            out.append(d.add(d.floordiv(span, step), 1))
            continue
        count = d.add(d.ceildiv(span, step), 1)
        # A window that would start in the padding behind the last element is left out.
        if isinstance(count, int) and isinstance(n, int):
            out.append(count - 1 if (count - 1) * step >= n + before else count)
        elif step == 1 or (isinstance(reach, int) and reach >= after + step):
            out.append(count)
        else:
            out.append(s.fresh())
    return tuple(out)


def _kernel(s: Site, weight: Dims | None) -> Dims:
    given: Any = s.attr("kernel_shape")
    if given is not None:
        return tuple(given)
    if weight is None:
        raise Unknown
    return weight[2:]


def _conv(s: Site, weight: int, must_fit: bool = False) -> None:
    x, w = s.dims(0), s.dims_or_none(weight)
    features = s.fresh() if w is None else w[0]
    s.out(0, (x[0], features, *slid(s, x[2:], _kernel(s, w), must_fit=must_fit)))


@rule("Conv", "ConvInteger")
def conv(s: Site) -> None:
    _conv(s, 1, must_fit=True)


@rule("QLinearConv")
def qlinear_conv(s: Site) -> None:
    s.out(0, None, dtype=s.dtype(7))
    _conv(s, 3)


@rule("DeformConv")
def deform_conv(s: Site) -> None:
    _conv(s, 1)


@rule("ConvTranspose")
def conv_transpose(s: Site) -> None:
    x, w = s.dims(0), s.dims(1)
    space = x[2:]
    rank = len(space)
    features = d.mul(w[1], s.attr("group", 1))
    wanted: Any = s.attr("output_shape")
    if wanted:
        s.out(0, (x[0], features, *wanted[-rank:]))
        return
    strides, dilations = _per_axis(s, "strides", rank), _per_axis(s, "dilations", rank)
    extra = s.attr("output_padding") or (0,) * rank
    auto = s.attr("auto_pad", "NOTSET")
    pads = _pads(s, rank) if auto == "NOTSET" else ((0, 0),) * rank
    out: list[Dim] = []
    for n, k, step, wide, more, (before, after) in zip(space, _kernel(s, w), strides, dilations, extra, pads, strict=True):
        if auto in ("SAME_UPPER", "SAME_LOWER"):
            out.append(d.mul(n, step))
            continue
        reach = d.add(d.mul(d.sub(k, 1), wide), 1)
        out.append(d.total((d.mul(d.sub(n, 1), step), more, reach, -before - after)))
    s.out(0, (x[0], features, *out))


@rule("AveragePool", "LpPool", "MaxPool")
def pool(s: Site) -> None:
    x = s.dims(0)
    out: Dims = (*x[:2], *slid(s, x[2:], _kernel(s, None), bool(s.attr("ceil_mode", 0))))
    s.out(0, out)
    s.out(1, out)


@rule("MaxUnpool")
def max_unpool(s: Site) -> None:
    x = s.dims(0)
    if s.has(2):
        s.out(0, s.vector(2))
        return
    rank = len(x) - 2
    strides, pads = _per_axis(s, "strides", rank), _pads(s, rank)
    out = [
        d.total((d.mul(d.sub(n, 1), step), k, -before - after))
        for n, k, step, (before, after) in zip(x[2:], _kernel(s, None), strides, pads, strict=True)
    ]
    s.out(0, (*x[:2], *out))


@rule("GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool")
def global_pool(s: Site) -> None:
    x = s.dims(0)
    s.out(0, x[:2] + (1,) * (len(x) - 2))
