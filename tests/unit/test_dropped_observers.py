"""An observer that fails is told of once and dropped; an essential one fails its run."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import dno
from dno.core.function import FunctionSampler
from dno.errors import ConfigError, RunError
from dno.plugin import RunFinished, RunStarted, StepDone, hookimpl
from dno.runs.run_config import RunConfig

SAMPLER = FunctionSampler(torch.sigmoid, [(3, 8, 8)])
EVENTS = ("run_started", "step_done", "run_finished")


def bright(images: Tensor, prompts: Sequence[str]) -> Tensor:
    return images.mean(dim=(1, 2, 3))


class Failing:
    """Fails at one event, and counts how often it is called."""

    def __init__(self, event: str, error: BaseException) -> None:
        self.event = event
        self.error = error
        self.called: list[str] = []

    def _met(self, event: str) -> None:
        self.called.append(event)
        if event == self.event:
            raise self.error

    @hookimpl
    def run_started(self, event: RunStarted) -> None:
        self._met("run_started")

    @hookimpl
    def step_done(self, event: StepDone) -> None:
        self._met("step_done")

    @hookimpl
    def run_finished(self, event: RunFinished) -> None:
        self._met("run_finished")


def run(*observers: Any, out: Path | None = None) -> dno.Result:
    config = RunConfig.parse(
        {
            "prompts": "a cat",
            "sampler": {"use": SAMPLER},
            "rewards": [{"use": bright}],
            "iterations": 3,
            "observers": [one if isinstance(one, dict) else {"use": one} for one in observers],
        }
    )
    return dno.run(config, out)


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize(
    "error",
    [OSError(28, "No space left on device"), RunError("no room"), SystemExit(3), MemoryError()],
    ids=["OSError", "RunError", "SystemExit", "MemoryError"],
)
def test_it_is_told_once_and_called_no_more(
    event: str, error: BaseException, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    failing = Failing(event, error)
    seen: list[int] = []
    with caplog.at_level(logging.WARNING, "dno"):
        outcome = run(failing, lambda step: seen.append(step.record.iteration), out=tmp_path / "r")
    assert (outcome.status, outcome.error) == ("finished", None)
    assert dno.open_run(tmp_path / "r").status == "finished"
    assert seen == [0, 1, 2, 3]
    assert failing.called[-1] == event
    assert failing.called.count(event) == 1
    (told,) = caplog.records
    assert told.getMessage().endswith("; the run goes on without it")
    assert 'observer "Failing"' in told.getMessage()


@pytest.mark.parametrize("event", EVENTS)
def test_an_essential_one_fails_the_run(event: str) -> None:
    failing = Failing(event, OSError(28, "No space left on device"))
    essential = {"use": failing, "essential": True}
    if event == "run_started":
        with pytest.raises(RunError, match='observer "Failing" at run_started'):
            run(essential).raise_for_status()
        return
    outcome = run(essential)
    assert outcome.status == "failed"
    assert f'observer "Failing" at {event} failed with OSError' in str(outcome.error)


def test_what_it_refuses_at_the_start_is_the_callers_mistake() -> None:
    with pytest.raises(ConfigError, match="not so"):
        run(Failing("run_started", ConfigError("not so"))).raise_for_status()


def test_a_request_to_stop_is_none_of_its_failures() -> None:
    outcome = run(Failing("step_done", KeyboardInterrupt()))
    assert outcome.status == "interrupted"
