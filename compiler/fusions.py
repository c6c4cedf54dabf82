"""What should have fused, judged from structure alone, what did, and why the rest did not.

An *anchor* is a node that every spelling of a block has: the softmax between two products is an attention, the root of a
mean of squares is a norm. Anchors that are left in a compiled model are missed fusions, whatever kept the rules from
firing; the rule that came nearest says why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from . import ir
from .ir import Model, Node
from .matching import Miss, match
from .passes import Context, Event
from .rewriter import origins
from .rules import Registry, Rule
from .targets.causal_parts import PART_OF

_MS = "com.microsoft"
_NEAR = 6
"""Nodes on the way from an anchor to what it belongs to."""


@dataclass(frozen=True)
class Missed:
    """One block that did not fuse: its anchor's site, and the reason of the rule that came nearest."""

    site: str
    rule: str
    reason: str


@dataclass(frozen=True)
class Fusion:
    """One kind of block: how many there are by structure, how many are fused, and those that are not."""

    kind: str
    expected: int
    missed: tuple[Missed, ...]

    @property
    def fused(self) -> int:
        return self.expected - len(self.missed)

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "fused": self.fused}


@dataclass(frozen=True)
class _Kind:
    name: str
    is_anchor: Callable[[Node], bool]
    operators: frozenset[tuple[str, str]]
    groups: frozenset[str]

    def is_fused(self, node: Node) -> bool:
        return (node.domain, node.op_type) in self.operators


def survey(
    source: Model, result: Model, rules: Registry, ctx: Context, refused: Mapping[tuple[str, str], int] | None = None
) -> list[Fusion]:
    """The fusions of a model that was compiled, by kind; kinds of which there are none are left out.

    Args:
        refused: how often the rewriter recorded each (rule, reason): why a rule that matches did not fire.
    """
    before, after = list(_nodes(source)), list(_nodes(result))
    reasons = {rule: why for (rule, why), _ in sorted((refused or {}).items(), key=lambda kv: kv[1])}  # the commonest wins
    lowered = {e.site: e for e in ctx.events if e.by.startswith("lower:") and e.number is None}
    found = []
    for kind in _KINDS:
        left = [n for n in after if kind.is_anchor(n)]
        expected = max(_count(before, kind), _count(after, kind))
        if expected:
            missed = tuple(_missed(result, n, kind, rules, ctx, reasons, lowered) for n in left)
            found.append(Fusion(kind.name, expected, missed))
    return found


def _count(nodes: list[Node], kind: _Kind) -> int:
    """Blocks of the kind; what lowering made several nodes of (``targets/causal_parts.py``) is one."""
    fused = {n.metadata_props.get(PART_OF) or n for n in nodes if kind.is_fused(n)}
    return sum(kind.is_anchor(n) for n in nodes) + len(fused)


def _nodes(model: Model) -> Iterator[Node]:
    for graph in ir.all_graphs(model):
        yield from graph


def _missed(
    model: Model, anchor: Node, kind: _Kind, rules: Registry, ctx: Context, refused: dict[str, str], lowered: Mapping[str, Event]
) -> Missed:
    for name in origins(anchor):
        if name in lowered:
            return Missed(ir.site(anchor), lowered[name].by, lowered[name].detail)
    best: tuple[int, int, str, str] | None = None
    opset, target = ir.opset_of(model) or 1, getattr(ctx.target, "name", None)
    for rule in rules:
        if rule.group not in kind.groups or rule.safety.level == "LOSSY":
            continue
        for node in (anchor, *_below(anchor)):
            if (node.domain, node.op_type) in rule.pattern.root_ops:
                rank, depth, reason = _reason(rule, node, anchor, model, opset, target, ctx, refused)
                if best is None or (rank, depth) > best[:2]:
                    best = (rank, depth, rule.name, reason)
    if best is None:
        return Missed(ir.site(anchor), "", "no rule begins at what it leads to")
    return Missed(ir.site(anchor), best[2], best[3])


