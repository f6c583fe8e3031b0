"""The `dno` command: what it consists of, and how errors end it."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from dno import __version__
from dno.cli import batch, compare, ending, optimize, plan, plugins, runs
from dno.cli.quick import QUICK
from dno.cli.say import say, say_mistake


def main() -> None:
    """Run the command line, and end with one of the exit codes in `dno.cli.ending`."""
    for library in ("TRANSFORMERS", "DIFFUSERS"):
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
    from dno.errors import ConfigError, DNOError
    from dno.guard import MEMORY
    from dno.registry.discovery import pass_over_damaged

    pass_over_damaged()
    try:
        if sys.argv[1:] == ["plugins", "list"]:
            # Typer would import pydantic for the parameters of commands, and this one has none.
            plugins.list_plugins()
            sys.exit(ending.SUCCESS)
        sys.exit(_run_command())
    except ConfigError as error:
        _fail(error, ending.MISTAKE)
    except DNOError as error:
        _fail(error, ending.FAILED)
    except KeyboardInterrupt:
        sys.exit(ending.INTERRUPTED)
    except MemoryError:
        _fail(DNOError(f"the machine ran out of memory; {MEMORY}"), ending.FAILED)
    except BrokenPipeError:
        # Whoever read the output has seen enough, as in `dno plugins list | head`. Python would
        # try to write the rest when it ends, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(ending.FAILED)


def _run_command() -> int:
    """Parse the command line and do what it says; the exit code."""
    try:
        # A command returns nothing, and one that ended early its code.
        return make_app()(prog_name="dno", standalone_mode=False) or ending.SUCCESS
    except Exception as error:
        # Typer keeps the class of its parser's errors to itself; they all can show themselves.
        if not hasattr(error, "show"):
            raise
        # Printed here, and not by the parser: what it quotes may be anybody's.
        say_mistake(error)
        return ending.MISTAKE


def make_app() -> typer.Typer:
    """The command with all its subcommands."""
    app = typer.Typer(
        help="Align a diffusion model at inference time by optimising its noise.",
        no_args_is_help=True,
        **QUICK,
    )
    app.callback()(_root)
    optimize.add_to(app)
    plan.add_to(app)
    batch.add_to(app)
    app.command()(runs.resume)
    app.command()(runs.report)
    app.command()(compare.compare)
    app.command()(compare.leaderboard)
    app.add_typer(plugins.plugins, name="plugins")
    return app


def _version(asked: bool) -> None:
    if asked:
        say(f"dno {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print it and exit."),
    ] = False,
) -> None: ...


def _fail(error: BaseException, code: int) -> None:
    say(f"dno: {ending.told(error)}", err=True)
    sys.exit(code)
