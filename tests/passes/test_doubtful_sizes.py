"""Names of sizes that the graph contradicts are not believed; others are."""

from __future__ import annotations

import numpy as np
import pytest
from olc import storage, targets
from olc.analysis import shapes
from olc.evaluation.inputs import plan
from olc.passes import Context, doubtful_sizes
from olc.pipeline import Options, optimize
from olc.session import run, session
from pass_oracle import load, parse

# Every fourth entry of the mask, as many as there are states.
TEXT = """g (int64[B, E] mask, float[B, E, 4] states) => (float[B, E, 4] y)
  <int64[1] zero = {0}, int64[1] last = {9223372036854775807}, int64[1] one = {1}, int64[1] step = {%s}, int64[1] two = {2}> {
  few = Slice(mask, zero, last, one, step)  n = Shape<start = 1, end = 2>(states)  cut = Slice(few, zero, n, one)
  f = Cast<to = 1>(cut)  u = Unsqueeze(f, two)  y = Mul(states, u)
}"""


@pytest.mark.parametrize(("step", "own"), [("4", "mask_1"), ("1", "E")])
def test_a_size_that_would_not_fit_has_a_name_of_its_own(step: str, own: str) -> None:
    model = load(parse(TEXT % step))
    assert doubtful_sizes.run(model, Context()) == (own != "E")
    assert [str(n) for n in shapes.dims(model.graph.inputs[0]) or ()] in ([], ["B", own])  # [] where nothing was looked at
    assert [str(n) for n in model.graph.inputs[0].shape or ()] == ["B", own]
    assert str((model.graph.inputs[1].shape or ())[1]) == "E"
    assert doubtful_sizes.run(model, Context()) == 0


def test_the_artifact_takes_what_the_source_takes() -> None:
    """Asked of the mask, the number of states would not cut what is too long."""
    source = parse(TEXT % "4").SerializeToString()
    model = storage.load_bytes(source)
    assert {str(n) for i in plan(model).inputs for n in i.axes or ()} == {"B", "E", "mask_1", "4"}
    optimize(model, Options(level=2), Context(target=targets.get("onnxruntime-cpu")))
    feed = {"mask": np.arange(26).reshape(2, 13) % 3, "states": np.ones((2, 3, 4), np.float32)}
    theirs, ours = (run(session(b, threads=1), feed, where="g") for b in (source, storage.to_bytes(model)))
    np.testing.assert_array_equal(theirs["y"], ours["y"])


def test_no_shapes_are_inferred_for_it_where_no_name_is_shared() -> None:
    model = load(parse("g (int64[B, S] ids, float[B, 4] x) => (float[B, 4] y) { y = Neg(x) }"))
    assert doubtful_sizes.named(model) is model
    assert not shapes.known(model)
