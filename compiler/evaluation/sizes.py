"""Sizes for a model's dynamic axes: what the user said, else a default by what the axis is, else what is tried.

Axes with equal symbols get equal sizes, and a derived size (``past_seq + seq``) is computed from its parts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from ..analysis import dims
from ..errors import BadInput
from . import roles
from .roles import Input

# Kinds of axis. A user may give a size by kind too: --dim seq=64.
BATCH, SEQ, PAST, TOTAL, ENCODED = "batch", "seq", "past", "total", "encoder_seq"
HEIGHT, WIDTH, CHANNELS, SAMPLES, OTHER = "height", "width", "channels", "samples", "other"

_NAMES = (
    (BATCH, r"batch|^b$|^bs$|^n$|beam"),
    (TOTAL, r"total|past\w*\s*\+|(^|[_.])all_|kv_?(seq|len)"),
    (ENCODED, r"(^|[_.])enc(oder|oded)?([_.]|$)|(^|[_.])enc_?(seq|len)"),
    (PAST, r"past|cache|history"),
    (HEIGHT, r"height|^h$"),
    (WIDTH, r"width|^w$"),
    (CHANNELS, r"channel|^c$"),
    (SAMPLES, r"sample|audio|wave"),
    (SEQ, r"seq|len|token|text|word|time|frame|^s$|^t$|^l$"),
)  # fmt: skip

#: Sizes tried, best first, when the first choice does not run.
TRIED: dict[str, tuple[int, ...]] = {
    BATCH: (1, 2),
    SEQ: (77, 64, 32, 16, 8, 4, 2, 1, 256, 512),
    PAST: (16, 8, 1, 0),
    ENCODED: (128, 1500, 64, 16, 8, 1),
    HEIGHT: (224, 48, 32, 64, 256, 320, 384, 512, 640, 28),
    WIDTH: (224, 320, 32, 64, 256, 384, 512, 640, 28),
    CHANNELS: (3, 1, 4),
    SAMPLES: (16000, 576, 512, 1536, 48000, 8000, 4096),
    OTHER: (16, 1, 8, 32, 64, 128, 2, 4),
}

#: Sizes at which a compiled model is compared besides those chosen: one, few and more of each kind.
VARIED: dict[str, tuple[int, ...]] = {
    BATCH: (1, 3), SEQ: (1, 5, 40), PAST: (0, 7), ENCODED: (5, 40), HEIGHT: (96, 160), WIDTH: (96, 160), OTHER: (1, 5),
}  # fmt: skip

SMALL = 16
"""A size that is not made smaller."""

LESS = "less, for its memory"
"""Origin of a size that is smaller than usual, because of how large values inside the model would be."""


@dataclass
class Sizes:
    """The dynamic axes of a model and the sizes chosen for them.

    Attributes:
        kinds: symbol -> kind of axis. A nameless axis has the symbol ``input.axis``.
        values: symbol -> size.
        origin: symbol -> ``"given"``, ``"default"``, ``"from past and seq"``, ``"tried"`` or ``LESS``.
    """

    kinds: dict[str, str] = field(default_factory=dict)
    values: dict[str, int] = field(default_factory=dict)
    origin: dict[str, str] = field(default_factory=dict)

    def of(self, kind: str) -> int | None:
        """The size of the first axis of that kind, or None."""
        return next((self.values[s] for s, k in self.kinds.items() if k == kind), None)

    def shape(self, item: Input) -> tuple[int, ...]:
        """The concrete shape of an input."""
        return tuple(
            self.values[nameless(item, i)] if d is None else dims.evaluate(d, self.values)
            for i, d in enumerate(item.axes or ())
        )


def nameless(item: Input, axis: int) -> str:
    """The symbol of an axis that the model does not name; also what a user writes for it."""
    return f"{item.name}.{axis}"


def choose(inputs: list[Input], given: Mapping[str, int] | None = None) -> Sizes:
    """Sizes for every dynamic axis.

    Raises:
        BadInput: ``given`` names an axis that the model does not have, or a size below zero.
    """
    sizes = Sizes(kinds(inputs))
    wanted = _resolve(dict(given or {}), sizes.kinds)
    cached = any(i.role == roles.CACHE for i in inputs)
    streaming = any(i.role == roles.STATE for i in inputs)
    defaults = {
        BATCH: 1, SEQ: 1 if cached else 128, PAST: 16, ENCODED: 128, HEIGHT: 224, WIDTH: 224, CHANNELS: 3,
        SAMPLES: 576 if streaming else 16000, OTHER: 16,
    }  # fmt: skip
    for symbol, kind in sizes.kinds.items():
        if symbol in wanted:
            sizes.values[symbol], sizes.origin[symbol] = wanted[symbol], "given"
        elif kind != TOTAL:
            sizes.values[symbol], sizes.origin[symbol] = defaults[kind], "default"
    _agree(sizes)
    return sizes


def _agree(sizes: Sizes) -> None:
    """Total length is past and current length together: whichever was given decides the other."""
    totals = [s for s, k in sizes.kinds.items() if k == TOTAL]
    pasts = [s for s, k in sizes.kinds.items() if k == PAST]
    seq = sizes.of(SEQ) or 1
    given = next((sizes.values[s] for s in totals if sizes.origin.get(s) == "given"), None)
    if given is not None:
        for symbol in pasts:
            if sizes.origin[symbol] != "given":
                sizes.values[symbol], sizes.origin[symbol] = max(0, given - seq), "from total and seq"
    past = sizes.of(PAST) or 0
    for symbol in totals:
        if sizes.origin.get(symbol) != "given":
            sizes.values[symbol], sizes.origin[symbol] = past + seq, "from past and seq"


def _resolve(given: dict[str, int], known: Mapping[str, str], where: str = "--dim") -> dict[str, int]:
    """Sizes by symbol, from sizes by symbol or by kind."""
    for name, size in given.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 0:
            raise BadInput(f"size {size!r} of dimension {name!r} is not a whole number of at least 0", where=where)
    found: dict[str, int] = {}
    for name, size in given.items():
        plain = re.sub(r"\[(\d+)\]$", r".\1", name)
        if plain in known:
            found[plain] = size
            continue
        same = [s for s, kind in known.items() if kind == name]
        if not same:
            listed = ", ".join(f"{s} ({k})" if s != k else s for s, k in known.items())
            raise BadInput(
                f"the model has no dimension {name!r}", where=where,
                hint=f"its dynamic dimensions are: {listed}" if listed else "all its input shapes are fixed",
            )  # fmt: skip
        for symbol in same:
            if symbol not in given:
                found[symbol] = size
    return found


def kinds(inputs: list[Input]) -> dict[str, str]:
    """The kind of every symbol, in the order in which the inputs name them."""
    found: dict[str, str] = {}
    cached = any(i.role == roles.CACHE for i in inputs)
    ranked = sorted(inputs, key=lambda i: roles.ORDER.index(i.role) if i.role in roles.ORDER else len(roles.ORDER))
    for item in ranked:
        for axis, size in enumerate(item.axes or ()):
            by_place = _by_place(item, axis, cached)
            if size is None:
                found.setdefault(nameless(item, axis), by_place)
            elif isinstance(size, dims.Poly) and str(size) in dims.symbols(size):
                symbol = str(size)
                if symbol not in found:
                    found[symbol] = _by_name(symbol, item, by_place)
    # Symbols that occur only within derived sizes have no place of their own: their name must do.
    for item in inputs:
        for size in item.axes or ():
            for symbol in sorted(dims.symbols(size)) if isinstance(size, dims.Poly) else ():
                found.setdefault(symbol, _by_name(symbol, item, OTHER))
    order = [nameless(i, a) if d is None else s for i in inputs for a, d in enumerate(i.axes or ())
             for s in (sorted(dims.symbols(d)) if isinstance(d, dims.Poly) else [""])]  # fmt: skip
    return {s: found[s] for s in dict.fromkeys(order) if s in found}


def _by_name(symbol: str, item: Input, by_place: str) -> str:
    if item.role == roles.AUDIO and by_place == SAMPLES:
        return SAMPLES
    low = symbol.lower()
    if len(low) == 1 and by_place != OTHER:
        return by_place  # a single letter says less than the place
    kind = next((k for k, pattern in _NAMES if re.search(pattern, low)), by_place)
    # "sequence" in an input of the encoder is the encoder's.
    return ENCODED if kind == SEQ and by_place == ENCODED else kind


def _by_place(item: Input, axis: int, cached: bool) -> str:
    """The kind of an axis whose name says nothing, from the input's role."""
    role, rank = item.role, item.rank
    encoder = re.search(r"encoder", item.name.lower()) is not None
    if role == roles.STATE:
        return BATCH if axis == min(1, rank - 1) and rank >= 2 else OTHER
    if role in (roles.IDS, roles.SEGMENTS, roles.POSITIONS):
        return SEQ if axis == rank - 1 else BATCH
    if role in (roles.MASK, roles.ADDED_MASK):
        if axis == 0:
            return BATCH
        if axis == rank - 1:
            return ENCODED if encoder else TOTAL if cached else SEQ
        return SEQ if axis == rank - 2 else OTHER
    if role == roles.CACHE:
        if axis == (1 if rank == 5 else 0):
            return BATCH
        return ENCODED if encoder else PAST
    if role == roles.IMAGE:
        last = item.axes is not None and item.axes[1] not in (1, 3, 4) and item.axes[3] in (1, 3, 4)
        return ((BATCH, HEIGHT, WIDTH, CHANNELS) if last else (BATCH, CHANNELS, HEIGHT, WIDTH))[axis]
    if role == roles.AUDIO:
        return SAMPLES if axis == rank - 1 else BATCH
    if role == roles.FEATURES:
        return BATCH if axis == 0 else (ENCODED if encoder else SEQ)
    return BATCH if axis == 0 else OTHER


