"""A target known by tables: what it can run (``<module>.json``), and which fused operators pay (``<module>.kernels.json``)."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .. import ir, signatures
from ..errors import Unsupported
from ..passes import Context
from ..passes.opset_adapters import RENAMED
from ..session import CPU, SessionOptions, run, runs, session
from . import decompose, expand, kernels, registry
from .capabilities import DECOMPOSED, NO, YES, Support, Table
from .kernels import Kernels

#: Bodies within bodies are followed so far; the standard nests them three deep.
_DEPTH = 6


@dataclass(frozen=True)
class Culprit:
    """A node that cannot run, why, and what to do."""

    node: str
    operator: str
    reason: str
    hint: str

    def __str__(self) -> str:
        return f"node {self.node!r} ({self.operator}): {self.reason}; {self.hint}"


class Declared:
    """What targets have in common. One of them is a subclass in a module of its own.

    Attributes:
        name, opset: as in ``targets.Target``.
        file: the module; the tables lie beside it.
        providers: execution providers of ONNX Runtime that run an artifact, best first.
        runtime: what its table of kernels is called by.
        half: arithmetic in float16 is faster than in float32 there, as a rule.
        beside: a constant in 8 or 4 bits has to stand in the graph of the DequantizeLinear that reads it.
        cure: what to do about a node that ``limit`` refuses.
        machine: the table of another machine, or None for this one.
    """

    name: str
    opset: int
    file: str
    providers: tuple[str, ...] = (CPU,)
    runtime = "onnxruntime"
    half = False
    beside = False
    cure = ""

    def __init__(self, machine: Kernels | None = None) -> None:
        self.machine = machine
        self._answers: dict[Hashable, Support] = {}

    def on(self, machine: Kernels) -> Declared:
        return type(self)(machine)

    @property
    def here(self) -> bool:
        """Does this machine have what artifacts run on, so that they can be timed?"""
        return runs(self.providers[0])

    @property
    def table(self) -> Table:
        return registry.load(Path(self.file).with_suffix(".json"), self.providers[0])

    def features(self) -> dict[str, Any]:
        """What rounding has to know of the hardware."""
        return {"int8_dot": True, "int8_saturates": False}

    def proof(self, path: str | os.PathLike[str], feeds: Sequence[Mapping[str, Any]]) -> str | None:
        """What can be shown of an artifact without running it, in words; None for nothing.

        Raises:
            Unsupported: it is shown that the artifact does not run there.
        """
        return None

    def session_options(self) -> SessionOptions:
        return SessionOptions(providers=self.providers)

    def session(
        self, path: str | os.PathLike[str], threads: int | None = None, options: SessionOptions | None = None
    ) -> Any:
        given = options if options is not None else SessionOptions()
        return session(path, threads, options=replace(given, providers=self.providers))

    def run(self, path: str | os.PathLike[str], feed: Mapping[str, Any], threads: int | None = None) -> dict[str, Any]:
        return run(self.session(path, threads), feed, where=os.fspath(path))

    def kernels(self) -> Kernels:
        """The other machine's table; else this one's, if ``olc targets measure`` made one with the installed runtime, or the
        packaged one."""
        if self.machine is not None:
            return self.machine
        import onnxruntime

        return kernels.load(Path(self.file).with_suffix(".kernels.json"), self.runtime, onnxruntime.__version__)

    def opset_for(self, model: ir.Model) -> int:
        """The version to raise the model to: the highest up to ``opset`` at which no operator of it loses its kernel.

        Never below the model's own opset, since lowering an opset loses meaning. Of an operator that is withdrawn, the kernel is
        that of what it is written as.
        """
        current = ir.opset_of(model) or 1
        operators = {n.op_type for g in ir.all_graphs(model) for n in g if n.domain == ""}
        runnable = {op for op in operators if self.table.supports(op, "", current)}
        best = current
        for version in range(current + 1, self.opset + 1):
            if all(self.table.supports(_name(op, version), "", version) for op in runnable):
                best = version
        return best

    def supports(self, op: str, domain: str, version: int, dtypes: Mapping[str, str] | None = None) -> Support:
        """Whether an operator runs: yes, by decomposition, by casting to float, or no, with the reason.

        Args:
            version: opset of the domain.
            dtypes: dtype per type variable (``T``) or formal parameter; those not given are not checked.
        """
        found = self.table.supports(op, domain, version, dtypes)
        if found:
            return found
        schema = ir.schema_of(op, domain, version) if domain in self.table.domains else None
        if schema is not None and (schema.has_function or schema.has_context_dependent_function):
            return Support(DECOMPOSED, f"{found.reason}; the standard defines it by other operators")
        return found

    def node_support(
        self, node: ir.Node, model: ir.Model, opsets: Mapping[str, int] | None = None, lowered: bool = False
    ) -> Support:
        """As ``supports``, for a node with its input and output dtypes as far as they are known.

        Args:
            opsets: the opset imports in force where the node is; the model's where None.
            lowered: ask what runs once ``lower`` has written bodies out, not what the runtime can expand itself.
        """
        opsets = model.opset_imports if opsets is None else opsets
        if (node.domain, node.op_type, node.overload) in model.functions:
            return Support(DECOMPOSED, "a function of the model, inlined when it is loaded")
        return self._support(node, opsets, _DEPTH, lowered)

    def _support(self, node: ir.Node, opsets: Mapping[str, int], depth: int, lowered: bool) -> Support:
        domain, version = _standing(node, opsets)
        if version is None:
            # ONNX Runtime takes a domain of its own that the model forgot to import at its first version.
            if domain not in self.table.domains or domain == "":
                return Support(NO, f"the model imports no opset of domain {domain!r}")
            version = self.table.opset(domain)
        if node.op_type == "Constant" and domain == "":
            return Support(YES)  # taken into the initializers before kernels are looked for
        limit = self.limit(node)
        found = self._kernel(node, domain, version) if limit is None else Support(NO, limit)
        if found.how == YES or depth == 0 or domain not in self.table.domains:
            return found
        expanded = decompose.expansion(node, version, strict=not lowered)
        if expanded is None:
            return found
        reason = self._body_problem(expanded, depth, lowered)
        if reason is None:
            return Support(DECOMPOSED, found.reason)
        return found if found else Support(NO, f"{found.reason}, and of its parts {reason}")

    def _body_problem(self, expanded: Any, depth: int, lowered: bool) -> str | None:
        inner = decompose.model_of(expanded)
        for graph in ir.all_graphs(inner):
            for part in graph:
                answer = self._support(part, inner.opset_imports, depth - 1, lowered)
                if not answer:
                    return f"{part.op_type} cannot run: {answer.reason}"
        return None

    def _kernel(self, node: ir.Node, domain: str, version: int) -> Support:
        """The table's answer for a node. Kept per operator and dtypes: a large model has few different ones."""
        kinds = tuple(None if v is None else v.type for side in (node.inputs, node.outputs) for v in side)
        key = (node.op_type, domain, version, len(node.inputs), kinds)
        found = self._answers.get(key)
        if found is None:
            found = self.table.supports(node.op_type, domain, version, self.dtypes(node, domain, version))
            self._answers[key] = found
        return found

    def dtypes(self, node: ir.Node, domain: str, version: int) -> dict[str, str]:
        """The known dtypes of a node's inputs and outputs by type variable and by formal name.

        Where a variable stands for several parameters, the first that is there counts, as in ONNX Runtime.
        """
        form = self.table.signature(node.op_type, domain, version)
        if form is None:
            return {}
        found: dict[str, str] = {}
        for formals, actuals in ((form.inputs, node.inputs), (form.outputs, node.outputs)):
            for i, value in enumerate(actuals):
                if not formals or value is None:
                    continue
                formal = formals[min(i, len(formals) - 1)]
                dtype = _type_name(value)
                if dtype is not None:
                    found.setdefault(formal.type, dtype)
                    found.setdefault(formal.name, dtype)
        return found

    def why_not(self, node: ir.Node, model: ir.Model) -> str | None:
        """Why the node cannot run as it stands (not even by ONNX Runtime decomposing it), in words, or None."""
        support = self.node_support(node, model, _opsets(node, model))
        return None if support else support.reason

    def culprits(self, model: ir.Model) -> list[Culprit]:
        """Every node, in every graph and function, that cannot run."""
        found = []
        for graph, opsets in _graphs(model):
            for node in graph:
                support = self.node_support(node, model, opsets)
                if not support:
                    label = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
                    where = node.name or (node.outputs[0].name if node.outputs else None) or "?"
                    found.append(Culprit(where, label, support.reason, self._hint(node)))
        return found

    def check(self, model: ir.Model) -> list[str]:
        """What it cannot run, one line a culprit with a hint."""
        problems = []
        table = self.table
        if (model.ir_version or 0) > table.ir_version:
            problems.append(
                f"the model's IR version {model.ir_version} is newer than {table.ir_version}, the last that "
                f"{table.runtime} {table.version} loads; save it with an older IR version or install a newer runtime"
            )
        for domain in ("", "ai.onnx.ml"):
            version = ir.opset_of(model, domain)
            if version is not None and version > table.opset(domain):
                problems.append(
                    f"the model's opset {version} of domain {domain or 'ai.onnx'!r} is newer than "
                    f"{table.opset(domain)}, the last that {table.runtime} {table.version} knows; export it at an "
                    "older opset or install a newer runtime"
                )
        return problems + [str(c) for c in self.culprits(model)]

    def lower(self, model: ir.Model, ctx: Context, before: Set[tuple[str, str]] | None = None) -> int:
        """Write out the bodies of operators without a kernel, where the standard has one; the number of nodes changed.

        ONNX Runtime can expand some by itself, but not bodies within bodies, and what it expands is out of reach
        of rules and of the report.

        Raises:
            Unsupported: the model still holds what cannot run.
        """
        changes = 0
        for graph, opsets in _graphs(model):
            work = [(node, _DEPTH) for node in graph]
            while work:
                node, depth = work.pop()
                if depth == 0 or (node.domain, node.op_type, node.overload) in model.functions:
                    continue
                domain, version = _standing(node, opsets)
                if version is None or self.node_support(node, model, opsets, lowered=True).how != DECOMPOSED:
                    continue
                reason = self.limit(node) or self._kernel(node, domain, version).reason
                expanded = decompose.expansion(node, version)
                if expanded is None:
                    continue
                name = node.name or node.outputs[0].name
                made = decompose.inline(node, expanded)
                ctx.record(f"lower:{self.name}", name, f"{node.op_type} written out as {len(made)} nodes: {reason}")
                changes += 1
                work.extend((n, depth - 1) for n in made)
        changes += self.finish(model, ctx, before)
        problems = self.check(model)
        if problems:
            nodes = {str(c): c.node for c in self.culprits(model)}
            shown = problems[:20] + ([f"and {len(problems) - 20} more"] if len(problems) > 20 else [])
            raise Unsupported(
                f"{len(problems)} part{'s' if len(problems) != 1 else ''} of the model cannot run on {self.name}:\n  "
                + "\n  ".join(shown),
                where=model.graph.name or None,
                hint="change the model as each line says, or compile for another target",
                culprits=tuple((nodes.get(p, ""), p) for p in problems),
            )
        return changes

    def finish(self, model: ir.Model, ctx: Context, before: Set[tuple[str, str]] | None) -> int:
        """What else the target needs at the end of ``lower``, whatever the dtypes; the number of changes.

        Inputs that ONNX Runtime's kernels do not broadcast are expanded (``expand.py``).
        """
        return expand.run(model, ctx, f"lower:{self.name}")

    def arrange(self, model: ir.Model, ctx: Context) -> int:
        """Nothing, for most targets."""
        return 0

    def limit(self, node: ir.Node) -> str | None:
        """What kernels refuse although the table lists them, or None."""
        return None

    def _hint(self, node: ir.Node) -> str:
        domain = "" if node.domain == "ai.onnx" else node.domain
        if domain not in self.table.domains:
            return (
                f"operators of domain {domain!r} come from a custom-operator library or must be functions of the "
                "model: register the library, or export the model with the function's body"
            )
        if self.table.signature(node.op_type, domain, 2**31 - 1) is None:
            return "check the operator's name and domain, and the version of the exporter"
        if self.limit(node) is not None:
            return self.cure
        known = self.table.kernels.get((domain, node.op_type), ())
        if not known:
            return "rewrite it with other operators before export"
        return "convert the model to an opset, or the node to a dtype, that has a kernel"


