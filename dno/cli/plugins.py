"""`dno plugins`: see and check what is installed, and start a new one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dno.cli.commands import OWN
from dno.cli.quick import QUICK
from dno.cli.say import say

if TYPE_CHECKING:
    from dno.registry.configs import PluginConfig
    from dno.registry.discovery import PluginInfo
    from dno.registry.registry import Commands, Registry

plugins = typer.Typer(
    help="See and check what is installed.",
    no_args_is_help=True,
    add_completion=False,
    **QUICK,
)


@plugins.command("list")
def list_plugins() -> None:
    """Every installed plugin: kind, name, distribution, version. Imports none of them."""
    from dno.registry.discovery import damaged, unsupported, usable

    columns = _Columns([*usable(), *unsupported()])
    for info in usable():
        columns.write(info, _origin(info), _hindrance(info))
    for info in unsupported():
        columns.write(info, _origin(info), _why_not(info))
    for distribution in damaged():
        say(f"dno: {distribution}", err=True)


class _Columns:
    """Rows of plugins, in columns that hold each; most lists are as wide as the least."""

    def __init__(self, infos: Sequence[PluginInfo]) -> None:
        self.kind_width = max([12, *(len(info.kind) for info in infos)])
        self.name_width = max([19, *(len(info.name) for info in infos)])

    def write(self, info: PluginInfo, what: str, note: str = "") -> None:
        """Print a row."""
        kind = info.kind.ljust(self.kind_width)
        name = info.name.ljust(self.name_width)
        row = f"{kind}  {name}  {what}"
        if note:
            row += f"  ({note})"
        say(row)


def _origin(info: PluginInfo) -> str:
    return f"{info.distribution} {info.version}"


def _hindrance(info: PluginInfo) -> str:
    """What keeps a plugin from being used by its name, as far as its metadata tell."""
    from dno.registry.discovery import NAME, usable

    if not NAME.fullmatch(info.name):
        return "its name cannot be used: lower case letters, digits, '-', '_' and '.' can"
    if info.kind == "commands" and info.name in OWN:
        return "dno has a command of that name itself; its author has to give it another"

    claims = [
        other.qualified for other in usable() if (other.kind, other.name) == (info.kind, info.name)
    ]
    if len(claims) == 1:
        return ""
    if info.kind == "commands":
        return "claimed by several distributions; uninstall all but one"
    times = "twice" if len(claims) == 2 else f"{len(claims)} times"
    if claims.count(info.qualified) > 1:
        return f"claimed {times}; {info.distribution} has to give each a name of its own"
    return f"claimed {times}; say {info.qualified}"


def _why_not(info: PluginInfo) -> str:
    """Why a plugin can never be used with this dno."""
    from dno.registry.discovery import CONTRACT, KINDS

    if not info.contract:
        groups = ", ".join(f"dno.{CONTRACT}.{kind}" for kind in KINDS)
        return f"there is no such group of plugins; groups: {groups}"
    if info.contract != CONTRACT:
        return f"not for this dno: made for plugin contract {info.contract}, this is {CONTRACT}"
    return f"there is no such kind of plugin; kinds: {', '.join(KINDS)}"


@plugins.command()
def show(
    name: Annotated[str, typer.Argument(help="NAME, or KIND/NAME.")],
    as_json: Annotated[bool, typer.Option("--json", help="The options as a JSON schema.")] = False,
) -> None:
    """A plugin's options with their types, defaults and meaning."""
    for registry, short in _find(name):
        if as_json:
            _show_schema(registry, short)
        else:
            _show_options(registry, short)


def _show_schema(registry: Registry[PluginConfig], name: str) -> None:
    import json

    schema = registry.load(name).model_json_schema()
    say(json.dumps(schema, indent=2))


def _show_options(registry: Registry[PluginConfig], name: str) -> None:
    from dno.registry.describe import about, options
    from dno.runs.draft import place_of_kind

    cls = registry.load(name)
    info = registry.info(name)
    say(f"{info.kind[:-1]} {info.name} ({_origin(info)})\n")
    if text := about(cls):
        say(f"{text}\n")

    for option in options(cls):
        default = "required" if option.default is None else f"default: {option.default}"
        say(f"  {option.name}: {option.type} [{default}]")
        say(f"      {option.meaning}")

    place = place_of_kind(info.kind)
    if place is not None:
        say(f"\nIn a run: --set {place}.OPTION=VALUE")


