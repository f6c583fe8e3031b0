"""`dno plugins`: see and check what is installed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from dno.registry import PluginInfo

plugins = typer.Typer(
    help="See and check what is installed.",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@plugins.command("list")
def list_plugins() -> None:
    """Every installed plugin: kind, name, distribution, version. Imports none of them."""
    from collections import Counter

    from dno.registry import REGISTRIES, unsupported

    usable = [info for registry in REGISTRIES for info in registry.infos()]
    claims = Counter((info.kind, info.name) for info in usable)
    for info in usable:
        twice = f"claimed twice; say {info.qualified}" if claims[info.kind, info.name] > 1 else ""
        _row(info, f"{info.distribution} {info.version}", twice)
    for info in unsupported():
        _row(info, f"{info.distribution} {info.version}", _why_not(info))


def _row(info: PluginInfo, about: str, note: str = "") -> None:
    typer.echo(f"{info.kind:<13} {info.name:<20} {about}" + (f"  ({note})" if note else ""))


def _why_not(info: PluginInfo) -> str:
    from dno.registry import CONTRACT, REGISTRIES

    if info.contract != CONTRACT:
        return f"not for this dno: made for plugin contract {info.contract}, this is {CONTRACT}"
    return f"there is no such kind of plugin; kinds: {', '.join(registry.kind for registry in REGISTRIES)}"


@plugins.command()
def show(
    name: Annotated[str, typer.Argument(help="NAME, or KIND/NAME.")],
    as_json: Annotated[bool, typer.Option("--json", help="The options as a JSON schema.")] = False,
) -> None:
    """A plugin's options with their types, defaults and meaning."""
    import inspect
    import json

    from dno.errors import UnknownPluginError
    from dno.registry import REGISTRIES

    kind, _, short = name.rpartition("/")
    found = [
        r
        for r in REGISTRIES
        if kind in ("", r.kind, r.kind[:-1]) and any(short in (i.name, i.qualified) for i in r.infos())
    ]
    if not found:
        names = sorted({i.name for r in REGISTRIES for i in r.infos()})
        raise UnknownPluginError(f'no plugin is called "{name}"; installed: {", ".join(names)}')
    for registry in found:
        cls, info = registry.load(short), registry.info(short)
        if as_json:
            typer.echo(json.dumps(cls.model_json_schema(), indent=2))
            continue
        typer.echo(f"{info.kind[:-1]} {info.name} ({info.distribution} {info.version})\n\n{inspect.getdoc(cls)}\n")
        for key, field in cls.model_fields.items():
            kind_of = getattr(field.annotation, "__name__", None) if isinstance(field.annotation, type) else None
            shown = "required" if field.is_required() else repr(field.get_default(call_default_factory=True))
            typer.echo(f"  {key}: {kind_of or str(field.annotation).replace('typing.', '')} = {shown}")
            typer.echo(f"      {' '.join((field.description or '').split())}")


@plugins.command()
def check() -> None:
    """Import every plugin made for this dno, a row each; exit 1 if any fails."""
    from dno.errors import DNOError
    from dno.registry import REGISTRIES, unsupported

    failed = False
    for registry in REGISTRIES:
        for info in registry.infos():
            try:
                registry.load(info.qualified)
                verdict = "ok"
            except DNOError as error:
                failed, verdict = True, str(error)
            _row(info, verdict)
    for info in unsupported():
        _row(info, _why_not(info))
    raise typer.Exit(int(failed))


@plugins.command()
def new(
    name: Annotated[str, typer.Argument(help="What --reward will call it.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder to make. [default: dno-NAME]", show_default=False, metavar="FOLDER")
    ] = None,
) -> None:
    """Write a reward plugin to start from: a folder that pip installs, with its tests."""
    import shlex

    from dno.front.skeleton import write_reward

    folder, *files = write_reward(name, out)
    for path in files:
        typer.echo(path)
    typer.echo(
        f"\nnext:\n  cd {shlex.quote(str(folder))}\n"
        f'  pip install -e ".[test]"\n  dno optimize "a black cat" --reward {name}\n  pytest'
    )