def alternatives(sizes: Sizes) -> Iterator[tuple[Sizes, str]]:
    """Other sizes to try, with what was changed in words: one kind at a time, then height and width together.

    Sizes that the user gave stay.
    """
    free = {s for s, origin in sizes.origin.items() if origin != "given"}
    totals = [s for s in free if sizes.kinds[s] == TOTAL]
    if totals:
        # A mask beside a cache may cover the new tokens only, or the past only.
        for size in dict.fromkeys((sizes.of(SEQ) or 1, sizes.of(PAST) or 0)):
            yield _changed(sizes, totals, size), f"{', '.join(sorted(totals))}={size}"
    present = [k for k in TRIED if any(sizes.kinds[s] == k for s in free)]
    most = min((sizes.values[s] for s, origin in sizes.origin.items() if origin == LESS), default=max(TRIED[SAMPLES]))
    if HEIGHT in present and WIDTH in present:
        for height in TRIED[HEIGHT]:
            # Low pictures are lines of text, which are wide.
            for width in (320, height) if height <= 64 else dict.fromkeys((height, 320)):
                if height * width > most * most:
                    continue
                both = _changed(sizes, [s for s in free if sizes.kinds[s] == HEIGHT], height)
                both = _changed(both, [s for s in free if sizes.kinds[s] == WIDTH], width)
                yield both, f"height={height}, width={width}"
        present = [k for k in present if k not in (HEIGHT, WIDTH)]
    for kind in present:
        symbols = [s for s in free if sizes.kinds[s] == kind]
        for size in TRIED[kind]:
            if any(sizes.values[s] != size for s in symbols) and (size <= most or kind not in (HEIGHT, WIDTH, SAMPLES)):
                yield _changed(sizes, symbols, size), f"{', '.join(sorted(symbols))}={size}"


