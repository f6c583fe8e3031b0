"""`dno optimize`, whose options are the entries of `dno.runs.shorthands` and the few below."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from dno.cli.config import start_values
from dno.cli.ending import finish, plugins_at_work, tell
from dno.cli.help import OptimizeCommand
from dno.cli.loading import tell_loading
from dno.cli.say import say
from dno.cli.shared import ConfigFile, NoReport, Settings

if TYPE_CHECKING:
    from dno.runs.carried import Carried
    from dno.runs.run_config import RunConfig
    from dno.runs.shorthands import Shorthand


def plugin_names(kind: str) -> Callable[[str], list[str]]:
    """What completes the name of a plugin of some kind in a shell."""

    def complete(incomplete: str) -> list[str]:
        from dno.registry.discovery import usable

        return [
            info.name for info in usable() if info.kind == kind and info.name.startswith(incomplete)
        ]

    return complete


# `rich_help_panel` is the name of a `Group` of options in `dno.runs.shorthands`.
def optimize(
    prompts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PROMPT...",
            help="Each is drawn from each seed.",
            show_default=False,
            rich_help_panel="DRAW",
        ),
    ] = None,
    *,
    prompts_file: Annotated[
        Path | None,
        typer.Option(
            help="File with a prompt a line, in place of PROMPT.",
            metavar="FILE",
            show_default=False,
            rich_help_panel="DRAW",
        ),
    ] = None,
    compare: Annotated[
        str | None,
        typer.Option(
            help="Optimizer to spend the same seconds on afterwards.",
            metavar="NAME",
            rich_help_panel="METHOD",
            autocompletion=plugin_names("optimizers"),
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Run folder to make. [default: runs/<time>-<prompt>]",
            metavar="FOLDER",
            show_default=False,
            rich_help_panel="KEEP",
        ),
    ] = None,
    quiet: Annotated[
        bool,
        typer.Option("--quiet", help="No progress.", rich_help_panel="KEEP"),
    ] = False,
    no_report: NoReport = False,
    config: ConfigFile = None,
    picture: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="Picture of a run, which is repeated; options go over what it carries.",
            metavar="PNG",
            show_default=False,
            rich_help_panel="REST",
        ),
    ] = None,
    settings: Settings = None,
    **options: Any,
) -> None:
    """Optimise the noise behind PROMPT so that the reward rises, and keep the run in a folder.

    Example: dno optimize "a black cat" --reward brightness
    """
    run_config = run_asked_for(
        prompts,
        quiet=quiet,
        config=config,
        settings=settings,
        no_report=no_report,
        prompts_file=prompts_file,
        picture=picture,
        **options,
    )

    from dno.paths import user_path
    from dno.runs.folders import default_folder

    if out is not None:
        out = user_path(out, source="--out")
    _check(run_config, compare, out)

    tell_loading(run_config)
    if out is not None:
        _run(run_config, compare, out)
        return
    with default_folder(run_config.prompts[0]) as folder:
        _run(run_config, compare, folder)


def run_asked_for(
    prompts: list[str] | None,
    *,
    quiet: bool,
    config: Path | None,
    settings: list[str] | None,
    no_report: bool,
    prompts_file: Path | None,
    picture: Path | None,
    **options: Any,
) -> RunConfig:
    """The configuration that the arguments of `optimize` stand for.

    Raises:
        ConfigError: it is wrong, or lacks a prompt or a reward.
    """
    carried = _carried_by(picture, config)
    over = carried.values if carried else None
    values = start_values(config, quiet=quiet, no_report=no_report, over=over)
    if prompts_file is not None:
        prompts = _listed(prompts_file, prompts)
    if prompts:
        values["prompts"] = prompts
    _ask_for_what_is_missing(values, options)
    run_config = _configure(
        values,
        options,
        settings,
        source=carried.source if carried else str(config or ""),
        local=carried.local if carried else None,
    )

    from dno.paths import current_folder

    return run_config.located(current_folder())


def _listed(file: Path, prompts: list[str] | None) -> list[str]:
    """The prompts of a file."""
    from dno.errors import ConfigError
    from dno.paths import user_path
    from dno.runs.lists import read_prompts

    if prompts:
        raise ConfigError(
            "is given beside prompts; put them into the file, or leave it out",
            source="--prompts-file",
        )
    return read_prompts(user_path(file, source="--prompts-file"))


def _carried_by(picture: Path | None, config: Path | None) -> Carried | None:
    """What a picture tells of its making, where one was named."""
    if picture is None:
        return None
    from dno.errors import ConfigError
    from dno.runs.carried import read_carried

    if config is not None:
        raise ConfigError(
            "a run repeats a picture or a file, not both; leave out --config", source="--from"
        )
    return read_carried(picture)


def _run(run_config: RunConfig, compare: str | None, folder: Path) -> None:
    """Run, and end with how it went."""
    # From here on torch is needed, which takes seconds to import: a mistake is told before.
    from dno.guard import collecting_later

    with collecting_later():
        from dno.api import run

    if compare is not None:
        _run_and_compare(run_config, compare, folder)
        return
    with plugins_at_work():
        result = run(run_config, folder)
    tell(result)
    finish(result)


def _check(run_config: RunConfig, compare: str | None, out: Path | None) -> None:
    """Raise `ConfigError` for what can be seen to be wrong without torch."""
    from dno.runs.check import check
    from dno.runs.folders import free_folder
    from dno.runs.rival import rival_of

    if out is not None:
        free_folder(out)
    with plugins_at_work():
        if compare is not None:
            check(rival_of(run_config, compare))
        check(run_config)


def add_to(app: typer.Typer) -> None:
    """Make `optimize` a command of the app, with the options of the table among its parameters."""

    @functools.wraps(optimize)
    def command(**given: Any) -> None:
        optimize(**given)

    made_command(app, command)


def made_command(app: typer.Typer, command: Callable[..., None]) -> None:
    """Make a function a command of the app, with the arguments of `optimize`."""
    # Typer reads a command's parameters from its signature.
    signature = inspect.signature(optimize, eval_str=True)
    prompts, *few, _options = signature.parameters.values()
    parameters = [prompts, *table_parameters(), *few]
    command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]

    app.command(cls=OptimizeCommand, context_settings={"max_content_width": 100})(command)


def table_parameters() -> Iterator[inspect.Parameter]:
    """The options of the table as parameters that Typer can read."""
    from dno.runs.shorthands import known_options

    for name, option in known_options(command_line=True).items():
        # A switch by its name alone: Typer would add its opposite.
        is_switch = bool in get_args(option.type)
        names = [_switch(option)] if is_switch else []
        about = typer.Option(
            *names,
            help=option.help,
            metavar=option.metavar,
            rich_help_panel=option.group.name,
            autocompletion=plugin_names(option.names) if option.names else None,
        )
        yield inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[_type_on_the_command_line(option), about],
        )


def _switch(option: Shorthand) -> str:
    spelled = option.spelled(command_line=True)
    if option.has_opposite:
        return f"{spelled}/{spelled.replace('--', '--no-', 1)}"
    return spelled


def _type_on_the_command_line(option: Shorthand) -> Any:
    """The option's own type, or text where Python takes one of several."""
    kinds = [kind for kind in get_args(option.type) if kind is not NoneType]
    return option.type if len(kinds) == 1 else str | None


