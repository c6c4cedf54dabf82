"""What a constant tensor holds, compared without holding it: digests, samples, and where external data lies."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from .. import ir

SAMPLE_ABOVE = 64 << 10
"""Tensors of more bytes are told apart by a sample first: equal-shaped weights mostly differ there."""

_PIECE = 4 << 10


class _Sink:
    """A file that only hashes. It has no ``fileno``, so external data is streamed through a bounded buffer."""

    def __init__(self) -> None:
        self.digest = hashlib.blake2b(digest_size=32)

    def write(self, data: Any) -> int:
        self.digest.update(data)
        return len(data)


def content(tensor: Any) -> bytes:
    """A 256-bit digest of the tensor's bytes: -0.0 differs from 0.0, a NaN equals the same NaN.

    External data is read in pieces, in constant memory. Says nothing about dtype and shape.
    """
    sink = _Sink()
    if tensor.dtype == ir.DataType.STRING:
        for text in np.asarray(tensor.numpy(), dtype=object).reshape(-1):
            data = text.encode() if isinstance(text, str) else bytes(text)
            sink.write(len(data).to_bytes(8, "little"))
            sink.write(data)
    else:
        tensor.tofile(sink)
    return sink.digest.digest()


def sample(tensor: Any) -> bytes:
    """Some of the bytes: equal tensors have equal samples. Touches a few pages of a mapped file."""
    if tensor.dtype == ir.DataType.STRING or tensor.dtype.bitwidth < 8 or tensor.nbytes <= SAMPLE_ABOVE:
        return b""
    flat = tensor.numpy()
    if not flat.flags.c_contiguous:
        return b""
    raw = flat.reshape(-1).view(np.uint8)
    middle = raw.size // 2
    pieces = (raw[:_PIECE], raw[middle : middle + _PIECE], raw[-_PIECE:])
    return b"".join(piece.tobytes() for piece in pieces)


def place(tensor: Any) -> tuple[str, int, int] | None:
    """File, offset and length of external data, or None for a tensor in memory."""
    if not isinstance(tensor, ir.ExternalTensor):
        return None
    return str(tensor.path), tensor.offset or 0, tensor.length or tensor.nbytes
