"""Signs and bits of the weight of an 8-bit product: what each costs on this CPU, and how far off its kernel is.

A linear layer as DynamicQuantizeMatMul with weights of int8 in ±127, int8 in ±64 and uint8, and a convolution as QLinearConv
with the same, against float32, one thread, side by side. Inputs and weights are normally distributed; the error is |y' - y| /
|y|. Where int8 in ±127 has more error than uint8, which stands for the same numbers, its sums saturate.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx.helper
import onnx.numpy_helper
import onnx.parser
from olc.evaluation.latency import interleaved
from olc.quantization import INT7_LIMIT, INT8_LIMIT, flipped, quantize_linear_weight
from olc.quantization.emulate import uint8_grid
from olc.session import SessionOptions, run, session
from olc.targets.features import detect

LINEARS = ((1, 768, 3072), (16, 384, 1536), (128, 384, 1536), (128, 768, 3072), (512, 768, 768))
CONVS = ((64, 56, 3), (256, 14, 3), (256, 28, 1))
SECONDS = 2.0
_HEADER = '<ir_version: 10, opset_import: ["": 21, "com.microsoft": 1]>'


def opened(text: str, constants: Mapping[str, np.ndarray]) -> object:
    model = onnx.parser.parse_model(f"{_HEADER} {text}")
    model.graph.initializer.extend(onnx.numpy_helper.from_array(np.asarray(a), name) for name, a in constants.items())
    return session(model.SerializeToString(), options=SessionOptions(threads=1))


def weights(w: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
    """A matrix [K, N] in each form: codes, scales and zero points of the columns."""
    (q, s), (q7, s7) = (quantize_linear_weight(w, limit) for limit in (INT8_LIMIT, INT7_LIMIT))
    return {
        "int8 in ±127": {"q": q, "s": s, "z": np.zeros(len(s), np.int8)},
        "int8 in ±64": {"q": q7, "s": s7, "z": np.zeros(len(s), np.int8)},
        "uint8": {"q": flipped(q), "s": s, "z": np.full(len(s), 128, np.uint8)},
    }


def compared(title: str, x: np.ndarray, candidates: Mapping[str, object]) -> None:
    """A line for each candidate, of which the first is float32."""
    outputs = [next(iter(run(c, {"x": x}).values())) for c in candidates.values()]
    rounds = interleaved([lambda c=c: run(c, {"x": x}) for c in candidates.values()], budget_s=SECONDS)  # type: ignore[misc]
    for i, name in enumerate(candidates):
        if i == 0:
            continue
        error = 100 * np.linalg.norm(outputs[i] - outputs[0]) / np.linalg.norm(outputs[0])
        speed = rounds.compare(0, i)
        print(f"{title:26} {name:14} {speed.ratio:5.2f} ({speed.low:.2f} to {speed.high:.2f})  error {error:.2f} %", flush=True)


def main() -> None:
    cpu, random = detect(), np.random.default_rng(0)
    print(f"{cpu.model}; int8 saturates: {'yes' if cpu.int8_saturates else 'no'}; speeds over float32, one thread")
    for rows, k, n in LINEARS:
        w, x = (random.normal(size=shape).astype(np.float32) for shape in ((k, n), (rows, k)))
        graph = f"g (float[{rows},{k}] x) => (float[{rows},{n}] y)"
        made = {"float32": opened(f"{graph} {{ y = MatMul(x, w) }}", {"w": w})}
        for name, form in weights(w).items():
            made[name] = opened(f"{graph} {{ y = com.microsoft.DynamicQuantizeMatMul(x, q, s, z) }}", form)
        compared(f"linear {rows} x {k} x {n}", x, made)
    for channels, side, kernel in CONVS:
        w = random.normal(size=(channels, channels, kernel, kernel)).astype(np.float32)
        x = random.normal(size=(1, channels, side, side)).astype(np.float32)
        pads, graph = f"pads = [{', '.join([str(kernel // 2)] * 4)}]", "g (float[1,{0},{1},{1}] x) => (float[1,{0},{1},{1}] y)"
        graph = graph.format(channels, side)
        made = {"float32": opened(f"{graph} {{ y = Conv<{pads}>(x, w) }}", {"w": w})}
        y = next(iter(run(made["float32"], {"x": x}).values()))
        grids = {}
        for name, a in (("x", x), ("y", y)):
            scale, zero = uint8_grid(float(a.min()), float(a.max()))
            grids |= {f"s{name}": scale, f"z{name}": np.uint8(zero)}
        text = (f"{graph} {{ a = QuantizeLinear(x, sx, zx) c = QLinearConv<{pads}>(a, sx, zx, q, s, z, sy, zy) "
                "y = DequantizeLinear(c, sy, zy) }")  # fmt: skip
        for name, form in weights(w.reshape(channels, -1).T).items():
            codes = np.ascontiguousarray(form["q"].T).reshape(w.shape)
            made[name] = opened(text, {**grids, **form, "q": codes})
        compared(f"conv {kernel} x {kernel}, {channels} of {side}²", x, made)
