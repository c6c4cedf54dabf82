"""What a reader sees of a rule: its page, made from its cases, and the file that a new rule starts as."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from . import ir
from .analysis import shapes
from .errors import BadInput
from .ir import Model, Node, Value
from .passes import Context
from .rewriter import Rewriter
from .rules import Case, Refused, Rule

PROMISES = {
    "EXACT": "bit for bit the same results, -0.0, infinities and NaN included",
    "CLOSE": "the same function of real numbers, rounded otherwise",
    "LOSSY": "another function, close enough by measurement",
}


def page(r: Rule) -> str:
    """The rule's page, in Markdown."""
    summary, _, why = r.doc.partition("\n\n")
    parts = [f"# {r.name}", _joined(summary)]
    picture = _picture(r)
    if picture is not None:
        case, before, after = picture
        parts += [f"Before and after, on the case “{case.title}”:", _code(before), _code(after)]
    sound = [why.strip()] if why.strip() else []
    if r.safety.why:
        sound.append(f"{r.safety.level.capitalize()}: {r.safety.why}.")
    if sound:
        parts += ["## Why it is sound", "\n\n".join(sound)]
    facts = [
        f"safety: {r.safety.level}, {PROMISES[r.safety.level]}",
        f"opset: {r.since} and later" if r.until is None else f"opset: {r.since} to {r.until}",
        f"targets: {', '.join(r.targets) or 'all'}",
        f"group: {r.group}",
        f"pattern: `{r.pattern}`",
    ]
    parts += ["## Facts", "\n".join(f"- {f}" for f in facts)]
    fires = [f"- {c.title}: {_given(r, c)}" for c in r.cases if c.fires]
    parts += ["## Fires on", "\n".join(fires)] if fires else []
    refused = [f"- {c.title}: {_given(r, c)}\n  because “{c.because}”" for c in r.cases if isinstance(c, Refused)]
    parts += ["## Leaves alone", "\n".join(refused)] if refused else []
    return "\n\n".join(parts) + "\n"


def _joined(text: str) -> str:
    return " ".join(text.split())


def _code(lines: list[str]) -> str:
    return "\n".join(["```", *lines, "```"])


def _given(r: Rule, case: Case) -> str:
    """What a case gives for each parameter, in a few words."""
    given = [f"{name} = {_short(v)}" for name, v in case.values.items()]
    declared = [f"{n} = {p.spec}" for n, p in r.pattern.params.items() if p.spec is not None]
    return ", ".join(given or declared) or "nothing to give"


def _short(v: Any) -> str:
    if isinstance(v, np.ndarray):
        if v.size <= 8:
            return np.array2string(v, separator=", ").replace("\n", "")
        return f"{v.dtype}[{', '.join(map(str, v.shape))}]"
    if isinstance(v, list | tuple):
        return f"[{', '.join(map(_short, v))}]"
    return v.name if isinstance(v, ir.DataType) else str(v)


def _picture(r: Rule) -> tuple[Case, list[str], list[str]] | None:
    """The graph of the first case that fires, before and after; None where no case gives a model that does."""
    from .soundness.case_model import Draw, Invalid, build
    from .soundness.draws import canonical

    for case in r.cases:
        if not case.fires:
            continue
        base: Draw = canonical(r, case, 0).but(declare="symbolic")
        for draw in (base, base.but(literals="vector"), base.but(declare="static")):
            try:
                model = ir.serde.deserialize_model(build(r, draw).proto)
            except Invalid:
                continue
            before = _lines(model)
            shapes.infer(model)
            if Rewriter(model, [r], Context(target=_target(r))).run().changes:
                return case, before, _lines(model)
    return None


def _target(r: Rule) -> Any:
    from . import targets

    known = [n for n in r.targets if n in targets.names()]
    return targets.get(known[0]) if known else None


def _lines(model: Model) -> list[str]:
    """One line a node, constants in place, between the graph's inputs and outputs."""
    g = model.graph
    inputs = ", ".join(f"{v.name}: {_type(v)}" for v in g.inputs)
    return [f"({inputs})", *(f"  {_node(n)}" for n in g), f"  return {', '.join(str(v.name) for v in g.outputs)}"]


