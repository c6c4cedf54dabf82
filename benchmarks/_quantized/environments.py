"""Virtual environments of the peers: made when first needed, in ``benchmarks/.cache/env``, from ``requirements/NAME.txt``."""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
import venv
from pathlib import Path

REQUIREMENTS = Path(__file__).resolve().parent / "requirements"
CACHE = Path(__file__).resolve().parent.parent / ".cache"
#: Seconds that an installation may take; llama.cpp is compiled.
LIMIT_S = 3600.0


class NoEnvironment(Exception):
    """An environment cannot be made; the text is pip's reason."""


def python(name: str | None) -> str:
    """The interpreter of an environment, made first where it is absent or its requirements changed; this one where None.

    Raises:
        NoEnvironment: the installation fails.
    """
    return sys.executable if name is None else str(_made(name))


@functools.cache
def _made(name: str) -> Path:
    wanted = (REQUIREMENTS / f"{name}.txt").read_text()
    folder = CACHE / "env" / name
    stamp, interpreter = folder / "installed.txt", folder / "bin" / "python"
    if stamp.is_file() and stamp.read_text() == wanted:
        return interpreter
    print(f"  installing {name} into {folder.relative_to(CACHE.parent.parent)}", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    try:
        venv.create(folder, with_pip=True)
        command = [interpreter, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        done = subprocess.run(
            [*command, "-r", REQUIREMENTS / f"{name}.txt"], capture_output=True, text=True, errors="replace", timeout=LIMIT_S
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise NoEnvironment(f"cannot be installed: {error}") from error
    if done.returncode != 0:
        raise NoEnvironment(f"cannot be installed: {first_error(done.stderr)}")
    stamp.write_text(wanted)
    return interpreter


def first_error(said: str) -> str:
    """The first line that calls itself an error, else the last line."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return next((line for line in lines if line.lower().startswith("error")), lines[-1] if lines else "nothing was said")
