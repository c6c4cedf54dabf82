"""Which LOSSY rules are tried together."""

from __future__ import annotations

from ..passes import float16

SCHEMES: dict[str, tuple[str, ...]] = {
    "int8": (
        "int8-linear", "stored-int8-linear", "int8-conv", "int8-add", "int8-mul", "int8-concat",
        "int8-hard-sigmoid", "int8-sigmoid", "int8-leaky-relu", "int8-average-pool", "int8-global-average-pool",
    ),
    "int7": ("int7-linear",),
    "int8-lstm": ("int8-lstm", "int8-lstm-and-last", "int8-lstm-and-states"),
    "int8-attention": ("int8-attention", "int8-attention-with-cache"),
    "int8-outlier": ("int8-outlier-linear",),
    "int8-row": ("int8-row-linear",),
    "int8-block": ("int8-block-linear", "int8-block-experts"),
    "int4-block": ("int4-block-linear", "int4-block-experts"),
    "int8-symmetric": ("symmetric-int8-linear", "symmetric-int8-conv"),
    "int4-symmetric": ("symmetric-int4-linear",),
    "float16": (float16.NAME,),
}
"""A LOSSY rule that no scheme names is a scheme of its own."""


def scheme_of(rule: str) -> str:
    """The scheme that a LOSSY rule belongs to, by name."""
    return next((name for name, members in SCHEMES.items() if rule in members), rule)
