"""Dead code."""

from __future__ import annotations

import pytest
from olc.passes import Context, dce
from pass_oracle import load, ops, parse, save, transform


def test_dead_chain_and_its_initializer_go() -> None:
    proto = parse("""g (float[2] x) => (float[2] y) <float[2] w = {1, 2}, float[2] u = {3, 4}> {
        y = Add(x, w)
        a = Mul(x, u)
        b = Relu(a)
        c = Exp(b)
    }""")
    after, changes, ctx = transform(dce, proto)
    assert ops(after.graph) == ["Add"]
    assert [t.name for t in after.graph.initializer] == ["w"]
    assert changes == 4
    assert len(ctx.events) == 4


def test_inputs_stay_used_or_not() -> None:
    proto = parse("g (float[2] x, float[2] unused, float[2] d) => (float[2] y) <float[2] d = {1, 2}> { y = Relu(x) }")
    after, changes, _ = transform(dce, proto)
    assert changes == 0
    assert [v.name for v in after.graph.input] == ["x", "unused", "d"]
    assert [t.name for t in after.graph.initializer] == ["d"]


def test_what_only_a_dead_body_uses_is_dead() -> None:
    proto = parse("""g (bool c, float[2] x) => (float[2] y) {
        e = Exp(x)
        z = If (c) <
          then_branch = t () => (float[2] a) { a = Relu(e) },
          else_branch = f () => (float[2] b) { b = Abs(e) }
        >
        y = Neg(x)
    }""")
    after, _, _ = transform(dce, proto)
    assert ops(after.graph) == ["Neg"]


def test_a_dead_body_no_longer_uses_what_lives_on() -> None:
    model = load(parse("""g (bool c, float[2] x) => (float[2] y) {
        e = Exp(x)
        z = If (c) <then_branch = t () => (float[2] a) { a = Relu(e) },
                    else_branch = f () => (float[2] b) { b = Abs(e) }>
        y = Neg(e)
    }"""))  # fmt: skip
    dce.run(model, Context())
    assert [use.node.op_type for use in model.graph[0].outputs[0].uses()] == ["Neg"]


def test_dead_nodes_and_initializers_inside_bodies() -> None:
    proto = parse("""g (bool c, float[2] x) => (float[2] y) {
        e = Exp(x)
        y = If (c) <
          then_branch = t () => (float[2] a) <float[2] k = {1, 2}> { a = Relu(x) d = Add(e, k) },
          else_branch = f () => (float[2] b) { b = Abs(x) }
        >
    }""")
    after, changes, _ = transform(dce, proto)
    assert ops(after.graph) == ["If", ["Relu"], ["Abs"]]
    assert changes == 3
    assert not after.graph.node[0].attribute[0].g.initializer


def test_an_unused_output_of_if_takes_its_branches_work_with_it() -> None:
    proto = parse("""g (bool c, float[2] x) => (float[2] y) {
        e = Exp(x)
        z, y = If (c) <
          then_branch = t () => (float[2] a, float[2] p) { a = Relu(e) p = Neg(x) },
          else_branch = f () => (float[2] b, float[2] q) { b = Abs(e) q = Sqrt(x) }
        >
    }""")
    after, changes, _ = transform(dce, proto)
    assert ops(after.graph) == ["If", ["Neg"], ["Sqrt"]]
    assert list(after.graph.node[0].output) == ["y"]
    assert changes == 4


LOOP = """g (int64 n, float[2] x) => (%s) {
    t = Constant <value = bool {1}>()
    a_out, b_out, s, r = Loop (n, t, x, x) <
      body = l (int64 i, bool c, float[2] a, float[2] b)
        => (bool k, float[2] a2, float[2] b2, float[2] s1, float[2] r1) {
        k = Identity(c)
        a2 = Add(a, x)
        b2 = %s
        s1 = Neg(a)
        r1 = Exp(b)
      }
    >
}"""


def test_unused_scan_outputs_and_carried_values_of_a_loop_go() -> None:
    proto = parse(LOOP % ("float[2] a_out", "Mul(b, x)"))
    after, _, _ = transform(dce, proto, n=3)
    assert ops(after.graph) == ["Constant", "Loop", ["Identity", "Add"]]
    loop = after.graph.node[1]
    assert list(loop.input) == ["n", "t", "x"]
    assert list(loop.output) == ["a_out"]


def test_a_carried_value_stays_while_a_live_one_reads_it() -> None:
    proto = parse(LOOP % ("float[2] b_out", "Mul(b, a)"))
    after, _, _ = transform(dce, proto, n=3)
    assert ops(after.graph) == ["Constant", "Loop", ["Identity", "Add", "Mul"]]
    assert list(after.graph.node[1].output) == ["a_out", "b_out"]


