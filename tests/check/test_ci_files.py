"""What is offered to CI systems keeps to their schemas, and runs commands and options that there are."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from olc.check.budgets import CODES
from olc.check.config import _BUDGET, _MODEL, read
from olc.cli import group

from tests.checking import repository

ROOT = Path(__file__).parent.parent.parent
ACTION = yaml.safe_load((ROOT / "action.yml").read_text())
HOOKS = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
PAGE = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")
BLOCKS = {
    name: re.search(rf"^## {title}\n\n```\w+\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE)
    for name, title in (("toml", "olc.toml"), ("github", "GitHub Actions"), ("gitlab", "GitLab"), ("hook", "pre-commit"))
}


def block(name: str) -> str:
    found = BLOCKS[name]
    assert found is not None, f"docs/ci.md has no block of {name}"
    return found[1]


def follows(data: Any, schema: str) -> None:
    import jsonschema  # takes seconds, in each process that collects tests

    held = json.loads((files("check_jsonschema") / "builtin_schemas" / "vendor" / f"{schema}.json").read_text())
    jsonschema.validators.validator_for(held)(held).validate(data)


def commands(script: str) -> list[list[str]]:
    """The calls of olc in a shell script, as lists of arguments."""
    joined = script.replace("\\\n", " ")
    return [shlex.split(m) for m in re.findall(r"^\s*(?:- )?olc ([^|&;\n]+)", joined, re.MULTILINE)]


def exists(arguments: list[str]) -> None:
    name, *rest = arguments
    command = group.get_command(click.Context(group), name)
    assert command is not None, f"there is no olc {name}"
    options = {o for p in command.params for o in p.opts}
    assert {a.partition("=")[0] for a in rest if a.startswith("-")} <= options


SCRIPTS = {
    "action": "\n".join(s.get("run", "") for s in ACTION["runs"]["steps"]),
    "hook": HOOKS[0]["entry"],
    "gitlab": "\n".join(yaml.safe_load(block("gitlab"))["olc"]["script"]),
}


@pytest.mark.parametrize("where", SCRIPTS)
def test_the_commands_exist(where: str) -> None:
    found = commands(SCRIPTS[where])
    assert found
    for arguments in found:
        exists(arguments)


def test_the_action_keeps_to_githubs_schema() -> None:
    follows(ACTION, "github-actions")
    used = set(re.findall(r"inputs\.([\w-]+)", (ROOT / "action.yml").read_text()))
    assert used == set(ACTION["inputs"])


def test_no_input_is_written_into_a_script() -> None:
    assert not any("${{" in s.get("run", "") for s in ACTION["runs"]["steps"])


def test_the_snippets_keep_to_their_schemas() -> None:
    workflow = yaml.safe_load(block("github"))
    workflow["on"] = workflow.pop(True, workflow.get("on"))  # YAML 1.1 takes the key for a boolean
    follows(workflow, "github-workflows")
    given = workflow["jobs"]["models"]["steps"][-1]["with"]
    assert set(given) <= set(ACTION["inputs"])
    follows(yaml.safe_load(block("gitlab")), "gitlab-ci")
    hook = yaml.safe_load(block("hook"))["repos"][0]["hooks"][0]["id"]
    assert hook in [h["id"] for h in HOOKS]


def test_the_hook_has_what_pre_commit_demands() -> None:
    for hook in HOOKS:
        assert {"id", "name", "entry", "language"} <= set(hook)
        assert set(hook) <= {"id", "name", "description", "entry", "language", "always_run", "pass_filenames", "require_serial"}
        assert hook["always_run"], "what a compile reads may lie anywhere: samples, rules, external data"


def test_the_page_shows_a_file_that_is_read_and_names_every_key_and_code(tmp_path: Path) -> None:
    text = block("toml")
    file = repository(tmp_path, text)
    (tmp_path / "models" / "small.onnx").rename(tmp_path / "models" / "encoder.onnx")
    assert [j.settings.level for j in read(file).jobs if j.model == "models/encoder.onnx"] == [2, 3]
    for key in (*_BUDGET, *_MODEL):
        assert re.search(rf"\b{key}\b", PAGE), f"docs/ci.md does not name {key}"
    for kind, code in CODES.items():
        assert re.search(rf"\| {code} \| [^|]*{kind}", PAGE), f"docs/ci.md lacks {code} {kind}"


@pytest.mark.skipif(sys.platform == "win32", reason="the action's shell is bash")
@pytest.mark.parametrize(("budget", "code"), [("size = {source = 2}", 0), ("opset = [15, 17]", 68), ("nonsense = 1", 3)])
def test_the_actions_script_keeps_the_exit_code_and_gives_its_files(budget: str, code: int, tmp_path: Path) -> None:
    repository(tmp_path, f'[[models]]\npath = "models/small.onnx"\nbudget = {{{budget}}}')
    step = next(s for s in ACTION["runs"]["steps"] if s.get("id") == "check")
    tools, runner = tmp_path / "tools", tmp_path / "runner"
    tools.mkdir()
    runner.mkdir()
    (tools / "olc").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m olc "$@"\n')
    (tools / "olc").chmod(0o755)
    env = {
        **os.environ, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", "RUNNER_TEMP": str(runner),
        "GITHUB_STEP_SUMMARY": str(runner / "summary"), "GITHUB_OUTPUT": str(runner / "output"),
        "OLC_CHECK_CONFIG": "olc.toml", "OLC_CHECK_ARGS": "--quiet --workers 1\n--markdown mine.md --json out.json",
    }  # fmt: skip
    done = subprocess.run(["bash", "-eo", "pipefail", "-c", step["run"]], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    output = dict(line.split("=", 1) for line in (runner / "output").read_text().splitlines())
    assert output["code"] == str(code)
    assert set(output) == ({"code"} if code == 3 else {"code", "markdown", "sarif"})
    if code != 3:
        assert "olc check: 1 checked" in (runner / "summary").read_text(encoding="utf-8")
        json.loads(Path(output["sarif"]).read_text())
        assert json.loads((tmp_path / "out.json").read_text())["code"] == code, "every line of the arguments counts"
    # A second use in the same job that is refused leaves no files of the first.
    (runner / "output").unlink()
    subprocess.run(["bash", "-eo", "pipefail", "-c", step["run"]], cwd=tmp_path, env=env | {"OLC_CHECK_CONFIG": "none.toml"},
                   check=False, capture_output=True)  # fmt: skip
    assert (runner / "output").read_text() == "code=3\n"
