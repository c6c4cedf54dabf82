"""Draws of a case: shapes, alternatives and placements at random, and perturbations that tell luck from soundness."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ..ir import DataType
from ..patterns import Spec
from ..rules import F16, F32, F64, I32, I64, Case, Rule
from .case_model import Alias, Draw, values_of

MAX_CHOICES = 64
"""Combinations of alternatives of one case that are all tried; beyond that a sample."""

ROOMY = 4
"""The round whose named dims are large."""

_PRIMES = (2, 3, 5, 4, 7, 6)


def opset_of(rule: Rule, case: Case) -> int:
    """The opset of a case's model: its own, or the rule's first that is 18 or later where there is one."""
    if case.opset is not None:
        return case.opset
    return max(rule.since, min(18, rule.until or 18))


def named_dims(values: Mapping[str, Any]) -> list[str]:
    """Names of the dims in a case's types, in order."""
    return list(dict.fromkeys(d for s in _specs(values) for d in s.dims or () if isinstance(d, str)))


def _specs(values: Mapping[str, Any]) -> Iterator[Spec]:
    for v in values.values():
        if isinstance(v, Spec):
            yield v
        elif isinstance(v, list | tuple):
            yield from (s for s in v if isinstance(s, Spec))


def canonical(rule: Rule, case: Case, seed: int) -> Draw:
    """The plainest draw: every named dim another small number, everything as the case says."""
    values = values_of(rule, case)
    dims = {n: _PRIMES[i % len(_PRIMES)] for i, n in enumerate(named_dims(values))}
    return Draw(values, opset_of(rule, case), dims, seed=seed)


def plain(rule: Rule, case: Case, index: int, random: np.random.Generator) -> Draw:
    """The draw of one round. The first rounds make sure of what chance may miss: dims of 1, of 0, equal ones, and room
    for every special number."""
    base = canonical(rule, case, int(random.integers(1 << 30)))
    room = (18, 20) if len(base.dims) < 3 else (6, 7)
    some = {0: (2, 3, 5), 1: (1,), 2: (int(random.integers(2, 5)),), 3: (0, 1, 2), ROOMY: room}
    sizes = some.get(index, (1, 2, 3, 4, 5))
    dims = {n: int(random.choice(sizes)) for n in base.dims}
    rest = tuple(int(random.choice(sizes)) for _ in range(2 if index == 0 else int(random.integers(0, 4))))
    varied = bool(index) and not case.observed  # what was observed of values rests on the constants
    return base.but(
        dims=dims,
        rest=rest,
        dtypes={s.dtypes: s.dtypes[int(random.integers(len(s.dtypes)))] for s in _specs(base.values)},
        choices=tuple(int(c) for c in random.integers(0, 4, 12)) if index else (),
        literals=str(random.choice(["scalar", "vector", "rank", "extra"])) if index else "scalar",
        constants=("initializer", "node", "mixed")[index % 3],
        declare=("static", "symbolic", "loose", "unknown")[(index + 1) % 4],
        content=str(random.choice(["plain", "positive", "whole", "mixed"])) if varied else "plain",
        swap=bool(index),
    )


def all_choices(asked: list[int], random: np.random.Generator) -> list[tuple[int, ...]]:
    """Every combination of alternatives, or a sample where there are too many."""
    total = int(np.prod(asked, dtype=np.int64)) if asked else 1
    if total <= MAX_CHOICES:
        return [tuple(int(i) for i in np.unravel_index(k, asked)) for k in range(total)] if asked else [()]
    return [tuple(int(random.integers(n)) for n in asked) for _ in range(MAX_CHOICES)]


# --- perturbations -------------------------------------------------------------------------------------------------


def perturbed(
    rule: Rule, draw: Draw, random: np.random.Generator, constants: bool = True
) -> tuple[str, Draw] | None:
    """The draw with one thing changed that the case's author may not have thought of, and what that is.

    None where the case has nothing to change. Without ``constants`` these stay: what was observed of values rests on them.
    """
    kinds = (_attribute, _resize, _reshape, *((_constant,) if constants else ()), _dtype, _alias)
    for i in random.permutation(len(kinds)):
        found = kinds[i](rule, draw, random)
        if found is not None:
            return found
    return None


def _pick(random: np.random.Generator, items: list[Any]) -> Any:
    return items[int(random.integers(len(items)))]


def _changed(draw: Draw, **values: Any) -> Draw:
    return draw.but(values={**draw.values, **values})


