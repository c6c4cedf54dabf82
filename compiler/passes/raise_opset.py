"""Raises the model to a newer opset of the standard domain, keeping names and metadata of every node.

Sound because each node is taken through every version of its operator between the two opsets, one step at a time:

* a step that only adds types, optional inputs or outputs, or attributes whose default is the old behaviour, leaves
  the node as it is (compared by the schemas themselves; what their texts changed was read up to ``REVIEWED``);
* a step listed in ``opset_adapters`` rewrites the node;
* any other step refuses. Of operators newer than ``REVIEWED`` a changed text is enough to refuse.

All or nothing: where one node cannot follow, the whole model stays at its opset and the log says which node and why.
Adapters work on drafts, so a refused model is untouched.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

from .. import ir
from . import Context
from .edit import Names
from .opset_adapters import ADAPTERS, Draft, Facts, Refused, apply

NAME = "raise-opset"
OLDEST = 7
REVIEWED = 28
"""The opset up to which the texts of all changed operators of the standard domain were read."""


def run(model: ir.Model, ctx: Context, to: int) -> int:
    """Raise the model, its bodies and its functions to opset ``to``; returns 0 where it stays as it was.

    Otherwise the number of nodes rewritten, plus one for the opset itself.
    """
    now = model.opset_imports.get("")
    if now is None or now >= to:
        return 0
    facts = Facts(model)
    drafts: list[tuple[Draft, bool]] = []
    functions = [f for f in model.functions.values() if f.opset_imports.get("", now) == now]
    try:
        drafts += [(d, False) for d in _drafts(model.graph, model, now, to, facts)]
        for function in functions:
            drafts += [(d, True) for d in _drafts(function.graph, model, now, to, facts)]
    except Refused as refusal:
        ctx.record(NAME, refusal.site, f"the model stays at opset {now}: {refusal}")
        return 0
    _commit(drafts, model, ctx)
    model.opset_imports[""] = to
    for function in functions:
        if "" in function.opset_imports:
            function.opset_imports[""] = to
    for function in model.functions.values():
        if OLDEST <= function.opset_imports.get("", to) < to:
            raise_function(model, function, to, ctx)
    model.ir_version = max(model.ir_version, _least_ir_version(to))
    ctx.record(NAME, model.graph.name, f"opset {now} to {to}, {len(drafts)} nodes rewritten")
    return len(drafts) + 1


def raise_function(model: ir.Model, function: ir.Function, to: int, ctx: Context) -> bool:
    """Raise one function's body to opset ``to``; False (and the reason in the log) where it stays as it was."""
    now = function.opset_imports.get("")
    if now is None or now >= to:
        return now == to
    try:
        drafts = [(d, True) for d in _drafts(function.graph, model, now, to, Facts(model))]
    except Refused as refusal:
        ctx.record(NAME, refusal.site, f"function {function.name} stays at opset {now}: {refusal}")
        return False
    _commit(drafts, model, ctx)
    function.opset_imports[""] = to
    return True


def _commit(drafts: list[tuple[Draft, bool]], model: ir.Model, ctx: Context) -> None:
    if not drafts:
        return
    names = Names(model)
    for draft, in_function in drafts:
        was = draft.node.op_type
        apply(draft, names, in_function)
        ctx.record(NAME, draft.node.name, f"{was} written as {draft.op_type} of the new opset")


def _least_ir_version(opset: int) -> int:
    import onnx.helper

    version: int = onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", opset)], ignore_unknown=True)
    return version


def _drafts(root: ir.Graph, model: ir.Model, now: int, to: int, facts: Facts) -> Iterator[Draft]:
    """What must change in a graph and its bodies; nodes that stay as they are give no draft."""
    stack = [root]
    while stack:
        graph = stack.pop()
        for node in graph:
            stack.extend(ir.subgraphs(node))
            if node.domain != "" or node.op_identifier() in model.functions:
                continue
            try:
                draft = _draft(node, now, to, facts)
            except Refused as refusal:
                refusal.site = node.name or node.outputs[0].name or node.op_type
                raise
            if draft is not None:
                yield draft


def _draft(node: ir.Node, now: int, to: int, facts: Facts) -> Draft | None:
    if now < OLDEST:
        raise Refused(f"opset {now} is older than {OLDEST}, the oldest that olc converts from")
    if ir.schema_of(node.op_type, "", now) is None:
        raise Refused(f"{node.op_type} is no operator of opset {now}")
    if not _steps(node.op_type, now, to):
        return None
    draft = Draft(node, facts, to)
    version = now
    while steps := _steps(draft.op_type, version, to):
        step = steps[0]
        adapter = ADAPTERS.get((draft.op_type, step))
        if adapter is not None:
            adapter(draft)
        else:
            _check(draft, version, step)
        version = step
    if not draft.changed:
        return None
    _conforms(draft, to)
    return draft


@cache
def _versions() -> dict[str, tuple[int, ...]]:
    """Versions of each operator of the standard domain, oldest first."""
    import onnx.defs

    found: dict[str, set[int]] = defaultdict(set)
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "":
            found[schema.name].add(schema.since_version)
    return {name: tuple(sorted(versions)) for name, versions in found.items()}


