"""One model of two bodies."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from olc import ir, verifier
from olc.passes import Context, dce, dedupe_initializers, two_bodies
from pass_oracle import load, parse, save

GRAPH = """g (int64[N] ids, float[3] other) => (float[N, 3] y, int64[N] same, float[3] kept) <
    float[4, 3] table = {0,1,2,3,4,5,6,7,8,9,10,11}, float[3] kept = {7, 8, 9}> {
    rows = Gather(table, ids)
    y = OP(rows, other)
    same = Identity(ids)
}"""


def model(operator: str) -> ir.Model:
    made = load(parse(GRAPH.replace("OP", operator)))
    for n in made.graph:
        n.name = f"node_{n.outputs[0].name}"
    return made


def joined(most: int = 2) -> ir.Model:
    made, few = model("Add"), model("Sub")
    for v in few.graph.initializers.values():  # of one model, as the strategy has them
        v.const_value = made.graph.initializers[v.name].const_value
    assert two_bodies.run(made, Context(), few, "ids", most) == 1
    verifier.check(made, "after two-bodies")
    return made


@pytest.mark.parametrize("n", [0, 1, 2, 3, 7])
def test_each_run_takes_one_body(n: int) -> None:
    proto = save(joined())
    assert [o.name for o in proto.graph.output] == ["y", "same", "kept"]
    ids, other = np.arange(n) % 4, np.array([1, 10, 100], np.float32)
    y, same, kept = ort.InferenceSession(proto.SerializeToString()).run(None, {"ids": ids, "other": other})
    rows = np.arange(12, dtype=np.float32).reshape(4, 3)[ids]
    np.testing.assert_array_equal(y, rows - other if n <= 2 else rows + other)
    np.testing.assert_array_equal(same, ids)
    np.testing.assert_array_equal(kept, [7, 8, 9])


def test_what_both_hold_is_held_once_and_names_are_unique() -> None:
    made = joined()
    dedupe_initializers.run(made, Context())
    dce.run(made, Context())
    assert sorted(made.graph.initializers) == ["kept", "olc_most", "table"]
    names = [n.name for g in ir.all_graphs(made) for n in g]
    values = [o.name for g in ir.all_graphs(made) for n in g for o in n.outputs]
    assert len(set(names)) == len(names)
    assert len(set(values)) == len(values)


def test_constants_that_differ_are_kept_apart() -> None:
    made, few = model("Add"), model("Add")
    few.graph.initializers["table"].const_value = ir.Tensor(-np.arange(12, dtype=np.float32).reshape(4, 3))
    two_bodies.run(made, Context(), few, "ids", 1)
    session = ort.InferenceSession(save(made).SerializeToString())
    zero = np.zeros(3, np.float32)
    for ids, sign in (([3], -1), ([3, 3], 1)):
        y, *_ = session.run(None, {"ids": np.array(ids), "other": zero})
        np.testing.assert_array_equal(y[0], sign * np.array([9, 10, 11], np.float32))


def test_what_one_body_reads_is_held_by_it() -> None:
    made, few = model("Add"), model("Add")
    few.graph.initializers["table"].const_value = ir.Tensor(-np.arange(12, dtype=np.float32).reshape(4, 3))
    few.graph.initializers["kept"].const_value = made.graph.initializers["kept"].const_value
    two_bodies.run(made, Context(), few, "ids", 1)
    verifier.check(made, "after two-bodies")
    assert {g.name: sorted(g.initializers) for g in ir.all_graphs(made)} == {
        "g": ["kept", "olc_most"], "few": ["table_few"], "more": ["table"],
    }  # fmt: skip


def test_there_must_be_such_an_input() -> None:
    with pytest.raises(KeyError):
        two_bodies.run(model("Add"), Context(), model("Add"), "nothing", 1)
