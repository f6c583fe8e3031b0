"""`dno plugins`: see and check what is installed."""

from __future__ import annotations

from typing import Annotated

import typer

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
    from dno.registry import REGISTRIES, unsupported

    usable = [info for registry in REGISTRIES for info in registry.infos()]
    for info in (*usable, *unsupported()):
        note = "" if info in usable else f"  (not for this dno: {info.contract})"
        typer.echo(f"{info.kind:<13} {info.name:<20} {info.distribution} {info.version}{note}")


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
    """Import every plugin, a row each; exit 1 if any fails."""
    from dno.errors import DNOError
    from dno.registry import REGISTRIES

    failed = False
    for registry in REGISTRIES:
        for info in registry.infos():
            try:
                registry.load(info.qualified)
                verdict = "ok"
            except DNOError as error:
                failed, verdict = True, str(error)
            typer.echo(f"{info.kind:<13} {info.name:<20} {verdict}")
    raise typer.Exit(int(failed))
