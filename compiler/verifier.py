"""Is the graph sound: names, order, uses, visibility, types, operators, opsets.

Run at load (problems become ``BadInput``), between passes and before saving (``VerificationFailed``), so it is one pass
over the nodes, and says everything it finds up to ``LIMIT`` problems. It changes nothing.

``Problem.kind`` is one of: ``name, duplicate, shadow, dangling, order, uses, owner, type, shape, operator, attribute,
count, opset, version, body, cycle, empty, tensor, text, limit``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from . import ir
from .errors import VerificationFailed
from .signatures import Problem, Signature, short, signature, standard_domains

__all__ = ["LIMIT", "Problem", "check", "find_cycle", "label", "verify"]

LIMIT = 200
T = TypeVar("T")
_GRAPH, _GRAPHS = ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS


def verify(model: ir.Model) -> list[Problem]:
    """Everything that is wrong with the model; an empty list when it is sound."""
    run = _Verifier(model)
    run.model_level()
    run.graph(model.graph, "", model.opset_imports, None)
    for f in model.functions.values():
        run.function(f)
    run.uses()
    return run.problems


def check(model: ir.Model, where: str | None = None) -> None:
    """Raise VerificationFailed with the first problem (and the number of the others)."""
    problems = verify(model)
    if problems:
        first, more = problems[0], len(problems) - 1
        what = first.what + (f" (and {more} more)" if more else "")
        place = ": ".join(p for p in (where, first.where) if p)
        raise VerificationFailed(what, where=place or None, hint=first.hint)


def label(node: ir.Node) -> str:
    """How messages name a node: its name and operator, or what it produces where it has no name."""
    op = short(f"{node.domain}.{node.op_type}" if node.domain else node.op_type)
    name = node.name or next((f"of {v.name}" for v in node.outputs if v.name), "")
    return f"{op} {short(name)!r}" if name else op


def find_cycle(graph: ir.Graph) -> list[ir.Node]:
    """Nodes of the graph that wait for one another (bodies count with the node that holds them); empty if none do."""
    waits: dict[ir.Node, list[ir.Node]] = {}
    for node in graph:
        read: list[Any] = list(node.inputs)
        for body in ir.subgraphs(node):
            for g in ir.with_bodies(body):
                read.extend(v for inner in g for v in inner.inputs)
        producers = (v.producer() for v in read if v is not None)
        waits[node] = [p for p in producers if p is not None and ir.owner(p) is graph]
    return _cycle(waits)


def _cycle(edges: Mapping[T, Sequence[T]]) -> list[T]:
    """One cycle of a directed graph, or nothing; depth first without recursion."""
    state: dict[T, int] = {}
    for start in edges:
        if start in state:
            continue
        path, iterators = [start], [iter(edges[start])]
        state[start] = 1
        while path:
            after = next(iterators[-1], None)
            if after is None:
                state[path.pop()] = 2
                iterators.pop()
            elif state.get(after) == 1:
                return path[path.index(after) :]
            elif after not in state:
                state[after] = 1
                path.append(after)
                iterators.append(iter(edges.get(after, ())))
    return []


class _Verifier:
    def __init__(self, model: ir.Model) -> None:
        self.model = model
        self.problems: list[Problem] = []
        self.scope: dict[str, ir.Value] = {}  # names of the graph at hand and of the graphs around it
        self.visible: set[ir.Value] = set()  # what a node at this point may read
        self.defined: list[ir.Value] = []
        self.reads: dict[ir.Value, int] = {}
        self.function_attributes: set[str] | None = None

    def say(self, kind: str, what: str, where: str, hint: str | None = None) -> None:
        if len(self.problems) < LIMIT:
            self.problems.append(Problem(kind, what, where, hint))

    # the model

    def model_level(self) -> None:
        import onnx

        model, newest = self.model, onnx.IR_VERSION
        if not 1 <= model.ir_version <= newest:
            new = model.ir_version > newest
            hint = "pip install --upgrade onnx onnx-ir" if new else "the file is not ONNX, or is damaged"
            self.say("version", f"IR version {model.ir_version}; the installed onnx knows 1 to {newest}", "model", hint)
        self.imports(model.opset_imports, "model")
        graph = model.graph
        if not len(graph) and not graph.outputs:
            self.say("empty", "the graph has no nodes and no outputs", "model", "was the right file given?")
        for v in graph.inputs:
            if v.type is None:
                self.say("type", f"graph input {v.name!r} has no type", "model", "declare its element type")
        for key, f in model.functions.items():
            if key != f.identifier():
                self.say("name", f"function {f.identifier()} is filed under {key}", "model")
        if model.functions:
            self.recursion()

    def recursion(self) -> None:
        """Functions may call one another, but none may come back to itself: inlining it would never end."""
        functions = self.model.functions
        calls = {
            key: [
                called
                for g in ir.with_bodies(f.graph)
                for n in g
                if (called := (n.domain, n.op_type, n.overload)) in functions
            ]
            for key, f in functions.items()
        }
        cycle = _cycle(calls)
        if cycle:
            names = " -> ".join(short(":".join(part for part in key if part)) for key in [*cycle[:6], cycle[0]])
            self.say("cycle", f"functions call one another in a circle: {names}", "model")

    def imports(self, opsets: dict[str, int], where: str) -> None:
        for domain, newest in standard_domains().items():
            version = opsets.get(domain)
            if version is None:
                continue
            name = domain or "ai.onnx"
            if version > newest:
                what = f"opset {version} of {name}; the installed onnx knows up to {newest}"
                self.say("opset", what, where, "pip install --upgrade onnx, or export with an older opset")
            elif version < 1:
                self.say("opset", f"opset {version} of {name} does not exist", where, "export the model again")

    def function(self, f: ir.Function) -> None:
        where = f"function {short(f.domain)}:{short(f.name)}"
        self.scope, self.visible = {}, set()
        self.function_attributes = set(f.attributes)
        self.imports(f.opset_imports, where)
        self.graph(f.graph, where, f.opset_imports, f)
        self.function_attributes = None

    # graphs

    def graph(self, graph: ir.Graph, outer: str, opsets: dict[str, int], function: ir.Function | None) -> None:
        name = short(graph.name)
        where = outer if function is not None else f"{outer}/{name}" if outer else f"graph {name!r}"
        nodes = list(graph)
        own = self.names(graph, nodes, where)
        for key, initializer in graph.initializers.items():
            self.initializer(key, initializer, where)
        visible = self.visible
        given = [*graph.inputs, *graph.initializers.values()]
        visible.update(given)
        resolve = self.resolver(opsets, where)
        reads = self.reads
        for node in nodes:
            for i, v in enumerate(node.inputs):
                if v is None:
                    continue
                reads[v] = reads.get(v, 0) + 1
                if v not in visible:
                    self.unseen(node, i, v, graph, where)
            found = resolve(node)
            if isinstance(found, Signature):
                for kind, what, hint in found.complaints(node):
                    self.say(kind, what, f"{where}: {label(node)}", hint)
            elif found is not None:
                self.call(node, found, where)
            if node.attributes:
                self.attributes(node, where, opsets)
            if node.graph is not graph and ir.owner(node) is not graph:
                self.say("owner", f"{label(node)} says that it is in another graph", where)
            visible.update(node.outputs)
        self.outputs(graph, where)
        for node in nodes:
            visible.difference_update(node.outputs)
        visible.difference_update(given)
        for name in own:
            del self.scope[name]

    def names(self, graph: ir.Graph, nodes: Sequence[ir.Node], where: str) -> list[str]:
        """Enter the graph's names into the scope; each may be defined once, here and in the graphs around."""
        own: dict[str, ir.Value] = {}
        scope, defined = self.scope, self.defined

        def define(v: ir.Value, by: str) -> None:
            name = v.name
            defined.append(v)
            if not name:
                if by == "input" or v.uses() or v.is_graph_output():
                    self.say("name", f"a value ({by}) has no name", where, "give it one")
                return
            if name in own:
                if own[name] is not v:
                    self.say("duplicate", f"{name!r} is defined twice, the second time by {by}", where, _RENAME)
            elif name in scope:
                self.say("shadow", f"{name!r} ({by}) is already defined in a graph around this one", where, _RENAME)
            else:
                own[name] = v
                scope[name] = v

        inputs = set()
        for v in graph.inputs:
            if v in inputs:
                self.say("duplicate", f"{v.name!r} is an input twice", where, _RENAME)
                continue
            inputs.add(v)
            define(v, "input")
        for v in graph.initializers.values():
            if v not in inputs:
                define(v, "initializer")
        for node in nodes:
            for v in node.outputs:
                if v.name and v.name not in own and v.name not in scope:  # the common case, without the calls
                    defined.append(v)
                    own[v.name] = scope[v.name] = v
                else:
                    define(v, label(node))
        return list(own)

    def initializer(self, key: str, v: ir.Value, where: str) -> None:
        if key != v.name:
            self.say("name", f"initializer {v.name!r} is filed under {key!r}", where)
        if v.producer() is not None:
            self.say("duplicate", f"{v.name!r} is an initializer and produced by a node", where)
        tensor = v.const_value
        if tensor is None:
            self.say("tensor", f"initializer {v.name!r} has no data", where)
            return
        if isinstance(v.type, ir.TensorType) and v.type.dtype not in (tensor.dtype, ir.DataType.UNDEFINED):
            what = f"initializer {v.name!r} is declared {v.type.dtype.name} but holds {tensor.dtype.name}"
            self.say("type", what, where)
        declared, held = v.shape, tensor.shape
        if declared is not None and declared is not held:
            mismatch = len(declared) != len(held) or any(
                isinstance(d, int) and d != h for d, h in zip(declared, held, strict=True)
            )
            if mismatch:
                self.say("shape", f"initializer {v.name!r} is declared {declared} but holds {held}", where)

    def outputs(self, graph: ir.Graph, where: str) -> None:
        seen: set[ir.Value] = set()
        for v in graph.outputs:
            if v in seen:
                hint = "give each output its own name, with an Identity"
                self.say("duplicate", f"{v.name!r} is an output twice", where, hint)
            seen.add(v)
            home = ir.graph_of(v)
            produced = v.producer() is not None or v.is_graph_input() or v.is_initializer()
            if not produced:
                if v.name and v.name in self.scope and self.scope[v.name] is not v:
                    what = f"output {v.name!r} is not defined in this body but in a graph around it"
                    self.say("body", what, where, "return it through an Identity")
                else:
                    self.say("dangling", f"output {v.name!r} is not defined by anything", where, _BROKEN)
            elif home is not graph:
                self.say("body", f"output {v.name!r} belongs to another graph", where, "return it through an Identity")

    def unseen(self, node: ir.Node, index: int, v: ir.Value, graph: ir.Graph, where: str) -> None:
        place, reads = f"{where}: {label(node)}", f"input {index} reads {v.name!r}"
        producer = v.producer()
        if producer is None and not v.is_graph_input() and not v.is_initializer():
            self.say("dangling", f"{reads}, which nothing defines", place, _BROKEN)
        elif producer is None:
            self.say("owner", f"{reads}, which belongs to a graph that is not around this one", place)
        elif ir.owner(producer) is None:
            self.say("owner", f"{reads} of {label(producer)}, which is in no graph", place)
        elif v.name and self.scope.get(v.name) is v:
            self.say("order", f"{reads} before {label(producer)} produces it", place, "sort the nodes")
        else:
            self.say("owner", f"{reads} of {label(producer)}, which is not visible here", place)

    def uses(self) -> None:
        """onnx-ir's use lists against the inputs that were seen."""
        reads = self.reads
        alive: set[ir.Node] | None = None
        for v in self.defined:
            uses = v.uses()
            if len(uses) != reads.get(v, 0):
                if alive is None:
                    alive = {n for g in ir.all_graphs(self.model) for n in g}
                gone = next((u.node for u in uses if u.node not in alive), None)
                who = f", among them {label(gone)}, which is in no graph of the model" if gone is not None else ""
                self.say("uses", f"{v.name!r} lists {len(uses)} uses but is read {reads.get(v, 0)} times{who}", "")
            elif any(len(u.node.inputs) <= u.idx or u.node.inputs[u.idx] is not v for u in uses):
                self.say("uses", f"{v.name!r} lists a use that reads something else", "")

    # nodes

    def resolver(self, opsets: dict[str, int], where: str) -> Any:
        """What a node's operator is here: a Signature, a Function, or None where nobody can know it."""
        functions, standard = self.model.functions, standard_domains()
        cache: dict[tuple[str, str, str], Any] = {}

        def resolve(node: ir.Node) -> Any:
            key = (node.domain, node.op_type, node.overload)
            if key in cache:
                return cache[key]
            domain, op_type, _ = key
            found: Any = functions.get(key)
            place = f"{where}: {label(node)}"
            version = opsets.get(domain)
            if version is None:
                if domain in standard or found is None or self.model.opset_imports.get(domain) is None:
                    hint = f"add an opset import for {domain or 'ai.onnx'!r}"
                    self.say("opset", f"domain {domain or 'ai.onnx'!r} is used but not imported", place, hint)
            elif found is None and domain in standard:
                found = signature(op_type, domain, version)
                if found is None:
                    what = f"{domain or 'ai.onnx'} has no operator {op_type!r} at opset {version}"
                    self.say("operator", what, place, "check the spelling and the opset, or give its domain")
            cache[key] = found
            return found

        return resolve

    def call(self, node: ir.Node, f: ir.Function, where: str) -> None:
        place = f"{where}: {label(node)}"
        for noun, given, most in (("inputs", node.inputs, f.inputs), ("outputs", node.outputs, f.outputs)):
            if len(given) > len(most):
                self.say("count", f"function {f.name} has {len(most)} {noun}, not {len(given)}", place)
        for name in node.attributes:
            if name not in f.attributes:
                self.say("attribute", f"function {f.name} has no attribute {name!r}", place)
        for name, a in f.attributes.items():
            if a.value is None and name not in node.attributes:
                self.say("attribute", f"function {f.name} needs the attribute {name!r}", place)

    def attributes(self, node: ir.Node, where: str, opsets: dict[str, int]) -> None:
        bodies = False
        for name, a in node.attributes.items():
            if name != a.name:
                self.say("name", f"attribute {a.name!r} is filed under {name!r}", f"{where}: {label(node)}")
            if a.is_ref():
                self.reference(node, a, where)
            elif a.type == _GRAPH:
                bodies = True
                self.graph(a.value, f"{where}/{short(node.name or node.op_type)}.{short(name)}", opsets, None)
            elif a.type == _GRAPHS:
                for body in a.value:
                    self.graph(body, f"{where}/{short(node.name or node.op_type)}.{short(name)}", opsets, None)
            elif a.value is None:
                self.say("attribute", f"attribute {name!r} has no value", f"{where}: {label(node)}")
        if bodies and node.domain == "":
            self.bodies(node, where)

    def reference(self, node: ir.Node, a: ir.Attr, where: str) -> None:
        place = f"{where}: {label(node)}"
        if self.function_attributes is None:
            what = f"attribute {a.name!r} refers to {a.ref_attr_name!r} of a function, but this is no function"
            self.say("attribute", what, place)
        elif a.ref_attr_name not in self.function_attributes:
            self.say("attribute", f"attribute {a.name!r} refers to {a.ref_attr_name!r}, which is not declared", place)

    def bodies(self, node: ir.Node, where: str) -> None:
        """Bodies take and give as many values as the node that holds them."""
        n_in, n_out = len(node.inputs), len(node.outputs)
        expected = {
            "If": (("then_branch", 0, n_out), ("else_branch", 0, n_out)),
            "Loop": (("body", n_in, n_out + 1),),
            "SequenceMap": (("body", n_in, n_out),),
            "Scan": (("body", n_in, n_out),) if (self.model.opset_imports.get("") or 9) >= 9 else (),
        }.get(node.op_type, ())
        for name, takes, gives in expected:
            body = ir.attr(node, name)
            if body is None or not isinstance(body, ir.Graph):
                continue
            for noun, has, needs in (("inputs", len(body.inputs), takes), ("outputs", len(body.outputs), gives)):
                if has != needs:
                    what = f"{name} has {has} {noun}, but the node needs {needs}"
                    self.say("body", what, f"{where}: {label(node)}")


_RENAME = "give one of them another name"
_BROKEN = "the file is damaged or was cut out of a larger model"
