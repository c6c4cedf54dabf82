"""Writes the rule pages, ``docs/rules/<group>.md``, from the registry: ``python -m tests.docs``. A test holds them fresh."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

FOLDER = Path(__file__).parent.parent / "docs" / "rules"


def pages() -> dict[str, str]:
    """File name to text, one page a group and an index."""
    from olc.rulepage import page
    from olc.rules import registry

    found: dict[str, str] = {}
    index = ["# Rules", "", "Generated from the rules themselves by `make docs`.", ""]
    for group, members in groupby(registry(), key=lambda r: r.group):
        rules = list(members)
        text = [f"# {group}", ""]
        for r in rules:
            text.append("#" + page(r).replace("\n## ", "\n### "))
        found[f"{group}.md"] = "\n".join(text)
        index += [f"## [{group}]({group}.md)", ""]
        index += [
            f"* `{r.name}` ({r.safety.level}): {' '.join(r.doc.split(chr(10) * 2)[0].split())}" for r in rules
        ] + [""]
    found["index.md"] = "\n".join(index)
    return found


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    wanted = pages()
    for old in FOLDER.glob("*.md"):
        if old.name not in wanted:
            old.unlink()
    for name, text in wanted.items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    print(f"wrote {len(wanted)} pages to docs/rules")


if __name__ == "__main__":
    main()