def smaller(sizes: Sizes) -> Sizes | None:
    """The same with pictures and sounds that nobody gave the sizes of about half as large, powers of two; None where they are
    small."""
    free = [s for s, kind in sizes.kinds.items() if kind in (HEIGHT, WIDTH, SAMPLES) and sizes.origin[s] in ("default", LESS)]
    large = [s for s in free if sizes.values[s] > SMALL]
    if not large:
        return None
    halved = {s: 1 << (sizes.values[s] - 1).bit_length() - 1 for s in large}
    return Sizes(dict(sizes.kinds), {**sizes.values, **halved}, {**sizes.origin, **dict.fromkeys(large, LESS)})


def around(sizes: Sizes) -> list[Sizes]:
    """Other sizes that the model's shapes declare to be as good: each kind of axis varied alone, then all of them at once.

    Axes whose name and place say nothing are varied one by one. Whether the model runs with them only a run can tell.
    """
    groups = {k: [s for s, kind in sizes.kinds.items() if kind == k] for k in VARIED if k != OTHER}
    less = {k: min((sizes.values[s] for s in symbols if sizes.origin.get(s) == LESS), default=0) for k, symbols in groups.items()}
    varied = [(symbols, (less[k] // 2, less[k] * 3 // 4) if less[k] else VARIED[k]) for k, symbols in groups.items() if symbols]
    varied += [([s], VARIED[OTHER]) for s, kind in sizes.kinds.items() if kind == OTHER]
    found = [_changed(sizes, symbols, size) for symbols, values in varied for size in values
             if any(sizes.values.get(s) != size for s in symbols)]  # fmt: skip
    together = sizes
    for symbols, values in varied:
        together = _changed(together, symbols, values[-1])
    if len(varied) > 1:
        found.append(together)
    return found


def without_past(sizes: Sizes) -> Sizes:
    """The same with masks that cover new tokens only; caches are as long as they were, for nobody looks at them."""
    return _changed(sizes, [s for s, k in sizes.kinds.items() if k == TOTAL], sizes.of(SEQ) or 1)


def at(sizes: Sizes, given: Mapping[str, int]) -> Sizes:
    """The same with some sizes given, by symbol or by kind.

    Raises:
        BadInput: ``given`` names an axis that the model does not have, or a size below zero.
    """
    for symbol, size in _resolve(dict(given), sizes.kinds, "--sweep").items():
        sizes = _changed(sizes, [symbol], size)
    return sizes


def _changed(sizes: Sizes, symbols: Iterable[str], size: int) -> Sizes:
    names = list(symbols)
    new = Sizes(
        dict(sizes.kinds),
        {**sizes.values, **dict.fromkeys(names, size)},
        {**sizes.origin, **dict.fromkeys(names, "tried")},
    )
    if any(new.kinds[s] in (SEQ, PAST) for s in names):
        _agree(new)
    return new