def _ask_for_what_is_missing(values: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    from dno.errors import ConfigError

    if "prompts" not in values:
        raise ConfigError(
            'say what to draw: dno optimize "a black cat" --reward brightness', source="PROMPT"
        )
    ask_for_a_reward(values, options)


def ask_for_a_reward(values: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Raise `ConfigError` where nothing is to be climbed."""
    from dno.errors import ConfigError

    if "rewards" not in values and not options["reward"]:
        raise ConfigError(
            "say what to climb, such as --reward brightness; see: dno plugins list",
            source="--reward",
        )


def _configure(
    values: Mapping[str, Any],
    options: Mapping[str, Any],
    settings: list[str] | None,
    *,
    source: str,
    local: Mapping[str, str] | None,
) -> RunConfig:
    from dno.runs.shorthands import assemble
    from dno.runs.spellings import parse_settings

    placed = parse_settings(settings or [])
    return assemble(values, options, placed, source=source, command_line=True, local=local)


def _run_and_compare(run_config: RunConfig, name: str, folder: Path) -> None:
    """Run, then spend the same seconds on another optimizer, in a folder beside."""
    from dno.guard import collecting_later

    with collecting_later():
        from dno.api import compare

    with plugins_at_work():
        both = compare(run_config, name, folder)
    tell(both.ours)
    if both.rival is None:
        finish(both.ours)
        return
    say(f"\n{both.against} in the same {both.ours.meter()['seconds']:.0f} s:")
    tell(both.rival)
    finish(both.ours, both.rival)
