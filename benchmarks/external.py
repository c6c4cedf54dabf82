"""Memory and time for a decoder with 2.7 GB of external data (random weights) at -O2, evaluation aside."""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

LAYERS, WIDTH, INNER, VOCABULARY = 24, 1536, 6144, 32000


def build(folder: Path) -> Path:
    """A Llama-like decoder without cache, weights in ``model.onnx.data``: fp32, random, written layer by layer."""
    from onnx import TensorProto, helper

    path = folder / "model.onnx"
    rng = np.random.default_rng(0)
    block = rng.standard_normal(1 << 20).astype(np.float32) * 0.02
    inits, nodes = [], []
    with open(folder / "model.onnx.data", "wb") as data:

        def weight(name: str, *shape: int) -> str:
            t = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape, data_location=TensorProto.EXTERNAL)
            size = int(np.prod(shape)) * 4
            for key, value in (("location", "model.onnx.data"), ("offset", data.tell()), ("length", size)):
                t.external_data.add(key=key, value=str(value))
            left = size
            # Each tensor starts with its own number, so that no two are equal and deduplication has nothing to find.
            data.write(np.float32(len(inits)).tobytes())
            left -= 4
            while left:
                data.write(block.tobytes()[: min(left, block.nbytes)])
                left -= min(left, block.nbytes)
            inits.append(t)
            return name

        def node(op: str, inputs: list[str], **attributes: object) -> str:
            out = f"{op.lower()}_{len(nodes)}"
            nodes.append(helper.make_node(op, inputs, [out], name=f"n{len(nodes)}", **attributes))
            return out

        def number(name: str, value: float) -> str:
            inits.append(helper.make_tensor(name, TensorProto.FLOAT, [], [value]))
            return name

        eps, two, scale = number("eps", 1e-5), number("two", 2.0), number("scale", 1 / 8.0)
        inits.append(helper.make_tensor("split", TensorProto.INT64, [4], [0, 0, WIDTH // 64, 64]))
        inits.append(helper.make_tensor("merge", TensorProto.INT64, [3], [0, 0, WIDTH]))
        inits.append(helper.make_tensor("last", TensorProto.INT64, [1], [-1]))

        def norm(x: str, name: str) -> str:
            mean = node("ReduceMean", [node("Pow", [x, two]), "last"], keepdims=1)
            y = node("Div", [x, node("Sqrt", [node("Add", [mean, eps])])])
            return node("Mul", [y, weight(name, WIDTH)])

        def heads(x: str, name: str, perm: list[int]) -> str:
            return node("Transpose", [node("Reshape", [node("MatMul", [x, weight(name, WIDTH, WIDTH)]), "split"])], perm=perm)

        x = node("Gather", [weight("embedding", VOCABULARY, WIDTH), "ids"])
        for i in range(LAYERS):
            h = norm(x, f"norm_a{i}")
            q, k, v = (heads(h, f"{n}{i}", p) for n, p in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])))
            p = node("Softmax", [node("Mul", [node("MatMul", [q, k]), scale])], axis=-1)
            a = node("Reshape", [node("Transpose", [node("MatMul", [p, v])], perm=[0, 2, 1, 3]), "merge"])
            x = node("Add", [x, node("MatMul", [a, weight(f"o{i}", WIDTH, WIDTH)])])
            h = norm(x, f"norm_b{i}")
            g = node("MatMul", [h, weight(f"g{i}", WIDTH, INNER // 2)])
            u = node("MatMul", [h, weight(f"u{i}", WIDTH, INNER // 2)])
            m = node("Mul", [node("Mul", [g, node("Sigmoid", [g])]), u])
            x = node("Add", [x, node("MatMul", [m, weight(f"d{i}", INNER // 2, WIDTH)])])
        x = node("MatMul", [norm(x, "norm_f"), weight("head", WIDTH, VOCABULARY)])
    graph = helper.make_graph(
        nodes, "decoder", [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "seq"])],
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, ["batch", "seq", VOCABULARY])], inits,
    )  # fmt: skip
    path.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString()
    )
    return path


def one(path: str, output: str) -> None:
    """Compile in this process; prints seconds and peak memory in MB."""
    import olc

    start = time.perf_counter()
    olc.compile(path, output, level=2, evaluate=False)
    print(f"{time.perf_counter() - start:.2f} {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:.0f}")


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="olc-bench-", dir=".") as name:
        folder = Path(name)
        path = build(folder)
        size = (folder / "model.onnx.data").stat().st_size
        code = f"from benchmarks.external import one; one({str(path)!r}, {str(folder / 'out.onnx')!r})"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        seconds, peak = done.stdout.split()
        written = (folder / "out.onnx.data").stat().st_size
        print(f"external data {size / 1e9:.2f} GB, written {written / 1e9:.2f} GB: {seconds} s, peak memory {peak} MB "
              f"({float(peak) * 1e6 / size:.2f} of the weights)")  # fmt: skip
