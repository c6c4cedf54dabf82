"""Slices in turn become one, but for cuts along other axes of what is needed as it is."""

from __future__ import annotations

import pytest
from olc.rules import registry

from tests.rewriting import graph, ops, run


@pytest.mark.parametrize(("axis", "whole", "slices"), [(1, "Slice", 1), (1, "Relu", 2), (0, "Relu", 2)])
def test_what_is_needed_as_it_is(axis: int, whole: str, slices: int) -> None:
    """The first cut is along axis 1, and its result is read by a Relu, or by nothing but Slices."""
    first = f"b = Slice(x, one, three, at1)  y = Slice(b, zero, one, at{axis})"
    model = graph(
        f"{first}  z = Relu(b)" if whole == "Relu" else first,
        inputs="float[6,4] x",
        outputs=f"float[{'6,1' if axis else '1,2'}] y" + (", float[6,2] z" if whole == "Relu" else ""),
        known="int64[1] zero = {0}, int64[1] one = {1}, int64[1] three = {3}, int64[1] at0 = {0}, int64[1] at1 = {1}",
    )
    run(model, registry()["compose-slices"])
    assert ops(model).count("Slice") == slices
    assert {n.inputs[0].name for n in model.graph if n.outputs[0].name == "y"} == {"b" if axis == 0 else "x"}
