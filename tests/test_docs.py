"""What is generated or promised in the docs is fresh."""

from __future__ import annotations

import re
from pathlib import Path

from olc.cli import group
from olc.errors import OlcError

from tests.docs import FOLDER, pages

ROOT = Path(__file__).parent.parent


def test_rule_pages_are_fresh() -> None:
    on_disk = {p.name: p.read_text(encoding="utf-8") for p in FOLDER.glob("*.md")}
    assert on_disk == pages(), "run: make docs"


def test_every_command_in_the_readme_exists() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    known = set(group.list_commands(None))  # type: ignore[arg-type]
    named = set(re.findall(r"\bolc ([a-z]+)\b", text)) - {"is", "compiles", "does", "never", "keeps", "needs", "can"}
    assert named - known == set()
    assert known - named == set(), "commands that the README does not mention"


def test_every_make_target_in_the_readme_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z]+)`", (ROOT / "README.md").read_text())) <= targets


def test_exit_codes_are_distinct_and_documented() -> None:
    classes = [OlcError, *OlcError.__subclasses__()]
    codes = [c.exit_code for c in classes]
    assert len(set(codes)) == len(codes)
    text = (ROOT / "README.md").read_text()
    for c in classes:
        assert re.search(rf"\| {c.exit_code} \| {c.kind}", text), f"README's table lacks {c.exit_code} {c.kind}"
