"""A model saved after no change says the same; files appear whole or not at all; external data is mapped, streamed."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from olc import ir, storage, tensors
from olc.errors import BadInput, OutputError, VerificationFailed
from onnx import TensorProto as T
from onnx import helper

from tests.proto_tools import difference, everything, normal, opset, relu_chain, tensor_input


def through(model: Any) -> Any:
    """The model after load and save."""
    return onnx.ModelProto.FromString(storage.to_bytes(storage.load_proto(model)))


def graph_of(nodes: list[Any], inputs: list[Any], outputs: list[Any], initializers: Any = (), version: int = 17) -> Any:
    graph = helper.make_graph(nodes, "g", inputs, outputs, list(initializers))
    return helper.make_model(graph, opset_imports=opset(("", version)), ir_version=10)


# every field


def test_every_field_survives() -> None:
    model = everything()
    assert difference(normal(model), normal(through(model))) == ""


#: Fields of messages that a model can hold but that ``everything`` leaves out, with the reason.
UNUSED = {
    "TensorProto.segment": "no tool writes it; kept as read in tensors that hold their data",
    "TensorProto.string_data": "test_every_dtype_survives",
    "TensorProto.uint64_data": "test_every_dtype_survives",
    "TensorProto.double_data": "test_every_dtype_survives",
    "TensorProto.external_data": "external data has its own tests",
    "TensorProto.data_location": "external data has its own tests",
    "Segment.begin": "as TensorProto.segment",
    "Segment.end": "as TensorProto.segment",
    "TypeProto.opaque_type": "test_an_opaque_type_survives",
    "Opaque.domain": "test_an_opaque_type_survives",
    "Opaque.name": "test_an_opaque_type_survives",
    "FunctionProto.status": "gone from ONNX",
    "FunctionProto.since_version": "gone from ONNX",
}


def test_everything_means_everything() -> None:
    """A field that a new onnx brings must be added to ``everything``, so that it cannot be lost unnoticed."""
    known: set[str] = set()

    def declared(descriptor: Any) -> None:
        for f in descriptor.fields:
            name = f"{descriptor.name}.{f.name}"
            if name not in known:
                known.add(name)
                if f.message_type is not None:
                    declared(f.message_type)

    seen: set[str] = set()

    def used(message: Any) -> None:
        for f, value in message.ListFields():
            seen.add(f"{message.DESCRIPTOR.name}.{f.name}")
            if f.message_type is not None:
                for part in value if f.is_repeated else [value]:
                    used(part)

    declared(onnx.ModelProto.DESCRIPTOR)
    used(everything())
    assert known - seen - UNUSED.keys() == set()
    assert UNUSED.keys() & seen == set()


def test_an_opaque_type_survives() -> None:
    odd = onnx.ValueInfoProto(name="odd")
    odd.type.opaque_type.domain, odd.type.opaque_type.name = "org.example", "Handle"
    odd.type.denotation = "HANDLE"
    incomplete = onnx.ValueInfoProto(name="incomplete")
    incomplete.type.sequence_type.SetInParent()
    shape_only = onnx.ValueInfoProto(name="shape_only")
    shape_only.type.tensor_type.shape.dim.add(dim_value=3)
    model = relu_chain(1)
    model.graph.input.extend([odd, incomplete])
    model.graph.value_info.append(shape_only)
    model.graph.node.add(op_type="Make", domain="d", output=["shape_only"])
    model.opset_import.add(domain="d", version=1)
    assert difference(normal(model), normal(through(model))) == ""


def typed(dtype: int, count: int) -> Any | None:
    """A tensor of the dtype in its typed field, with bit patterns that differ."""
    numbers = [(i * 37 + 1) % 2 if dtype == T.BOOL else (i * 37 + 1) % 200 for i in range(count)]
    t = onnx.TensorProto(name="w", data_type=dtype, dims=[count])
    bits = ir.DataType(dtype).bitwidth if dtype != T.STRING else 0
    if dtype in (T.FLOAT, T.COMPLEX64):
        t.float_data.extend(float(n) for n in numbers * (bits // 32))
    elif dtype in (T.DOUBLE, T.COMPLEX128):
        t.double_data.extend(float(n) for n in numbers * (bits // 64))
    elif dtype == T.INT64:
        t.int64_data.extend(numbers)
    elif dtype in (T.UINT32, T.UINT64):
        t.uint64_data.extend(numbers)
    elif dtype == T.STRING:
        t.string_data.extend(bytes([n, 0xFF, 0]) for n in numbers)
    else:
        packed = -(-count * bits // 8) if bits in (2, 4) else count
        limit = {6: 64, 1: 2}.get(bits, 256)
        t.int32_data.extend(n % limit for n in numbers[:packed])
    return t


@pytest.mark.parametrize("dtype", [v for k, v in T.DataType.items() if k != "UNDEFINED"])
def test_every_dtype_survives(dtype: int) -> None:
    forms = [typed(dtype, 5)]
    if dtype != T.STRING:
        size = -(-5 * ir.DataType(dtype).bitwidth // 8)
        data = bytes((i * 89 + 3) % (2 if dtype == T.BOOL else 251) for i in range(size))
        if ir.DataType(dtype).bitwidth == 6:
            data = data[:-1] + b"\x01"  # bits past the end must be zero
        forms.append(onnx.TensorProto(name="w", data_type=dtype, dims=[5], raw_data=data))
    for form in forms:
        node = helper.make_node("Keep", ["w"], ["y"], domain="d", attribute=form)
        model = graph_of([node], [], [tensor_input("y", [5], dtype)], [form])
        model.opset_import.add(domain="d", version=1)
        saved = through(model)
        assert difference(model, saved) == ""
        held = ir.array(storage.load_proto(model).graph.initializers["w"])
        assert held is not None
        assert held.shape == (5,)


def test_names_of_dims_and_left_out_inputs_survive() -> None:
    x = tensor_input("x", ["batch size", None, "past + seq", 0])
    nodes = [helper.make_node("Clip", ["x", "", "hi"], ["y"]), helper.make_node("Dropout", ["y"], ["z", ""])]
    hi = helper.make_tensor("hi", T.FLOAT, [], [1])
    model = graph_of(nodes, [x], [tensor_input("z", ["batch size", None, "past + seq", 0])], [hi])
    saved = through(model)
    assert difference(model, saved) == ""
    assert list(saved.graph.node[0].input) == ["x", "", "hi"]
    assert list(saved.graph.node[1].output) == ["z", ""]


def test_a_sparse_initializer_is_a_constant_of_its_dense_form() -> None:
    values = helper.make_tensor("w", T.FLOAT, [2], [5, 6])
    at = helper.make_tensor("", T.INT64, [2, 2], [0, 1, 2, 0])
    model = graph_of(
        [helper.make_node("Add", ["x", "w"], ["y"])], [tensor_input("x", [3, 2])], [tensor_input("y", [3, 2])]
    )
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, at, [3, 2]))
    loaded = storage.load_proto(model)
    value = loaded.graph[0].inputs[1]
    assert ir.is_constant(value)
    assert ir.array(value).tolist() == [[0, 5], [0, 0], [6, 0]]
    value.name = "renamed"
    saved = onnx.ModelProto.FromString(storage.to_bytes(loaded))
    assert saved.graph.sparse_initializer[0].values.name == "renamed"
    assert not saved.graph.initializer


def test_tensor_metadata_is_not_doubled() -> None:
    """onnx-ir 1.1.0 appends a tensor's metadata to itself at every save."""
    model = everything()
    twice = through(through(model))
    assert [e.key for e in twice.graph.initializer[0].metadata_props] == ["origin", "b"]


