"""Steps of a decoder, made of the prompts that a user gives: what it runs once it is deployed, and prompts alone do not show.

The last token of a prompt is run once more, after a cache of those before it. What the source then gives has to be what it gave
for that token within the prompt: where a model's inputs mean something else, no step is made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .. import ir
from ..decoding import Pair, find_pairs, ports
from ..errors import BadInput, OlcError
from ..session import run
from . import numerics, roles

Feed = dict[str, Any]

FEW = 4
"""Tokens of a feed that is no prompt. Weights are read once for all of them; from 8 rows on products are bound by arithmetic,
and what reads fewer bytes gains no more."""


def tokens(model: ir.Model) -> str | None:
    """The input of token ids, if there is one and only one."""
    ids = [i.name for i in roles.inputs(model) if i.role == roles.IDS]
    return ids[0] if len(ids) == 1 else None


def of_prompts(model: ir.Model, opened: Any, feeds: Sequence[Mapping[str, Any]]) -> list[Feed]:
    """A step for each of the feeds where all are prompts (more than ``FEW`` tokens, nothing cached) of a decoder with a cache;
    else none.

    Args:
        opened: the model as an ``onnxruntime.InferenceSession``.
    """
    inputs, outputs = ports(opened)
    name = tokens(model)
    ids = next((p for p in inputs if p.name == name), None)
    if ids is None or not ids.dims or not isinstance(ids.dims[-1], str):
        return []
    try:
        pairs = find_pairs(inputs, outputs)
    except BadInput:  # no cache
        return []
    if not all(_is_prompt(feed, ids.name, pairs) for feed in feeds):
        return []
    cached = {name for pair in pairs for name in (pair.past.name, pair.present)}
    new = {p.name: p.dims.index(ids.dims[-1]) for p in (*inputs, *outputs) if ids.dims[-1] in p.dims and p.name not in cached}
    made = (_step(opened, ids.name, new, pairs, feed) for feed in feeds)
    return [step for step in made if step is not None]


def _is_prompt(feed: Mapping[str, Any], ids: str, pairs: Sequence[Pair]) -> bool:
    return np.asarray(feed[ids]).size > FEW and not any(np.shape(feed[p.past.name])[p.axis] for p in pairs if p.past.name in feed)


def _step(opened: Any, ids: str, new: Mapping[str, int], pairs: Sequence[Pair], feed: Mapping[str, Any]) -> Feed | None:
    """``new``: the axis of new tokens, of each input and output that has one."""
    found = run(opened, feed)
    before = np.shape(feed[ids])[-1] - 1
    if any(np.shape(found[p.present])[p.axis] != before + 1 for p in pairs):
        return None  # not of every token: of the last ones, say, or of another sequence
    caches = {p.past.name: found[p.present].take(range(before), p.axis) for p in pairs if p.past.name in feed}
    step = {**feed, **{name: _last(feed[name], axis) for name, axis in new.items() if name in feed}, **caches}
    presents = {p.present for p in pairs}
    wanted = [v.name for v in opened.get_outputs() if v.name not in presents]
    expected = {name: _last(found[name], new[name]) if name in new else found[name] for name in wanted}
    try:
        made = run(opened, step, wanted)
    except OlcError:
        return None  # an input that is no mask may have to be of the new tokens' number, too
    return step if numerics.first_difference(numerics.compare([expected], [made])) is None else None


def _last(value: Any, axis: int) -> Any:
    array = np.asarray(value)
    return array.take([array.shape[axis] - 1], axis)
