"""Outputs without the tokens that an attention mask takes out: what stands there nobody reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..ir import Model
from . import roles

Keep = Callable[[Mapping[str, Any], Mapping[str, Any]], dict[str, Any]]


def as_it_is(feed: Mapping[str, Any], outputs: Mapping[str, Any]) -> dict[str, Any]:
    """All of the outputs."""
    return dict(outputs)


def without_padding(model: Model) -> tuple[str | None, Keep]:
    """The mask input's name, or None where the model has none, and a function (feed, outputs) -> outputs.

    An output [batch, sequence, channels] of the mask's own two sizes becomes [tokens, channels] without those at which
    the mask is 0, and so does a cache [batch, heads, sequence, channels]; other outputs stay. Rounding moves a padded
    token's result far, since nothing keeps it in place.
    """
    masks = [i.name for i in roles.inputs(model) if i.role == roles.MASK and i.rank == 2 and "encoder" not in i.name]
    if not masks:
        return None, as_it_is
    name = masks[0]

    def keep(feed: Mapping[str, Any], outputs: Mapping[str, Any]) -> dict[str, Any]:
        mask = np.asarray(feed[name]) != 0
        return {k: _tokens(v, mask) for k, v in outputs.items()}

    return name, keep


def _tokens(v: Any, mask: np.ndarray) -> Any:
    if not isinstance(v, np.ndarray) or v.ndim not in (3, 4):
        return v
    by_token = v if v.ndim == 3 else v.swapaxes(1, 2)
    return by_token[mask] if by_token.shape[:2] == mask.shape else v