def test_the_callers_proto_is_left_alone() -> None:
    model = everything()
    before = model.SerializeToString(deterministic=True)
    loaded = storage.load_proto(model)
    loaded.graph.initializers["w"].name = "other"
    loaded.graph.initializers["half"].metadata_props["k"] = "v"
    storage.to_bytes(loaded)
    assert model.SerializeToString(deterministic=True) == before


def test_nodes_out_of_order_are_sorted_and_nothing_else_changes() -> None:
    model = relu_chain(6)
    nodes = [onnx.NodeProto.FromString(n.SerializeToString()) for n in model.graph.node]
    expected = through(model)
    del model.graph.node[:]
    model.graph.node.extend(nodes[::-1])
    assert difference(expected, through(model)) == ""


def test_a_body_may_read_what_a_later_node_of_an_unsorted_graph_makes() -> None:
    branch = helper.make_graph([helper.make_node("Neg", ["late"], ["t"])], "b", [], [tensor_input("t")])
    other = helper.make_graph([helper.make_node("Neg", ["x"], ["e"])], "c", [], [tensor_input("e")])
    nodes = [
        helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=other),
        helper.make_node("Abs", ["x"], ["late"]),
    ]
    loaded = storage.load_proto(
        graph_of(nodes, [tensor_input("x"), tensor_input("c", (), T.BOOL)], [tensor_input("y")])
    )
    assert [n.op_type for n in loaded.graph] == ["Abs", "If"]


