"""What a plan learns from data, learnt again: weights rounded by least squares, biases corrected."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

from ..errors import BadInput
from ..evaluation.padding import Keep
from ..ir import Model
from ..passes import Context
from ..quantization import shift_form
from ..rules import Registry
from .bias import CORRECTED, corrected
from .plan import Plan, made
from .rounding import LEARNT, Weights, layers_of, least_squares, merged, named
from .schemes import SCHEMES, scheme_of

LEARNING = 16
"""Inputs that are learnt from, the first ones of all that choose: to round a weight well that reads 1,536 channels takes more
text than to compare two models."""


def learning(feeds: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those that are learnt from."""
    return list(islice(feeds, LEARNING))


def learns(plan: Plan) -> bool:
    """Does the plan hold anything of that?"""
    return bool(plan.rounded) and any(rule in LEARNT for rule, _ in plan.kept())


def carried_out(
    fused: Model, plan: Plan, rules: Registry, ctx: Context, choosing: Iterable[dict[str, Any]], keep: Keep, threads: int | None
) -> Weights:
    """The weights that a plan rounds by least squares and the biases that it corrects, made again.

    Args:
        fused: what the search rounded, its facts noted: the form of a weight rests on them, and so does smoothing.
        choosing: all inputs that choose.

    Raises:
        BadInput: one of them cannot be made from these feeds.
    """
    feeds = learning(choosing)
    bodies = [(plan.sites, plan.smooth)] + ([] if plan.few is None else [(plan.few.sites, plan.few.smooth)])
    weights: Weights = {}
    wanted: set[str] = set()
    for choices, alphas in bodies:
        used = {scheme_of(rule) for rule, _ in made(choices)}
        sites = [site for site in sorted(choices) if scheme_of(site[0]) in used]
        weights = merged(weights, least_squares(fused, sites, feeds, keep, threads, only=plan.rounded, smoothed=alphas))
        for scheme in (name for name in SCHEMES if name in used):
            # Behind all layers of the scheme, as they were learnt, whatever a mixture then kept of it.
            whole = [site for site in sites if scheme_of(site[0]) == scheme]
            weights = merged(weights, corrected(
                fused, rules, ctx, whole, feeds, keep, threads, weights=weights, only=plan.rounded, smoothed=alphas
            ))  # fmt: skip
        for layer in layers_of(fused, made(choices), alphas):
            forms = (layer.form, shift_form(layer.limit)) if layer.rule in CORRECTED else (layer.form,)
            wanted |= {named(layer.constant.name or "", form) for form in forms}
    left = (wanted & set(plan.rounded)) - {named(name, form) for name, forms in weights.items() for form in forms}
    if left:
        what = f"{len(left)} of the weights and biases that the plan learns from data cannot be: {len(feeds)} samples choose"
        raise BadInput(what, where="--plan", hint="give the --data that it was made with")
    return weights
