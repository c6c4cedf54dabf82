"""Patterns: a Python function traced into a tree that ``matching.py`` matches. The language is in docs/design.md, section 3."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import RuleError
from .ir import DataType, Node, Value

COMMUTATIVE = frozenset({"Add", "Mul", "And", "Or", "Xor", "Equal", "Min", "Max", "Sum", "BitwiseAnd", "BitwiseOr"})


# --- types of parameters -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spec:
    """Dtypes and dims that a value must have: ``f32["B", 64]``, ``floats[..., "D"]``, or a dtype set alone.

    ``dims`` is None for any shape. A name binds a dim, and the same name must be the same dim everywhere in a match.
    """

    dtypes: tuple[DataType, ...]
    dims: tuple[Any, ...] | None = None

    def __getitem__(self, dims: Any) -> Spec:
        return Spec(self.dtypes, dims if isinstance(dims, tuple) else (dims,))

    def __or__(self, other: Any) -> Any:
        return typing.Union[self, other] if other is not None else Omittable(self)  # noqa: UP007

    def __str__(self) -> str:
        names = "|".join(d.name.lower() for d in self.dtypes[:4]) + ("|…" if len(self.dtypes) > 4 else "")
        if self.dims is None:
            return names
        return f"{names}[{', '.join('…' if d is ... else str(d) for d in self.dims)}]"


@dataclass(frozen=True)
class Omittable:
    """An input that the node may leave out; the parameter is then None."""

    inner: Any


class Const:
    """Annotation: the parameter is a constant. ``Const[f32["K", "N"]]`` constrains it further."""

    def __class_getitem__(cls, spec: Spec) -> _ConstOf:
        return _ConstOf(spec)


@dataclass(frozen=True)
class _ConstOf:
    spec: Spec

    def __or__(self, other: None) -> Omittable:
        return Omittable(self)


class Scalar:
    """Annotation: a one-element constant that cannot raise the rank of the result."""


class Many:
    """Annotation: any number of inputs, written ``*name`` in the pattern; bound to a tuple of values."""


class Attrs:
    """Annotation: all attributes that the pattern does not name, written ``**name``; bound to a dict."""


# --- pattern elements ----------------------------------------------------------------------------------------------


class Param:
    """A pattern variable. Its role (input or attribute) follows from how the pattern uses it."""

    def __init__(self, name: str, annotation: Any) -> None:
        self.name = name
        self.optional = False
        self.kind = "any"
        self.spec: Spec | None = None
        if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
            rest = [a for a in typing.get_args(annotation) if a is not type(None)]
            self.optional = True
            annotation = rest[0] if len(rest) == 1 else Value
        if isinstance(annotation, Omittable):
            self.optional = True
            annotation = annotation.inner
        if isinstance(annotation, _ConstOf):
            self.kind, self.spec = "const", annotation.spec
        elif isinstance(annotation, Spec):
            self.spec = annotation
        elif annotation in (Const, Scalar, Many, Attrs):
            self.kind = annotation.__name__.lower()
        elif annotation not in (inspect.Parameter.empty, Value, Any):
            raise RuleError(f"parameter {name!r} has an annotation that patterns do not know: {annotation!r}")

    def __iter__(self) -> Iterator[Any]:
        if self.kind != "many":
            raise RuleError(f"parameter {self.name!r} is unpacked with * but is not annotated Many")
        yield self

    def keys(self) -> list[str]:
        if self.kind != "attrs":
            raise RuleError(f"parameter {self.name!r} is unpacked with ** but is not annotated Attrs")
        return [_REST]

    def __getitem__(self, key: str) -> Param:
        return self

    def __str__(self) -> str:
        return self.name


_REST = "__rest__"
PRODUCT_OPS = (("", "Mul"), ("", "Div"))


@dataclass(eq=False)
class Literal:
    """A one-element constant equal to a number."""

    value: Any

    def __str__(self) -> str:
        return repr(self.value)


@dataclass(eq=False)
class OpPattern:
    """One node of the pattern."""

    ops: tuple[tuple[str, str], ...]
    inputs: list[Any]
    attributes: dict[str, Any]
    rest: str | None
    outputs: int

    @property
    def label(self) -> str:
        return "|".join(f"{d}.{o}" if d else o for d, o in self.ops)

    def __str__(self) -> str:
        return _written((Out(self, 0),))


@dataclass(eq=False)
class Out:
    """The value that is output ``index`` of a pattern node."""

    node: OpPattern
    index: int
    shared: bool = False

    def __str__(self) -> str:
        return _written((self,))


@dataclass(eq=False)
class Either:
    """Alternatives, tried in order."""

    options: tuple[Any, ...]

    def __str__(self) -> str:
        return _written((self,))


@dataclass(eq=False)
class Product:
    """A product of factors in any order and nesting, times a number: the tree of Mul, and of Div by constants, whose
    inner values have one use. ``scale`` is a number, a Param bound to the number, or None for 1."""

    factors: tuple[Any, ...]
    scale: Any

    def __str__(self) -> str:
        return _written((self,))


class Tracer:
    """The ``op`` that turns a pattern function into pattern elements."""

    def __init__(self, domain: str = "", roles: dict[str, str] | None = None) -> None:
        self._domain = domain
        self._roles: dict[str, str] = {} if roles is None else roles

    def domain(self, name: str) -> Tracer:
        return Tracer(name, self._roles)

    def either(self, *options: Any) -> Either:
        return Either(tuple(self._input(o) for o in options))

    def product(self, *factors: Any, scale: Any = None) -> Product:
        if isinstance(scale, Param):
            self._role(scale, "attribute")
        return Product(tuple(self._input(f) for f in factors), scale)

    def shared(self, value: Any) -> Out:
        if not isinstance(value, Out):
            raise RuleError("op.shared takes the result of an operator")
        return Out(value.node, value.index, shared=True)

    def oneof(self, *names: str) -> Callable[..., Any]:
        return self._make(tuple((self._domain, n) for n in names))

    def __getattr__(self, op_type: str) -> Callable[..., Any]:
        if not op_type[:1].isupper():
            raise AttributeError(op_type)
        return self._make(((self._domain, op_type),))

    def _make(self, ops: tuple[tuple[str, str], ...]) -> Callable[..., Any]:
        def build(*inputs: Any, outputs: int = 1, **attributes: Any) -> Any:
            rest = attributes.pop(_REST, None)
            for a in attributes.values():
                if isinstance(a, Param):
                    self._role(a, "attribute")
            node = OpPattern(
                ops, [self._input(i) for i in inputs], attributes, rest.name if rest is not None else None, outputs
            )
            if outputs == 1:
                return Out(node, 0)
            return tuple(Out(node, i) for i in range(outputs))

        return build

    def _input(self, value: Any) -> Any:
        if isinstance(value, Param):
            self._role(value, "input")
            return value
        if isinstance(value, Out | Either | Literal | Product) or value is None:
            return value
        if isinstance(value, bool | int | float):
            return Literal(value)
        raise RuleError(f"a pattern input must be a parameter, an operator's result or a number, not {value!r}")

    def _role(self, param: Param, role: str) -> None:
        if self._roles.setdefault(param.name, role) != role:
            raise RuleError(f"parameter {param.name!r} is used both as an input and as an attribute")


@dataclass(frozen=True)
class Pattern:
    """A traced pattern function.

    Attributes:
        roots: one element per result; matching starts at the first.
        root_ops: the (domain, operator) pairs that the first root can be.
        roles: parameter name to "input" or "attribute".
        size: number of operators, alternatives counted at their largest.
    """

    function: Callable[..., Any]
    params: dict[str, Param]
    roots: tuple[Any, ...]
    root_ops: frozenset[tuple[str, str]]
    roles: dict[str, str]
    size: int
    screen: tuple[tuple[Any, ...], ...] | None

    def __str__(self) -> str:
        return _written(self.roots)

    def may_match(self, node: Node) -> bool:
        """Cheap and one-sided: False where no match at this root is possible, by what produces its inputs."""
        if self.screen is None:
            return True
        inputs = node.inputs
        if any(_passes(w, inputs) for w in self.screen):
            return True
        return node.op_type in COMMUTATIVE and len(inputs) == 2 and any(_passes(w, inputs[::-1]) for w in self.screen)


def _passes(wanted: tuple[Any, ...], inputs: Sequence[Value | None]) -> bool:
    for w, v in zip(wanted, inputs, strict=False):
        if w is None:
            continue
        if v is None:
            return False
        producer = v.producer()
        if w is _CONSTANT:
            if producer is not None and producer.op_type != "Constant":
                return False
        elif producer is None or (producer.domain, producer.op_type) not in w:
            return False
    return True


_CONSTANT = object()


def _screen(root: Any) -> tuple[tuple[Any, ...], ...] | None:
    """For each alternative of the root: what each input must be (_CONSTANT, a set of operators, or None for anything)."""
    if isinstance(root, Either):
        parts = [_screen(o) for o in root.options]
        return None if any(p is None for p in parts) else tuple(w for p in parts for w in p or ())
    if not isinstance(root, Out) or any(isinstance(i, Param) and i.kind == "many" for i in root.node.inputs):
        return None
    return (tuple(_requirement(i) for i in root.node.inputs),)


def _requirement(p: Any) -> Any:
    if isinstance(p, Literal) or (isinstance(p, Param) and p.kind in ("const", "scalar") and not p.optional):
        return _CONSTANT
    if isinstance(p, Out):
        return frozenset(p.node.ops)
    if isinstance(p, Product):
        return frozenset(PRODUCT_OPS)
    if isinstance(p, Either):
        parts = [_requirement(o) for o in p.options]
        if all(isinstance(x, frozenset) for x in parts):
            return frozenset().union(*parts)
    return None


def trace(function: Callable[..., Any]) -> Pattern:
    """Run a pattern function with a tracing ``op``.

    Raises:
        RuleError: the function does not follow the pattern language.
    """
    signature = inspect.signature(function, eval_str=True)
    names = list(signature.parameters)
    params = {n: Param(n, signature.parameters[n].annotation) for n in names[1:]}
    roles: dict[str, str] = {}
    result = function(Tracer(roles=roles), **params)
    roots = result if isinstance(result, tuple) else (result,)
    for r in roots:
        if not isinstance(r, Out | Either | Product):
            raise RuleError(f"a pattern must return operators' results, not {r!r}")
    for n, p in params.items():
        if p.kind in ("any", "const", "scalar") and n not in roles:
            raise RuleError(f"parameter {n!r} is not used in the pattern")
    ops = frozenset(_root_ops(roots[0]))
    return Pattern(function, params, tuple(roots), ops, roles, max(map(_size, roots)), _screen(roots[0]))


def _root_ops(p: Any) -> Iterator[tuple[str, str]]:
    if isinstance(p, Out):
        yield from p.node.ops
    elif isinstance(p, Product):
        yield from PRODUCT_OPS
    elif isinstance(p, Either):
        for o in p.options:
            if isinstance(o, Param | Literal):
                raise RuleError("a pattern's root must be an operator in every alternative")
            yield from _root_ops(o)


def literals(p: Any) -> Iterator[Literal]:
    """The numbers that a pattern element names."""
    if isinstance(p, Literal):
        yield p
    if isinstance(p, Product) and isinstance(p.scale, int | float):
        yield Literal(p.scale)
    for q in _children(p):
        yield from literals(q)


def _written(roots: Sequence[Any]) -> str:
    """The pattern in one line; what is used more than once is named first: ``p = Softmax(x); Mul(p, p)``."""
    uses: dict[int, int] = {}

    def count(p: Any) -> None:
        key = _identity(p)
        uses[key] = uses.get(key, 0) + 1
        if uses[key] == 1:
            for q in _children(p):
                count(q)

    names: dict[int, str] = {}
    lines: list[str] = []

    def text(p: Any) -> str:
        if isinstance(p, Out) and p.shared:
            return f"shared({text(Out(p.node, p.index))})"
        if not isinstance(p, Out | Either | Product):
            return f"*{p}" if isinstance(p, Param) and p.kind == "many" else str(p)
        key = _identity(p)
        if key not in names:
            inner = [text(q) for q in _children(p)]
            if isinstance(p, Out):
                inner += [f"{k}={v}" for k, v in p.node.attributes.items()]
                inner += [f"**{p.node.rest}"] if p.node.rest else []
            elif isinstance(p, Product) and p.scale is not None:
                inner.append(f"scale={p.scale}")
            head = p.node.label if isinstance(p, Out) else type(p).__name__.lower()
            whole = f"{head}({', '.join(inner)})"
            names[key] = whole
            if uses.get(key, 0) > 1:
                names[key] = f"t{len(lines) + 1}"
                lines.append(f"{names[key]} = {whole}")
        return names[key] if not isinstance(p, Out) or p.node.outputs == 1 else f"{names[key]}[{p.index}]"

    for r in roots:
        count(r)
    last = ", ".join(map(text, roots))
    return "; ".join([*lines, last])


def _identity(p: Any) -> int:
    return id(p.node) if isinstance(p, Out) else id(p)


def _children(p: Any) -> Iterable[Any]:
    if isinstance(p, Out):
        return p.node.inputs
    return p.options if isinstance(p, Either) else p.factors if isinstance(p, Product) else ()


def _size(p: Any) -> int:
    if isinstance(p, Out):
        return 1 + sum(map(_size, p.node.inputs))
    if isinstance(p, Either):
        return max(map(_size, p.options))
    if isinstance(p, Product):
        return len(p.factors) - (p.scale is None) + sum(map(_size, p.factors))
    return 0
