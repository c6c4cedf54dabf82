"""Many architectures by every exporter at -O2: right results, all that should be fused is, and exporters agree.

How much is to be fused follows from an architecture's depths (`models/corpus/architectures.py`). What is not reached is
in EXCEPTIONS with its cause, and only that: an exception that no longer holds fails too.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from olc import ir, storage, targets
from olc.digest import digest
from olc.errors import OlcError
from olc.evaluation import inputs, numerics
from olc.passes import Context
from olc.pipeline import Options, optimize
from olc.repairs import REPAIRED
from olc.session import run, session

from models import corpus

# Padding is a quarter of a sequence: less than the window of Mistral, so that every query keeps a key.
SIZES = {"batch": 2, "seq": 12, "dec_seq": 5, "past_seq": 6, "total_seq": 18, "samples": 4000}

# Tighter than for models of any size: here rounding moves outputs by 2e-5 at most, and the scale of one attention that
# is wrong by 2 % by 2.7e-4 at least, of twelve files tried.
TOLERANCE = 1e-4

# "FILE OPERATOR": not as many as there should be. "FILE results": they differ, or the model does not run.
# "ARCHITECTURE operators": its exports do not compile to the same operators; "ARCHITECTURE digest": to the same
# operators, but not to one graph.
FOLDED = "the exporters fold BatchNormalization themselves, and round differently"
EXCEPTIONS: dict[str, str] = {
    "clip-text operators": "the token that is pooled: a Gather of flattened tokens in TorchScript, a GatherND in dynamo",
    "wav2vec2 operators": "opset 23's GroupNormalization, without a kernel, becomes its 30 parts",
    "deepseek-v3 operators": "dynamo leaves out the 1e-20 that is added to the sum of a token's shares",
    "gpt-oss operators": "a mask that goes to no Attention, for its sinks, is built as each exporter does it",
    "resnet50 digest": FOLDED,
    "efficientnet digest": FOLDED,
    "mobilenetv3 digest": FOLDED,
}


def compiled(stem: str) -> tuple[bytes, ir.Model]:
    """The source as bytes, in operators that runtimes have, and the model at -O2."""
    source = corpus.load(stem).SerializeToString()
    model = storage.load_bytes(source, where=stem)
    if model.meta.get(REPAIRED):
        source = storage.to_bytes(model)
    optimize(model, Options(level=2), Context(target=targets.get("onnxruntime-cpu")))
    return source, model


def operators(model: ir.Model) -> Counter[str]:
    """How many nodes of each operator there are, subgraphs included."""
    return Counter(node.op_type for graph in ir.all_graphs(model) for node in graph)


def sample_plan(stem: str, source: bytes, opened: object) -> inputs.Plan:
    """Small inputs of a batch of 2; of 1 where the source does not run otherwise (RotaryEmbedding with tables of batch 1)."""
    model = storage.load_bytes(source, where=stem)
    named = {dim.value for value in model.graph.inputs for dim in value.shape if isinstance(dim, ir.SymbolicDim)}
    sizes = {name: size for name, size in SIZES.items() if name in named}
    if not sizes and named:  # tf2onnx names none: by what the dims are
        sizes = {"batch": 2, "seq": 12} if len(named) > 1 else {"batch": 2}
    try:
        return inputs.plan(model, sizes, run=partial(run, opened, where=stem))
    except OlcError:
        return inputs.plan(model, {**sizes, "batch": 1}, run=partial(run, opened, where=stem))


def difference(stem: str, source: bytes, model: ir.Model, padded: bool) -> str | None:
    """Why the compiled model's results are not the source's on two samples, if they are not. `padded`: of padding too."""
    theirs = session(source, threads=1)
    ours = session(storage.to_bytes(model), threads=1)
    made = sample_plan(stem, source, theirs)
    compared = numerics.Comparison()
    for number in range(2):
        feed = made.make(number)
        results = run(theirs, feed, where=stem), run(ours, feed, where=f"{stem} at -O2")
        if not padded:
            results = tuple(
                {k: v * feed["attention_mask"][..., None].astype(v.dtype) for k, v in result.items()} for result in results
            )
        compared.add(*results)
    found = [f"{d.name}: {reason}" for d in compared.results() if (reason := d.why_not(TOLERANCE)) is not None]
    return "; ".join(found) or None


def findings(architecture: corpus.Architecture) -> dict[str, str]:
    """What is not as it should be: key as in EXCEPTIONS -> what was found."""
    found: dict[str, str] = {}
    digests: dict[str, str] = {}
    graphs: dict[str, Counter[str]] = {}
    for stem in architecture.stems:
        source, model = compiled(stem)
        graphs[stem], digests[stem] = operators(model), digest(model, shapes=False)
        for operator, wanted in architecture.counts.items():
            if graphs[stem][operator] != wanted:
                found[f"{stem} {operator}"] = f"{graphs[stem][operator]} of {wanted}"
        try:
            differs = difference(stem, source, model, architecture.padded)
        except OlcError as error:
            differs = str(error)
        if differs is not None:
            found[f"{stem} results"] = differs
    first = graphs[architecture.stems[0]]
    if any(graph != first for graph in graphs.values()):
        found[f"{architecture.name} operators"] = told(graphs)
    elif len(set(digests.values())) > 1:
        found[f"{architecture.name} digest"] = ", ".join(f"{stem} {hashed[:6]}" for stem, hashed in digests.items())
    return found


def told(graphs: dict[str, Counter[str]]) -> str:
    """The operators of which not all graphs have equally many."""
    names = sorted({name for graph in graphs.values() for name in graph})
    uneven = [name for name in names if len({graph[name] for graph in graphs.values()}) > 1]
    return "; ".join(f"{name} {'/'.join(str(graph[name]) for graph in graphs.values())}" for name in uneven)


# Layers times exports above which the first two exports of an architecture, one of each exporter, stand for all, and layers
# from which the second does, but of one of each kind; `make long` runs all.
DEEP, DEEPEST = 24, 12
KINDS = frozenset({"bert", "gpt2", "gpt-neox", "llama", "swin", "t5", "vit"})


def cases() -> list[Any]:
    found = []
    for name, a in corpus.ARCHITECTURES.items():
        layers, exports = sum(a.depths), len(a.variants)
        kept = slice(2) if layers * exports > DEEP else slice(None)
        if layers >= DEEPEST and exports > 1 and name not in KINDS:
            kept = slice(1, 2)
        found.append(pytest.param(name, kept, id=name))
        if len(a.variants[kept]) < exports:
            found.append(pytest.param(name, slice(None), id=f"{name}-all", marks=pytest.mark.long))
    return found


@pytest.mark.parametrize(("name", "kept"), cases())
def test_an_architecture_compiles_alike_and_whole_from_every_exporter(name: str, kept: slice) -> None:
    architecture = corpus.ARCHITECTURES[name]
    architecture = replace(architecture, variants=architecture.variants[kept])
    owned = {name, *architecture.stems}
    excused = {key: cause for key, cause in EXCEPTIONS.items() if key.split()[0] in owned}
    if len(architecture.variants) == 1:  # there is nothing that it could differ from
        excused = {key: cause for key, cause in excused.items() if key.split()[0] != name}
    found = findings(architecture)
    new = [f"{key}: {what}" for key, what in found.items() if key not in excused]
    gone = [f"{key}: {cause}" for key, cause in excused.items() if key not in found]
    assert not new, "\n".join(["not excused:", *new])
    assert not gone, "\n".join(["no longer so, strike it from EXCEPTIONS:", *gone])


def test_files_are_those_of_the_architectures_and_small() -> None:
    stems = {stem for architecture in corpus.ARCHITECTURES.values() for stem in architecture.stems}
    files = list(corpus.FOLDER.iterdir())
    assert {file.name.removesuffix(".onnx.xz") for file in files} == stems
    assert max(file.stat().st_size for file in files) < 90_000
    assert sum(file.stat().st_size for file in files) < 4_000_000


def test_exceptions_are_about_files_that_there_are() -> None:
    known = {n for a in corpus.ARCHITECTURES.values() for n in (a.name, *a.stems)}
    assert {key.split()[0] for key in EXCEPTIONS} <= known


def test_weights_come_from_names_alone() -> None:
    one = corpus.Seeded()["layer.weight:4x3"]
    assert one.shape == (4, 3)
    assert (one == corpus.Seeded()["layer.weight:4x3"]).all()
    assert (one != corpus.Seeded()["other.weight:4x3"]).any()
    assert corpus.Seeded()["layer.bias:4"].all()
