"""The page: whatever the texts in a report are, it is the page that the template says, and one that a browser shows."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections import Counter
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import html5lib
import pytest
from olc.report import Report
from olc.report.html import html
from olc.report.markdown import markdown

from tests.sample_report import report

HOSTILE = (
    "<script>alert(1)</script>\"><img src=x onerror='alert(2)'></code></td></table></details></style></title>"
    "<svg onload=a>&lt;{{ 7 * 7 }}\u202e\x00\ud800"
)
VOID = {"meta", "link", "br", "rect", "line", "circle", "polyline", "img", "input", "hr"}


class _Page(HTMLParser):
    """Elements, attributes and headings, and whether each element is closed where it should be."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: Counter[str] = Counter()
        self.attributes: Counter[str] = Counter()
        self.headings: list[int] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes.update(name for name, _ in attrs)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes.update(name for name, _ in attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes another element"


def elements(text: str) -> list[Any]:
    """All elements, as a browser makes them of the text."""
    return [e for e in html5lib.parse(text, namespaceHTMLElements=False).iter() if isinstance(e.tag, str)]


def local(tag: str) -> str:
    return tag.rpartition("}")[2]


def test_names_and_texts_from_a_model_make_no_element_and_no_attribute() -> None:
    text = html(report(HOSTILE))
    text.encode("utf-8")
    for e in elements(text):
        assert local(e.tag) not in ("script", "img", "iframe", "object", "form")
        assert not any(name.startswith("on") for name in e.attrib)
    # Not one element more than the same report has with harmless names, browsers' repairs included.
    assert Counter(e.tag for e in elements(text)) == Counter(e.tag for e in elements(html(report())))
    assert _Page(text).tags == _Page(html(report())).tags
    assert "7 * 7" in text
    assert "\u202e" not in text
    assert "\x00" not in text


def test_every_element_is_closed_and_nothing_is_fetched() -> None:
    text = html(report())
    page = _Page(text)
    assert not page.open
    assert page.tags["script"] == 0
    assert not page.attributes.keys() & {"src", "srcset", "action", "onclick"}
    assert not re.search(r"url\(|@import|https?:", text)
    assert set(re.findall(r'href="([^"#]+)', text)) == {"data:,"}
    targets = set(re.findall(r'href="#([^"]+)"', text))
    assert targets <= set(re.findall(r' id="([^"]+)"', text))


def test_a_reader_without_eyes_gets_on() -> None:
    page = elements(html(report()))
    levels = _Page(html(report())).headings
    assert levels[0] == 1
    assert all(b <= a + 1 for a, b in pairwise(levels)), levels
    for table in (e for e in page if e.tag == "table"):
        assert all(th.get("scope") in ("col", "row") for th in table.iter("th"))
        assert any(th.get("scope") == "col" for th in table.iter("th"))
    pictures = [e for e in page if local(e.tag) == "svg" and e.get("aria-hidden") != "true"]
    assert pictures
    assert all(s.get("role") == "img" and s.get("aria-label") for s in pictures)


def _luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(2 * c for c in colour[1:])
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_text_has_contrast_in_light_and_dark() -> None:
    palettes = [dict(re.findall(r"--(\w+): (#\w+)", block)) for block in re.findall(r":root \{([^}]*)\}", html(report()))]
    assert len(palettes) == 3, "light, dark, print"
    for p in palettes:
        for ink in ("ink", "soft", "after", "warn", "good"):
            high, low = sorted((_luminance(p[ink]), _luminance(p["ground"])), reverse=True)
            assert (high + 0.05) / (low + 0.05) >= 4.5, (ink, p)


def test_the_same_report_gives_the_same_bytes_and_survives_json() -> None:
    assert html(report()) == html(Report.loads(report().dumps()))


@pytest.mark.parametrize("part", [
    "2.00 times the speed", "1.80 and 2.20", "encoder.layer.0 to 2", "3 blocks, the same", "its mask is odd", "a note",
    "another shape", "bad-rule", "1 of 2 outputs cannot be compared", "fusions of the group gelu", "budget 0.01",
    "MatMul 1 <span class=\"arrow\">→</span> Attention 1", "it raised", "scores are finite", "−50 %", "not a constant",
])  # fmt: skip
def test_what_is_in_the_report_is_on_the_page(part: str) -> None:
    assert part in html(report())


@pytest.mark.parametrize("changes", [
    {"evaluation": None, "executed": {}}, {"rewrites": [], "changes": {}, "layers": [], "trials": [], "plan": "", "front": []},
])  # fmt: skip
def test_a_report_without_a_part_has_a_page_without_it(changes: dict[str, object]) -> None:
    assert not _Page(html(report(**changes))).open  # type: ignore[arg-type]


def test_a_big_model_gives_a_small_page() -> None:
    """7,600 nodes and 6,000 rewrites, no two blocks alike, and names as long as a hostile file likes."""
    rewrites = [{"number": i, "rule": f"rule-{i % 40}", "site": f"node{i}" * 50, "detail": "MatMul " * 60,
                 "module": f"a.{i // 3}.b.{i % 3}"} for i in range(6000)]  # fmt: skip
    removed = [{"name": f"n{i}" * 50, "op": f"Op{i % 300}", "module": f"a.{i // 4}.b.{i % 4}"} for i in range(7600)]
    layers = [{**report().layers[0], "node": f"layer{i}" * 30, "module": f"a.{i}"} for i in range(3000)]
    outputs = [{**report().evaluation["outputs"][0], "name": f"y{i}" * 40} for i in range(500)]  # type: ignore[index]
    big = report(
        rewrites=rewrites, layers=layers, changes={**report().changes, "removed": removed, "nodes": [7600, 100]},
        evaluation={**report().evaluation, "outputs": outputs}, notes=["a note " * 50] * 50,  # type: ignore[dict-item]
    )  # fmt: skip
    text = html(big)
    assert len(text.encode()) < 2_000_000
    assert "more blocks in the JSON" in text
    assert "more layers in the JSON" in text
    assert len(markdown(big)) < 20_000


def test_markdown_holds_the_verdict_and_no_markup_of_others() -> None:
    text = markdown(report())
    assert "faster: 2.00 times the speed".capitalize() in text
    assert "| size | 2.0 MB | 1.0 MB | −50 % |" in text
    hostile = markdown(report("<script>|\n## x [a](b) @someone `c`"))
    hostile.encode("utf-8")
    assert all(line.count("`") % 2 == 0 for line in hostile.replace("\\`", "").splitlines())
    assert "<script" not in re.sub(r"`[^`]*`", "", hostile)
    assert not re.search(r"^#+ x", hostile, re.MULTILINE)
    assert "@someone" not in re.sub(r"`[^`]*`", "", hostile)
    assert "](b" not in re.sub(r"`[^`]*`", "", hostile.replace("\\]", ""))


BROWSER = next((b for b in ("chromium", "chromium-browser", "google-chrome") if shutil.which(b)), None)


@pytest.mark.skipif(BROWSER is None, reason="no chromium, chromium-browser or google-chrome on PATH")
def test_a_browser_shows_it_without_scripts_and_without_scrolling_sideways(tmp_path: Path) -> None:
    assert BROWSER is not None
    page = tmp_path / "report.html"
    page.write_text(html(report(HOSTILE)), encoding="utf-8")
    shown = tmp_path / "shown.png"
    command = [BROWSER, "--headless", "--disable-gpu", "--virtual-time-budget=1000", "--window-size=500,1200",
               f"--user-data-dir={tmp_path / 'profile'}", *(["--no-sandbox"] if os.geteuid() == 0 else [])]  # fmt: skip
    dom = subprocess.run([*command, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=300, check=True).stdout
    assert "2.00 times the speed" in dom
    assert Counter(e.tag for e in elements(dom)) == Counter(e.tag for e in elements(html(report())))
    subprocess.run([*command, f"--screenshot={shown}", page.as_uri()], capture_output=True, timeout=300, check=True)
    assert shown.read_bytes()[:4] == b"\x89PNG"
    assert shown.stat().st_size > 10_000