def _standing(node: ir.Node, opsets: Mapping[str, int]) -> tuple[str, int | None]:
    """The node's domain (the standard one is "") and the version of it in force."""
    if node.domain in ("", "ai.onnx"):
        return "", opsets.get("", opsets.get("ai.onnx"))
    return node.domain, opsets.get(node.domain)


def _name(op: str, version: int) -> str:
    """What an operator is called at that opset, if `raise_opset` takes it there."""
    since, name = RENAMED.get(op, (version, op))
    return name if version >= since else op


def _type_name(value: ir.Value) -> str | None:
    """``float``, ``int64``, ``seq(tensor(float))``, …; None where unknown."""
    text = signatures.type_name(value.type)
    return None if text is None else registry.bare(text)


def _graphs(model: ir.Model) -> Iterator[tuple[ir.Graph, Mapping[str, int]]]:
    """Every graph with the opsets in force there: a function has its own."""
    for graph in ir.all_graphs(model, functions=False):
        yield graph, model.opset_imports
    for function in model.functions.values():
        stack = [function.graph]
        while stack:
            graph = stack.pop()
            yield graph, function.opset_imports
            stack.extend(s for n in graph for s in ir.subgraphs(n))


def _opsets(node: ir.Node, model: ir.Model) -> Mapping[str, int]:
    if not model.functions:
        return model.opset_imports
    home = ir.owner(node)
    return next((opsets for graph, opsets in _graphs(model) if graph is home), model.opset_imports)
