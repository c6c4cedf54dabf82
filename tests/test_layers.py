"""The import directions of docs/design.md. A module may import what stands before it, or beside it in its own room."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
COMPILER = ROOT / "compiler"

# Rooms in order; each may import from itself and from those before it.
ORDER = [
    {"errors", "files", "plain", "assumptions"},
    {"ir", "signatures", "tensor_reader", "tensors", "deserialize", "serialize", "file_kinds", "quantization"},
    {"digest", "verifier", "repairs", "storage", "frontend"},
    {"analysis"},
    {"printer", "diff"},
    {"patterns"},
    {"matching"},
    {"rules"},
    {"passes"},
    {"builder"},
    {"rewriter"},
    {"stand_in"},
    {"session"},
    {"decoding"},
    {"targets", "evaluation"},
    {"pipeline"},
    {"strategy", "summary", "fusions", "soundness", "rulepage", "report", "culprits"},
    {"settings"},
    {"elsewhere"},
    {"job"},
    {"driver", "cache"},
    {"batch", "bisect"},
    {"check"},
    {"cli"},
]
LEVEL = {name: i for i, names in enumerate(ORDER) for name in names}


def room(path: Path) -> str:
    return path.relative_to(COMPILER).parts[0].removesuffix(".py")


def imports(path: Path) -> list[tuple[str, int, bool]]:
    """(top-level room imported, line, at module level) for every import of olc in the file."""
    tree = ast.parse(path.read_text())
    nested = {
        id(n)
        for f in ast.walk(tree)
        if isinstance(f, ast.FunctionDef | ast.AsyncFunctionDef)
        for n in ast.walk(f)
        if isinstance(n, ast.Import | ast.ImportFrom)
    }
    typing_only = {
        id(n)
        for f in ast.walk(tree)
        if isinstance(f, ast.If) and "TYPE_CHECKING" in ast.dump(f.test)
        for n in ast.walk(f)
        if isinstance(n, ast.Import | ast.ImportFrom)
    }
    package = ["olc", *path.relative_to(COMPILER).parts[:-1]]
    found = []
    for n in ast.walk(tree):
        if id(n) in typing_only:
            continue
        names: list[str] = []
        if isinstance(n, ast.Import):
            names = [a.name for a in n.names]
        elif isinstance(n, ast.ImportFrom):
            base = package[: len(package) - n.level + 1] if n.level else []
            module = ".".join([*base, *([n.module] if n.module else [])])
            names = [module] if n.module or module != "olc" else []
            if module == "olc" or (not n.module and n.level):
                names = [f"{module}.{a.name}" for a in n.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "olc" and len(parts) > 1:
                found.append((parts[1], n.lineno, id(n) not in nested))
    return found


FILES = sorted(p for p in COMPILER.rglob("*.py"))


def test_every_room_has_its_place() -> None:
    rooms = {room(p) for p in FILES} - {"__init__", "__main__"}
    assert rooms <= set(LEVEL), f"give these a place in ORDER: {sorted(rooms - set(LEVEL))}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(COMPILER)))
def test_imports_go_one_way(path: Path) -> None:
    here = room(path)
    if here in ("__init__", "__main__"):
        return
    for name, line, top in imports(path):
        assert name not in ("rewrites", "frontends"), (
            f"{path.name}:{line}: compiler discovers {name}, it never imports it"
        )
        if name == here or name.startswith("__"):
            continue
        assert name in LEVEL, f"{path.name}:{line}: imports unknown room {name}"
        if top:
            assert LEVEL[name] <= LEVEL[here], f"{path.name}:{line}: {here} may not import {name}"
        assert name != "cli", f"{path.name}:{line}: nothing imports cli"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(COMPILER)))
def test_only_ir_names_the_ir_library(path: Path) -> None:
    if path == COMPILER / "ir.py":
        return
    for n in ast.walk(ast.parse(path.read_text())):
        names = (
            [a.name for a in n.names]
            if isinstance(n, ast.Import)
            else [n.module or ""]
            if isinstance(n, ast.ImportFrom)
            else []
        )
        assert not any(x.split(".")[0] == "onnx_ir" for x in names), f"{path.name}:{n.lineno}: goes past ir.py"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "path", sorted([*(ROOT / "rewrites").rglob("*.py"), *(ROOT / "frontends").rglob("*.py")]), ids=lambda p: p.stem
)
def test_rules_and_frontends_import_as_an_outside_author_would(path: Path) -> None:
    for n in ast.walk(ast.parse(path.read_text())):
        if isinstance(n, ast.ImportFrom) and n.level:
            assert n.level == 1 or not path.is_relative_to(ROOT / "frontends"), (
                f"{path}: relative import out of its folder"
            )
        if isinstance(n, ast.Import | ast.ImportFrom):
            name = n.module or "" if isinstance(n, ast.ImportFrom) else n.names[0].name
            assert "cli" not in name.split("."), f"{path}:{n.lineno}"


def test_import_stays_light() -> None:
    """``import olc`` and ``olc --help`` load neither numpy's friends nor the runtime."""
    import subprocess
    import sys

    names = {"onnx", "onnxruntime", "onnx_ir", "torch", "onnxsim", "onnx_graphsurgeon", "rich"}
    heavy = f"{names!r} & {{m.split('.')[0] for m in sys.modules}}"
    for code in (f"import sys, olc; print({heavy})",
                 f"import sys, olc.cli; olc.cli.main(['--help']); print({heavy})"):  # fmt: skip
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "set()", done.stdout
