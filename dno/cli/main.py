"""The `dno` command: what it consists of, and how errors end it."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from dno import __version__
from dno.cli import batch, ending, optimize, plugins, runs
from dno.cli.quick import QUICK


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
        make_app()(prog_name="dno")
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


def make_app() -> typer.Typer:
    """The command with all its subcommands."""
    app = typer.Typer(
        help="Align a diffusion model at inference time by optimising its noise.",
        no_args_is_help=True,
        **QUICK,
    )
    app.callback()(_root)
    optimize.add_to(app)
    batch.add_to(app)
    app.command()(runs.resume)
    app.add_typer(plugins.plugins, name="plugins")
    return app


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"dno {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print it and exit."),
    ] = False,
) -> None: ...


def _fail(error: BaseException, code: int) -> None:
    typer.echo(f"dno: {ending.told(error)}", err=True)
    sys.exit(code)