def _type(v: Value) -> str:
    dtype = "?" if v.dtype is None else v.dtype.name.lower()
    if v.shape is None:
        return dtype
    return f"{dtype}[{', '.join(str(d) if isinstance(d, int) else str(d.value or '?') for d in v.shape)}]"


def _node(n: Node) -> str:
    arguments = [_argument(v) for v in n.inputs] + [f"{name}={_attribute(a)}" for name, a in n.attributes.items()]
    operator = f"{n.domain}.{n.op_type}" if n.domain else n.op_type
    return f"{', '.join(str(o.name) for o in n.outputs)} = {operator}({', '.join(arguments)})"


def _argument(v: Value | None) -> str:
    if v is None:
        return "-"
    if not ir.is_constant(v):
        return str(v.name)
    a = ir.array(v)
    assert a is not None
    if a.size == 1:
        return f"{a.reshape(-1)[0].item():.7g}" if a.dtype.kind == "f" else str(a.reshape(-1)[0])
    return _short(a)


def _attribute(a: ir.Attr) -> str:
    if a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
        return "…"
    if a.name in ("to", "dtype") and isinstance(a.value, int):
        return ir.DataType(a.value).name
    if isinstance(a.value, float):
        return f"{a.value:.7g}"
    return str(list(a.value)) if isinstance(a.value, list | tuple) else str(a.value)


def template(name: str) -> str:
    """A rule file that passes ``olc rules test``, for its author to change.

    Raises:
        BadInput: the name does not make a class name.
    """
    if re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name) is None:
        raise BadInput(
            f"{name!r} is not a rule name", where="NAME", hint="use lower-case words joined by hyphens, as merge-scales"
        )
    made = "".join(word.capitalize() for word in name.split("-"))
    if re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", made).lower() != name:
        raise BadInput(
            f"no class name gives the rule name {name!r}", where="NAME", hint="let every word start with a letter"
        )
    return _TEMPLATE.replace("NewRule", made).replace("new-rule", name)


_TEMPLATE = '''"""The rule new-rule.

Check it with: olc rules test --file THIS_FILE
Read it with: olc rules show new-rule --file THIS_FILE
Use it with: olc compile MODEL --rules THIS_FILE
"""

import numpy as np

from olc.rules import CLOSE, Case, Refused, Scalar, array, f16, f32, floats, i64, rule


# group: rules of one group are switched and measured together.
# safety: EXACT (the same bits), CLOSE(why) (the same function, rounded otherwise), LOSSY(why) (another function).
# since: the first opset in which both sides exist; until= the last one.
@rule(group="mine", safety=CLOSE("one rounding instead of two"), since=7)
class NewRule:
    """Two multiplications by numbers are one.

    Sound because (x * a) * b = x * (a * b) for real numbers. In floating point the product of the two numbers must
    neither overflow nor vanish, or the result would be infinite or zero where it was not.
    """

    # Runs three ways: it is traced into the matcher, it builds the graphs of the cases, and it is the page's picture.
    # A parameter is any value; Const is a constant, Scalar one with a single element. A keyword such as axis=axis binds
    # an attribute. Values between the operators may be used nowhere else, or the rule does not fire.
    def pattern(op, x, a: Scalar, b: Scalar):
        return op.Mul(op.Mul(x, a), b)

    # A reason not to, in words for a user, or None. m holds what the pattern bound: m.x, m.a, m.b.
    # What is computed here can be kept for rewrite: m.product = ...
    def unless(m):
        if m.x.dtype not in floats.dtypes:
            return "the input is not floating point"
        m.product = array(m.a).reshape(()) * array(m.b).reshape(())
        if not np.isfinite(m.product) or m.product == 0:
            return "the product of the two numbers is not finite or is zero"

    # Builds new nodes, or returns a value that is there already (return m.x). It must change nothing itself.
    def rewrite(op, m):
        return op.Mul(m.x, m.product)

    # Each Case must fire and give the same results, on random shapes, special numbers and odd surroundings.
    # Each Refused must be left alone, and the reason must contain `because`. Every reason of unless needs one.
    cases = [
        Case("two scales", x=f32["N", 4], a=0.5, b=0.125),
        Case("half precision", x=f16["N"], a=3.0, b=0.25),
        Refused("the product overflows", x=f32["N"], a=1e30, b=1e30, because="not finite"),
        Refused("integers wrap around", x=i64["N"], a=2, b=3, because="not floating point"),
    ]
'''
