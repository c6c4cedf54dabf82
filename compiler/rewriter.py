"""Applies rules to a fixpoint. The only code that changes a graph on behalf of rules. See docs/design.md, section 5."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from . import ir
from .analysis import dims as dim
from .analysis import shapes
from .analysis.shape_rules.core import OWN
from .builder import Builder, Refusal
from .errors import RuleError
from .ir import Graph, Model, Node, Value
from .matching import Match, Miss, match
from .passes import Context
from .passes.edit import Names
from .patterns import Out, Product
from .quantization.facts import inherit
from .rules import APART, Rule

MAX_ORIGINS = 32
"""Names that a node remembers of those it was made from, so that what long chains of rewrites write down stays short."""
SCOPE_KEYS = ("namespace", "pkg.torch.onnx.name_scopes", "pkg.torch.onnx.class_hierarchy")


@dataclass
class Outcome:
    """What a run of the rewriter did.

    Attributes:
        applied: how often each rule fired.
        quarantined: rules that were taken out, because they did not terminate or raised, with the reason.
        refused: (rule, reason) to how often the pattern matched but the rule or the commit check declined.
    """

    applied: Counter[str] = field(default_factory=Counter)
    refused: Counter[tuple[str, str]] = field(default_factory=Counter)
    quarantined: dict[str, str] = field(default_factory=dict)

    @property
    def changes(self) -> int:
        return sum(self.applied.values())


class Rewriter:
    """Rewrites one model with a list of rules. Larger patterns are tried first, then by name.

    Args:
        strict: raise ``RuleError`` where the commit check declines a proposal (the rule is unsound); otherwise the
            proposal is dropped and counted as refused, so that a user's compile goes on without it.
        stop_after: apply no rewrite numbered above this.
        sites: where given, each rule acts only at roots whose node is named under the rule's name.
    """

    def __init__(
        self,
        model: Model,
        rules: Iterable[Rule],
        ctx: Context | None = None,
        *,
        strict: bool = False,
        stop_after: int | None = None,
        sites: dict[str, frozenset[str]] | None = None,
    ) -> None:
        self.sites = sites
        self.model = model
        self.ctx = ctx if ctx is not None else Context()
        self.strict = strict
        self.stop_after = stop_after
        self.opsets = dict(model.opset_imports)
        self.outcome = Outcome()
        self.by_root: dict[tuple[str, str], list[Rule]] = {}
        rules = list(rules)
        self.apart = {"", *(r.name for r in rules if r.group == APART)}
        for r in sorted(rules, key=lambda r: (-r.pattern.size, r.name)):
            if r.name in self.ctx.skip:
                continue
            for op in r.pattern.root_ops:
                self.by_root.setdefault(op, []).append(r)
        self.queue: deque[Node] = deque()
        self.queued: set[Node] = set()
        self.recent: deque[str] = deque(maxlen=64)
        self.number = max((e.number or 0 for e in self.ctx.events), default=0)
        self.budget = 1000
        self.names: Names
        self.function_graphs: set[Graph] = set()
        self.parents: dict[Graph, Graph] = {}
        self.needs_sort: dict[Graph, None] = {}
        self.order: dict[Node, int] = {}
        self.order_of: Graph | None = None

    def run(self) -> Outcome:
        """Rewrite every graph of the model, bodies and functions included, until no rule applies.

        Raises:
            RuleError: the rules do not terminate, or (strict) a rule proposed an illegal result.
        """
        graphs = list(ir.all_graphs(self.model))
        self.budget += 8 * sum(len(g) for g in graphs)
        self.names = Names(self.model)
        main = set(ir.all_graphs(self.model, functions=False))
        self.function_graphs = {g for g in graphs if g not in main}
        self.parents = {body: g for g in graphs for n in g for body in ir.subgraphs(n)}
        if not self.by_root:
            return self.outcome
        while True:
            before = self.outcome.changes
            for g in list(ir.all_graphs(self.model)):
                for n in g:
                    self._push(n)
            self._drain()
            self._sort()
            if self.outcome.changes == before or self._stopped():
                return self.outcome

    def _stopped(self) -> bool:
        return self.stop_after is not None and self.number >= self.stop_after

    def _push(self, node: Node) -> None:
        if (node.domain, node.op_type) in self.by_root and node not in self.queued:
            self.queued.add(node)
            self.queue.append(node)

    def _drain(self) -> None:
        while self.queue:
            node = self.queue.popleft()
            self.queued.discard(node)
            if node.graph is None:
                continue
            for r in self.by_root[(node.domain, node.op_type)]:
                if self._stopped():
                    return
                if r.pattern.may_match(node) and self._tried(r, node):
                    break

    def _tried(self, r: Rule, node: Node) -> bool:
        """Whether the rule acted. One whose code raises is taken out, by name: a model compiles without it."""
        try:
            return self._try(r, node)
        except (RuleError, MemoryError):
            raise
        except Exception as e:  # an OlcError out of a rule's own code is one like any other
            if self.strict:
                raise
            self._take_out([r.name], f"it raised {type(e).__name__} at {ir.site(node)!r}: {e}")
            return False

    def _try(self, r: Rule, node: Node) -> bool:
        # What another rule emitted, now or when the model was made, stays as it is: it was put together because that pays.
        if r.group == APART and node.metadata_props.get("olc.rule", "#").split("#")[0] not in self.apart:
            return False
        for index in _root_indices(r, len(node.outputs)):
            m = match(r.pattern, node.outputs[index], self.opsets, explain=False, unless=r.unless)
            if isinstance(m, Miss):
                self.outcome.refused[(r.name, m.reason)] += 1
            if not isinstance(m, Match) or f"{r.name}@{ir.site(node)}" in self.ctx.skip:
                continue
            if self.sites is not None and ir.site(node) not in self.sites.get(r.name, ()):
                continue
            barred = self.ctx.why_not(m.assumes)
            if barred is not None:
                self.outcome.refused[(r.name, barred)] += 1
                continue
            if self._apply(r, m):
                return True
        return False

    def _apply(self, r: Rule, m: Match) -> bool:
        op = Builder(self.opsets, infer=lambda n: shapes.infer_node(n, self.model))
        before = _fingerprint(m) if self.strict else None
        try:
            result = r.rewrite(op, m)
            if before is not None and _fingerprint(m) != before:
                raise Refusal("the rewrite changes the graph that it matched; it may only build new nodes")
            results = self._check(r, m, op, result)
        except Refusal as e:
            op.discard()
            if self.strict and e.fault:
                raise RuleError(f"{e}", where=f"rule {r.name!r} at {m.root.op_type} {m.root.name!r}") from None
            self.outcome.refused[(r.name, str(e))] += 1
            return False
        except BaseException:
            op.discard()
            raise
        self._commit(r, m, op, results)
        return True

    # --- check ---------------------------------------------------------------------------------------------------

    def _check(self, r: Rule, m: Match, op: Builder, result: Any) -> list[Value]:
        results = list(result) if isinstance(result, tuple) else [result]
        if len(results) != len(m.roots):
            raise Refusal(f"the rewrite gives {len(results)} results for {len(m.roots)} roots")
        if any(n.op_type == "Identity" and OWN in n.outputs[0].meta for n in m.nodes):
            raise Refusal("the Identity gives sizes names of their own", fault=False)
        made = {o for n in op.nodes for o in n.outputs}
        for i, v in enumerate(results):
            if isinstance(v, np.ndarray):
                results[i] = op.constant(v)
            elif not isinstance(v, Value):
                raise Refusal(f"the rewrite gives {v!r}, not a value")
        for n in op.nodes:
            self._check_node(n)
            for v in n.inputs:
                if len(m.roots) > 1 and v in m.roots:
                    raise Refusal("a result would depend on itself", fault=False)
                if v is not None and v not in made and v not in op.constants and not self._visible(v, m):
                    raise Refusal(f"{n.op_type} reads {v.name!r}, which is not visible there")
            shapes.infer_node(n, self.model)
        for old, new in zip(m.roots, results, strict=True):
            fresh = new in made or new in op.constants
            if not fresh and not self._visible(new, m):
                raise Refusal(f"the result {new.name!r} is not visible there")
            if old.dtype is not None and new.dtype is not None and old.dtype != new.dtype:
                raise Refusal(f"the result would be {new.dtype.name.lower()}, not {old.dtype.name.lower()}")
            self._check_shape(old, new, fresh or r.keeps_shape)
            if m.root.op_type == "Identity" and old.is_graph_output() and not _can_carry(new, old, made):
                raise Refusal("the Identity carries a graph output", fault=False)
        if len(m.roots) > 1:
            self._check_acyclic(m, op)
        return results

    def _check_shape(self, old: Value, new: Value, given: bool) -> None:
        """The result must have the shape it replaces. ``given``: it has, where inference cannot say (a new node, or
        the rule keeps shapes); a value that was there before must be proved to have the same shape."""
        a, b = shapes.dims(old), shapes.dims(new)
        if a is None or b is None:
            if not given:
                raise Refusal("the shape is unknown, so it is not proved that it stays the same", fault=False)
            if a is not None:
                new.meta["olc.dims"] = a
            return
        if len(a) != len(b):
            raise Refusal(f"the result would have shape [{_join(b)}], not [{_join(a)}]")
        best = []
        for x, y in zip(a, b, strict=True):
            if x != y and not (given and (_unknown(x) or _unknown(y)) and not dim.known_different(x, y)):
                raise Refusal(
                    f"the result has shape [{_join(b)}], which is not proved to be [{_join(a)}]",
                    fault=dim.known_different(x, y),
                )
            best.append(x if _unknown(y) else y)
        new.meta["olc.dims"] = tuple(best)

    def _check_node(self, n: Node) -> None:
        version = self.opsets.get(n.domain)
        target = self.ctx.target
        if version is None:
            version = 1 if n.domain else None
        schema = None if version is None else ir.schema_of(n.op_type, n.domain, version)
        if schema is None:
            if target is not None and target.supports(n.op_type, n.domain, version or 1):
                return
            if (n.domain, n.op_type, n.overload) in self.model.functions:
                return
            where = f"opset {version} of {n.domain or 'ai.onnx'}"
            raise Refusal(f"{n.op_type} is not an operator of {where}")
        if not schema.min_input <= len(n.inputs) <= schema.max_input:
            raise Refusal(f"{n.op_type} takes {schema.min_input} to {schema.max_input} inputs, not {len(n.inputs)}")
        for name in n.attributes:
            if name not in schema.attributes:
                raise Refusal(f"{n.op_type} has no attribute {name!r} at opset {version}")
        for name, a in schema.attributes.items():
            if a.required and name not in n.attributes:
                raise Refusal(f"{n.op_type} needs the attribute {name!r}")

    def _visible(self, v: Value, m: Match) -> bool:
        """Is the value one that the match reads, or a constant or input of this graph or an outer one?"""
        if any(v in n.inputs for n in m.nodes) or any(v in n.outputs for n in m.nodes):
            return v not in m.roots
        if v.producer() is not None:
            return False
        home, graph = ir.graph_of(v), ir.owner(m.root)
        while graph is not None and graph is not home:
            graph = self.parents.get(graph)
        return graph is not None

    def _check_acyclic(self, m: Match, op: Builder) -> None:
        """With several roots, no input of the new nodes may depend on a root: merging would make a cycle.

        Searches upwards through the nodes between the first root and the last. Their order is kept up by sorting
        again after each commit with several roots; such commits are few.
        """
        home = ir.owner(m.root)
        assert home is not None
        if self.order_of is not home or home in self.needs_sort:
            self._sort()
            self.order = {n: i for i, n in enumerate(home)}
            self.order_of = home
        made, roots = set(op.nodes), {v.producer() for v in m.roots}
        first = min(self.order.get(n, 0) for n in roots if n is not None)
        stack = [p for n in op.nodes for v in n.inputs if v is not None and (p := v.producer()) and p not in made]
        seen: set[Node] = set()
        while stack:
            n = stack.pop()
            if n in seen or self.order.get(n, first) < first:
                continue
            if n in roots:
                raise Refusal("a result would depend on itself", fault=False)
            seen.add(n)
            stack.extend(p for v in n.inputs if v is not None and (p := v.producer()) is not None)

    # --- commit --------------------------------------------------------------------------------------------------

    def _commit(self, r: Rule, m: Match, op: Builder, results: list[Value]) -> None:
        self.number += 1
        self.ctx.relied.update(m.assumes)
        graph = ir.owner(m.root)
        assert graph is not None
        stamp = f"{r.name}#{self.number}"
        site, module = ir.site(m.root), ir.module_of(m.root)
        sources = ",".join([*dict.fromkeys(name for n in m.nodes for name in origins(n))][:MAX_ORIGINS])
        nodes = list(op.nodes)
        for c in op.constants:
            if not ir.uses(c) and c not in results:
                continue
            c.name = self.names.value(f"{m.roots[0].name}_{r.name.replace('-', '_')}")
            if graph in self.function_graphs:
                self._as_constant_node(c, nodes, results)
            else:
                graph.register_initializer(c)
        pairs: list[tuple[Value, Value]] = []
        taken: set[Value] = set()
        made = {o for n in nodes for o in n.outputs}
        for old, new in zip(m.roots, results, strict=True):
            if old.is_graph_output() and (new in taken or not _can_carry(new, old, made)):
                carrier = ir.make_node("Identity", [new])
                nodes.append(carrier)
                carrier.outputs[0].type = new.type
                shapes.infer_node(carrier, self.model)
                new = carrier.outputs[0]
            taken.add(new)
            pairs.append((old, new))
        for n in nodes:
            n.metadata_props["olc.rule"] = stamp
            if sources:
                n.metadata_props["olc.from"] = sources
            for key in SCOPE_KEYS:
                if key in m.root.metadata_props:
                    n.metadata_props[key] = m.root.metadata_props[key]
            if n.domain and n.domain not in self.opsets:
                self.opsets[n.domain] = self.model.opset_imports[n.domain] = 1
        last = m.root
        if len(m.roots) > 1:
            self.needs_sort[graph] = None
        graph.insert_before(last, nodes)
        for n in nodes:
            n.name = self.names.node(f"{n.op_type}_{self.number}")
            for o in n.outputs:
                o.name = self.names.value(f"{m.roots[0].name}_{n.op_type.lower()}")
        if len(pairs) == 1 and pairs[0][1].producer() in nodes and m.root.name:
            pairs[0][1].producer().name = m.root.name  # type: ignore[union-attr]
        wake: list[Value] = []
        for old, new in pairs:
            users = [u for u, _ in old.uses()]
            ir.replace_value(old, new)
            inherit(old, new)
            for u in users:
                self._push(u)
            wake.append(new)
        removed = self._remove(m.nodes, wake)
        for n in nodes:
            self._push(n)
        for v in wake:
            self._wake(v)
        self.outcome.applied[r.name] += 1
        self.recent.append(r.name)
        self.ctx.record(r.name, site, f"{' '.join(n.op_type for n in m.nodes)} -> "
                        f"{' '.join(n.op_type for n in nodes) or 'input'}", self.number, module)  # fmt: skip
        if len(nodes) >= removed:
            self.budget -= 1
            if self.budget < 0:
                self._stuck()

    def _as_constant_node(self, c: Value, nodes: list[Node], results: list[Value]) -> None:
        """A function has no initializers: the constant becomes a Constant node."""
        holder = ir.make_node("Constant", [], {"value": ir.Attr("value", ir.AttributeType.TENSOR, c.const_value)})
        out = holder.outputs[0]
        out.type = c.type
        for user, i in c.uses():
            user.replace_input_with(i, out)
        for i, v in enumerate(results):
            if v is c:
                results[i] = out
        nodes.insert(0, holder)

    def _remove(self, nodes: list[Node], wake: list[Value]) -> int:
        """Remove matched nodes that nobody uses any more; root first, so that its inputs become free."""
        removed = 0
        pending = deque(nodes)
        rounds = len(nodes) + 1
        while pending and rounds:
            rounds -= 1
            kept: deque[Node] = deque()
            before = len(pending)
            for n in pending:
                if any(ir.uses(o) or o.is_graph_output() for o in n.outputs):
                    kept.append(n)
                    continue
                inputs = [v for v in n.inputs if v is not None]
                graph = ir.owner(n)
                assert graph is not None
                graph.remove(n, safe=True)
                # A constant or input is no interior value, and may have uses by the thousand: nothing waits for it.
                wake.extend(v for v in inputs if v.producer() is not None)
                removed += 1
            pending = kept
            if len(pending) == before:
                break
        return removed

    def _wake(self, v: Value, levels: int = 4, fan_out: int = 4) -> None:
        """Queue the nodes near a value that changed or lost a use: a pattern there may fit now. Bounded; the final
        sweep finds what this misses."""
        layer = [v]
        for _ in range(levels):
            following: list[Value] = []
            for x in layer:
                uses = ir.uses(x)
                if len(uses) > fan_out:
                    continue
                for u, _ in uses:
                    self._push(u)
                    following.extend(u.outputs)
            layer = following[:16]
        producer = v.producer()
        if producer is not None and producer.graph is not None:
            self._push(producer)

    def _stuck(self) -> None:
        """The budget is spent: name the rules at fault; go on without them unless strict."""
        names = [n for n, _ in Counter(self.recent).most_common(6)]
        if len(names) == 1:
            what = f"rule {names[0]!r} feeds itself: its result contains what it rewrites"
        else:
            what = f"rules {', '.join(map(repr, names))} undo each other"
        if self.strict:
            raise RuleError(what, where="rewriter", hint="make one direction the canonical form and refuse the other")
        self._take_out(names, what)
        self.recent.clear()
        self.budget = 1000

    def _take_out(self, names: Iterable[str], why: str) -> None:
        for n in names:
            self.outcome.quarantined[n] = why
            self.ctx.record(n, None, f"taken out: {why}")
        for op in list(self.by_root):
            self.by_root[op] = [r for r in self.by_root[op] if r.name not in self.outcome.quarantined]

    def _sort(self) -> None:
        for g in self.needs_sort:
            if not _sorted(g, set()):
                g.sort()
        self.needs_sort.clear()


def _sorted(graph: Graph, later: set[Node]) -> bool:
    """Is every node, those of bodies too, behind what it reads? Then sorting, which is stable, changes nothing.

    ``later``: nodes of outer graphs that are not in front of this one.
    """
    later.update(graph)
    for n in graph:
        if any(v is not None and v.producer() in later for v in n.inputs):
            return False
        if not all(_sorted(body, later) for body in ir.subgraphs(n)):
            return False
        later.discard(n)
    return True


def _can_carry(new: Value, old: Value, made: set[Value]) -> bool:
    """May ``new`` take over the name of the graph output ``old``?"""
    if new in made:
        return True
    if new.is_graph_input() or new.is_initializer() or new.is_graph_output() or new.producer() is None:
        return False
    return ir.graph_of(new) is ir.graph_of(old)


def origins(node: Node) -> list[str]:
    """Names of the nodes of the model as it was read that a node was made from: its own where no rewrite made it."""
    names = node.metadata_props.get("olc.from")
    return names.split(",") if names else [ir.site(node)]


def _unknown(d: Any) -> bool:
    return any(s.startswith("?") for s in dim.symbols(d))


def _fingerprint(m: Match) -> list[Any]:
    """What a rewrite must not touch: names, wiring and attributes of the match and of what it reads."""
    return [
        (n.name, n.op_type, tuple(n.inputs), tuple(n.attributes.items()), [(v.name, v.const_value) for v in n.inputs if v])
        for n in m.nodes
    ]


def _join(ds: Iterable[Any]) -> str:
    return ", ".join(str(d) for d in ds)


def _root_indices(r: Rule, outputs: int) -> list[int]:
    root = r.pattern.roots[0]
    if isinstance(root, Out):
        return [root.index] if root.index < outputs else []
    if isinstance(root, Product):
        return [0]
    return [o.index for o in root.options if isinstance(o, Out) and o.index < outputs][:1] or [0]


def rewrite(model: Model, rules: Iterable[Rule], ctx: Context | None = None, **options: Any) -> Outcome:
    """Apply the rules to a fixpoint: ``Rewriter(model, rules, ctx, **options).run()``."""
    return Rewriter(model, rules, ctx, **options).run()


def why(model: Model, r: Rule, at: str | None = None) -> list[tuple[Node, Match | Miss]]:
    """For every node that could be the rule's root (or the one called ``at``): the match, or the miss that says why not.
    Changes nothing. Best first: matches, refusals, then misses by depth."""
    found: list[tuple[Node, Match | Miss]] = []
    opsets = dict(model.opset_imports)
    for g in ir.all_graphs(model):
        for n in g:
            named = at is None or n.name == at or any(o.name == at for o in n.outputs)
            if not named:
                continue
            if (n.domain, n.op_type) not in r.pattern.root_ops:
                if at is not None:
                    wanted = " or ".join(sorted(o for _, o in r.pattern.root_ops))
                    reason = f"it is {n.op_type}, not {wanted}"
                    found.append((n, Miss(str(r.pattern), n.name or "?", reason, 0, r.pattern.size)))
                continue
            for i in _root_indices(r, len(n.outputs)):
                m = match(r.pattern, n.outputs[i], opsets, unless=r.unless)
                assert m is not None
                found.append((n, m))

    def order(item: tuple[Node, Match | Miss]) -> tuple[int, int]:
        m = item[1]
        return (0, 0) if isinstance(m, Match) else (1, 0) if m.refused else (2, -m.depth)

    return sorted(found, key=order)
