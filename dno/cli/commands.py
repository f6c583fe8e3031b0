"""Subcommands that installed distributions add to `dno`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import typer

from dno.cli.ending import SUCCESS
from dno.cli.quick import QUICK

if TYPE_CHECKING:
    from dno.registry.discovery import PluginInfo

OWN: Final = (
    "optimize",
    "plan",
    "batch",
    "resume",
    "report",
    "compare",
    "leaderboard",
    "plugins",
)
"""What `dno` itself has; no distribution takes the place of any."""

_ALL_THAT_FOLLOWS: Final[dict[str, Any]] = {
    "ignore_unknown_options": True,
    "allow_extra_args": True,
    "allow_interspersed_args": False,
}


def add_to(app: typer.Typer) -> None:
    """Add every command of other distributions, from metadata alone: nothing is imported."""
    from dno.registry.discovery import NAME, usable

    owners: dict[str, list[PluginInfo]] = {}
    for info in usable():
        if info.kind == "commands" and NAME.fullmatch(info.name) and info.name not in OWN:
            owners.setdefault(info.name, []).append(info)
    for name, infos in owners.items():
        # Whatever follows is for the command itself to read, `--help` too.
        register = app.command(
            name,
            help=_told(infos),
            context_settings=_ALL_THAT_FOLLOWS,
            add_help_option=False,
        )
        register(_passed_on(name))


def _told(infos: list[PluginInfo]) -> str:
    """What the list of commands says of one that was not imported."""
    names = [f"{info.distribution} {info.version}" for info in infos]
    if len(names) > 1:
        return f"Claimed by {' and '.join(names)}: uninstall all but one."
    return f"A command of {names[0]}."


def _passed_on(name: str) -> Callable[[typer.Context], int]:
    def call(ctx: typer.Context) -> int:
        return run(name, ctx.args)

    return call


def run(name: str, arguments: list[str]) -> int:
    """Import a distribution's command and carry it out; the code that it ends with.

    Raises:
        UnknownPluginError: two distributions claim it.
        PluginLoadError: it cannot be imported, or is no function that Typer can read.
        DNOError: it failed.
    """
    from dno.errors import DNOError, PluginLoadError
    from dno.guard import failure
    from dno.registry.registry import COMMANDS

    function = COMMANDS.load(name)
    who = f'the command "{name}" of {COMMANDS.info(name).distribution}'
    app = typer.Typer(add_completion=False, **QUICK)
    app.command()(function)
    try:
        command = typer.main.get_command(app)
    except Exception as error:
        raise PluginLoadError(f"{who} has parameters that Typer cannot read") from error
    try:
        code = command.main(arguments, prog_name=f"dno {name}", standalone_mode=False)
    except Exception as error:
        # A mistake in what follows it shows itself, as those of our own commands do.
        if isinstance(error, DNOError) or hasattr(error, "show"):
            raise
        raise failure(who, error) from error
    return code if isinstance(code, int) else SUCCESS