def test_a_body_input_that_hides_an_outer_name_is_renamed() -> None:
    """onnx.checker and ONNX Runtime accept it; our graphs keep every name once."""
    inputs = [tensor_input("i", (), T.INT64), tensor_input("going", (), T.BOOL), tensor_input("a")]
    nodes = [helper.make_node("Identity", ["going"], ["go"]), helper.make_node("Add", ["a", "k"], ["b"])]
    outputs = [tensor_input("go", (), T.BOOL), tensor_input("b")]
    body = helper.make_graph(nodes, "body", inputs, outputs, [helper.make_tensor("k", T.FLOAT, [2], [1, 1])])
    outer = [helper.make_node("Abs", ["x"], ["a"]), helper.make_node("Add", ["a", "k"], ["k_1"]),
             helper.make_node("Loop", ["m", "", "k_1"], ["y"], body=body)]  # fmt: skip
    given = [helper.make_tensor("m", T.INT64, [], [3]), helper.make_tensor("k", T.FLOAT, [2], [5, 5])]
    model = graph_of(outer, [tensor_input("x")], [tensor_input("y")], given)
    onnx.checker.check_model(model)
    saved = through(model)
    inner = saved.graph.node[2].attribute[0].g
    assert [i.name for i in inner.input] == ["i", "going", "a_1"]
    assert [t.name for t in inner.initializer] == ["k_2"]  # k_1 is taken
    feed = {"x": np.array([1, -2], np.float32)}
    assert run(saved, feed).tolist() == run(model, feed).tolist() == [9, 10]


def run(model: Any, feeds: dict[str, Any]) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, feeds)[0])


# files


def big_model(folder: Path, name: str = "m.onnx", rows: int = 300) -> Path:
    """A model with two weights in a data file, one of them read twice under two names, and a small one inside."""
    rng = np.random.default_rng(0)
    w = rng.standard_normal((rows, 64)).astype(np.float32)
    path = folder / name
    data = w.tobytes() + b"\0" * 8 + rng.integers(0, 255, 64 * 32, dtype=np.uint8).tobytes()
    (folder / "weights.bin").write_bytes(data)

    def external(tensor: str, dtype: int, dims: list[int], offset: int, length: int) -> Any:
        t = onnx.TensorProto(name=tensor, data_type=dtype, dims=dims, data_location=T.EXTERNAL)
        for k, v in {"location": "weights.bin", "offset": str(offset), "length": str(length), "checksum": "ab"}.items():
            t.external_data.add(key=k, value=v)
        return t

    nodes = [helper.make_node("MatMul", ["w", "x"], ["a"]), helper.make_node("MatMul", ["w2", "x"], ["b"]),
             helper.make_node("Add", ["a", "b"], ["c"]), helper.make_node("Add", ["c", "s"], ["y"]),
             helper.make_node("Cast", ["q"], ["q8"], to=T.INT8)]  # fmt: skip
    model = graph_of(
        nodes, [tensor_input("x", [64, 1])], [tensor_input("y", [rows, 1]), tensor_input("q8", [64, 64], T.INT8)],
        [external("w", T.FLOAT, [rows, 64], 0, w.nbytes), external("w2", T.FLOAT, [rows, 64], 0, w.nbytes),
         external("q", T.INT4, [64, 64], w.nbytes + 8, 64 * 32), helper.make_tensor("s", T.FLOAT, [1], [0.5])],
        version=21,
    )  # fmt: skip
    path.write_bytes(model.SerializeToString())
    return path