def _reason(
    rule: Rule, node: Node, anchor: Node, model: Model, opset: int, target: str | None, ctx: Context, refused: dict[str, str]
) -> tuple[int, int, str]:
    """How telling a rule's miss at a node is, and the miss in words."""
    m = match(rule.pattern, node.outputs[0], dict(model.opset_imports), unless=rule.unless)
    if isinstance(m, Miss):
        return (2 if m.refused else 1), m.depth, m.reason if m.refused else f"{m.reason} (at {m.at})"
    if m is None or anchor not in m.nodes:
        return 0, 0, "it fits other nodes only"
    if not rule.applies(opset, target):
        until = "" if rule.until is None else f" to {rule.until}"
        return 3, 0, f"the rule acts at opsets {rule.since}{until or ' and later'}; the model has {opset}"
    if rule.name in ctx.skip or f"{rule.name}@{ir.site(node)}" in ctx.skip:
        return 3, 0, "the rule is skipped"
    return 3, 0, ctx.why_not(m.assumes) or refused.get(rule.name, "it fits, but was not applied at this level")


def _below(node: Node) -> Iterator[Node]:
    """The nodes that use what a node gives, nearest first, a few steps down."""
    layer, seen = [node], {node}
    for _ in range(_NEAR):
        layer = [u for n in layer for o in n.outputs for u, _ in o.uses() if not (u in seen or seen.add(u))]  # type: ignore[func-returns-value]
        yield from layer


# ------------------------------------------------------------------------------------------------- anchors


def _producer(node: Node, i: int) -> Node | None:
    value = node.inputs[i] if i < len(node.inputs) else None
    return None if value is None else value.producer()


def _is(node: Node | None, *ops: str) -> bool:
    return node is not None and node.domain == "" and node.op_type in ops


def _reaches(node: Node | None, through: frozenset[str], wanted: tuple[str, ...], steps: int = _NEAR) -> bool:
    """Does a node come from a ``wanted`` one, through operators that pass values on?"""
    if node is None or steps == 0:
        return False
    if _is(node, *wanted):
        return True
    return _is(node, *through) and any(_reaches(_producer(node, i), through, wanted, steps - 1) for i in range(len(node.inputs)))


_SCORES = frozenset({"Add", "Sub", "Mul", "Div", "Where", "Reshape", "Cast", "Clip", "Max", "Tanh", "Unsqueeze", "Squeeze",
                     "Concat"})  # fmt: skip
_PRODUCT = ("MatMul", "Einsum")
_PICKED = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Cast", "Transpose"})
_WEIGHTS = frozenset({"Where", "Cast", "Dropout", "Reshape", "Identity", "Mul", "Div", "Transpose", "Slice"})


def _is_attention(node: Node) -> bool:
    """A softmax between two products."""
    if not _is(node, "Softmax") or not _reaches(_producer(node, 0), _SCORES, _PRODUCT):
        return False
    layer = [node]
    for _ in range(4):
        users = [(n, u, i) for n in layer for u, i in n.outputs[0].uses()]
        # Transposed weights stand behind the values.
        if any((_is(u, "MatMul") and i == int(_is(n, "Transpose"))) or _is(u, "Einsum") for n, u, i in users):
            return True
        layer = [u for _, u, _ in users if _is(u, *_WEIGHTS)]
    return False


def _squared(node: Node | None) -> Node | None:
    """What makes the value that a node squares; the node itself stands for an input of the graph."""
    if _is(node, "Pow") and node is not None and ir.scalar(node.inputs[1]) == 2:
        return _producer(node, 0) or node
    if _is(node, "Mul") and node is not None and node.inputs[0] is node.inputs[1]:
        return _producer(node, 0) or node
    return None


_CLIPS = ("Max", "Relu", "Clip")


