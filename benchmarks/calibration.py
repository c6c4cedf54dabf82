"""Memory of calibrating a small convolutional network on 10 samples and on 10,000: the peak of a process each."""

from __future__ import annotations

import resource
import subprocess
import sys

import numpy as np


def calibrate(count: int) -> None:
    """Calibrate a small convolutional network and print the peak memory in MB."""
    import onnx
    from olc import ir
    from olc.analysis import shapes
    from olc.strategy.calibrate import calibrate as run

    proto = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 23]> g (float[1, 8, 32, 32] x) => (float[1, 8, 32, 32] y) '
        "{ a = Conv<pads = [1, 1, 1, 1]>(x, w) b = Relu(a) c = Conv<pads = [1, 1, 1, 1]>(b, w) y = Add(c, x) }"
    )
    random = np.random.default_rng(0)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(random.normal(size=(8, 8, 3, 3)).astype(np.float32), "w"))
    model = ir.serde.deserialize_model(proto)
    shapes.infer(model)
    feeds = ({"x": random.normal(size=(1, 8, 32, 32)).astype(np.float32)} for _ in range(count))
    facts = run(model, feeds, 1, "entropy")
    assert len(facts) == 5
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3)


def main() -> None:
    code = "import sys; from benchmarks.calibration import calibrate; calibrate(int(sys.argv[1]))"
    few, many = (
        float(subprocess.run([sys.executable, "-c", code, n], capture_output=True, text=True, check=True).stdout)
        for n in ("10", "10000")
    )
    print(f"peak memory: {few:.0f} MB with 10 samples, {many:.0f} MB with 10,000")
