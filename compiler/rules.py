"""Rules: what one looks like, and the registry that finds them. The shape of a rule is in docs/design.md, section 4.

Everything that a rule file needs is importable from here.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .analysis.shapes import dims, elements
from .errors import RuleError
from .ir import DataType, Value, array, attr, is_constant, scalar
from .matching import Match, same_number
from .patterns import Attrs, Const, Many, Pattern, Scalar, Spec, literals, trace

__all__ = [
    "BF16", "BOOL", "CLOSE", "EXACT", "F16", "F32", "F64", "I8", "I32", "I64", "LOSSY", "U8",
    "Attrs", "Case", "Const", "DataType", "Many", "Match", "Refused", "Rule", "Safety", "Scalar", "Spec", "Value",
    "any_type", "array", "attr", "boolean", "dims", "elements", "f16", "f32", "f64", "floats", "i8", "i32", "i64",
    "integers", "is_constant", "load_file", "numbers", "registry", "rule", "same_number", "scalar", "u8",
]  # fmt: skip

F16, F32, F64, BF16 = DataType.FLOAT16, DataType.FLOAT, DataType.DOUBLE, DataType.BFLOAT16
I8, I32, I64, U8, BOOL = DataType.INT8, DataType.INT32, DataType.INT64, DataType.UINT8, DataType.BOOL
f16, f32, f64, i8, i32, i64, u8 = (Spec((d,)) for d in (F16, F32, F64, I8, I32, I64, U8))
boolean = Spec((BOOL,))
floats = Spec((F32, F16, F64, BF16))
integers = Spec((I64, I32, I8, U8, DataType.INT16, DataType.UINT16, DataType.UINT32, DataType.UINT64))
numbers = Spec((*floats.dtypes, *integers.dtypes))
any_type = Spec((*numbers.dtypes, BOOL, DataType.STRING, DataType.COMPLEX64, DataType.COMPLEX128))


@dataclass(frozen=True)
class Safety:
    """How a rule's result relates to what it replaces; ``why`` says it for a reader."""

    level: str
    why: str = ""

    def __str__(self) -> str:
        return f"{self.level}({self.why})" if self.why else self.level


EXACT = Safety("EXACT")


def CLOSE(why: str) -> Safety:
    """The same real-number function with other rounding."""
    return Safety("CLOSE", why)


def LOSSY(why: str) -> Safety:
    """Another function, close enough by measurement."""
    return Safety("LOSSY", why)


class Case:
    """An instance of the pattern that the rule must rewrite, and rewrite soundly.

    ``values`` gives each parameter by name: for an input a ``Spec`` (``f32["N", 4]``; a name is a dim drawn at random,
    equal names equal), a numpy array or number (a constant), None (left out) or, for ``Many``, a list of these; for an
    attribute its value. A ``Const`` parameter given as a ``Spec`` is filled with random constant data.
    ``opset`` is the version the test model imports, the rule's ``since`` or 18 if that is later by default.
    ``observed`` gives what calibration saw of graph inputs and results (a root is called ``y``, several ``y0``, ``y1``):
    the lowest and highest number by name, and for a value whose channels matter the largest magnitude of each. Inputs are
    drawn between the two.
    """

    fires = True

    def __init__(
        self, title: str, *, opset: int | None = None, observed: Mapping[str, tuple[Any, ...]] | None = None, **values: Any
    ) -> None:
        self.title = title
        self.opset = opset
        self.observed = dict(observed or {})
        self.values = values


class Refused(Case):
    """An instance of the pattern that the rule must leave alone, with ``because`` part of the reason it gives."""

    fires = False

    def __init__(
        self, title: str, *, because: str, opset: int | None = None,
        observed: Mapping[str, tuple[Any, ...]] | None = None, **values: Any,
    ) -> None:  # fmt: skip
        super().__init__(title, opset=opset, observed=observed, **values)
        self.because = because


@dataclass(frozen=True, eq=False)
class Rule:
    """A rewrite: ``pattern`` before, ``rewrite`` after, ``unless`` reasons not to, ``cases`` that prove it.

    Attributes:
        since, until: opset versions of the default domain between which the rule may act (both included).
        targets: names of targets it is for; empty for all.
        keeps_shape: the result has the shape of what it replaces by the operators' meaning, whatever that shape is
            (dropping an Identity); without it, a value that was there before must be *proved* to have that shape.
        emits: the fused operator (``Name`` or ``domain::Name``) that the rule is there to emit: it does not act where the
            target's table says that this operator is slower than its parts.
        source: file that declares it.
    """

    name: str
    group: str
    safety: Safety
    doc: str
    pattern: Pattern
    rewrite: Callable[..., Any]
    unless: Callable[[Match], str | None]
    cases: tuple[Case, ...]
    since: int
    until: int | None
    targets: tuple[str, ...]
    source: str
    keeps_shape: bool = False
    emits: str = ""

    def applies(self, opset: int, target: str | None) -> bool:
        """May the rule act in a model of that opset, compiled for that target (None: any target)?"""
        if opset < self.since or (self.until is not None and opset > self.until):
            return False
        return not self.targets or target in self.targets