def test_a_scan_output_that_is_used_keeps_what_it_reads() -> None:
    proto = parse(LOOP % ("float[N, 2] r", "Mul(b, x)"))
    after, _, _ = transform(dce, proto, n=3)
    assert ops(after.graph) == ["Constant", "Loop", ["Identity", "Mul", "Exp"]]
    assert list(after.graph.node[1].output) == ["b_out", "r"]


def test_bodies_of_other_operators_keep_all_outputs() -> None:
    proto = parse("""g (float[3, 2] x, float[2] z) => (float[2] f) {
        f, s = Scan <num_scan_inputs = 1, body = l (float[2] a, float[2] b) => (float[2] a2, float[2] s1) {
            a2 = Add(a, b)
            s1 = Neg(b)
            d = Exp(b)
        }> (z, x)
    }""")
    after, changes, _ = transform(dce, proto)
    assert ops(after.graph) == ["Scan", ["Add", "Neg"]]
    assert changes == 1


def test_unused_optional_outputs_are_omitted_in_the_middle_and_cut_at_the_end() -> None:
    proto = parse("""g (float[2, 1, 3] x, float[1, 16, 3] w, float[1, 16, 4] r) => (float[1, 1, 4] h) {
        y, h, c = LSTM <hidden_size = 4> (x, w, r)
    }""")
    after, changes, _ = transform(dce, proto)
    assert changes == 2
    assert list(after.graph.node[0].output) == ["", "h"]


def test_required_outputs_stay() -> None:
    proto = parse("g (float[4] x) => (int64[2] i) <int64[1] k = {2}> { v, i = TopK(x, k) }")
    after, changes, _ = transform(dce, proto)
    assert changes == 0
    assert list(after.graph.node[0].output) == ["v", "i"]


def test_batch_normalization_keeps_its_outputs_since_their_number_chose_training() -> None:
    proto = parse(
        """g (float[2, 3] x) => (float[2, 3] y) <float[3] s = {1, 2, 3}, float[3] m = {0, 0, 0}> {
        y, a, b = BatchNormalization <training_mode = 1> (x, s, s, m, s)
    }""",
        opset=15,
    )
    after, _, _ = transform(dce, proto)
    assert len(after.graph.node[0].output) == 3


def test_functions_that_nothing_calls_go_and_those_reached_through_others_stay() -> None:
    proto = parse(
        "g (float[2] x) => (float[2] y) { y = own.A(x) }",
        imports=', "own" : 1',
        functions="""<domain: "own", opset_import: ["" : 18, "own" : 1]> A (a) => (b) { b = own.B(a) d = Exp(a) }
        <domain: "own", opset_import: ["" : 18]> B (a) => (b) { b = Relu(a) }
        <domain: "own", opset_import: ["" : 18]> C (a) => (b) { b = Abs(a) }""",
    )
    after, changes, _ = transform(dce, proto)
    assert [f.name for f in after.functions] == ["A", "B"]
    assert [n.op_type for n in after.functions[0].node] == ["B"]
    assert changes == 2


def test_an_initializer_that_a_quantization_annotation_names_stays() -> None:
    proto = parse("g (float[2] x) => (float[2] y) <float s = {0.1}, float z = {1}> { a = Relu(x) y = Neg(a) }")
    note = proto.graph.quantization_annotation.add(tensor_name="a")
    note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="s")
    after, changes, _ = transform(dce, proto)
    assert [t.name for t in after.graph.initializer] == ["s"]
    assert changes == 1


def test_a_node_without_results_stays() -> None:
    proto = parse("g (float[2] x) => (float[2] y) { y = Relu(x) }", imports=', "own" : 1')
    node = proto.graph.node.add(op_type="Print", domain="own")
    node.input.append("x")
    model = load(proto)
    assert dce.run(model, Context()) == 0
    assert len(model.graph) == 2


def test_an_unsorted_dead_part_goes_in_one_run() -> None:
    proto = parse("g (float[2] x) => (float[2] y) { a = Exp(x) b = Exp(a) c = Exp(b) y = Relu(x) }")
    model = load(proto)
    nodes = list(model.graph)
    model.graph.remove(nodes[0])
    model.graph.append(nodes[0])
    assert dce.run(model, Context()) == 3
    assert ops(save(model).graph) == ["Relu"]


@pytest.mark.parametrize("users", [2000, 8000])
def test_cost_of_many_users_of_one_value(users: int) -> None:
    """Each dead user is released once; nothing looks at the remaining users of the shared value."""
    text = "".join(f"a{i} = Add(x, w) " for i in range(users))
    model = load(parse(f"g (float[1] x) => (float[1] y) <float[1] w = {{1}}> {{ {text} y = Relu(x) }}"))
    assert dce.run(model, Context()) == users + 1
