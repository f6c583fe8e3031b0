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
        str, typer.Option(help="Address to listen at; 0.0.0.0 lets everybody in who reaches it.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen at.", min=0, max=65535)] = 7860,
) -> None:
    """Open a page to optimise on, until Ctrl-C. Nothing leaves this machine unless HOST says so."""
    if runs.exists() and not runs.is_dir():
        raise ConfigError("is not a folder", at="--runs")
    from dno_studio._server import serve

    serve(runs, model or [], host, port)
