"""Masks of attention by meaning: whatever web of operators builds a mask, it becomes one small web of a known form.

A boolean mask is worked out as a condition on (batch, head, query, key) (``analysis/functions.py``) and built anew from
that: entries of a mask input as ``Unsqueeze(Cast(m, BOOL))``, inequalities of positions as ``LessOrEqual`` of two Ranges,
joined by And in a fixed order, one set of nodes for all that need it. A mask that is True everywhere goes; one that only
lets each query see the keys up to its own place is the attribute ``is_causal``, and that attribute beside another mask
becomes part of it.

Sound because Attention broadcasts its mask: what counts is the function of the four coordinates, and the new web is built
from an expression that was proved to be that function. Where the expression holds something of another form
(an element at computed coordinates), the web stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .. import ir
from ..analysis import dims as d
from ..analysis import shapes
from ..analysis.conditions import FALSE, TRUE, Clause, Condition
from ..analysis.functions import LARGEST_BAND, Functions, Read, coordinate, filling, keeps_a_key
from ..analysis.poly import Monomial, make, terms_of
from ..assumptions import COVERS_KEYS, FINITE, KEEPS_A_KEY
from . import Context
from .edit import branches
from .size_queries import Inexpressible, Queries

NAME = "masks"
SINCE = 23
RANK = 4
_DONE = "olc.mask"
_NESTED = 5
"""Sums and choices, one in the other, that are looked through."""
DROPPED = -1e8
"""An added number up to which a key counts as masked out; -100 and -1e4 are biases, which a softmax can undo. Keras adds
-1e9."""
SURE = -1e30
"""One that drops a key whatever its score; between the two the scores are assumed to be small beside it."""


def run(model: ir.Model, ctx: Context) -> int:
    """Rebuild the masks of attentions in the main graph and in branches; returns how many changed."""
    if (model.opset_imports.get("") or 0) < SINCE:
        return 0
    return sum(_rebuild(model, ctx, *scope) for scope in branches(model))


def _rebuild(model: ir.Model, ctx: Context, graph: ir.Graph, around: frozenset[ir.Graph]) -> int:
    found = [n for n in graph if n.op_type == "Attention" and n.domain == "" and len(n.inputs) > 3]
    # Where the number of keys in use is an input of its own, "causal" counts from there.
    found = [n for n in found if n.inputs[3] is not None and (len(n.inputs) < 7 or n.inputs[6] is None)]
    if not found:
        return 0
    masks = _Masks(model, ctx, graph, around)
    changes = sum(masks.attention(n) for n in found)
    if changes:
        graph.sort()  # what one mask shares with another may have been made for the later one
    return changes


def scores_shape(node: ir.Node) -> tuple[d.Dim, ...] | None:
    """(batch, heads, queries, keys) of an Attention, keys in the cache included; None where they are not known."""
    q, k = (None if v is None else shapes.dims(v) for v in node.inputs[:2])
    past = node.inputs[4] if len(node.inputs) > 4 else None
    cached = (0, 0, 0, 0) if past is None else shapes.dims(past)
    heads = ir.attr(node, "q_num_heads", 0)
    if q is None or k is None or cached is None or len(cached) != 4 or len(q) != len(k) or len(q) not in (3, 4):
        return None
    if len(q) == 3 and not heads:
        return None
    return (q[0], q[1] if len(q) == 4 else heads, q[-2], d.add(cached[2], k[-2]))


def past_length(node: ir.Node) -> d.Dim:
    """Keys in the cache of an Attention whose `scores_shape` is known."""
    past = node.inputs[4] if len(node.inputs) > 4 else None
    return 0 if past is None else (shapes.dims(past) or ())[2]


def condition_of(mask: ir.Value, bounds: tuple[d.Dim, ...]) -> tuple[Functions, Condition] | None:
    """What a boolean mask of scores of that shape means, and the functions it was worked out with, which say what that takes for
    granted; None where it is not known, or is nothing at all."""
    shape = shapes.dims(mask)
    if shape is None or not 2 <= len(shape) <= RANK:
        return None
    functions = Functions(bounds)
    at = tuple(coordinate(i) for i in range(RANK))[-len(shape) :]
    for n, whole, c in zip(d.met(shape, bounds)[0], bounds[-len(shape) :], at, strict=True):
        if n not in (1, whole) and not functions.covers(c, n):
            return None
    condition = functions.condition(mask, at)
    return None if condition == FALSE else (functions, condition)


def up_to_its_place(functions: Functions, past: d.Dim) -> Condition:
    """What holds for the keys that a query sees where none sees a later one than its own."""
    return functions.clause("ge", d.sub(d.add(coordinate(2), past), coordinate(3)))


def causal(node: ir.Node) -> set[str] | None:
    """What has to be assumed for an Attention of which no query sees a later key than its own; None where one may."""
    bounds, mask = scores_shape(node), node.inputs[3] if len(node.inputs) > 3 else None
    attribute = bool(ir.attr(node, "is_causal", 0))
    if bounds is None or (mask is None and not attribute):
        return None
    if mask is None:
        return set()
    if attribute:  # with what else the mask drops, a query may be left with nothing
        return {KEEPS_A_KEY}
    found = condition_of(mask, bounds) if mask.dtype == ir.DataType.BOOL else None
    if found is None:
        return None
    functions, condition = found
    wanted = up_to_its_place(functions, past_length(node))
    if not wanted.clauses <= condition.clauses:
        return None
    return functions.assumed | (set() if condition == wanted else {KEEPS_A_KEY})


def _fits(value: ir.Value, before: tuple[d.Dim, ...] | None, covered: bool) -> bool:
    """May the value have the shape that it has now in place of the one before? Where only attentions use it, as masks, batch
    and heads may be 1; where a mask is taken to have an entry for each key (``covered``), its length is theirs."""
    now = shapes.dims(value)
    if now is None or before is None or len(now) != len(before):
        return False
    inner = now[-2] == before[-2] and (covered or now[-1] == before[-1])
    masks = not value.is_graph_output() and all(n.op_type == "Attention" and n.domain == "" and i == 3 for n, i in value.uses())
    return inner and (masks or now[:-2] == before[:-2])


def _wheres(mask: ir.Value, left: int) -> list[ir.Node]:
    """The Wheres of a web of sums and choices, those nearest to the mask first."""
    node = mask.producer()
    if node is None or node.domain != "" or node.op_type not in ("Where", "Add") or left == 0:
        return []
    inner = node.inputs[1:] if node.op_type == "Where" else node.inputs
    found = [node] if node.op_type == "Where" else []
    return [*found, *(w for v in inner if v is not None for w in _wheres(v, left - 1))]


def conditions(mask: ir.Value, left: int) -> list[tuple[ir.Value, bool]] | None:
    """Conditions that (inverted: do not) hold where a float mask is 0, all of them; where one fails it drops the key. None
    where it may be anything else."""
    if filling(mask) == 0:
        return []
    node = mask.producer()
    if node is None or node.domain != "" or node.op_type not in ("Where", "Add") or left == 0:
        return None
    parts = [v for v in node.inputs if v is not None]
    if node.op_type == "Add":
        sides = [conditions(v, left - 1) for v in parts]
        return None if any(side is None for side in sides) else [c for side in sides for c in side or []]
    for kept, other, inverted in ((parts[1], parts[2], False), (parts[2], parts[1], True)):
        drop = filling(other)
        if drop is not None and drop <= DROPPED:
            inner = conditions(kept, left - 1)
            return None if inner is None else [(parts[0], inverted), *inner]
    return None


def _drops_all(mask: ir.Value) -> bool:
    """Is the mask a choice between 0 and -inf? Then a query that sees no key gets what the operator gives, or NaN."""
    node = mask.producer()
    return node is not None and any(filling(v) == -np.inf for v in node.inputs[1:])


class _Masks:
    def __init__(self, model: ir.Model, ctx: Context, graph: ir.Graph, around: frozenset[ir.Graph]) -> None:
        self.model, self.ctx = model, ctx
        self.sizes = Queries(model, ctx, graph)
        self.visible = around | {graph}
        self.made: dict[str, ir.Value] = {}
        self.trial = False
        self.functions: Functions
        self.before: ir.Node

    def attention(self, node: ir.Node) -> int:
        mask, bounds = node.inputs[3], scores_shape(node)
        assert mask is not None
        if bounds is None:
            return 0
        boolean = mask.dtype == ir.DataType.BOOL
        found = self.read_mask(mask, bounds) if boolean else self.table(mask, bounds)
        if found is None:
            return 0 if boolean else self.plain(node, mask, bounds) or self.bias(mask, bounds)
        functions, condition = found
        known = f"{condition} {bounds} {ir.attr(node, 'is_causal', 0)}"
        if node.meta.get(_DONE) == known:
            return 0
        node.meta[_DONE] = known
        in_place = up_to_its_place(functions, past_length(node))
        if ir.attr(node, "is_causal", 0):
            condition = functions.both((condition, in_place))
        if condition in (TRUE, in_place):
            node.replace_input_with(3, None)
            if condition == in_place != TRUE:
                node.attributes["is_causal"] = ir.make_attr("is_causal", 1)
            self.ctx.record(NAME, node.name, "the mask keeps everything" if condition == TRUE else "the mask is causal")
        else:
            new = self.rebuilt(mask, condition, functions, node)
            if new is None or (new is mask and "is_causal" not in node.attributes):
                return 0
            node.attributes.pop("is_causal", None)
            node.replace_input_with(3, new)
            self.ctx.record(NAME, node.name, f"the mask is {condition}")
        self.ctx.relied.update(functions.assumed)
        return 1

    def table(self, mask: ir.Value, bounds: tuple[d.Dim, ...]) -> tuple[Functions, Condition] | None:
        """What a float mask that was folded drops, where each row keeps a band of columns and nothing else is added."""
        t = ir.tensor(mask)
        if t is None or not 2 <= len(t.shape) <= RANK or tuple(t.shape[-2:]) != bounds[-2:] or t.size > LARGEST_BAND:
            return None
        a = t.numpy()
        for part in (a[..., 0, :], a):  # large tables of biases, which are asked in each round, show it in their first rows
            kept, dropped = part == 0, part <= DROPPED
            if not (kept | dropped).all():
                return None
        functions = Functions(bounds)
        condition = functions.band(kept, tuple(coordinate(i) for i in range(RANK))[-len(a.shape) :])
        functions.assumed |= {FINITE} if (a[dropped] > SURE).any() else set()
        functions.assumed |= set() if kept.any(-1).all() else {KEEPS_A_KEY}
        return None if condition is None or self.ctx.why_not(functions.assumed) else (functions, condition)

    def plain(self, node: ir.Node, mask: ir.Value, bounds: tuple[d.Dim, ...]) -> int:
        """A float mask that is 0 where conditions hold, and lets no key through elsewhere, is these conditions."""
        parts = conditions(mask, _NESTED)
        known = [shapes.dims(c) or () for c, _ in parts or ()]
        if not parts or any(len(shape) < 2 for shape in known):
            return 0
        if bounds[3] != 1 and all(shape[-1] == 1 for shape in known):
            return 0  # one entry for all keys would be taken for a mask that is too short
        fills = [n for w in _wheres(mask, _NESTED) for v in w.inputs[1:] if (n := filling(v)) is not None]
        assumed = {FINITE} if any(SURE < n <= DROPPED for n in fills) else set()
        if len(parts) > 1 or parts[0][1] or not (_drops_all(mask) or keeps_a_key(parts[0][0], bounds)):
            assumed.add(KEEPS_A_KEY)
        if self.ctx.why_not(assumed):
            return 0
        self.before = node
        found: ir.Value | None = None
        for condition, inverted in parts:
            held = self.node("Not", [condition]) if inverted else condition
            found = held if found is None else self.node("And", [found, held])
        node.replace_input_with(3, found)
        self.ctx.relied.update(assumed)
        self.ctx.record(NAME, node.name, "the float mask is a condition")
        return 1

    def bias(self, mask: ir.Value, bounds: tuple[d.Dim, ...]) -> int:
        """The conditions of the Wheres that make a float mask, alone or with something added."""
        changes = 0
        for where in _wheres(mask, _NESTED):
            condition = where.inputs[0]
            found = None if condition is None or where.domain else self.read_mask(condition, bounds)
            if condition is None or found is None or ir.owner(where) is not self.sizes.graph:
                continue
            known = f"{found[1]} {bounds}"
            if where.meta.get(_DONE) == known:
                continue
            where.meta[_DONE] = known
            new = self.rebuilt(condition, found[1], found[0], where)
            if new is None or new is condition:
                continue
            where.replace_input_with(0, new)
            if not self.settles(where, COVERS_KEYS in found[0].assumed):
                where.replace_input_with(0, condition)  # it was the condition that made the result so large
                self.settles(where, covered=True)
                continue
            self.ctx.record(NAME, where.name, f"the mask is {found[1]}")
            self.ctx.relied.update(found[0].assumed)
            changes += 1
        return changes

    def settles(self, node: ir.Node, covered: bool) -> bool:
        """Infer a node's result anew, and what is added to it and chosen from it; False where one of them has another shape now
        and somebody else uses it."""
        value = node.outputs[0]
        before = shapes.dims(value)
        shapes.infer_node(node, self.model)
        if shapes.dims(value) == before or _fits(value, before, covered):
            return True
        settled = not value.is_graph_output()
        for user, i in value.uses():
            passes = user.domain == "" and (user.op_type == "Add" or (user.op_type == "Where" and i > 0))
            settled = (passes and self.settles(user, covered)) and settled
        return settled

    def read_mask(self, mask: ir.Value, bounds: tuple[d.Dim, ...]) -> tuple[Functions, Condition] | None:
        found = condition_of(mask, bounds)
        return None if found is None or self.ctx.why_not(found[0].assumed) else found

    def rebuilt(self, mask: ir.Value, condition: Condition, functions: Functions, before: ir.Node) -> ir.Value | None:
        """The mask built anew; None where that cannot be."""
        self.functions, self.before = functions, before
        if not self.depends_on_keys(condition) and functions.bounds["@3"] != 1:
            return None  # one entry for all keys would be taken for a mask that is too short
        try:
            self.trial = True  # what cannot be built should not be found out halfway
            self.condition(condition)
        except Inexpressible:
            return None
        finally:
            self.trial = False
        return None if self.ctx.why_not(functions.assumed) else self.condition(condition)

    def depends_on_keys(self, condition: Condition) -> bool:
        def read(p: d.Dim) -> bool:
            names = d.all_names(p)
            return "@3" in names or any("@3" in d.all_names(c) for n in names & self.functions.reads.keys()
                                        for c in self.functions.reads[n].at)  # fmt: skip

        return any(read(c.p) or any(map(self.depends_on_keys, c.options)) for c in condition.clauses)

    # --- building --------------------------------------------------------------------------------------------------

    def node(self, op: str, inputs: Sequence[ir.Value | None], **attributes: object) -> ir.Value:
        """The result of a node in front of the attention; the same node is made once."""
        if self.trial:
            return ir.Value(name=None)
        key = repr((op, [id(v) for v in inputs], sorted(attributes.items())))
        found = self.made.get(key)
        if found is None:
            new = ir.make_node(op, list(inputs), attributes)
            self.sizes.graph.insert_before(self.before, new)
            found = self.made[key] = new.outputs[0]
            found.name = self.sizes.names.value("mask")
            new.name = self.sizes.names.node(f"{op}_{found.name}")
            shapes.infer_node(new, self.model)
        return found

    def scalar(self, n: d.Dim) -> ir.Value:
        """A size or number as an int64 scalar."""
        if self.trial:
            self.sizes.vector((n,))
            return ir.Value(name=None)
        if isinstance(n, int):
            key = f"scalar {n}"
            if key not in self.made:
                value = ir.make_constant(np.array(n, np.int64), name=self.sizes.names.value("mask"))
                self.sizes.graph.register_initializer(value)
                self.made[key] = value
            return self.made[key]
        return self.sizes.build(("Squeeze", self.sizes.vector((n,))), self.before)

    def vector(self, *numbers: int) -> ir.Value:
        return ir.Value(name=None) if self.trial else self.sizes.constant(numbers)

    def condition(self, condition: Condition) -> ir.Value:
        parts = [self.clause(c) for c in sorted(condition.clauses, key=str)]
        out = parts[0]
        for other in parts[1:]:
            out = self.node("And", [out, other])
        return out

    def clause(self, clause: Clause) -> ir.Value:
        if clause.kind == "or":
            options = [self.condition(o) for o in sorted(clause.options, key=str)]
            out = options[0]
            for other in options[1:]:
                out = self.node("Or", [out, other])
            return out
        only = self.single_read(clause.p)
        if only is not None and clause.kind != "ge":
            held = self.read(only, boolean=True)
            return held if clause.kind == "ne" else self.node("Not", [held])
        positive = make({m: c for m, c in terms_of(clause.p) if c > 0})
        negative = make({m: -c for m, c in terms_of(clause.p) if c < 0})
        if clause.kind == "ge":
            return self.node("LessOrEqual", [self.sum(negative), self.sum(positive)])
        sides = [self.sum(positive), self.sum(negative)]
        if d.is_size(positive) and not d.symbols(positive) & self.functions.bounds.keys():
            sides.reverse()  # what is one number stands second, as everywhere
        same = self.node("Equal", sides)
        return same if clause.kind == "eq" else self.node("Not", [same])

    def single_read(self, p: d.Dim) -> Read | None:
        if isinstance(p, int) or len(p.terms) != 1 or p.terms[0][1] != 1 or len(p.terms[0][0]) != 1:
            return None
        return self.functions.reads.get(p.terms[0][0][0].name)

    def sum(self, p: d.Dim) -> ir.Value:
        """A sum of terms with positive coefficients, as int64 of rank 4 (a scalar where it holds no coordinate)."""
        axes: dict[int, dict[Monomial, int]] = {}
        plain: dict[Monomial, int] = {}
        parts: list[ir.Value] = []
        for m, c in terms_of(p):
            reads = [a for a in m if a.name in self.functions.reads]
            inside = [i for i in range(RANK) for a in m if a.name == f"@{i}"]
            if reads:
                if len(m) > 1 or c != 1:
                    raise Inexpressible
                parts.append(self.read(self.functions.reads[reads[0].name], boolean=False))
            elif any(x.name.startswith("@") for a in m for x in a.leaves if x is not a) or len(inside) > 1:
                raise Inexpressible
            elif inside:
                rest = tuple(a for a in m if not a.name.startswith("@"))
                axes.setdefault(inside[0], {})[rest] = c
            else:
                plain[m] = c
        constant = make(plain)
        for i, slope in sorted(axes.items()):
            line = self.node("Range", [self.scalar(0), self.scalar(self.functions.bounds[f"@{i}"]), self.scalar(1)])
            if make(slope) != 1:
                line = self.node("Mul", [line, self.scalar(make(slope))])
            if constant != 0:
                line, constant = self.node("Add", [line, self.scalar(constant)]), 0
            parts.append(self.node("Unsqueeze", [line, self.vector(*(j for j in range(RANK) if j != i))]))
        if constant != 0 or not parts:
            parts.append(self.scalar(constant))
        out = parts[0]
        for other in parts[1:]:
            out = self.node("Add", [out, other])
        return out

    def read(self, read: Read, boolean: bool) -> ir.Value:
        """A tensor read at plain coordinates, each once: its axes are moved to where they belong."""
        shape = shapes.dims(read.value)
        if shape is None or ir.graph_of(read.value) not in self.visible:
            raise Inexpressible
        places: list[int] = []
        for n, c in zip(shape, read.at, strict=True):
            name = str(c)
            if n == 1 and c == 0:
                continue
            if not name.startswith("@") or not name[1:].isdigit() or int(name[1:]) in places:
                raise Inexpressible
            if n != self.functions.bounds[name] and not self.functions.covers(c, n):
                raise Inexpressible  # a longer table, read in part
            places.append(int(name[1:]))
        out = read.value
        first = RANK - len(shape)
        trailing = all(n == 1 or str(c) == f"@{first + i}" for i, (n, c) in enumerate(zip(shape, read.at, strict=True)))
        if trailing and len(shape) >= 2:
            return self.cast(out, boolean)  # it is broadcast as it stands
        ones = [i for i, c in enumerate(read.at) if c == 0]
        if ones:
            out = self.node("Squeeze", [out, self.vector(*ones)])
        out = self.cast(out, boolean)
        order = sorted(range(len(places)), key=places.__getitem__)
        if order != list(range(len(places))):
            out = self.node("Transpose", [out], perm=order)
        new = [i for i in range(RANK) if i not in places]
        return self.node("Unsqueeze", [out, self.vector(*new)]) if new else out

    def cast(self, value: ir.Value, boolean: bool) -> ir.Value:
        wanted = ir.DataType.BOOL if boolean else ir.DataType.INT64
        return value if value.dtype == wanted else self.node("Cast", [value], to=int(wanted))
