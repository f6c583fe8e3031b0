"""`dno ui`: what it takes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dno.plugin import ConfigError


def ui(
    runs: Annotated[
        Path, typer.Option(help="Folder that run folders are made and looked for in.")
    ] = Path("runs"),
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="Model to offer besides the installed ones; repeatable.", show_default=False
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen at; 0.0.0.0 lets others in who reach it.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen at.", min=0, max=65535)] = 7860,
    auth_file: Annotated[
        Path | None,
        typer.Option(
            help="File of who may use it, user:password a line; DNO_UI_AUTH may hold one too.",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
    no_auth: Annotated[
        bool,
        typer.Option("--no-auth", help="Ask nobody for a password, be HOST what it may."),
    ] = False,
) -> None:
    """Open a page to optimise on, until Ctrl-C. Nothing leaves this machine unless HOST says so."""
    if runs.exists() and not runs.is_dir():
        raise ConfigError("is not a folder", at="--runs")
    from dno_studio._people import people_of
    from dno_studio._server import is_local, serve

    if no_auth and auth_file is not None:
        raise ConfigError("asks for passwords, and --no-auth for none", at="--auth-file")
    people = None if no_auth else people_of(auth_file)
    if people is None and not no_auth and not is_local(host):
        raise ConfigError(
            f"{host} lets in everybody who reaches this machine; name who may use it in a file, "
            "user:password a line: --auth-file FILE, or say that anybody may: --no-auth",
            at="--host",
        )
    serve(runs, model or [], host, port, people=people)
