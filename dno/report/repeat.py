"""The command that repeats a run, written from its configuration and read back to be sure of it."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from dno.errors import DNOError
from dno.report.private import shown_value
from dno.runs.run_config import RunConfig
from dno.runs.saved import SavedRun
from dno.runs.shorthands import Options, assemble, entries
from dno.runs.spellings import parse_settings

_LONGEST: Final = 4000
"""Characters of a command that people would still copy."""
_WATCHING: Final = ("observers",)
"""What a run may have besides, and be the same run."""


@dataclass(frozen=True)
class Repeat:
    """How to have a run again."""

    command: str
    """Empty where no command can."""
    note: str = ""


def repeat_of(run: SavedRun, name: str) -> Repeat:
    """The command that repeats a run.

    Args:
        run: the run.
        name: what its folder is called.
    """
    from_file = f"dno optimize --config {shlex.quote(f'{name}/run.toml')}"
    if not run.resumable:
        return Repeat(
            "", "It was begun from Python with objects of its own; its script repeats it."
        )
    try:
        config = run.config
        written = _written(config)
    # What somebody wrote may be of any type, and the file itself says it as well.
    except (DNOError, LookupError, TypeError, ValueError):
        return Repeat(from_file, "In the folder that holds the run folder.")
    if written is None or len(written.command()) > _LONGEST:
        return Repeat(from_file, "In the folder that holds the run folder.")
    command = written.without_paths().command()
    shortened = "Paths are shortened to their last part." if command != written.command() else ""
    return Repeat(command, shortened)


@dataclass(frozen=True)
class _Written:
    """A command in the making."""

    prompts: Sequence[str]
    options: Mapping[str, Any] = field(default_factory=dict)
    """As `assemble` takes them; lists are given again and again."""
    settings: Sequence[tuple[str, Any]] = ()

    def with_option(self, name: str, value: Any) -> _Written:
        return _Written(self.prompts, {**self.options, name: value}, self.settings)

    def with_setting(self, place: str, value: Any) -> _Written:
        return _Written(self.prompts, self.options, [*self.settings, (place, value)])

    def without_paths(self) -> _Written:
        settings = [(place, shown_value(value)) for place, value in self.settings]
        return _Written(self.prompts, shown_value(self.options), settings)

    def command(self) -> str:
        words = ["dno", "optimize"]
        # One that looks like an option is read as a prompt behind two dashes, which come last.
        dashed = any(prompt.startswith("-") for prompt in self.prompts)
        prompts = [shlex.quote(prompt) for prompt in self.prompts]
        words += [] if dashed else prompts
        for name, value in self.options.items():
            for one in value if isinstance(value, list) else [value]:
                words.append(f"--{name.replace('_', '-')}")
                words += [] if one is True else [shlex.quote(str(one))]
        for place, value in self.settings:
            words += ["--set", shlex.quote(f"{place}={_toml(value)}")]
        words += ["--", *prompts] if dashed else []
        return " ".join(words)

    def read(self) -> dict[str, Any]:
        """The configuration that the command would make, as plain values.

        Raises:
            ConfigError: it would make none.
        """
        settings = parse_settings([f"{place}={_toml(value)}" for place, value in self.settings])
        values = {"prompts": list(self.prompts), "observers": []}
        return _plain(assemble(values, self.options, settings, command_line=True))


def _written(config: RunConfig) -> _Written | None:
    """The command of a configuration; None where none gives just that.

    Raises:
        ConfigError: a part of it cannot be said in a command at all.
    """
    wanted = _plain(config)
    written = _Written(config.prompts, _parts(wanted))
    for place, value in _differences(written.read(), wanted):
        written = _put(written, place, value)
    return written if written.read() == wanted else None


def _parts(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The plugins by name: what else a configuration holds depends on them."""
    options: dict[str, Any] = {"reward": [_weighted(part) for part in wanted["rewards"]]}
    if wanted.get("monitors"):
        options["monitor"] = [part["use"] for part in wanted["monitors"]]
    plain = _Written(wanted["prompts"], options).read()
    if _uses(wanted["sampler"]) != _uses(plain["sampler"]):
        options["sampler"] = wanted["sampler"]["use"]
    if _uses(wanted["optimizer"]) != _uses(plain["optimizer"]):
        options["optimizer"] = wanted["optimizer"]["use"]
    if _uses(wanted["constraints"]) != _uses(plain["constraints"]):
        options["constraint"] = [part["use"] for part in wanted["constraints"]] or ["none"]
    if _uses(wanted["regularizers"]) != _uses(plain["regularizers"]):
        options["regularizer"] = [_weighted(part) for part in wanted["regularizers"]] or ["none"]
    search = wanted.get("warm_start")
    if search is not None:
        options["warm_start"] = f"{search['optimizer']['use']}={search['iterations']}"
    return options


def _put(written: _Written, place: str, value: Any) -> _Written:
    """The command with one more difference in it, by an option where there is one."""
    if place == "seeds":
        first, count = value[0], len(value)
        if value == list(range(first, first + count)):
            written = written.with_option("seed", first) if first else written
            return written.with_option("batch", count) if count > 1 else written
        return written.with_setting(place, value)
    if place == "coarse" and not isinstance(value, str):
        return written.with_option("coarse", ",".join(map(str, value)) or "none")

    plain = isinstance(value, (str, int, float)) and not isinstance(value, bool)
    for name, option in entries(Options).items():
        if option.place == place and plain and option.preset is None and not option.adds:
            return written.with_option(name, value)
    return written.with_setting(place, value)


def _differences(ours: Any, wanted: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """The places at which a configuration is another one, and what it should hold there."""
    if isinstance(wanted, Mapping) and isinstance(ours, Mapping):
        for key, value in wanted.items():
            yield from _differences(ours.get(key), value, f"{place}.{key}" if place else key)
        return
    tables = isinstance(wanted, list) and all(isinstance(one, Mapping) for one in wanted)
    if tables and isinstance(ours, list) and len(ours) == len(wanted) and wanted:
        for i, (one, other) in enumerate(zip(ours, wanted, strict=True)):
            yield from _differences(one, other, f"{place}.{i}")
        return
    if ours != wanted:
        yield place, wanted


def _plain(config: RunConfig) -> dict[str, Any]:
    return {key: value for key, value in config.dump().items() if key not in _WATCHING}


def _uses(parts: Any) -> list[str]:
    return [part["use"] for part in (parts if isinstance(parts, list) else [parts])]


def _weighted(part: Mapping[str, Any]) -> str:
    weight = part.get("weight", 1.0)
    if weight == 1:
        return str(part["use"])
    # A weight may be a word, such as auto.
    told = weight if isinstance(weight, str) else f"{weight:g}"
    return f"{part['use']}={told}"


def _toml(value: Any) -> str:
    """A value as `--set` reads it."""
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else ("inf" if value > 0 else "-inf")
    if isinstance(value, Mapping):
        inner = ", ".join(f"{json.dumps(key)} = {_toml(one)}" for key, one in value.items())
        return f"{{{inner}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, str) and value and value.replace("-", "").replace("_", "").isalpha():
        # Such text is read as itself, unless it is a word of TOML's.
        return json.dumps(value) if value in ("true", "false", "inf", "nan") else value
    return json.dumps(value, ensure_ascii=False)
