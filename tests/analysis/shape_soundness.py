"""Checks inferred facts against what a run really gave: every claim evaluated at the actual sizes must hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from olc import ir
from olc.analysis import dims as d
from olc.analysis import shapes


class Wrong(AssertionError):
    """A fact that the run refutes."""


def bind(claim: d.Dim, actual: int, env: dict[str, int], what: str) -> bool:
    """Check one dim or element at the sizes of ``env``; a symbol not yet bound takes the value that fits.

    Returns:
        True where the claim said something, False where it only names an unknown.
    """
    try:
        value = d.evaluate(claim, env)
    except KeyError:
        if isinstance(claim, d.Poly) and len(claim.terms) == 1:
            (atoms, coefficient) = claim.terms[0]
            if len(atoms) == 1 and coefficient == 1 and not atoms[0].args:
                if atoms[0].kind == d.SYMBOL and actual < 0:
                    raise Wrong(f"{what}: {claim} is a size but the value is {actual}") from None
                env[atoms[0].name] = actual
        return False
    except (ValueError, ZeroDivisionError) as e:
        raise Wrong(f"{what}: {claim} fails at {env}: {e}") from e
    if value != actual:
        raise Wrong(f"{what}: claimed {claim} = {value}, is {actual} at {env}")
    return True


def declared(model: ir.Model, feeds: Mapping[str, Any], env: dict[str, int]) -> None:
    """Bind the symbols of the model's inputs to the sizes of the feeds."""
    for value in model.graph.inputs:
        if value.name in feeds and isinstance(feeds[value.name], np.ndarray | np.generic):
            shape = shapes.dims(value)
            if shape is None:
                continue
            for n, actual in zip(shape, np.shape(feeds[value.name]), strict=True):
                bind(n, actual, env, f"input {value.name}")


def check_value(value: ir.Value, actual: Any, env: dict[str, int], node: str = "") -> tuple[int, int]:
    """Check all facts of a value. Returns (dims that are known, dims in all); a missing rank counts as one dim."""
    what = f"{value.name} {node}"
    if not isinstance(actual, np.ndarray | np.generic):
        if shapes.dims(value) is not None:
            raise Wrong(f"{what}: a shape of something that is no tensor")
        return 0, 0
    if value.dtype is not None and isinstance(value.type, ir.TensorType):
        got = ir.Tensor(np.asarray(actual)).dtype if actual.dtype.kind not in "OSU" else ir.DataType.STRING
        if got != value.dtype:
            raise Wrong(f"{what}: dtype {value.dtype}, is {got}")
    shape = shapes.dims(value)
    if shape is None:
        return 0, max(1, actual.ndim)
    if len(shape) != actual.ndim:
        raise Wrong(f"{what}: claimed {[str(n) for n in shape]}, is {actual.shape}")
    known = sum(bind(n, k, env, what) for n, k in zip(shape, actual.shape, strict=True))
    held = shapes.elements(value)
    if held is not None:
        if len(held) != actual.size:
            raise Wrong(f"{what}: {len(held)} elements claimed, {actual.size} are")
        for e, x in zip(held, actual.reshape(-1), strict=True):
            bind(e, int(x), env, f"elements of {what}")
    return known, actual.ndim