def _find(name: str) -> list[tuple[Registry[PluginConfig], str]]:
    """Where NAME or KIND/NAME is, and what it is called there; in two kinds it may be."""
    from dno.errors import UnknownPluginError
    from dno.registry.registry import REGISTRIES

    kind, _, short = name.rpartition("/")
    asked = [registry for registry in REGISTRIES if kind in ("", registry.kind, registry.kind[:-1])]
    if not asked:
        kinds = ", ".join(registry.kind for registry in REGISTRIES)
        raise UnknownPluginError(f'there is no kind "{kind}"; kinds: {kinds}')

    found = [
        (registry, short)
        for registry in asked
        if any(short in (info.name, info.qualified) for info in registry.infos())
    ]
    if not found:
        _refuse(name, short, asked, one_kind=bool(kind))
    return found


def _refuse(
    name: str, short: str, asked: Sequence[Registry[PluginConfig]], *, one_kind: bool
) -> None:
    """Raise what tells best why there is no such plugin."""
    import difflib

    from dno.errors import UnknownPluginError
    from dno.registry.discovery import unsupported
    from dno.registry.registry import COMMANDS, REGISTRIES

    odd = [info for info in unsupported() if short in (info.name, info.qualified)]
    for registry in asked:
        if one_kind or any(info.kind == registry.kind for info in odd):
            registry.info(short)  # Raises, for it knows best what is wrong.
    if odd:
        why = _why_not(odd[0])
        raise UnknownPluginError(f'"{short}" of {odd[0].distribution} cannot be used: {why}')

    if any(short in (info.name, info.qualified) for info in COMMANDS.infos()):
        raise UnknownPluginError(f'"{short}" is a command; see: dno {short} --help')

    names = {info.name for registry in REGISTRIES for info in registry.infos()}
    near = difflib.get_close_matches(short, names, n=3)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise UnknownPluginError(f'no plugin is called "{name}"; {hint}see: dno plugins list')


@plugins.command()
def check() -> None:
    """Import every plugin made for this dno, a row each; exit 1 if any fails."""
    from dno.errors import DNOError
    from dno.registry.discovery import damaged, unsupported, usable
    from dno.registry.registry import COMMANDS, REGISTRIES

    columns = _Columns([*unsupported(), *usable()])
    failed = bool(damaged())
    asked: tuple[Registry[PluginConfig] | Commands, ...] = (*REGISTRIES, COMMANDS)
    for registry in asked:
        for info in registry.infos():
            try:
                target = registry.load(info.qualified)
            except DNOError as error:
                failed = True
                columns.write(info, str(error))
                continue
            hindrance = _hindrance(info) if info.kind == "commands" else _lost(target)
            failed = failed or bool(hindrance)
            columns.write(info, hindrance or "ok")
    for info in unsupported():
        columns.write(info, _why_not(info))
    for distribution in damaged():
        say(f"dno: {distribution}", err=True)
    raise typer.Exit(int(failed))


def _lost(cls: object) -> str:
    """What to say of options that no file can hold as they were set."""
    from dno.registry.configs import PluginConfig, lost_options

    assert isinstance(cls, type)
    assert issubclass(cls, PluginConfig)
    names = lost_options(cls)
    if not names:
        return ""
    return (
        f"may be None, which no file can hold, and has another default: {', '.join(names)}; its "
        "author must make None the default, or take a word such as none instead"
    )


@plugins.command()
def new(
    name: Annotated[str, typer.Argument(help="What --reward will call it.")],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder to make. [default: dno-NAME]", show_default=False, metavar="FOLDER"
        ),
    ] = None,
) -> None:
    """Write a reward plugin to start from: a folder that pip installs, with its tests."""
    import shlex

    from dno.cli.skeleton import write_reward

    folder, *files = write_reward(name, out)
    for path in files:
        say(path)
    say("\nnext:")
    say(f"  cd {shlex.quote(str(folder))}")
    say('  pip install -e ".[test]"')
    say(f'  dno optimize "a black cat" --reward {name}')
    say("  pytest")
