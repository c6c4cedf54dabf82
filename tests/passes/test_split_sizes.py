"""One spelling of Split."""

from __future__ import annotations

import onnx
import pytest
from olc.analysis import shapes
from olc.passes import Context, split_sizes
from pass_oracle import assert_same, feeds, load, parse, run, save


@pytest.mark.parametrize("axis", [-1, 1])
def test_sizes_are_written_out_and_the_axis_counts_from_the_front(axis: int) -> None:
    proto = parse(f"g (float[2,6] x) => (float[2,3] a, float[2,3] b) {{ a, b = Split<axis = {axis}, num_outputs = 2>(x) }}")
    model = load(proto)
    shapes.infer(model)
    assert split_sizes.run(model, Context()) == (2 if axis < 0 else 1)
    assert split_sizes.run(model, Context()) == 0
    after = save(model)
    (node,) = after.graph.node
    assert [onnx.helper.get_attribute_value(a) for a in node.attribute] == [1]
    assert [onnx.numpy_helper.to_array(t).tolist() for t in after.graph.initializer] == [[3, 3]]
    assert_same(run(proto, feeds(proto)), run(after, feeds(proto)))