@cache
def _steps(op_type: str, after: int, to: int) -> tuple[int, ...]:
    """The versions of the operator after one opset and up to another that ask for more than another opset number."""
    found = []
    for step in _versions().get(op_type, ()):
        if after < step <= to and ((op_type, step) in ADAPTERS or not _only_widens(op_type, step)):
            found.append(step)
    return tuple(found)


def _only_widens(op_type: str, step: int) -> bool:
    old, new = ir.schema_of(op_type, "", step - 1), ir.schema_of(op_type, "", step)
    if old is None or new is None or new.deprecated:
        return False
    if step > REVIEWED and _text(old) != _text(new):
        return False
    return _form(old) == _form(new) and not any(_lost_types(old, new))


def _form(schema: Any) -> tuple[Any, ...]:
    def formals(side: Iterable[Any]) -> list[tuple[Any, ...]]:
        return [(f.option, f.is_homogeneous, f.min_arity) for f in side]

    attributes = {n: (a.type, a.required, a.default_value.SerializeToString()) for n, a in schema.attributes.items()}
    return formals(schema.inputs), formals(schema.outputs), attributes


def _text(schema: Any) -> list[str]:
    parts = [schema.doc or ""]
    parts += [f.description for f in (*schema.inputs, *schema.outputs)]
    parts += [a.description for _, a in sorted(schema.attributes.items())]
    return " ".join(parts).split()


def _lost_types(old: Any, new: Any) -> list[frozenset[str]]:
    """For each input of the old schema, the types that the new one does not take any more."""

    def types(schema: Any) -> list[frozenset[str]]:
        allowed = {c.type_param_str: frozenset(c.allowed_type_strs) for c in schema.type_constraints}
        return [allowed.get(f.type_str, frozenset([f.type_str])) for f in schema.inputs]

    return [a - b for a, b in zip(types(old), types(new), strict=False)]


def _check(draft: Draft, before: int, step: int) -> None:
    """Refuse the step unless this node, written as it is, means the same by the new schema."""
    old, new = ir.schema_of(draft.op_type, "", before), ir.schema_of(draft.op_type, "", step)
    label = f"{draft.op_type} at opset {step}"
    if old is None or new is None or new.deprecated:
        raise Refused(f"{label} is withdrawn")
    if step > REVIEWED:
        raise Refused(f"{label} has a new definition that this version of olc does not know")
    for kind, given, were, are in (
        ("input", draft.inputs, old.inputs, new.inputs),
        ("output", draft.node.outputs, old.outputs, new.outputs),
    ):
        problem = _formals(len(given), were, are)
        if problem:
            raise Refused(f"{label}: {kind} {problem}")
    _check_attributes(draft, old, new, label)
    for index, lost in enumerate(_lost_types(old, new)):
        if lost and index < len(draft.inputs):
            dtype = draft.facts.dtype(draft.inputs[index])
            if dtype is None or f"tensor({dtype.name.lower()})" in lost:
                raise Refused(f"{label} does not take {'an unknown type' if dtype is None else dtype.name.lower()}")


def _formals(given: int, were: Any, are: Any) -> str | None:
    """Why a list of ``given`` values does not mean by the new formal parameters what it meant by the old ones."""
    for index, formal in enumerate(were):
        if index >= len(are):
            return f"{formal.name} is gone" if index < given else None
        if formal.option.name != are[index].option.name and not (formal.option.name == "Single" and index < given):
            # A required one may become optional; anything else shifts or adds meaning.
            return f"{formal.name} changed from {formal.option.name.lower()} to {are[index].option.name.lower()}"
    for formal in are[len(were) :]:
        if formal.option.name == "Single":
            return f"{formal.name} is new and required"
    return None


def _check_attributes(draft: Draft, old: Any, new: Any, label: str) -> None:
    for name, attr in draft.attributes.items():
        declared = new.attributes.get(name)
        if declared is None:
            raise Refused(f"{label} has no attribute {name}")
        if int(declared.type) != int(attr.type):
            raise Refused(f"{label}: attribute {name} has another type")
    for name, declared in old.attributes.items():
        if name not in draft.attributes:
            now = new.attributes.get(name)
            if now is None or now.default_value != declared.default_value:
                raise Refused(f"{label}: attribute {name} has another default")
    for name, declared in new.attributes.items():
        if declared.required and name not in draft.attributes:
            raise Refused(f"{label} needs an attribute {name}")


def _conforms(draft: Draft, to: int) -> None:
    """The result of the adapters must be legal; a bug in one must not reach the model."""
    schema = ir.schema_of(draft.op_type, "", to)
    if schema is None or schema.deprecated:
        raise Refused(f"{draft.op_type} is no operator of opset {to}")
    if not schema.min_input <= len(draft.inputs) <= schema.max_input:
        raise Refused(f"{draft.op_type} at opset {to} takes no {len(draft.inputs)} inputs")
    unknown = [name for name in draft.attributes if name not in schema.attributes]
    if unknown:
        raise Refused(f"{draft.op_type} at opset {to} has no attribute {unknown[0]}")
