"""A search whose clock is a table, and the model that it is tried on: what tests of the strategy share."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
from olc import ir, storage, targets
from olc.analysis import shapes
from olc.evaluation.latency import Paired, Side
from olc.passes import Context
from olc.pipeline import Options
from olc.rules import Registry, registry
from olc.session import run, session
from olc.strategy import search
from olc.strategy.budget import Budget
from olc.strategy.calibrate import calibrate
from olc.strategy.plan import Plan

TARGET = targets.get("onnxruntime-cpu")
WIDTH, LAYERS = 64, 4
SPEED = {"DynamicQuantizeMatMul": 4.0, "MatMulNBits": 2.0, "MatMul": 1.0, "Gemm": 1.0, "Div": 20.0}


def model(channel: bool = False, token: bool = False) -> ir.Model:
    """Four linear layers in a row. The last reads an activation of which a channel, or a token, is far larger than the rest."""
    body, held, random = [], {}, np.random.default_rng(0)
    for i in range(LAYERS):
        x = "x" if i == 0 else f"h{i}"
        scale = np.ones(WIDTH, np.float32)
        if channel and i == LAYERS - 1:
            scale[5] = 1000
        held |= {f"w{i}": random.normal(size=(WIDTH, WIDTH)).astype(np.float32) / 8, f"s{i}": scale}
        held[f"w{i}"][5] /= scale[5]
        body += [f"t{i} = Tanh({x})", f"a{i} = RMSNormalization(t{i}, s{i})"]
        last = token and i == LAYERS - 1
        body += [f"b{i} = Mul(a{i}, r)", f"h{i + 1} = MatMul(b{i}, w{i})"] if last else [f"h{i + 1} = MatMul(a{i}, w{i})"]
    text = (f'<ir_version: 10, opset_import: ["" : 23]> g (float[B, {WIDTH}] x, float[B, 1] r) => (float[B, {WIDTH}] y) '
            f"{{ {' '.join(body)} y = RMSNormalization(h{LAYERS}, s0) }}")  # fmt: skip
    proto = onnx.parser.parse_model(text)
    for n in proto.graph.node:
        n.name = n.output[0]
    for name, a in held.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(a, name))
    made = ir.serde.deserialize_model(proto)
    shapes.infer(made)
    return made


def normed(x: np.ndarray) -> np.ndarray:
    """What the first layer reads."""
    t = np.tanh(x)
    return t / np.sqrt(np.square(t).mean(axis=-1, keepdims=True) + 1e-5)


FAR = np.ones((40, 1), np.float32)
FAR[7] = 300
FEEDS = [{"x": np.random.default_rng(i).normal(size=(40, WIDTH)).astype(np.float32), "r": FAR} for i in range(3)]


class Bench(search.Search):
    """A search whose clock is a table."""

    kernels: dict[int, Counter[str]]

    def open(self, path: Path, options: object) -> object:
        opened = super().open(path, options)
        self.kernels = getattr(self, "kernels", {})
        self.kernels[id(opened)] = Counter(n.op_type for n in storage.load(path).graph)
        self.alive = [*getattr(self, "alive", []), opened]  # so that no other gets its number
        return opened

    def foretold(self, *_: object) -> float | None:
        return None

    def pair(self, a: object, b: object, part: object = None) -> Paired:
        times = [sum(n / SPEED[op] for op, n in self.kernels[id(x)].items() if op in SPEED) for x in (a, b)]
        ratio, side = times[0] / times[1], Side(1.0, 1.0, 1.0, 1.0)
        verdict = "faster" if ratio > 1.02 else "slower" if ratio < 0.98 else "no difference shown"
        return Paired(ratio, ratio, ratio, ratio, verdict, 8, 1, side, side, 0.0, 0)


def searched(
    m: ir.Model, tmp_path: Path, cosine: float = 0.99, data: bool = False, rules: Registry | None = None,
    threads: int | None = 1, **options: object,
) -> tuple[Plan, Bench]:
    storage.save(m, tmp_path / "source.onnx")
    opened = session(tmp_path / "source.onnx", threads=1)
    bench = Bench(
        m, Context(target=TARGET), rules or registry(), TARGET, FEEDS, [run(opened, f) for f in FEEDS], Budget(cosine=cosine),
        False, threads, 600.0, Options(level=3, strict=True), lambda text: None, **options,  # type: ignore[arg-type]
    )  # fmt: skip
    bench.real = data
    if data:
        bench.calibrate = lambda fused: calibrate(fused, FEEDS, 1)
    return bench.run("test"), bench


class Phases(Bench):
    """Few tokens, which are the even samples, take blocks, many take int8."""

    SPEEDS = {"few": SPEED | {"MatMulNBits": 8.0, "DynamicQuantizeMatMul": 2.0}, "more": SPEED | {"Div": 1.0}}
    overhead = 1.0
    long = 1.0
    """How many times as long many tokens take."""

    def open(self, path: Path, options: object) -> object:
        opened = super().open(path, options)
        graphs = {g.name: [n.op_type for n in g] for g in ir.all_graphs(storage.load(path))}
        main = next(iter(graphs.values()))
        self.costs = getattr(self, "costs", {})
        extra = self.overhead if "few" in graphs else 1.0
        factors = {"few": extra, "more": extra * self.long}
        self.costs[id(opened)] = {
            body: factors[body] * sum(1 / speeds[op] for op in graphs.get(body, main) if op in SPEED)
            for body, speeds in self.SPEEDS.items()
        }
        return opened

    def pair(self, a: object, b: object, part: object = None) -> Paired:
        bodies = {("few", "more")[i % 2] for i in (range(len(FEEDS)) if part is None else part)}  # type: ignore[attr-defined]
        times = [sum(self.costs[id(x)][body] for body in bodies) for x in (a, b)]
        ratio, side = times[0] / times[1], Side(1.0, 1.0, 1.0, 1.0)
        verdict = "faster" if ratio > 1.02 else "slower" if ratio < 0.98 else "no difference shown"
        return Paired(ratio, ratio, ratio, ratio, verdict, 8, 1, side, side, 0.0, 0)
