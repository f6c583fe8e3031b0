"""Options that several commands have, declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

# `rich_help_panel` is the name of a `Group` of options in `dno.runs.shorthands`.
ConfigFile: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        help="TOML, JSON or YAML file with any of this and more; options go over it.",
        metavar="FILE",
        rich_help_panel="REST",
    ),
]
Settings: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Anything by its place, as sampler.memory=recompute; repeatable.",
        metavar="PLACE=VALUE",
        rich_help_panel="REST",
    ),
]
NoReport: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--no-report", help="No report.html, and no frames for it.", rich_help_panel="KEEP"
    ),
]
