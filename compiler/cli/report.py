"""``olc report``."""

from __future__ import annotations

from pathlib import Path

import click

from ._options import report_files, report_options


@click.command()
@click.argument("report", type=click.Path())
@report_options
def command(report: str, html: str | None, markdown: str | None) -> None:
    """Show REPORT, the .olc.json that olc compile wrote beside a model; or write it as a page or as markdown."""
    from jinja2 import TemplateError

    from ..errors import BadInput, OutputError
    from ..files import write_text
    from ..report import Report
    from ..report.terminal import show

    try:
        text = Path(report).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise BadInput(f"the report cannot be read: {e}", where=report) from e
    files = report_files(html, markdown)
    for path in files:
        if Path(path).exists() and Path(path).samefile(report):
            raise OutputError("the output would overwrite the report", where=path, hint="give another file")
    try:
        value = Report.loads(text)
        made = {path: make(value) for path, make in files.items()}
        if not files:
            show(value)
    except BadInput as e:
        raise BadInput(e.what, where=report, hint=e.hint) from e
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, ZeroDivisionError, OverflowError, TemplateError) as e:
        what = f"the report lacks or misuses {e}"
        raise BadInput(what, where=report, hint="give the .olc.json that olc compile of this version wrote") from e
    for path, content in made.items():
        write_text(path, content)
