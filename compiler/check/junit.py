"""The check as JUnit XML: a suite for each model, a case for each budget."""

from __future__ import annotations

import re

import junitparser

from .gate import Outcome, Result

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(result: Result) -> str:
    """The XML. Characters that XML cannot hold are shown as U+FFFD."""
    suites = junitparser.JUnitXml("olc check")
    for o in result.outcomes:
        suites.add_testsuite(_suite(o))
    text: bytes = suites.tostring()  # type: ignore[no-untyped-call]
    return text.decode("utf-8")


def _suite(o: Outcome) -> junitparser.TestSuite:
    name = _clean(o.job.name)
    suite = junitparser.TestSuite(name)
    if o.error is not None and not o.verdicts:
        case = junitparser.TestCase("compile", classname=name)
        error = junitparser.Error(_clean(o.error.what), o.error.kind)
        error.text = _clean(str(o.error))
        case.result = [error]
        suite.add_testcase(case)
    for v in o.verdicts:
        case = junitparser.TestCase(f"{v.kind} {_clean(v.limit)}", classname=name)
        if v.ok is not True:
            kind = junitparser.Error if v.ok is None else junitparser.Failure
            problem = kind(_clean(v.text), v.kind)
            problem.text = _clean("\n".join([v.text, *(f"{s.node}: {s.text}" for s in v.sites)]))
            case.result = [problem]
        suite.add_testcase(case)
    return suite


def _clean(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)
