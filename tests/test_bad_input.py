"""Hostile and broken models: what is wrong, where, and what to do; no other exception, hang or large allocation."""

from __future__ import annotations

import gc
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from olc import frontend, storage
from olc.deserialize import Limits
from olc.driver import compile
from olc.errors import BadInput
from onnx import TensorProto as T
from onnx import helper

from tests.bad_models import ADD_W, MODELS, RELU, body, branchy, model_of, node, weight
from tests.proto_tools import opset, relu_chain, tensor_input
from tests.work import calls, peak_bytes


def refused(load: Callable[[], Any]) -> BadInput:
    with pytest.raises(BadInput) as caught:
        load()
    assert caught.value.exit_code == 3
    assert caught.value.where
    return caught.value


# files that are no models

PLAIN = relu_chain(3).SerializeToString()


@pytest.mark.parametrize(
    ("content", "what", "hint"),
    [
        (b"", "the file is empty", "download or export it again"),
        (PLAIN[:-7], "cut off: a part that starts at byte", "download or export it again"),
        (PLAIN[: len(PLAIN) // 2], "cut off: a part that starts at byte 2 needs", "download or export it again"),
        (b"PK\x03\x04" + bytes(60), "a zip archive", "unpack it"),
        (b"<!DOCTYPE html><html>404</html>", "a web page", "the download went wrong"),
        (b"\n  <html><body>Sign in</body></html>", "a web page", "the download went wrong"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer", "run git lfs pull"),
        (b"hello, this is no model\n", "text, not an ONNX model", "suffix .onnxtxt or .txt"),
        (b"\x80\x02}q\x00.", "a Python pickle", "export it to ONNX first"),
        (b"\x89HDF\r\n\x1a\n" + bytes(99), "an HDF5 file", "export it to ONNX first"),
        (b"\x18\x00\x00\x00ORTM" + bytes(99), "ONNX Runtime's own .ort format", "give the .onnx file"),
        (b"\x1c\x00\x00\x00TFL3" + bytes(99), "a TensorFlow Lite model", "tf2onnx"),
        (b'{"model": 1}', "JSON or safetensors", "give the .onnx file"),
        (b"\x40\x00\x00\x00\x00\x00\x00\x00" + b'{"w":{}}', "JSON or safetensors", "give the .onnx file"),
        (random.Random(1).randbytes(5000), "not an ONNX model", "give the .onnx file"),
        (b"\x08\x08", "no graph in it", "give the .onnx file of a model"),
    ],
)
def test_what_the_file_is_instead(tmp_path: Path, content: bytes, what: str, hint: str) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    error = refused(lambda: frontend.load(str(path)))
    assert what in error.what
    assert hint in (error.hint or "")
    assert error.where == str(path)


def test_paths_that_hold_nothing(tmp_path: Path) -> None:
    assert refused(lambda: frontend.load(str(tmp_path / "no.onnx"))).what == "no such file"
    assert refused(lambda: frontend.load(tmp_path / "no.txt")).what == "no such file"
    assert refused(lambda: frontend.load(tmp_path)).what == "a folder, not a file"
    (tmp_path / "inner.onnx").write_bytes(PLAIN)
    assert refused(lambda: frontend.load(tmp_path)).hint == f"give the file: {tmp_path / 'inner.onnx'}"
    os.mkfifo(tmp_path / "pipe.onnx")
    os.mkfifo(tmp_path / "pipe.txt")
    for name in ("pipe.onnx", "pipe.txt", "/dev/zero"):
        assert refused(lambda name=name: frontend.load(tmp_path / name)).what == "not a regular file"
    assert "cannot be read" in refused(lambda: storage.load("a\0b.onnx")).what
    assert refused(lambda: storage.load("m.onnx/" * 2000)).what.startswith("cannot be read")


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(PLAIN)

    def refuse(*_: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)  # root may read anything
    assert refused(lambda: storage.load(path)).what == "cannot be read: permission denied"


def test_a_file_beyond_protobufs_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    with open(path, "wb") as f:
        f.truncate(3 << 30)
    errors: list[BadInput] = []
    assert peak_bytes(lambda: errors.append(refused(lambda: storage.load(path)))) < 1 << 20
    assert "3,221,225,472 bytes" in errors[0].what


def nested_ifs(depth: int) -> Any:
    """Built from the outside in: protobuf's own copies give up at 100 levels."""
    model = onnx.ModelProto(ir_version=8, opset_import=opset(("", 17)))
    graph = model.graph
    graph.input.extend([tensor_input("x"), tensor_input("c", (), T.BOOL)])
    for i in range(depth):
        graph.output.append(tensor_input(f"y{i}"))
        choice = graph.node.add(op_type="If", input=["c"], output=[f"y{i}"])
        other = choice.attribute.add(name="else_branch", type=onnx.AttributeProto.GRAPH).g
        other.node.append(helper.make_node("Identity", ["x"], [f"e{i}"]))
        other.output.append(tensor_input(f"e{i}"))
        graph = choice.attribute.add(name="then_branch", type=onnx.AttributeProto.GRAPH).g
    graph.node.append(helper.make_node("Identity", ["x"], ["last"]))
    graph.output.append(tensor_input("last"))
    return model


def raw_chain(depth: int) -> bytes:
    """The bytes of a model with bodies nested so deep that protobuf would not write them."""

    def part(field: int, data: bytes) -> bytes:
        size, length = len(data), b""
        while size > 127:
            length, size = length + bytes([size & 127 | 128]), size >> 7
        return bytes([field << 3 | 2]) + length + bytes([size]) + data

    graph = b""
    for _ in range(depth):
        graph = part(1, part(4, b"If") + part(5, part(1, b"then_branch") + part(6, graph)))
    return b"\x08\x08" + part(7, graph)


def test_nesting() -> None:
    too_deep = "nested deeper than protobuf allows"
    assert len(storage.load_proto(nested_ifs(20)).graph) == 1
    assert "nested deeper than 8" in refused(lambda: storage.load_proto(nested_ifs(20), limits=Limits(depth=8))).what
    for depth in (45, 2000):
        assert too_deep in refused(lambda depth=depth: storage.load_bytes(raw_chain(depth))).what
    assert "nested deeper than 32" in refused(lambda: storage.load_proto(nested_ifs(60))).what
    typed = relu_chain(1)
    inner = typed.graph.input.add(name="s").type
    for _ in range(3000):
        inner = inner.sequence_type.elem_type
    inner.tensor_type.elem_type = T.FLOAT
    assert "nested too deep" in refused(lambda: storage.load_proto(typed)).what


@pytest.mark.parametrize("enabled", [True, False])
def test_garbage_collection_is_as_before(enabled: bool) -> None:
    if not enabled:
        gc.disable()
    try:
        storage.load_bytes(PLAIN)
        assert gc.isenabled() is enabled
        refused(lambda: storage.load_proto(nested_ifs(40)))
        assert gc.isenabled() is enabled
    finally:
        gc.enable()


def test_limits() -> None:
    assert "more than 10 nodes" in refused(lambda: storage.load_proto(relu_chain(11), limits=Limits(nodes=10))).what


def test_text_that_is_no_model(tmp_path: Path) -> None:
    bad = '<ir_version: 8, opset_import: ["": 17]> g (float[2] x) => (float[2] y) { y = Relu(x }'
    error = refused(lambda: frontend.load(bad))
    assert error.what.startswith("not ONNX text: [ParseError at position (line: 1 column:")
    assert "\n" not in error.what
    path = tmp_path / "m.onnxtxt"
    path.write_bytes(b"\xff\xfe" + PLAIN)
    assert refused(lambda: frontend.load(path)).what == "not text"
    assert "not ONNX text" in refused(lambda: frontend.load('<ir_version: 8, opset_import: ["\ud800": 17]> g')).what
    path.write_text(bad)
    assert refused(lambda: frontend.load(path)).where == str(path)
    deep = '<ir_version: 8, opset_import: ["": 17]> g (' + "seq(" * 100_000 + "float" + ")" * 100_000 + " x) => () {}"
    assert "brackets nest deeper than 64" in refused(lambda: frontend.load(deep)).what


def test_what_nothing_takes() -> None:
    error = refused(lambda: frontend.load(3.5))
    assert error.where == "a builtins.float"
    for name in ("ONNX file", "ONNX text", "onnx-graphsurgeon graph"):
        assert name in (error.hint or "")


# models with something wrong


@pytest.mark.parametrize("name", MODELS)
def test_what_is_wrong_is_named(name: str) -> None:
    model, what, hint = MODELS[name]
    error = refused(lambda: storage.load_bytes(model.SerializeToString(), where="m.onnx"))
    assert what in error.what, error
    assert str(error.where).startswith("m.onnx")
    assert hint is None or hint in (error.hint or ""), error
    assert len(error.what) < 600


def test_the_place_is_named() -> None:
    model = branchy(body([node("Ngg", ["x"], ["t"], name="inner")], ["t"]))
    error = refused(lambda: storage.load_proto(model, where="m.onnx"))
    assert error.where == "m.onnx: graph 'g'/choice.then_branch/then: Ngg 'inner'"
    several = model_of([node("Rleu", ["x"], ["a"]), node("Abss", ["a"], ["b"]), node("Neg", ["ghost"], ["y"])])
    assert refused(lambda: storage.load_proto(several)).what.endswith("(and 2 more problems)")


def test_what_is_allowed() -> None:
    """Odd, but legal, or said by no one: these load."""
    storage.load_proto(model_of([], inputs=[tensor_input("y")]))  # an input that is an output
    custom = model_of([helper.make_node("Anything", ["x"], ["y"], domain="com.example", foo=1)])
    custom.opset_import.append(helper.make_opsetid("com.example", 7))
    storage.load_proto(custom)  # which target knows it is the target's business
    old = model_of(RELU)
    old.ClearField("opset_import")
    old.ir_version = 2
    assert storage.load_proto(old).opset_imports == {"": 1}
    unknown = model_of(RELU, inputs=[tensor_input("x", [-1])])
    assert storage.load_proto(unknown).graph.inputs[0].shape[0].value is None
    storage.load_proto(model_of([node("Relu", ["x"], ["y"], __hint=1)]))  # onnx's own private attributes
    untyped = model_of([node("Softmax", ["x"], ["y"], axis=1)])
    untyped.graph.node[0].attribute[0].ClearField("type")
    loaded = storage.load_proto(untyped)
    assert loaded.graph[0].attributes["axis"].value == 1


# external data


def external_model(folder: Path, location: str, **entries: Any) -> Path:
    t = onnx.TensorProto(name="w", data_type=T.FLOAT, dims=[4], data_location=T.EXTERNAL)
    for key, value in {"location": location, **entries}.items():
        t.external_data.add(key=key, value=str(value))
    model = model_of(ADD_W, [t])
    path = folder / "m.onnx"
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "secret.bin").write_bytes(bytes(16))
    inner = tmp_path / "model"
    (inner / "sub").mkdir(parents=True)
    for name in ("w.bin", "sub/w.bin"):
        (inner / name).write_bytes(np.arange(4, dtype=np.float32).tobytes())
    (inner / "short.bin").write_bytes(bytes(15))
    (inner / "out.bin").symlink_to(tmp_path / "secret.bin")
    (inner / "outdir").symlink_to(tmp_path)
    (inner / "in.bin").symlink_to("sub/w.bin")
    (inner / "loop.bin").symlink_to("loop.bin")
    (inner / "hard1.bin").write_bytes(bytes(16))
    os.link(inner / "hard1.bin", inner / "hard2.bin")
    os.mkfifo(inner / "pipe.bin")
    return inner


@pytest.mark.parametrize(
    ("location", "entries", "what"),
    [
        ("missing.bin", {}, "lies in 'missing.bin', which is missing"),
        ("short.bin", {}, "ends at byte 16 of 'short.bin', which has 15"),
        ("w.bin", {"offset": 4}, "ends at byte 20 of 'w.bin', which has 16"),
        ("w.bin", {"offset": 1 << 62}, "ends at byte"),
        ("w.bin", {"length": 12}, "needs 16 bytes but its external data has 12"),
        ("w.bin", {"length": 1 << 50}, "needs 16 bytes but its external data has"),
        ("w.bin", {"offset": -4}, "has the offset '-4' in its external data"),
        ("w.bin", {"offset": "1e3"}, "has the offset '1e3' in its external data"),
        ("w.bin", {"offset": "9" * 5000}, "has the offset '999"),
        ("", {}, "is external but names no file"),
        ("../secret.bin", {}, "outside the model's folder"),
        ("sub/../../secret.bin", {}, "outside the model's folder"),
        ("..\\secret.bin", {}, "outside the model's folder"),
        ("/etc/passwd", {}, "by an absolute path"),
        ("C:\\secret.bin", {}, "by an absolute path"),
        ("a\0b", {}, "by an absolute path"),
        ("out.bin", {}, "a link that leads out of the model's folder"),
        ("outdir/secret.bin", {}, "a link that leads out of the model's folder"),
        ("loop.bin", {}, "cannot be read"),
        ("hard2.bin", {}, "a file with 2 hard links"),
        ("pipe.bin", {}, "is not a regular file"),
        ("sub", {}, "is not a regular file"),
        ("a/" * 500_000, {}, "a path of more than 4,096 characters"),
    ],
)
def test_external_data_that_is_refused(folder: Path, location: str, entries: dict[str, Any], what: str) -> None:
    path = external_model(folder, location, **entries)
    errors: list[BadInput] = []
    assert calls(lambda: errors.append(refused(lambda: storage.load(path)))) < 20_000
    assert what in errors[0].what
    assert "tensor 'w'" in errors[0].what


@pytest.mark.parametrize("location", ["w.bin", "sub/w.bin", "./w.bin", "in.bin"])
def test_external_data_within_the_folder(folder: Path, location: str) -> None:
    loaded = storage.load(external_model(folder, location))
    assert loaded.graph.initializers["w"].const_value.numpy().tolist() == [0, 1, 2, 3]


def test_external_data_needs_a_folder(folder: Path) -> None:
    raw = external_model(folder, "w.bin").read_bytes()
    assert "came without a folder" in refused(lambda: storage.load_bytes(raw)).what
    assert storage.load_bytes(raw, folder=str(folder)).graph.initializers["w"].const_value.numpy()[1] == 1


def test_the_model_file_may_be_a_link(folder: Path, tmp_path: Path) -> None:
    """The folder is that of the path given, as in a Hugging Face snapshot."""
    path = external_model(folder, "w.bin")
    (tmp_path / "m.onnx").symlink_to(path)
    (tmp_path / "w.bin").write_bytes(bytes(16))
    assert storage.load(tmp_path / "m.onnx").graph.initializers["w"].const_value.numpy()[1] == 0


# at scale


def test_loading_a_node_takes_a_hundred_calls() -> None:
    raw = relu_chain(10_000).SerializeToString()
    assert calls(lambda: storage.load_bytes(raw)) < 200 * 10_000


def test_work_grows_linearly() -> None:
    """Four times the nodes in well under sixteen times the work, for what is easily made quadratic."""

    def shuffled(count: int) -> Any:
        model = relu_chain(count)
        nodes = [onnx.NodeProto.FromString(n.SerializeToString()) for n in model.graph.node]
        random.Random(0).shuffle(nodes)
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        return lambda: storage.load_proto(model)

    def ring(count: int) -> Any:
        model = relu_chain(count)
        model.graph.node[0].input[0] = f"v{count}"
        return lambda: refused(lambda: storage.load_proto(model))

    def many_readers(count: int) -> Any:
        nodes = [node("Relu", ["x"], [f"r{i}"], name="n" * 200) for i in range(count)]
        model = model_of([*nodes, node("Sum", [f"r{i}" for i in range(count)], ["y"])])
        return lambda: storage.load_proto(model)

    def hiding_bodies(count: int) -> Any:
        inner = body([node("Add", ["x", "k"], ["t"])], ["t"], (), [weight("k")])
        other = body([node("Neg", ["x"], ["e"])], ["e"])
        nodes = [node("If", ["c"], [f"y{i}"], then_branch=inner, else_branch=other) for i in range(count)]
        inputs = [tensor_input("x"), tensor_input("c", (), T.BOOL)]
        model = model_of([*nodes, node("Relu", ["k"], ["y"])], [weight("k")], inputs)
        return lambda: storage.load_proto(model)

    def all_wrong(count: int) -> Any:
        nodes = [node("Rleu", ["y" if i == 0 else "z"], [f"r{i}"], name="n" * 5000) for i in range(count)]
        model = model_of(nodes)
        return lambda: refused(lambda: storage.load_proto(model))

    for make, count in ((shuffled, 1500), (ring, 1500), (many_readers, 1500), (hiding_bodies, 250), (all_wrong, 500)):
        small, large = make(count), make(4 * count)
        ratio = calls(large) / calls(small)
        assert ratio < 4.5, f"{make.__name__}: {ratio:.1f}"


def test_a_graph_without_outputs(tmp_path: Path) -> None:
    text = '<ir_version: 8, opset_import: ["": 18]> g (float[2] x) => () { y = Relu(x) }'
    onnx.save(onnx.parser.parse_model(text), tmp_path / "m.onnx")
    found = refused(lambda: compile(tmp_path / "m.onnx", tmp_path / "o.onnx", cache="off"))
    assert "no outputs" in found.what
    assert found.where == str(tmp_path / "m.onnx")


# what only the runtime refuses


@pytest.mark.parametrize("text", [
    "m = Min(z, c)",  # torch 1.13 wrote this at opset 11, where only floats have a minimum
    "f = Constant<value = float {0}>() m = Clip(z, f, c)",  # found where dtypes are known, before the runtime is asked
])  # fmt: skip
@pytest.mark.parametrize("level", [0, 2])
def test_a_source_that_the_runtime_does_not_open(tmp_path: Path, text: str, level: int) -> None:
    graph = onnx.parser.parse_model(f"""<ir_version: 6, opset_import: ["": 11]> g (int64[n] x) => (float[n] y) {{
        c = Constant<value = int64 {{7}}>() z = Neg(x) {text} y = Cast<to = 1>(m) }}""")
    onnx.save(graph, tmp_path / "m.onnx")
    found = refused(lambda: compile(tmp_path / "m.onnx", tmp_path / "o.onnx", level=level, cache="off"))
    assert found.what.startswith("the source cannot be opened: ")
    assert found.where == str(tmp_path / "m.onnx")
    assert "export it again" in str(found.hint)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx"]


def test_a_source_with_an_operator_that_the_runtime_lacks(tmp_path: Path) -> None:
    graph = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["": 17]>
        g (double[1, 1, 5] x, double[1, 1, 3] w) => (double[1, 1, 3] y) { y = Conv(x, w) }""")
    onnx.save(graph, tmp_path / "m.onnx")
    found = refused(lambda: compile(tmp_path / "m.onnx", tmp_path / "o.onnx", level=1, cache="off"))
    assert "Could not find an implementation for Conv" in found.what
    assert "--no-evaluate" in str(found.hint)
