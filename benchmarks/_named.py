"""Cases by the beginnings of their names (``*`` stands for anything), as every benchmark's command line takes them."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import TypeVar

T = TypeVar("T")


def chosen(parser: argparse.ArgumentParser, names: Sequence[str], cases: Iterable[T], name_of: Callable[[T], str]) -> list[T]:
    """The cases whose names begin with one of ``names``, or all; a name that begins none of them is the parser's error."""
    cases = list(cases)
    for name in names:
        if not any(fnmatchcase(name_of(c), f"{name}*") for c in cases):
            parser.error(f"none is called {name!r}; there are: {', '.join(dict.fromkeys(map(name_of, cases)))}")
    return [c for c in cases if not names or any(fnmatchcase(name_of(c), f"{name}*") for name in names)]
