"""The command line. Each module of this package that has a ``command`` is a subcommand; nothing lists them.

Commands parse and print. What fails on purpose is an ``OlcError``; ``main`` prints it and sets the exit code.
"""

from __future__ import annotations

import importlib
import pkgutil
import signal
import sys
from typing import Any

import click

from .. import __version__
from ..errors import OlcError

EXIT_CODES = """\
Exit codes: 0 fine, 1 internal error, 2 usage, 3 bad input, 4 unsupported by the target, 5 verification failed,
6 over budget, 7 cannot write, 8 rule error, 60 to 69 of olc check and of several models (olc check -h), 130 interrupted,
128 and more of a crash: the number of the signal is added."""


class _Commands(click.Group):
    """Finds subcommands by walking the package, and imports one only when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(m.name.replace("_", "-") for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in self.list_commands(ctx):
            return None
        module: Any = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
        command: click.Command = module.command
        return command


@click.group(cls=_Commands, epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="olc")
def group() -> None:
    """olc compiles ONNX models: faster on the machine you name, still right, and it proves both.

    Add --debug to any command for a traceback when something goes wrong.
    """


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in args
    args = [a for a in args if a != "--debug"]
    try:
        code = group.main(args, prog_name="olc", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.exceptions.Abort:
        click.echo("olc: interrupted; nothing was written", err=True)
        return 130
    except KeyboardInterrupt:
        click.echo("olc: interrupted; nothing was written", err=True)
        return 130
    except click.ClickException as e:
        e.show()
        return e.exit_code
    except OlcError as e:
        if debug:
            raise
        _show(e)
        return e.exit_code
    except BrokenPipeError:
        # The reader (head, less) has gone: nothing more to say, and no second complaint when the interpreter flushes.
        sys.stderr.close()
        return 0
    except Exception as e:
        if debug:
            raise
        click.echo(f"olc: internal error: {type(e).__name__}: {e}", err=True)
        click.echo("  this is a fault in olc: run again with --debug and report what it prints", err=True)
        return 1


def _show(e: OlcError) -> None:
    from ._options import tell

    text = [f"olc: {e.kind}: {e.what}", *([f"  in: {e.where}"] if e.where is not None else []),
            *([f"  try: {e.hint}"] if e.hint is not None else [])]  # fmt: skip
    tell("\n".join(text), err=True)


def entry() -> None:
    """The console script. A pipeline that is called off sends SIGTERM: then too nothing may be left behind."""
    from ._watch import watched

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with watched():
        code = main()
    sys.exit(code)
