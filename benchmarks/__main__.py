"""``python -m benchmarks [NAME...]`` runs the named benchmarks, or all of them."""

from __future__ import annotations

import importlib
import pkgutil
import sys

import benchmarks


def main() -> int:
    known = sorted(m.name for m in pkgutil.iter_modules(benchmarks.__path__) if not m.name.startswith("_"))
    names = sys.argv[1:] or known
    for name in names:
        if name not in known:
            print(f"no benchmark is called {name!r}; there are: {', '.join(known)}", file=sys.stderr)
            return 2
        print(f"== {name}: python -m benchmarks {name}")
        importlib.import_module(f"benchmarks.{name}").main()
    return 0


sys.exit(main())
