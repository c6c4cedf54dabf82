"""Files appear whole or not at all; external data is mapped on load, checked, and streamed on save."""

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

from tests.proto_tools import opset, relu_chain, tensor_input


def graph_of(nodes: list[Any], inputs: list[Any], outputs: list[Any], initializers: Any = (), version: int = 17) -> Any:
    graph = helper.make_graph(nodes, "g", inputs, outputs, list(initializers))
    return helper.make_model(graph, opset_imports=opset(("", version)), ir_version=10)


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
        t.doc_string = f"doc of {tensor}"
        t.metadata_props.add(key="from", value=tensor)
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
        assert (x.name, x.doc_string, list(x.metadata_props)) == (y.name, y.doc_string, list(y.metadata_props))
    raw = onnx.load(out / "n.onnx", load_external_data=False)
    places = {t.name: {e.key: e.value for e in t.external_data} for t in raw.graph.initializer}
    if external:
        assert places["w"] == places["w2"]  # shared bytes stay shared
        assert places["w"]["checksum"] == "ab"
        assert places["s"] == {}
        assert (out / "n.onnx.data").stat().st_size < 2 * 300 * 256
    else:
        assert not any(places.values())


def test_onnx_runtime_reads_what_is_saved(tmp_path: Path) -> None:
    import onnxruntime

    loaded = storage.load(big_model(tmp_path))
    (tmp_path / "out").mkdir()
    storage.save(loaded, tmp_path / "out" / "n.onnx", external=True)
    session = onnxruntime.InferenceSession(tmp_path / "out" / "n.onnx", providers=["CPUExecutionProvider"])
    x = np.ones((64, 1), np.float32)
    expected = 2 * np.array(loaded.graph.initializers["w"].const_value.numpy()) @ x + 0.5
    assert np.allclose(session.run(["y"], {"x": x})[0], expected, atol=1e-4)


def test_tensors_of_attributes_stay_where_they_are(tmp_path: Path) -> None:
    """Runtimes read them from the model; those that are in a data file already may stay in one."""
    big = onnx.numpy_helper.from_array(np.arange(4096, dtype=np.float32), "")
    outside = onnx.TensorProto(data_type=T.FLOAT, dims=[4096], data_location=T.EXTERNAL)
    outside.external_data.add(key="location", value="c.bin")
    (tmp_path / "c.bin").write_bytes(big.raw_data)
    nodes = [helper.make_node("Constant", [], ["y"], value=big), helper.make_node("Constant", [], ["z"], value=big)]
    outputs = [tensor_input("y", [4096]), tensor_input("z", [4096])]
    storage.save(storage.load_proto(graph_of(nodes, [], outputs)), tmp_path / "in.onnx", external=True)
    assert not (tmp_path / "in.onnx.data").exists()
    nodes[1].attribute[0].t.CopyFrom(outside)
    (tmp_path / "m.onnx").write_bytes(graph_of(nodes, [], outputs).SerializeToString())
    assert len(storage.save(storage.load(tmp_path / "m.onnx"), tmp_path / "n.onnx", external=True)) == 2
    tensors_ = [n.attribute[0].t for n in onnx.load(tmp_path / "n.onnx", load_external_data=False).graph.node]
    assert [len(t.external_data) > 0 for t in tensors_] == [False, True]
    assert (tmp_path / "n.onnx.data").read_bytes() == big.raw_data


def test_places_in_the_data_file_are_aligned(tmp_path: Path) -> None:
    sizes = {"a": 1025, "b": 1 << 20, "c": 1100}
    weights = [onnx.numpy_helper.from_array(np.full(n, i + 1, np.uint8), k) for i, (k, n) in enumerate(sizes.items())]
    model = graph_of([helper.make_node("Concat", list("abc"), ["y"], axis=0)], [], [tensor_input("y", ["n"], 2)], weights)
    storage.save(storage.load_proto(model), tmp_path / "m.onnx", external=True)
    raw = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    places = {t.name: {e.key: e.value for e in t.external_data} for t in raw.graph.initializer}
    assert [p["offset"] for p in places.values()] == ["0", "4096", str(4096 + (1 << 20))]
    data = (tmp_path / "m.onnx.data").read_bytes()
    assert data == b"\1" * 1025 + b"\0" * (4096 - 1025) + b"\2" * (1 << 20) + b"\3" * 1100


def test_a_tensor_that_gives_other_bytes_than_it_says(tmp_path: Path) -> None:
    model = storage.load_proto(relu_chain(1))
    lazy = ir.LazyTensor(lambda: ir.Tensor(np.zeros(999, np.float32)), dtype=ir.DataType.FLOAT, shape=ir.Shape([1000]), name="w")
    model.graph.initializers.add(ir.Value(name="w", const_value=lazy))
    with pytest.raises(OutputError, match="tensor 'w' gave 3,996 bytes instead of 4,000"):
        storage.save(model, tmp_path / "m.onnx", external=True)
    assert leftovers(tmp_path) == []


