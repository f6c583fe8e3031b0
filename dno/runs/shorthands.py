"""The few options that people set most, as the command line and `dno.optimize` spell them."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, Final, TypedDict

from dno.errors import ConfigError
from dno.runs.run_config import RunConfig, put


class Options(TypedDict, total=False):
    """Options that are None are left at their default."""

    model: Any
    """An installed model's name, a folder, a hub id or, in Python, a live diffusers pipeline."""
    iterations: int | None
    """Optimizer steps (30)."""
    seconds: float | None
    """Stop after this much wall-clock time."""
    target: float | None
    """Stop when the weighted rewards reach this."""
    start: str | Path | None
    """A run folder or noise file, whose best noise is where to start; the seed's noise if not
    given."""
    warm_start: str | None
    """A search that comes first: `best-of-8`, or `NAME=COUNT` for another optimizer and its
    steps."""
    steps: int | None
    """Denoising steps, `num_inference_steps` (50)."""
    last_steps: int | None
    """Move the noise of this many last steps alone (all)."""
    eta: float | None
    """Noise injected at each denoising step, from 0 (ODE) to 1 (SDE with DDPM's variance) (1)."""
    guidance_scale: float | None
    """Classifier-free guidance (5)."""
    negative_prompt: str | None
    """What to guide away from."""
    lr: float | None
    """The optimizer's step size (0.01)."""
    gamma: float | str | None
    """Weight of every regularizer, or `auto` to hold log P at a target (1)."""
    seed: int | None
    """First seed (0); a sample from it starts where diffusers starts from a CPU generator so
    seeded."""
    batch: int | None
    """Samples a prompt, from seeds `seed`, `seed + 1`, ... (1)."""
    device: str | None
    """`cpu`, `cuda`, `cuda:1`, `mps`, or `auto` for the first GPU if there is one (auto)."""
    dtype: str | None
    """What the denoising network computes in (float32)."""


class CommandLine(Options, total=False):
    """What has no option in Python, where parts are arguments of their own."""

    sampler: str | None
    """How noise becomes an image, by name (ddim)."""


_PLACES: Final = {
    name: f"sampler.{name}"
    for name in ("model", "steps", "eta", "guidance_scale", "negative_prompt", "last_steps")
} | {
    "lr": "optimizer.lr",
    "sampler": "sampler.use",
    "seconds": "budget.seconds",
    "target": "budget.target",
}


def assemble(
    values: Mapping[str, Any],
    options: Options | CommandLine,
    settings: Sequence[tuple[str, Any]] = (),
    *,
    source: str = "",
    command_line: bool = False,
) -> RunConfig:
    """A validated configuration from plain values, options over them, and settings over those.

    Args:
        values: a configuration's fields; components may be config objects.
        options: see `Options`.
        settings: (dotted place, value) pairs.
        source: where `values` came from, for messages.
        command_line: whether messages should call options `--lr` rather than `lr`.

    Raises:
        ConfigError: one sentence with the source and place of the first thing wrong.
    """
    sources = {"": source}
    merged = dict(values)
    for name in ("sampler", "optimizer"):
        merged[name] = _table(merged.get(name, RunConfig.model_fields[name].default))
    for name in ("rewards", "monitors", "regularizers", "reports", "observers"):
        field = RunConfig.model_fields[name]
        if name in merged or not field.is_required():
            parts = merged.get(name, field.default)
            merged[name] = [
                _table(part) for part in (parts if isinstance(parts, (list, tuple)) else [parts])
            ]

    def put_at(place: str, value: Any, shown: str) -> None:
        try:
            put(merged, place, value)
        except ConfigError as error:
            raise error.inside("", shown) from None
        sources[place] = shown

    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    shown = {
        name: f"--{name.replace('_', '-')}" if command_line else name
        for name in CommandLine.__annotations__
    }
    if unknown := given.keys() - shown.keys():
        raise ConfigError(f"unknown option; known: {', '.join(shown)}", source=min(unknown))
    if "warm_start" in given:
        put_at(
            "warm_start", _warm_start(given["warm_start"], shown["warm_start"]), shown["warm_start"]
        )
    for name in sorted(given.keys() - {"seed", "batch", "gamma", "warm_start"}):
        put_at(_PLACES.get(name, name), given[name], shown[name])
    if given.keys() & {"seed", "batch"}:
        seeds = merged.get("seeds", 0)
        first: Any = given.get(
            "seed", seeds[0] if isinstance(seeds, (list, tuple)) and seeds else seeds
        )
        count = given.get("batch", 1)
        for name, value, least in (("seed", first, 0), ("batch", count, 1)):
            if not isinstance(value, Integral) or value < least:
                raise ConfigError(
                    f"must be a whole number of at least {least}, got {value!r}", source=shown[name]
                )
        put_at("seeds", [first + i for i in range(count)], shown["seed"])
    for i in range(len(merged["regularizers"])) if "gamma" in given else ():
        put_at(f"regularizers.{i}.weight", given["gamma"], shown["gamma"])
    for place, value in settings:
        put_at(place, value, "--set" if command_line else "settings")
    return RunConfig.parse(merged, sources)


def parse_value(text: str) -> Any:
    """A command-line value as TOML would read it; text that is no TOML value is itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, KeyError):
        return text


def _warm_start(text: str, source: str) -> dict[str, Any]:
    """`best-of-8` or `NAME=COUNT` as a table: a number at the end stands for the n of a name."""
    match = re.fullmatch(r"(?P<name>.+)=(?P<count>\d+)|(?P<stem>.+-)(?P<n>\d+)", str(text))
    if match is None:
        raise ConfigError(f"needs the form best-of-8 or NAME=COUNT, got {text!r}", source=source)
    if match["stem"]:
        return {"optimizer": {"use": f"{match['stem']}n"}, "iterations": int(match["n"])}
    return {"optimizer": {"use": match["name"]}, "iterations": int(match["count"])}


def _table(part: object) -> dict[str, Any]:
    """A part as a table that options can be put in."""
    return dict(part) if isinstance(part, Mapping) else {"use": part}