def _map_specs(values: Mapping[str, Any], change: Any) -> dict[str, Any]:
    def one(v: Any) -> Any:
        if isinstance(v, Spec):
            return change(v)
        return [one(x) for x in v] if isinstance(v, list | tuple) and any(isinstance(x, Spec) for x in v) else v

    return {k: one(v) for k, v in values.items()}


def _resize(rule: Rule, draw: Draw, random: np.random.Generator) -> tuple[str, Draw] | None:
    """A number in the case's types becomes another, everywhere or in one place."""
    sizes = sorted({d for s in _specs(draw.values) for d in s.dims or () if isinstance(d, int)})
    if not sizes:
        return None
    old, new = _pick(random, sizes), int(random.choice([1, 2, 3, 4, 6, 8]))
    if old == new:
        return None

    def swap(s: Spec) -> Spec:
        return s if s.dims is None else s[tuple(new if d == old else d for d in s.dims)]

    return f"every dim {old} made {new}", draw.but(values=_map_specs(draw.values, swap))


def _reshape(rule: Rule, draw: Draw, random: np.random.Generator) -> tuple[str, Draw] | None:
    """One input gets a dim of 1, loses its first dim, gains one, has its dims in another order, or the same number of
    elements in another shape."""
    names = [n for n, v in draw.values.items() if isinstance(v, Spec) and v.dims]
    if not names:
        return None
    name = _pick(random, names)
    spec = draw.values[name]
    dims = list(spec.dims)
    kind = _pick(random, ["one", "drop", "lead", "order", "size", "factor"])
    at = int(random.integers(len(dims)))
    if kind == "one":
        dims[at] = 1
    elif kind == "drop":
        del dims[0]
    elif kind == "lead":
        dims.insert(0, int(random.choice([1, 2])))
    elif kind == "order":
        dims = [dims[i] for i in random.permutation(len(dims))]
    elif kind == "factor":
        other = int(random.integers(len(dims)))
        if at == other or not isinstance(dims[at], int) or not isinstance(dims[other], int):
            return None
        factors = [f for f in range(2, dims[at] + 1) if dims[at] % f == 0]
        if factors:
            factor = _pick(random, factors)
            dims[at], dims[other] = dims[at] // factor, dims[other] * factor
    elif dims[at] is not ...:
        dims[at] = int(random.integers(1, 7))
    changed = spec[tuple(dims)]
    return (f"{name} made {changed}", _changed(draw, **{name: changed})) if changed != spec else None


def _constant(rule: Rule, draw: Draw, random: np.random.Generator) -> tuple[str, Draw] | None:
    """A constant that the case gives gets other contents or another shape."""
    roles = rule.pattern.roles
    names = [n for n, v in draw.values.items() if roles.get(n) == "input" and _is_data(v)]
    if not names:
        return None
    name = _pick(random, names)
    old = draw.values[name]
    a = np.array(old)
    if a.dtype.kind not in "iuf":
        return None
    flat = a.reshape(-1)
    floating = a.dtype.kind == "f"
    kinds = ["element", "reshape", "order"] if flat.size > 1 else ["element", "near"] if floating else ["element"]
    kind = _pick(random, kinds)
    if kind == "order":
        a = random.permutation(flat).reshape(a.shape)
    elif kind == "reshape":
        a = a.reshape(_pick(random, [(1, *a.shape), (*a.shape, 1), (1, 1, *a.shape), flat.shape]))
    elif kind == "near":
        with np.errstate(all="ignore"):
            a = (a * (1 + _pick(random, [1e-6, -1e-6, 1e-3]))).astype(a.dtype)
    elif flat.size:
        floats = [0.0, -0.0, 1.0, -1.0, 2.0, 3.0, 1e-6, np.inf, -np.inf, np.nan]
        number = _pick(random, floats) if floating else _pick(random, [0, 1, -1, 2, 3, 4])
        if not floating and a.dtype.kind == "u":
            number = abs(number)
        flat = flat.copy()
        flat[int(random.integers(flat.size))] = number
        a = flat.reshape(a.shape)
    new = a.item() if isinstance(old, int | float) else a
    text = " ".join(np.array2string(np.asarray(new), separator=", ").split())
    return f"{name} made {text}", _changed(draw, **{name: new})


