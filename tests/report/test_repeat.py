"""The command that a report gives repeats its run."""

from __future__ import annotations

import functools
import shlex
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st
from reported import HOSTILE
from typer.main import get_command

from dno.cli.config import start_values
from dno.cli.main import make_app
from dno.report.repeat import repeat_of
from dno.runs.run_config import RunConfig
from dno.runs.saved import open_run
from dno.runs.shorthands import assemble, known_options
from dno.runs.spellings import parse_settings
from dno.testing import strategies as dno_st

WHOLE: dict[str, Any] = {"prompts": ["a cat"], "rewards": ["brightness"]}
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "prompts and seeds": {"prompts": ["a cat", 'it\'s "a dog" $HOME `x`'], "seeds": [3, 4, 5]},
    "scattered seeds": {"seeds": [7, 2, 2**64 - 1]},
    "a prompt like an option": {"prompts": ["--help", "a cat"]},
    "a hostile prompt": {"prompts": [HOSTILE.replace("\u202e", "")]},
    "rewards": {
        "rewards": [{"use": "clip", "weight": 1 / 3}, "brightness", {"use": "jpeg", "quality": 50}],
        "monitors": ["contrast", {"use": "clip", "template": "a photo of {}"}],
    },
    "the published recipe": {
        "optimizer": {"use": "adam", "lr": 0.01},
        "regularizers": [{"use": "permutation", "weight": 0.5}],
        "constraints": [],
        "coarse": [],
        "p_floor": 0.0,
    },
    "a price that adapts": {"regularizers": [{"use": "permutation", "weight": "auto"}, "norm"]},
    "a search": {
        "optimizer": {"use": "best-of-n"},
        "warm_start": {"optimizer": "local-search", "iterations": 8},
        "gradient": {"method": "zo", "samples": 16},
    },
    "a black box": {"rewards": ["jpeg"]},
    "budgets": {"budget": {"seconds": 60.0, "target": 0.9, "log_p": -3.0}},
    "no floor": {"log_p_floor": float("-inf")},
    "a sampler": {"sampler": {"use": "ddim", "steps": 25, "eta": 0.5, "negative_prompt": "a, b"}},
    "grids": {"coarse": [5, 10], "repair": 0, "dtype": "bfloat16", "device": "cuda:1"},
    "nobody": {"observers": [], "reports": []},
}


def saved(folder: Path, values: dict[str, Any]) -> tuple[RunConfig, str]:
    """A configuration as a run saves it, and the command that its report gives."""
    config = RunConfig.parse({**WHOLE, **values})
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.toml").write_bytes(config.to_toml())
    return config, repeat_of(open_run(folder), folder.name).command


def carried_out(command: str) -> RunConfig:
    """What the command line makes of a command, up to where the run would begin."""
    program, name, *words = shlex.split(command)
    assert (program, name) == ("dno", "optimize")
    context = parser().make_context("optimize", words)
    # Typer hands on None for what may be given several times and was not.
    chosen = {
        name: None if isinstance(value, (list, tuple)) and not value else value
        for name, value in context.params.items()
    }
    values = {**start_values(None), "prompts": chosen.pop("prompts")}
    settings = chosen.pop("settings")
    options = {name: chosen[name] for name in known_options(command_line=True)}
    return assemble(values, options, parse_settings(settings or []), command_line=True)


@functools.cache
def parser() -> Any:
    """What reads the command line."""
    return get_command(make_app()).commands["optimize"]  # type: ignore[attr-defined]


def same(one: RunConfig, other: RunConfig) -> bool:
    return (
        one.model_copy(update={"observers": ()}).dump()
        == other.model_copy(update={"observers": ()}).dump()
    )


@pytest.mark.parametrize("values", CASES.values(), ids=CASES.keys())
def test_a_command_makes_the_same_configuration(tmp_path: Path, values: dict[str, Any]) -> None:
    config, command = saved(tmp_path / "run", values)
    assert "--config" not in command
    assert same(carried_out(command), config)


@given(prompts=st.lists(dno_st.prompts(), min_size=1, max_size=3), seed=dno_st.seeds())
def test_any_prompt_is_spelled_so_that_a_shell_gives_it_back(
    tmp_path_factory: pytest.TempPathFactory, prompts: list[str], seed: int
) -> None:
    folder = tmp_path_factory.mktemp("run")
    config, command = saved(folder, {"prompts": prompts, "seeds": [seed]})
    assert same(carried_out(command), config)


def test_the_plain_run_has_the_plain_command(tmp_path: Path) -> None:
    command = saved(tmp_path / "run", {})[1]
    assert command == "dno optimize 'a cat' --reward brightness"


def test_paths_are_shortened_and_that_is_said(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    saved(folder, {"sampler": {"use": "ddim", "model": str(tmp_path / "models" / "my model")}})
    repeat = repeat_of(open_run(folder), "run")
    assert str(tmp_path) not in repeat.command
    assert "--model 'my model'" in repeat.command
    assert repeat.note == "Paths are shortened to their last part."


def test_what_no_command_says_is_repeated_from_its_file(tmp_path: Path) -> None:
    values = {**WHOLE, "rewards": [{"use": "nobody-has-this"}]}
    (tmp_path / "run.toml").write_text(tomli_w.dumps(values))
    repeat = repeat_of(open_run(tmp_path), "my run")
    assert repeat.command == "dno optimize --config 'my run/run.toml'"
    assert "In the folder that holds" in repeat.note


def test_a_run_of_python_objects_has_no_command(tmp_path: Path) -> None:
    values = {**WHOLE, "rewards": [{"use": "python:redness"}]}
    (tmp_path / "run.toml").write_text(tomli_w.dumps(values))
    repeat = repeat_of(open_run(tmp_path), "run")
    assert repeat.command == ""
    assert "its script repeats it" in repeat.note
