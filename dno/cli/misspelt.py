"""What somebody may have meant by an option that a command does not have."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any

from typer.core import TyperCommand


class HintingCommand(TyperCommand):
    """A command that knows how else one may set what its options do not."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the command line; of an option that is none, tell what it may have meant."""
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            # Typer keeps the class of its parser's errors to itself.
            name = getattr(error, "option_name", None)
            meant = meaning(name) if isinstance(name, str) else ""
            if not meant:
                raise
            error.possibilities = None  # type: ignore[attr-defined]
            error.message = f"No such option: {name}; {meant}"  # type: ignore[attr-defined]
            raise


def meaning(name: str) -> str:
    """How to write what an option would mean that is no option; empty where that is unknown.

    Args:
        name: the option as it was given, such as `--sampler.steps` or `--num-inference-steps`.
    """
    from dno.runs.aliases import OTHER_NAMES
    from dno.runs.shorthands import known_options

    if not name.startswith("--"):
        return ""
    known = known_options(command_line=True)
    key = name.removeprefix("--").replace("-", "_")
    if key in OTHER_NAMES:
        return f"here it is {known[OTHER_NAMES[key]].spelled(command_line=True)}"

    spelled = [option.name for option in known.values()]
    places = list(_places())
    by_end = {place.rpartition(".")[2]: place for place in reversed(places)}
    if key in by_end:
        return f"set it by its place: --set {by_end[key]}=VALUE"
    if "." in key:
        near = difflib.get_close_matches(key, places, n=1)
        return f"set it by its place: --set {near[0] if near else key}=VALUE"

    near = difflib.get_close_matches(key, [*spelled, *by_end], n=1, cutoff=0.75)
    if near and near[0] in by_end and near[0] not in spelled:
        return f"did you mean --set {by_end[near[0]]}=VALUE?"
    return ""


def _places() -> Iterator[str]:
    """Places of a configuration, with the options of the plugins that it has by itself."""
    from dno.errors import DNOError
    from dno.runs.draft import PARTS, Draft
    from dno.runs.run_config import RunConfig

    draft = Draft({})
    for name, field in RunConfig.model_fields.items():
        if name not in PARTS:
            inner = getattr(field.annotation, "model_fields", {})
            yield from (f"{name}.{key}" for key in inner)
            yield name
    for part in ("sampler", "optimizer"):
        try:
            yield from (f"{part}.{key}" for key in draft.fields(part) or ())
        except DNOError:
            # A plugin that cannot be loaded is told where it is used.
            continue