def _is_data(v: Any) -> bool:
    if isinstance(v, list | tuple):
        return bool(v) and all(map(_is_data, v))
    return isinstance(v, np.ndarray | np.generic | int | float) and not isinstance(v, bool)


_STRINGS = {
    "approximate": ["none", "tanh"],
    "auto_pad": ["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"],
    "coordinate_transformation_mode": ["half_pixel", "asymmetric", "align_corners"],
    "direction": ["LEFT", "RIGHT", "forward", "reverse"],
    "mode": ["constant", "reflect", "edge", "wrap", "linear", "nearest", "cubic", "DCR", "CRD", "floor"],
    "nearest_mode": ["round_prefer_floor", "floor", "ceil"],
    "padding_mode": ["zeros", "border"],
    "reduction": ["none", "add", "mul", "max"],
}


_SWITCHES = frozenset({
    "allowzero", "antialias", "blocked", "causal", "ceil_mode", "center_point_box", "count_include_pad",
    "detect_negative", "detect_positive", "exclude_outside", "exclusive", "interleaved", "inverse", "is_causal",
    "keepdims", "largest", "linear_before_reset", "new_axis", "noop_with_empty_axes", "normalize_variance", "onesided",
    "periodic", "reverse", "saturate", "select_last_index", "sorted", "storage_order", "training_mode", "transA",
    "transB", "upper",
})  # fmt: skip
"""Integer attributes that are 0 or 1."""


def other_values(name: str, old: Any, random: np.random.Generator) -> Any:
    """Another value for an attribute of that name; None where none comes to mind."""
    if isinstance(old, DataType):
        return _pick(random, [d for d in (F32, F16, F64, I32, I64, DataType.BOOL, DataType.INT8) if d != old])
    if isinstance(old, bool | int):
        if name in _SWITCHES:
            return 1 - int(old) if old in (0, 1) else 1
        return _pick(random, [v for v in (0, 1, 2, -1, -2, 3) if v != old])
    if isinstance(old, float):
        return _pick(random, [v for v in (0.0, 0.5, 1.0, 2.0, -1.0, 1e-3, 0.1) if v != old])
    if isinstance(old, str | bytes):
        text = old.decode() if isinstance(old, bytes) else old
        others = [s for s in _STRINGS.get(name, []) if s != text]
        return _pick(random, others) if others else None
    if isinstance(old, list | tuple) and old and all(isinstance(v, int) for v in old):
        new = list(old)
        if random.random() < 0.7 and len(new) > 1:
            return [new[i] for i in random.permutation(len(new))]
        new[int(random.integers(len(new)))] = _pick(random, [0, 1, 2, -1, 3])
        return new
    return None


def _attribute(rule: Rule, draw: Draw, random: np.random.Generator) -> tuple[str, Draw] | None:
    """An attribute variable of the pattern gets another value."""
    names = [n for n, role in rule.pattern.roles.items() if role == "attribute" and draw.values.get(n) is not None]
    if not names:
        return None
    name = _pick(random, names)
    new = other_values(name, draw.values[name], random)
    if new is None or new == draw.values[name]:
        return None
    return f"{name}={new}", _changed(draw, **{name: new})


def _dtype(rule: Rule, draw: Draw, random: np.random.Generator) -> tuple[str, Draw] | None:
    """Everything of one dtype becomes another dtype, constants too."""
    used = list(dict.fromkeys(draw.dtype(s) for s in _specs(draw.values)))
    if not used:
        return None
    old = _pick(random, used)
    new = _pick(random, [d for d in (F32, F16, F64, I32, I64, DataType.UINT8) if d != old])

    def swap(s: Spec) -> Spec:
        return Spec((new,), s.dims) if draw.dtype(s) == old else s

    values = _map_specs(draw.values, swap)
    for k, v in values.items():
        if isinstance(v, np.ndarray) and v.dtype == old.numpy():
            with np.errstate(all="ignore"):
                values[k] = v.astype(new.numpy())
    return f"{old.name.lower()} made {new.name.lower()}", draw.but(values=values)


def _alias(rule: Rule, draw: Draw, random: np.random.Generator) -> tuple[str, Draw] | None:
    """Two inputs become the same value."""
    params = rule.pattern.params
    names = [n for n, v in draw.values.items() if isinstance(v, Spec) and params[n].kind == "any"]
    if len(names) < 2:
        return None
    first, second = (names[int(i)] for i in random.permutation(len(names))[:2])
    return f"{second} is {first}", _changed(draw, **{second: Alias(first)})


