"""Arithmetic on the weights of convolutions, in float64, rounded once at the end."""

import numpy as np
from olc.rules import array, attr, dims

from .._helpers import moderate

SHARED_LIMIT = 1 << 16
"""Elements of a weight that has other users: above it a second copy costs more than the fold is worth."""


def node(m):
    """The convolution of the match."""
    return m.find("Conv") or m.find("ConvTranspose")


def groups(m):
    return attr(node(m), "group", 1)


def out_channels(m):
    shape = array(m.w).shape
    return shape[0] if node(m).op_type == "Conv" else shape[1] * groups(m)


def per_channel(c, rank, channels):
    """The constant as one float64 number for each channel (axis 1) of a tensor of that rank; None where it is no such
    thing: it varies along other axes, or would broadcast the tensor to a larger one."""
    a = array(c)
    if a.ndim > rank:
        return None
    shape = (1,) * (rank - a.ndim) + a.shape
    if any(n != 1 for i, n in enumerate(shape) if i != 1) or shape[1] not in (1, channels):
        return None
    return np.broadcast_to(a.astype(np.float64).reshape(-1), (channels,))


def copied(m):
    """Why the weight must stay as it is, or None."""
    if len(m.w.uses()) > 1 and array(m.w).size > SHARED_LIMIT:
        return "the weight has other users, and a second copy would be large"
    return None


def scaled_out(m, factor):
    """The weight with a factor for each output channel."""
    w = array(m.w).astype(np.float64)
    if node(m).op_type == "Conv":
        return w * factor.reshape(-1, *(1,) * (w.ndim - 1))
    g = groups(m)
    by_group = w.reshape(g, w.shape[0] // g, *w.shape[1:])
    return (by_group * factor.reshape(g, 1, w.shape[1], *(1,) * (w.ndim - 2))).reshape(w.shape)


def by_input(m):
    """A Conv's weight as [group, outputs of the group, inputs of the group, kernel positions]."""
    w, g = array(m.w).astype(np.float64), groups(m)
    return w.reshape(g, w.shape[0] // g, w.shape[1], -1)


def in_channels(m):
    return array(m.w).shape[1] * groups(m)


def input_channels_known(m):
    """Is the channel axis of the input ``m.x`` known to have the convolution's number of channels?"""
    d = dims(m.x)
    return d is not None and len(d) == array(m.w).ndim and d[1] == in_channels(m)


def bias_of(m):
    return np.zeros(out_channels(m)) if m.b is None else array(m.b).astype(np.float64)


def set_weights(m, weight, bias=None):
    """Round the new weight and bias to the weight's dtype, as ``m.weight`` and ``m.bias``; why not, or None."""
    dtype = array(m.w).dtype
    with np.errstate(all="ignore"):
        m.weight = None if weight is None else weight.astype(dtype)
        m.bias = None if bias is None else bias.astype(dtype)
    for a in (m.weight, m.bias):
        if a is not None and not moderate(a):
            return "a folded weight would be too large"
    return None


def rebuilt(op, m, x=None, **attributes):
    """The convolution with its new weights."""
    weight = m.w if m.weight is None else m.weight
    bias = m.b if m.bias is None else m.bias
    return getattr(op, node(m).op_type)(m.x if x is None else x, weight, bias, **{**m.attrs, **attributes})