def test_what_is_renamed_has_reached_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = storage.load(big_model(tmp_path))
    events: list[Any] = []
    sync, replace = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        target = os.readlink(f"/proc/self/fd/{descriptor}")
        events.append("folder" if os.path.isdir(target) else os.fstat(descriptor).st_size)
        sync(descriptor)

    def rename(a: str, b: str) -> None:
        events.append(os.path.basename(b))
        replace(a, b)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", rename)
    before = len(os.listdir("/proc/self/fd"))
    paths = storage.save(loaded, tmp_path / "n.onnx", external=True)
    sizes = [os.path.getsize(p) for p in paths]
    assert events == [sizes[1], sizes[0], "n.onnx.data", "n.onnx", "folder"]
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_protobuf_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from google.protobuf.message import EncodeError

    class Refusing:
        """A proto of more than 2 GiB, without the bytes."""

        def SerializeToString(self, **_: Any) -> bytes:
            raise EncodeError("too large")

    monkeypatch.setattr(storage, "to_proto", lambda *_: Refusing())
    with pytest.raises(OutputError, match="protobuf refuses the model: too large"):
        storage.save(storage.load_proto(relu_chain(1)), tmp_path / "m.onnx")
    assert leftovers(tmp_path) == []


def test_sparse_tensors_stay_in_the_model(tmp_path: Path) -> None:
    """Their parts may come from a data file, and are small enough to go inside; their dense form is never written."""
    (tmp_path / "w.bin").write_bytes(np.array([5, 6], np.float32).tobytes() + np.array([1, 99_999], np.int64).tobytes())
    sparse = onnx.SparseTensorProto(dims=[100_000])
    for part, name, dtype, offset in ((sparse.values, "w", T.FLOAT, 0), (sparse.indices, "", T.INT64, 8)):
        part.CopyFrom(onnx.TensorProto(name=name, data_type=dtype, dims=[2], data_location=T.EXTERNAL))
        for k, v in {"location": "w.bin", "offset": str(offset)}.items():
            part.external_data.add(key=k, value=v)
    x, y = tensor_input("x", [100_000]), tensor_input("y", [100_000])
    model = graph_of([helper.make_node("Add", ["x", "w"], ["y"])], [x], [y])
    model.graph.sparse_initializer.append(sparse)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    loaded = storage.load(tmp_path / "m.onnx")
    assert storage.save(loaded, tmp_path / "n.onnx", external=True) == [str(tmp_path / "n.onnx")]
    saved = onnx.load(tmp_path / "n.onnx").graph.sparse_initializer[0]
    assert onnx.numpy_helper.to_array(saved.values).tolist() == [5, 6]
    assert onnx.numpy_helper.to_array(saved.indices).tolist() == [1, 99_999]
    dense = storage.load(tmp_path / "n.onnx").graph.initializers["w"].const_value.numpy()
    assert (dense[1], dense[99_999], np.count_nonzero(dense)) == (5, 6, 2)


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


def test_mapped_tensors_of_every_kind_can_be_written_elsewhere(tmp_path: Path) -> None:
    loaded = storage.load(big_model(tmp_path))
    for name in ("w", "q"):
        tensor = loaded.graph.initializers[name].const_value
        with open(tmp_path / name, "wb") as f:
            tensor.tofile(f)
        assert (tmp_path / name).read_bytes() == tensor.tobytes()
    file = loaded.graph.initializers["w"].const_value.file
    with pytest.raises(BadInput, match="ended early"):
        list(file.chunks(0, file.size + 1))
    held = file.mapping()
    file.pin()
    assert file.mapping() is held
    assert file not in tensors._open  # it is not for the cache to forget


def test_an_empty_tensor_in_a_data_file(tmp_path: Path) -> None:
    (tmp_path / "none.bin").write_bytes(b"")
    t = onnx.TensorProto(name="w", data_type=T.FLOAT, dims=[0, 3], data_location=T.EXTERNAL)
    t.external_data.add(key="location", value="none.bin")
    model = graph_of([helper.make_node("Identity", ["w"], ["y"])], [], [tensor_input("y", [0, 3])], [t])
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    loaded = storage.load(tmp_path / "m.onnx")
    assert loaded.graph.initializers["w"].const_value.numpy().shape == (0, 3)
    storage.save(loaded, tmp_path / "m.onnx", external=True)


def test_a_sparse_tensor_that_is_huge_when_dense_is_only_kept(tmp_path: Path) -> None:
    values, indices = helper.make_tensor("w", T.FLOAT, [1], [5]), helper.make_tensor("", T.INT64, [1], [1 << 39])
    model = graph_of([helper.make_node("Identity", ["w"], ["y"])], [], [tensor_input("y", [1 << 40])])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [1 << 40]))
    loaded = storage.load_proto(model)
    assert onnx.ModelProto.FromString(storage.to_bytes(loaded)) == model
    assert storage.save(loaded, tmp_path / "m.onnx") == [str(tmp_path / "m.onnx")]
    with pytest.raises(BadInput, match="too large to be made dense"):
        loaded.graph.initializers["w"].const_value.numpy()


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
    t = ir.ExternalTensor("n.onnx.data", 0, 4096, ir.DataType.FLOAT, shape=ir.Shape([1024]), name="w", base_dir=str(tmp_path))
    loaded.graph.initializers.add(ir.Value(name="w", const_value=t))
    with pytest.raises(OutputError, match="'w' of this model is read from that file"):
        storage.save(loaded, tmp_path / "n.onnx", external=True)
    assert storage.save(loaded, tmp_path / "o.onnx", external=True) == [str(tmp_path / f"o.onnx{s}") for s in ("", ".data")]
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
        assert os.umask(0o027) == 0o027
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
