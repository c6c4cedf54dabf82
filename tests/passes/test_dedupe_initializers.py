"""Equal initializers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from olc import ir
from olc.passes import Context, contents, dedupe_initializers
from onnx import helper, numpy_helper
from pass_oracle import load, parse, save, transform


def names(proto: Any) -> list[str]:
    return [t.name for t in proto.graph.initializer]


def test_equal_content_merges_whatever_the_names() -> None:
    proto = parse("""g (float[2] x) => (float[2] y) <float[2] a = {1, 2}, float[2] b = {1, 3}, float[2] c = {1, 2}> {
        p = Add(x, a) q = Mul(p, b) y = Sub(q, c)
    }""")
    after, changes, ctx = transform(dedupe_initializers, proto)
    assert changes == 1
    assert names(after) == ["a", "b"]
    assert list(after.graph.node[2].input) == ["q", "a"]
    assert [(e.site, e.detail) for e in ctx.events] == [("c", "same content as a")]


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        (np.float32([0.0]), np.float32([-0.0]), False),
        (np.float32([np.nan]), np.float32([np.nan]), True),
        (np.float32([1.0]), np.float64([1.0]), False),
        (np.int32([1]), np.float32([1.401298464324817e-45]), False),
        (np.float32([1.0]), np.float32(1.0), False),
        (np.float32([[1.0]]), np.float32([1.0]), False),
        (np.float32(1.0), np.float32(1.0), True),
        (np.array(["ab", "c"], object), np.array(["a", "bc"], object), False),
        (np.array(["ab", "c"], object), np.array(["ab", "c"], object), True),
        (np.zeros((0, 3), np.float32), np.zeros((0, 3), np.float32), True),
        (np.zeros((0, 3), np.float32), np.zeros((3, 0), np.float32), False),
        (np.array([1, 2, 3], np.int64), np.array([1, 2, 3], np.int64), True),
    ],
)
def test_what_equal_means(a: Any, b: Any, same: bool) -> None:
    graph = ir.Graph([], [], nodes=[], opset_imports={"": 18}, name="g")
    for name, array in (("a", a), ("b", b)):
        tensor = onnx.numpy_helper.from_array(np.asarray(array), name)
        graph.register_initializer(ir.Value(name=name, const_value=_tensor(tensor)))
    model = ir.Model(graph, ir_version=10)
    assert dedupe_initializers.run(model, Context()) == int(same)


def _tensor(proto: Any) -> Any:
    import onnx_ir

    return onnx_ir.from_proto(proto)


def test_typed_fields_and_raw_bytes_are_the_same_content() -> None:
    proto = parse("""g (float[2] x) => (float[2] y) <float[2] a = {1, 2}, float[2] b = {1, 2}> {
        p = Add(x, a) y = Sub(p, b)
    }""")
    del proto.graph.initializer[:]
    proto.graph.initializer.append(helper.make_tensor("a", onnx.TensorProto.FLOAT, [2], [1.0, 2.0]))
    proto.graph.initializer.append(numpy_helper.from_array(np.array([1, 2], np.float32), "b"))
    after, changes, _ = transform(dedupe_initializers, proto)
    assert changes == 1
    assert names(after) == ["a"]


def test_int4_is_compared_packed() -> None:
    graph = ir.Graph([], [], nodes=[], opset_imports={"": 21}, name="g")
    for name, data in (("a", [1, -2, 3]), ("b", [1, -2, 3]), ("c", [1, -2, 4])):
        proto = helper.make_tensor(name, onnx.TensorProto.INT4, [3], data)
        graph.register_initializer(ir.Value(name=name, const_value=_tensor(proto)))
    assert dedupe_initializers.run(ir.Model(graph, ir_version=10), Context()) == 1
    assert list(graph.initializers) == ["a", "c"]


def test_a_default_that_a_caller_may_override_is_never_merged() -> None:
    proto = parse("""g (float[2] x, float[2] a) => (float[2] y) <float[2] a = {1, 2}, float[2] b = {1, 2}> {
        p = Add(x, a) y = Sub(p, b)
    }""")
    after, changes, _ = transform(dedupe_initializers, proto)
    assert changes == 0
    assert names(after) == ["a", "b"]


def test_graph_outputs_stay_but_may_stand_in_for_others() -> None:
    proto = parse("""g (float[2] x) => (float[2] y, float[2] a, float[2] b)
        <float[2] a = {1, 2}, float[2] b = {1, 2}, float[2] c = {1, 2}> { y = Add(x, c) }""")
    after, changes, _ = transform(dedupe_initializers, proto)
    assert changes == 1
    assert names(after) == ["a", "b"]


BODY = """g (bool c, float[2] x) => (float[2] y) <%s> {
    y = If (c) <
      then_branch = t () => (float[2] p) <float[2] k = {1, 2}> { p = Add(x, k) },
      else_branch = f () => (float[2] q) <float[2] l = {1, 2}> { q = Sub(x, l) }
    >
}"""


def test_a_body_uses_the_equal_one_of_the_graph_around_it() -> None:
    proto = parse((BODY % "float[2] w = {1, 2}").replace("y = If", "r = Neg(w) y = If"))
    after, changes, _ = transform(dedupe_initializers, proto)
    assert changes == 2
    assert names(after) == ["w"]
    assert [list(a.g.node[0].input) for a in after.graph.node[1].attribute] == [["x", "w"], ["x", "w"]]


def test_two_branches_cannot_see_each_other() -> None:
    proto = parse(BODY % "float[1] w = {1}")
    _, changes, _ = transform(dedupe_initializers, proto)
    assert changes == 0


def test_large_ones_of_two_branches_move_out() -> None:
    """The names in branches may be the same, and that of the one that moves may be taken elsewhere."""
    proto = parse(BODY.replace("l)", "k)").replace("l =", "k =") % "float[1] w = {1}")
    for branch in proto.graph.node[0].attribute:
        branch.g.initializer[0].CopyFrom(numpy_helper.from_array(np.arange(512, dtype=np.float32).reshape(256, 2), "k"))
        branch.g.node[0].input[1] = "row"
        branch.g.node.insert(0, helper.make_node("ReduceMax", ["k"], ["row"], axes=[0], keepdims=0))
        branch.g.node[0].output[0] = branch.g.node[1].input[1] = f"row_{branch.g.name}"
    proto.opset_import[0].version = 17
    after, changes, _ = transform(dedupe_initializers, proto)
    assert changes == 1
    assert sorted(names(after)) == ["k_1", "w"]
    assert [list(a.g.initializer) for a in after.graph.node[0].attribute] == [[], []]


def test_large_ones_of_branches_within_a_branch_move_no_further_than_that() -> None:
    """Where another branch has one, too, they are in front of all."""
    def inner(i: int, first: int) -> str:
        k = f"<float[256, 2] k = {{{', '.join(str(first + n) for n in range(512))}}}>"
        how = "<axes = [0], keepdims = 0>"
        return (f"y{i} = If (d) < then_branch = t{i} () => (float[2] p{i}) {k} {{ p{i} = ReduceMax{how}(k) }}, "
                f"else_branch = f{i} () => (float[2] q{i}) {k} {{ q{i} = ReduceMin{how}(k) }} >")  # fmt: skip

    for alike, wanted in ((False, {"g": 0, "a": 1, "b": 1}), (True, {"g": 1, "a": 0, "b": 0})):
        text = (f"g (bool c, bool d) => (float[2] y) {{ y = If (c) < then_branch = a () => (float[2] y0) {{ {inner(0, 0)} }}, "
                f"else_branch = b () => (float[2] y1) {{ {inner(1, 0 if alike else 1)} }} > }}")  # fmt: skip
        proto = parse(text, opset=17)
        after, changes, _ = transform(dedupe_initializers, proto)
        assert changes == (3 if alike else 2)
        held = {g.name: len(g.initializers) for g in ir.all_graphs(load(after))}
        assert {name: n for name, n in held.items() if name in wanted} == wanted
        assert sum(held.values()) == sum(wanted.values())


def test_an_outer_name_that_the_body_defines_itself_is_not_visible() -> None:
    proto = parse((BODY % "float[2] w = {1, 2}").replace("y = If", "r = Neg(w) y = If"))
    body = proto.graph.node[1].attribute[0].g
    body.node.add(op_type="Abs", input=["x"], output=["w"])  # illegal, but files do it
    assert dedupe_initializers.run(load(proto), Context()) == 1


def test_an_initializer_that_a_quantization_annotation_names_stays() -> None:
    proto = parse("g (float[2] x) => (float[2] y) <float a = {1}, float b = {1}> { p = Add(x, a) y = Sub(p, b) }")
    note = proto.graph.quantization_annotation.add(tensor_name="p")
    note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="b")
    model = load(proto)
    assert dedupe_initializers.run(model, Context()) == 0
    assert len(save(model).graph.initializer) == 2


def external(folder: Path, arrays: dict[str, np.ndarray], share: dict[str, str] | None = None) -> ir.Model:
    """A model whose initializers lie in one file; ``share`` maps a name to the one whose bytes it uses."""
    graph = ir.Graph([], [], nodes=[], opset_imports={"": 18}, name="g")
    offsets, data = {}, b""
    for name, array in arrays.items():
        offsets[name] = len(data)
        data += array.tobytes()
    (folder / "w.bin").write_bytes(data)
    for name, array in {**arrays, **{n: arrays[o] for n, o in (share or {}).items()}}.items():
        offset = offsets[(share or {}).get(name, name)]
        tensor = ir.ExternalTensor(
            "w.bin", offset, array.nbytes, ir.DataType.FLOAT, shape=ir.Shape(array.shape), name=name, base_dir=folder
        )
        graph.register_initializer(ir.Value(name=name, const_value=tensor))
    return ir.Model(graph, ir_version=10)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the tensors whose content is read."""
    seen: list[str] = []
    original = contents.content

    def spy(tensor: Any) -> bytes:
        seen.append(tensor.name)
        return original(tensor)

    monkeypatch.setattr(dedupe_initializers, "content", spy)
    return seen


