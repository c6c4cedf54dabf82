"""Does compile time grow linearly? Chains of (Reshape, Reshape, Add 0, Relu, Identity), 5k, 20k and 100k nodes, at -O2."""

from __future__ import annotations

import resource
import subprocess
import sys
import time

import numpy as np

SIZES = (5_000, 20_000, 100_000)


def model(nodes: int):  # type: ignore[no-untyped-def]
    """A chain of ``nodes`` nodes on float32[2, 8]."""
    from onnx import TensorProto, helper, numpy_helper

    made, x = [], "x"
    for i in range(nodes // 5):
        for j, (op, extra) in enumerate(
            (("Reshape", ["to_16"]), ("Reshape", ["to_2_8"]), ("Add", ["zero"]), ("Relu", []), ("Identity", []))
        ):
            made.append(helper.make_node(op, [x, *extra], [f"v{i}_{j}"], name=f"{op}_{i}_{j}"))
            x = f"v{i}_{j}"
    constants = [
        numpy_helper.from_array(np.array([16], np.int64), "to_16"),
        numpy_helper.from_array(np.array([2, 8], np.int64), "to_2_8"),
        numpy_helper.from_array(np.array(0, np.float32), "zero"),
    ]
    graph = helper.make_graph(
        made, "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 8])],
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, [2, 8])], constants,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def one(nodes: int) -> None:
    """Compile one chain in this process; prints seconds, nodes left and peak memory."""
    from olc import targets
    from olc.frontend import load
    from olc.passes import Context
    from olc.pipeline import Options, optimize

    proto = model(nodes)
    start = time.perf_counter()
    loaded = load(proto)
    result = optimize(loaded, Options(level=2), Context(target=targets.get("onnxruntime-cpu")))
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(f"{nodes} {seconds:.3f} {len(result.model.graph)} {peak:.0f}")


def main() -> None:
    first = None
    print(f"{'nodes':>8} {'seconds':>8} {'us/node':>8} {'left':>6} {'peak MB':>8}  growth")
    for nodes in SIZES:
        done = subprocess.run(
            [sys.executable, "-c", f"from benchmarks.chain import one; one({nodes})"], capture_output=True, text=True, check=True
        )
        n, seconds, left, peak = done.stdout.split()
        per = float(seconds) / int(n)
        first = first or per
        print(f"{n:>8} {float(seconds):8.2f} {per * 1e6:8.0f} {left:>6} {peak:>8}  {per / first:.2f} times the first a node")