def _norm(node: Node) -> str | None:
    """Which norm a root belongs to: that of a mean of squares, centred or not, with something small added."""
    if not (_is(node, "Sqrt") or (_is(node, "Pow") and ir.scalar(node.inputs[1]) in (0.5, -0.5))):
        return None
    below = _producer(node, 0)
    if below is not None and _is(below, "Add") and any(ir.is_constant(v) for v in below.inputs):
        below = next((p for i in (0, 1) if _is(p := _producer(below, i), "ReduceMean", "Sub", *_CLIPS)), None)
    below = _producer(below, 0) if _is(below, *_CLIPS) and below is not None else below
    if below is not None and _is(below, "Sub"):  # the mean of squares less the square of the mean
        means = _producer(below, 0), _squared(_producer(below, 1))
        return "layer norm" if all(_is(m, "ReduceMean") for m in means) else None
    square = _producer(below, 0) if below is not None and _is(below, "ReduceMean") else None
    origin = _squared(square)
    if origin is None:
        return None
    return "layer norm" if _is(origin, "Sub") and _is(_producer(origin, 1), "ReduceMean") else "RMS norm"


def _is_silu(node: Node) -> bool:
    """A sigmoid times its own argument."""
    if not _is(node, "Sigmoid"):
        return False
    x = node.inputs[0]
    return any(_is(u, "Mul") and x in u.inputs for u, _ in node.outputs[0].uses())


def _is_gelu(node: Node) -> bool:
    """An error function, or a hyperbolic tangent, plus 1 and times something."""
    if not _is(node, "Erf", "Tanh"):
        return False
    adds = [u for u, _ in node.outputs[0].uses() if _is(u, "Add", "Sub") and any(ir.scalar(v) == 1 for v in u.inputs)]
    return any(_is(u, "Mul") for a in adds for u, _ in a.outputs[0].uses())


def _is_rotary(node: Node) -> bool:
    """Two halves of one tensor swapped, one of them negated."""
    if not _is(node, "Concat") or len(node.inputs) != 2:
        return False
    first, second = _producer(node, 0), _producer(node, 1)
    if not _is(first, "Neg") or first is None or second is None:
        return False
    half = _producer(first, 0)
    cut = _is(half, "Slice", "Split", "Gather") and _is(second, "Slice", "Split", "Gather")
    return cut and half is not None and half.inputs[0] is second.inputs[0]


def _is_norm_after_conv(node: Node) -> bool:
    """A batch normalization of what a convolution gives."""
    return _is(node, "BatchNormalization") and _is(_producer(node, 0), "Conv", "ConvTranspose")


def _is_experts(node: Node) -> bool:
    """The last matrices of experts, picked by the best few of each token, in front of their product with what was gated."""
    if not _is(node, "Gather") or not ir.is_constant(node.inputs[0]) or not _reaches(_producer(node, 1), _PICKED, ("TopK",)):
        return False
    users = [u for u, _ in node.outputs[0].uses() if _is(u, "MatMul")]
    return any(_reaches(_producer(u, i), _PICKED, ("Mul",)) for u in users for i in (0, 1))


def _named(*names: str) -> frozenset[tuple[str, str]]:
    return frozenset((d, n) for n in names for d in ("", _MS))


_KINDS = (
    _Kind("attention", _is_attention, _named("Attention", "MultiHeadAttention", "GroupQueryAttention"), frozenset({"attention"})),
    _Kind("layer norm", lambda n: _norm(n) == "layer norm", _named("LayerNormalization", "SkipLayerNormalization"),
          frozenset({"norms"})),
    _Kind("RMS norm", lambda n: _norm(n) == "RMS norm", _named("RMSNormalization", "SimplifiedLayerNormalization"),
          frozenset({"norms"})),
    _Kind("gelu", _is_gelu, _named("Gelu", "FastGelu", "BiasGelu"), frozenset({"gelu"})),
    _Kind("SiLU", _is_silu, _named("QuickGelu", "Swish"), frozenset({"silu"})),
    _Kind("rotary embedding", _is_rotary, _named("RotaryEmbedding"), frozenset({"rotary"})),
    _Kind("mixture of experts", _is_experts, _named("MoE", "QMoE"), frozenset({"experts"})),
    _Kind("batch norm in convolution", _is_norm_after_conv, frozenset(), frozenset({"conv"})),
)  # fmt: skip

KINDS = tuple(kind.name for kind in _KINDS)
"""The kinds of blocks that a survey looks for."""
