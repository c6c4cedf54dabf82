"""``python -m benchmarks [NAME [ARGUMENT...]]...`` runs the named benchmarks, or all of them.

What follows a benchmark's name, up to the next name of one, is handed to its ``main``.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys
from collections.abc import Sequence

import benchmarks


def split(words: Sequence[str], known: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Each benchmark named, with the words that follow its name; all of them where there are no words.

    Raises:
        ValueError: the first word names no benchmark.
    """
    found: list[tuple[str, list[str]]] = []
    for word in words:
        if word in known:
            found.append((word, []))
        elif found:
            found[-1][1].append(word)
        else:
            raise ValueError(f"no benchmark is called {word!r}; there are: {', '.join(known)}")
    return found or [(name, []) for name in known]


def main() -> int:
    known = sorted(m.name for m in pkgutil.iter_modules(benchmarks.__path__) if not m.name.startswith("_"))
    try:
        chosen = split(sys.argv[1:], known)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    mains = {name: importlib.import_module(f"benchmarks.{name}").main for name, _ in chosen}
    plain = {name for name, run in mains.items() if not inspect.signature(run).parameters}
    for name, arguments in chosen:
        if arguments and name in plain:
            print(f"{name} takes no arguments, but was given {' '.join(arguments)}", file=sys.stderr)
            return 2
    for name, arguments in chosen:
        print(f"== {name}: python -m benchmarks {' '.join([name, *arguments])}", flush=True)
        mains[name](*([] if name in plain else [arguments]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