def test_external_data_is_read_only_where_it_may_be_equal(tmp_path: Path, read: list[str]) -> None:
    rng = np.random.default_rng(0)
    big = [rng.standard_normal((200, 200)).astype(np.float32) for _ in range(3)]
    arrays = {"a": big[0], "b": big[1], "lone": rng.standard_normal((3, 5)).astype(np.float32), "c": big[0].copy()}
    model = external(tmp_path, arrays, share={"d": "b"})
    assert dedupe_initializers.run(model, Context()) == 2
    assert list(model.graph.initializers) == ["a", "b", "lone"]
    # a and c have equal samples; b differs there, d is b's place in the file, lone has no second of its shape.
    assert sorted(read) == ["a", "c"]


def test_tensors_that_differ_outside_the_sample_stay(tmp_path: Path) -> None:
    a = np.zeros((200, 200), np.float32)
    b = a.copy()
    b[60, 0] = 1.0
    model = external(tmp_path, {"a": a, "b": b, "c": a})
    assert dedupe_initializers.run(model, Context()) == 1
    assert list(model.graph.initializers) == ["a", "b"]


def test_each_tensor_is_read_once_however_many_look_for_it(tmp_path: Path, read: list[str]) -> None:
    a = np.zeros((200, 200), np.float32)
    arrays = {"first": a}
    for i in range(5):
        arrays[f"w{i}"] = a.copy()
        arrays[f"w{i}"][60, i] = 1.0
    dedupe_initializers.run(external(tmp_path, arrays), Context())
    assert sorted(read) == sorted(arrays)