def leftovers(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_external_data_is_mapped_and_not_read(tmp_path: Path) -> None:
    loaded = storage.load(big_model(tmp_path))
    tensor = loaded.graph.initializers["w"].const_value
    assert isinstance(tensor, tensors.MappedTensor)
    assert tensor.file not in tensors._open
    array = tensor.numpy()
    assert not array.flags.writeable
    assert not array.flags.owndata
    expected = np.frombuffer((tmp_path / "weights.bin").read_bytes()[: 300 * 256], np.float32).reshape(300, 64)
    assert np.array_equal(array, expected)
    q = loaded.graph.initializers["q"].const_value
    assert q.numpy().shape == (64, 64)
    assert q.tobytes() == (tmp_path / "weights.bin").read_bytes()[-64 * 32 :]


def test_one_mapping_serves_all_tensors_of_a_file(tmp_path: Path) -> None:
    """onnx-ir maps the whole file once per tensor, a descriptor each: 1,024 tensors are then too many."""
    w = np.ones(4, np.float32)
    (tmp_path / "w.bin").write_bytes(w.tobytes() * 3000)
    model = graph_of([helper.make_node("Sum", [f"w{i}" for i in range(3000)], ["y"])], [], [tensor_input("y", [4])])
    for i in range(3000):
        t = model.graph.initializer.add(name=f"w{i}", data_type=T.FLOAT, dims=[4], data_location=T.EXTERNAL)
        for k, v in {"location": "w.bin", "offset": str(16 * i)}.items():
            t.external_data.add(key=k, value=v)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    loaded = storage.load(tmp_path / "m.onnx")
    before = len(os.listdir("/proc/self/fd"))
    arrays = [v.const_value.numpy() for v in loaded.graph.initializers.values()]
    assert sum(float(a[0]) for a in arrays) == 3000
    assert len(os.listdir("/proc/self/fd")) - before <= 1


def test_a_file_per_tensor_does_not_run_out_of_descriptors(tmp_path: Path) -> None:
    count = 1500
    model = graph_of([helper.make_node("Sum", [f"w{i}" for i in range(count)], ["y"])], [], [tensor_input("y", [4])])
    for i in range(count):
        (tmp_path / f"w{i}").write_bytes(np.full(4, i, np.float32).tobytes())
        t = model.graph.initializer.add(name=f"w{i}", data_type=T.FLOAT, dims=[4], data_location=T.EXTERNAL)
        t.external_data.add(key="location", value=f"w{i}")
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        loaded = storage.load(tmp_path / "m.onnx")
        total = sum(float(v.const_value.numpy()[0]) for v in loaded.graph.initializers.values())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert total == count * (count - 1) / 2


@pytest.mark.parametrize("external", [True, False, None])
def test_saved_weights_are_the_loaded_ones(tmp_path: Path, external: bool | None) -> None:
    path = big_model(tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    written = storage.save(storage.load(path), out / "n.onnx", external=external)
    assert leftovers(out) == (["n.onnx", "n.onnx.data"] if external else ["n.onnx"])
    assert written == [str(out / name) for name in leftovers(out)]
    a, b = onnx.load(path), onnx.load(out / "n.onnx")
    for x, y in zip(a.graph.initializer, b.graph.initializer, strict=True):
        assert np.array_equal(onnx.numpy_helper.to_array(x), onnx.numpy_helper.to_array(y))
    raw = onnx.load(out / "n.onnx", load_external_data=False)
    places = {t.name: {e.key: e.value for e in t.external_data} for t in raw.graph.initializer}
    if external:
        assert places["w"] == places["w2"]  # shared bytes stay shared
        assert places["w"]["checksum"] == "ab"
        assert places["s"] == {}
        assert (out / "n.onnx.data").stat().st_size < 2 * 300 * 256
    else:
        assert not any(places.values())


def test_a_large_source_keeps_its_data_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = storage.load(big_model(tmp_path))
    monkeypatch.setattr(storage, "KEEP_EXTERNAL", 100_000)
    assert len(storage.save(loaded, tmp_path / "n.onnx")) == 2
    monkeypatch.setattr(storage, "KEEP_EXTERNAL", 1_000_000)
    assert len(storage.save(loaded, tmp_path / "o.onnx")) == 1
    monkeypatch.setattr(storage, "SPLIT_BYTES", 100_000)
    assert len(storage.save(loaded, tmp_path / "p.onnx")) == 2


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    path = big_model(tmp_path)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        storage.save(storage.load(path), tmp_path / name / "m.onnx", external=True)
    for name in ("m.onnx", "m.onnx.data"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    code = "import sys; from olc import storage; sys.stdout.buffer.write(storage.to_bytes(storage.load(sys.argv[1])))"
    outs = [
        subprocess.run(
            [sys.executable, "-c", code, str(path)],
            check=True,
            capture_output=True,
            env={**os.environ, "PYTHONHASHSEED": s},
        ).stdout
        for s in ("1", "2")
    ]
    assert outs[0] == outs[1] == storage.to_bytes(storage.load(path))


def test_saving_over_the_source_keeps_model_and_file_right(tmp_path: Path) -> None:
    storage.save(storage.load(big_model(tmp_path)), tmp_path / "m.onnx", external=True)
    loaded = storage.load(tmp_path / "m.onnx")
    expected = np.array(storage.load(tmp_path / "m.onnx").graph.initializers["w"].const_value.numpy())
    # make the new layout differ from the old one: the loaded tensors must go on reading the old bytes
    first = ir.make_constant(np.arange(4096, dtype=np.int64), "first")
    loaded.graph.initializers.clear()
    for v in (first, *[n.inputs[0] for n in loaded.graph][:2], loaded.graph[3].inputs[1], loaded.graph[4].inputs[0]):
        loaded.graph.initializers.add(v)
    storage.save(loaded, tmp_path / "m.onnx", external=True)
    assert np.array_equal(loaded.graph.initializers["w"].const_value.numpy(), expected)
    assert loaded.graph.initializers["w"].const_value.tobytes() == expected.tobytes()
    assert np.array_equal(storage.load(tmp_path / "m.onnx").graph.initializers["w"].const_value.numpy(), expected)
    storage.save(loaded, tmp_path / "again.onnx", external=True)
    assert np.array_equal(storage.load(tmp_path / "again.onnx").graph.initializers["w"].const_value.numpy(), expected)


def test_a_data_file_that_changed_is_an_error(tmp_path: Path) -> None:
    loaded = storage.load(big_model(tmp_path))
    (tmp_path / "weights.bin").write_bytes(b"\0" * 200_000)
    with pytest.raises(BadInput, match="changed since the model was loaded"):
        loaded.graph.initializers["w"].const_value.numpy()
    with pytest.raises(BadInput, match="changed since the model was loaded"):
        storage.save(loaded, tmp_path / "n.onnx", external=True)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(BadInput, match="cannot be read"):
        loaded.graph.initializers["w"].const_value.numpy()
    assert leftovers(tmp_path) == ["m.onnx"]


def test_windows_is_told_that_the_file_is_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.save(storage.load(big_model(tmp_path)), tmp_path / "m.onnx", external=True)
    loaded = storage.load(tmp_path / "m.onnx")
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(OutputError, match="is read from that file") as caught:
        storage.save(loaded, tmp_path / "m.onnx", external=True)
    assert caught.value.hint == "save under another name"


def test_a_foreign_external_tensor_is_not_overwritten(tmp_path: Path) -> None:
    """onnx-ir's own external tensors open their file late, so replacing it would change them."""
    (tmp_path / "n.onnx.data").write_bytes(np.ones(1024, np.float32).tobytes())
    loaded = storage.load_proto(relu_chain(1))
    t = ir.ExternalTensor(
        "n.onnx.data", 0, 4096, ir.DataType.FLOAT, shape=ir.Shape([1024]), name="w", base_dir=str(tmp_path)
    )
    loaded.graph.initializers.add(ir.Value(name="w", const_value=t))
    with pytest.raises(OutputError, match="'w' of this model is read from that file"):
        storage.save(loaded, tmp_path / "n.onnx", external=True)
    assert storage.save(loaded, tmp_path / "o.onnx", external=True) == [
        str(tmp_path / f"o.onnx{s}") for s in ("", ".data")
    ]
    assert (tmp_path / "o.onnx.data").read_bytes() == (tmp_path / "n.onnx.data").read_bytes()


class Stop(BaseException):
    """Stands for Ctrl-C at a chosen moment."""


@pytest.mark.parametrize("moment", ["mkstemp", "write", "fsync", "second fsync", "chmod", "replace"])
@pytest.mark.parametrize("what", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_a_failure_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str, what: BaseException
) -> None:
    path = big_model(tmp_path)
    loaded = storage.load(path)
    out = tmp_path / "out"
    out.mkdir()
    (out / "n.onnx").write_bytes(b"old model")
    (out / "n.onnx.data").write_bytes(b"old data")
    calls = 0

    def fail(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if moment == "second fsync" and calls == 1:
            return None
        raise what

    if moment == "mkstemp":
        monkeypatch.setattr("tempfile.mkstemp", fail)
    elif moment == "write":
        monkeypatch.setattr(tensors.DataFile, "chunks", fail)
    else:
        monkeypatch.setattr(os, moment.removeprefix("second "), fail)
    expected = KeyboardInterrupt if isinstance(what, KeyboardInterrupt) else OutputError
    with pytest.raises(expected) as caught:
        storage.save(loaded, out / "n.onnx", external=True)
    monkeypatch.undo()
    assert leftovers(out) == ["n.onnx", "n.onnx.data"]
    assert (out / "n.onnx").read_bytes() == b"old model"
    assert (out / "n.onnx.data").read_bytes() == b"old data"
    if isinstance(caught.value, OutputError):
        assert caught.value.what == "the disk is full"
        assert caught.value.hint


def test_an_interrupt_between_the_renames_leaves_a_pair_that_belongs_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = storage.load(big_model(tmp_path))
    out = tmp_path / "out"
    out.mkdir()
    (out / "n.onnx").write_bytes(b"old model")
    (out / "n.onnx.data").write_bytes(b"old data")
    real = os.replace

    def replace_then_stop(a: str, b: str) -> None:
        real(a, b)
        if b.endswith(".data"):
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", replace_then_stop)
    with pytest.raises(KeyboardInterrupt):
        storage.save(loaded, out / "n.onnx", external=True)
    monkeypatch.undo()
    assert leftovers(out) == ["n.onnx", "n.onnx.data"]
    storage.load(out / "n.onnx").graph.initializers["w"].const_value.numpy()


def test_a_full_disk_of_the_real_kind(tmp_path: Path) -> None:
    """The kernel refuses the write half way, by a limit on the file size."""
    path = big_model(tmp_path)
    code = (
        "import resource, signal, sys\nfrom olc import storage\nfrom olc.errors import OutputError\n"
        "m = storage.load(sys.argv[1])\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (30000, 30000))\n"
        "try:\n    storage.save(m, sys.argv[2], external=True)\nexcept OutputError as e:\n    print(e)\n"
    )
    out = tmp_path / "out"
    out.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", code, str(path), str(out / "n.onnx")], check=True, capture_output=True, text=True
    )
    assert "the file is larger than the system allows" in done.stdout
    assert leftovers(out) == []


@pytest.mark.parametrize(
    ("target", "what", "hint"),
    [
        ("missing/m.onnx", "the folder {0}/missing does not exist", "mkdir -p {0}/missing"),
        ("file/m.onnx", "{0}/file is not a folder", "choose a folder"),
        ("folder", "a folder is in the way", "give a file name"),
        ("n" * 300 + ".onnx", "the name is too long", "choose a shorter one"),
    ],
)
def test_where_nothing_can_be_written(tmp_path: Path, target: str, what: str, hint: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError) as caught:
        storage.save(storage.load_proto(relu_chain(1)), tmp_path / target)
    assert (caught.value.what, caught.value.hint) == (what.format(tmp_path), hint.format(tmp_path))
    assert caught.value.exit_code == 7
    assert leftovers(tmp_path) == ["file", "folder"]


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("tempfile.mkstemp", refuse)  # root may write anywhere, so no folder refuses us
    with pytest.raises(OutputError, match="permission denied"):
        storage.save(storage.load_proto(relu_chain(1)), tmp_path / "m.onnx")


def test_permissions_of_what_is_written(tmp_path: Path) -> None:
    model = storage.load_proto(relu_chain(1))
    old = os.umask(0o027)
    try:
        storage.save(model, tmp_path / "new.onnx")
    finally:
        os.umask(old)
    assert (tmp_path / "new.onnx").stat().st_mode & 0o777 == 0o640
    (tmp_path / "kept.onnx").write_bytes(b"")
    (tmp_path / "kept.onnx").chmod(0o604)
    storage.save(model, tmp_path / "kept.onnx")
    assert (tmp_path / "kept.onnx").stat().st_mode & 0o777 == 0o604


def test_a_broken_graph_is_not_written(tmp_path: Path) -> None:
    model = storage.load_proto(relu_chain(2))
    model.graph[0].outputs[0].name = "v0"
    with pytest.raises(VerificationFailed, match="'v0' is defined twice"):
        storage.save(model, tmp_path / "m.onnx")
    assert leftovers(tmp_path) == []


def test_too_large_for_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = storage.load(big_model(tmp_path))
    monkeypatch.setattr(storage, "PROTOBUF_BYTES", 50_000)
    with pytest.raises(OutputError, match="protobuf ends at 2 GiB") as caught:
        storage.save(loaded, tmp_path / "n.onnx", external=False)
    assert "external=True" in (caught.value.hint or "")


def test_saving_external_data_takes_constant_memory(tmp_path: Path) -> None:
    """256 MiB of weights through load and save in a process that may hold far less than that on top of its start."""
    size = 256 << 20
    with open(tmp_path / "w.bin", "wb") as f:
        f.truncate(size)
    model = relu_chain(1)
    t = model.graph.initializer.add(name="w", data_type=T.FLOAT, dims=[size // 4], data_location=T.EXTERNAL)
    t.external_data.add(key="location", value="w.bin")
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    code = (
        "import resource, sys\nfrom olc import storage\nimport onnx, onnx.defs\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "start = peak()\nm = storage.load(sys.argv[1])\nstorage.save(m, sys.argv[2])\nprint((peak() - start) // 1024)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "m.onnx"), str(tmp_path / "n.onnx")],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert (tmp_path / "n.onnx.data").stat().st_size == size
    assert int(done.stdout) < 32