def rule(
    *, group: str, safety: Safety, since: int = 7, until: int | None = None, targets: Iterable[str] = (),
    keeps_shape: bool = False, emits: str = "",
) -> Callable[[type], Rule]:
    """Turn a class with ``pattern``, ``rewrite``, ``cases`` and perhaps ``unless`` into a registered Rule.

    Raises:
        RuleError: the class does not have the shape of a rule.
    """

    def make(cls: type) -> Rule:
        name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", cls.__name__).lower()
        body = vars(cls)
        for part in ("pattern", "rewrite", "cases"):
            if part not in body:
                raise RuleError(f"rule {name!r} has no {part!r}", where=cls.__module__, hint="see olc rules new")
        extra = [k for k in body if not k.startswith("_") and k not in ("pattern", "rewrite", "unless", "cases")]
        if extra:
            raise RuleError(
                f"rule {name!r} declares {extra[0]!r}", where=cls.__module__,
                hint="a rule has pattern, rewrite, unless and cases only; put helpers at module level",
            )  # fmt: skip
        doc = inspect.cleandoc(cls.__doc__ or "")
        if not doc:
            raise RuleError(f"rule {name!r} has no docstring", where=cls.__module__, hint="say why it is sound")
        try:
            pattern = trace(body["pattern"])
        except RuleError as e:
            raise RuleError(e.what, where=f"rule {name!r}", hint=e.hint) from e
        if safety == EXACT:
            for number in (x.value for root in pattern.roots for x in literals(root)):
                if float(np.float16(number)) != number:
                    raise RuleError(
                        f"the pattern names {number}, which matches within a tolerance", where=f"rule {name!r}",
                        hint="an EXACT rule may name only numbers that are exact in half precision, or declare CLOSE",
                    )  # fmt: skip
        cases = tuple(body["cases"])
        known = set(pattern.params)
        for case in cases:
            unknown = set(case.values) - known
            if unknown:
                raise RuleError(f"case {case.title!r} sets unknown {sorted(unknown)}", where=f"rule {name!r}")
        made = Rule(
            name, group, safety, doc, pattern, body["rewrite"], body.get("unless", _never), cases,
            since, until, tuple(targets), inspect.getsourcefile(cls) or cls.__module__, keeps_shape, emits,
        )  # fmt: skip
        _found.append(made)
        return made

    return make


def _never(m: Match) -> str | None:
    return None


_found: list[Rule] = []


class Registry:
    """The rules at hand, by name, in a fixed order: group, then name."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        by_name: dict[str, Rule] = {}
        for r in rules:
            other = by_name.setdefault(r.name, r)
            if other is not r:
                raise RuleError(
                    f"two rules are called {r.name!r}", where=f"{other.source} and {r.source}", hint="rename one"
                )
        self._rules = dict(sorted(by_name.items(), key=lambda kv: (kv[1].group, kv[0])))

    def __iter__(self) -> Any:
        return iter(self._rules.values())

    def __len__(self) -> int:
        return len(self._rules)

    def __getitem__(self, name: str) -> Rule:
        if name not in self._rules:
            import difflib

            close = difflib.get_close_matches(name, self._rules, n=3)
            hint = f"did you mean {', '.join(close)}?" if close else "olc rules list names them all"
            raise RuleError(f"there is no rule {name!r}", hint=hint)
        return self._rules[name]

    def select(self, levels: Iterable[str], opset: int, target: str | None) -> list[Rule]:
        """The rules of these safety levels that may act at this opset for this target."""
        wanted = set(levels)
        return [r for r in self if r.safety.level in wanted and r.applies(opset, target)]


_builtin: Registry | None = None

APART = "fused"
"""The group of rules that take apart what other tools put together."""


def _collect(load: Callable[[], None]) -> list[Rule]:
    start = len(_found)
    load()
    return _found[start:]


def _load_builtin() -> None:
    package = importlib.import_module("olc.rewrites")
    for info in pkgutil.walk_packages(package.__path__, "olc.rewrites."):
        importlib.import_module(info.name)
    for entry in importlib.metadata.entry_points(group="olc.rules"):
        entry.load()


def load_file(path: str | Path) -> list[Rule]:
    """The rules that a Python file declares. Runs the file: whoever names it trusts it.

    Raises:
        RuleError: the file is missing, fails to run, or declares no rule.
    """
    path = Path(path)
    if not path.is_file():
        raise RuleError("there is no such rule file", where=str(path))
    spec = importlib.util.spec_from_file_location(f"olc_rules_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise RuleError("a rule file must be a Python file", where=str(path), hint="its name must end in .py")
    module = importlib.util.module_from_spec(spec)

    def run() -> None:
        import sys

        sys.modules[module.__name__] = module  # inspect needs the module to find the source of its classes
        try:
            spec.loader.exec_module(module)  # type: ignore[union-attr]
        except RuleError:
            raise
        except Exception as e:
            raise RuleError(f"the file fails to run: {type(e).__name__}: {e}", where=str(path)) from e

    found = _collect(run)
    if not found:
        raise RuleError("the file declares no rule", where=str(path), hint="decorate a class with @rule(...)")
    return found


def registry(files: Iterable[str | Path] = ()) -> Registry:
    """Built-in rules, those of installed packages (entry points ``olc.rules``), and those of the given files."""
    global _builtin
    if _builtin is None:
        _builtin = Registry(_collect(_load_builtin))
    extra = [r for f in files for r in load_file(f)]
    return Registry([*_builtin, *extra]) if extra else _builtin


def constant_like(value: Any, dtype: DataType) -> np.ndarray:
    """A Python number or list as an array of the dtype (ml_dtypes for types that numpy lacks)."""
    return np.asarray(value).astype(dtype.numpy())
