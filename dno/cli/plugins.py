"""`dno plugins`: see and check what is installed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from dno.registry.configs import PluginConfig
    from dno.registry.discovery import PluginInfo
    from dno.registry.registry import Registry

plugins = typer.Typer(
    help="See and check what is installed.",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
)


_PLACES = {
    "samplers": "sampler",
    "rewards": "rewards.0",
    "regularizers": "regularizers.0",
    "optimizers": "optimizer",
    "observers": "observers.0",
}


@plugins.command("list")
def list_plugins() -> None:
    """Every installed plugin: kind, name, distribution, version. Imports none of them."""
    from dno.registry.discovery import unsupported, usable

    row = _rows([*usable(), *unsupported()])
    for info in usable():
        row(info, f"{info.distribution} {info.version}", _hindrance(info))
    for info in unsupported():
        row(info, f"{info.distribution} {info.version}", _why_not(info))


def _rows(infos: Sequence[PluginInfo]) -> Callable[..., None]:
    """What prints one of these in columns that hold each; most lists are as wide as the least."""
    kinds = max([12, *(len(info.kind) for info in infos)])
    names = max([19, *(len(info.name) for info in infos)])

    def row(info: PluginInfo, told: str, note: str = "") -> None:
        typer.echo(
            f"{info.kind:<{kinds}}  {info.name:<{names}}  {told}" + (f"  ({note})" if note else "")
        )

    return row


def _hindrance(info: PluginInfo) -> str:
    """What keeps a plugin from being used by its name, as far as its metadata tell."""
    from dno.registry.discovery import NAME, usable

    if not NAME.fullmatch(info.name):
        return "its name cannot be used: lower case letters, digits, '-', '_' and '.' can"
    claims = [
        other.qualified for other in usable() if (other.kind, other.name) == (info.kind, info.name)
    ]
    if len(claims) == 1:
        return ""
    times = "twice" if len(claims) == 2 else f"{len(claims)} times"
    if claims.count(info.qualified) > 1:
        return f"claimed {times}; {info.distribution} has to give each a name of its own"
    return f"claimed {times}; say {info.qualified}"


def _why_not(info: PluginInfo) -> str:
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
    import json

    from dno.registry.describe import about, options

    for registry, short in _find(name):
        cls, info = registry.load(short), registry.info(short)
        if as_json:
            typer.echo(json.dumps(cls.model_json_schema(), indent=2))
            continue
        typer.echo(f"{info.kind[:-1]} {info.name} ({info.distribution} {info.version})\n")
        if text := about(cls):
            typer.echo(f"{text}\n")
        for option in options(cls):
            default = "required" if option.default is None else f"default: {option.default}"
            typer.echo(f"  {option.name}: {option.type} [{default}]\n      {option.meaning}")
        if place := _PLACES.get(info.kind):
            typer.echo(f"\nIn a run: --set {place}.OPTION=VALUE")


def _find(name: str) -> list[tuple[Registry[PluginConfig], str]]:
    """Where NAME or KIND/NAME is, and what it is called there; in two kinds it may be."""
    import difflib

    from dno.errors import UnknownPluginError
    from dno.registry.discovery import unsupported
    from dno.registry.registry import REGISTRIES

    kind, _, short = name.rpartition("/")
    asked = [registry for registry in REGISTRIES if kind in ("", registry.kind, registry.kind[:-1])]
    if not asked:
        raise UnknownPluginError(
            f'there is no kind "{kind}"; kinds: {", ".join(r.kind for r in REGISTRIES)}'
        )
    if found := [
        (r, short) for r in asked if any(short in (i.name, i.qualified) for i in r.infos())
    ]:
        return found
    odd = [info for info in unsupported() if short in (info.name, info.qualified)]
    for registry in asked:
        if kind or any(info.kind == registry.kind for info in odd):
            registry.info(short)  # Raises, for it knows best what is wrong.
    if odd:
        raise UnknownPluginError(
            f'"{short}" of {odd[0].distribution} cannot be used: {_why_not(odd[0])}'
        )
    near = difflib.get_close_matches(short, {i.name for r in REGISTRIES for i in r.infos()}, n=3)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise UnknownPluginError(f'no plugin is called "{name}"; {hint}see: dno plugins list')


@plugins.command()
def check() -> None:
    """Import every plugin made for this dno, a row each; exit 1 if any fails."""
    from dno.errors import DNOError
    from dno.registry.discovery import unsupported
    from dno.registry.registry import REGISTRIES

    failed = False
    row = _rows([*unsupported(), *(info for registry in REGISTRIES for info in registry.infos())])
    for registry in REGISTRIES:
        for info in registry.infos():
            try:
                registry.load(info.qualified)
                verdict = "ok"
            except DNOError as error:
                failed, verdict = True, str(error)
            row(info, verdict)
    for info in unsupported():
        row(info, _why_not(info))
    raise typer.Exit(int(failed))


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
        typer.echo(path)
    typer.echo(
        f"\nnext:\n  cd {shlex.quote(str(folder))}\n"
        f'  pip install -e ".[test]"\n  dno optimize "a black cat" --reward {name}\n  pytest'
    )
