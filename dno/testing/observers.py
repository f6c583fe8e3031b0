"""The tests of an observer plugin."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from dno.core.engine import optimize
from dno.core.events import (
    Bus,
    Events,
    RunFinished,
    RunInfo,
    RunStarted,
    StepDone,
    hook_of,
    hookimpl,
)
from dno.core.problem import Problem
from dno.core.result import Outcome, Status
from dno.core.stages import LoopState, Phase
from dno.core.terms import RewardTerm
from dno.errors import DNOError
from dno.protocols import Reward
from dno.registry.configs import ObserverConfig
from dno.registry.registry import OBSERVERS
from dno.testing.configs import ConfigContract
from dno.testing.toy import Ascent, ToySampler

RUN_FILES = [
    f"{name}{number}.png" for name in ("initial", "best", "last") for number in ("", "-0", "-1")
]
RUN_FILES += ["run.toml", "history.jsonl", "result.json", "noise.safetensors", "state.safetensors"]
"""What a run keeps in its folder; see `dno.runs.storage`."""


class _StopAt:
    """Asks to stop after an iteration."""

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    @hookimpl
    def step_done(self, event: StepDone) -> bool:
        return event.record.iteration == self.iteration


class _Minded:
    """Passes events on to an observer, and sees whether it changes what it is shown."""

    def __init__(self, observer: object) -> None:
        self._hook = hook_of(observer)
        self.changed: set[str] = set()

    @hookimpl
    def run_started(self, event: RunStarted) -> None:
        self._hook.run_started(event=event)

    @hookimpl
    def step_done(self, event: StepDone) -> bool:
        before = event.samples.clone()
        answers = self._hook.step_done(event=event)
        if not torch.equal(before, event.samples):
            self.changed.add("samples")
        return any(answers)

    @hookimpl
    def run_finished(self, event: RunFinished) -> None:
        before = event.outcome.copy()
        self._hook.run_finished(event=event)
        for kind in ("initial", "best", "last"):
            one, other = getattr(before, kind).tensors(), getattr(event.outcome, kind).tensors()
            for name, value in one.items():
                if not torch.equal(value, other[name]):
                    self.changed.add(name)


def _brightness(images: Tensor, prompts: Sequence[str]) -> Tensor:
    return images.mean(dim=(1, 2, 3))


class ObserverContract(ConfigContract[ObserverConfig]):
    """Subclass it, name it `Test...` and set `config`.

    It watches real runs of `iterations` steps on a sampler without a network: two samples, whose
    prompts are unfit to be file names. Each run is in an empty working folder, with a run folder
    inside it.
    """

    registry = OBSERVERS
    iterations: ClassVar[int] = 3
    items: ClassVar[Sequence[tuple[str, int]]] = (("../../a cat/..", 0), ('C:\\"dog" *?', 2**40))

    def observer(self) -> object:
        """The observer under test, built anew."""
        return self.config.build(self.context(((3, 8, 8),) * 2))

    def watch(
        self,
        observers: Sequence[object],
        folder: Path | None,
        *,
        reward: Reward = _brightness,
        state: LoopState | None = None,
        iterations: int | None = None,
    ) -> tuple[Outcome, list[LoopState]]:
        """A run that these observers look at, and its states after each iteration."""
        iterations = self.iterations if iterations is None else iterations
        prompts, seeds = zip(*self.items, strict=True)
        run = RunInfo(
            items=tuple(self.items),
            iterations=iterations,
            start=state.iteration if state else 0,
            folder=folder,
            config={"prompts": list(prompts), "iterations": iterations},
        )
        sample = ToySampler().bind(prompts, seeds)
        problem = Problem(self.items, sample, [RewardTerm("brightness", reward)])
        states: list[LoopState] = []
        try:
            bus = Bus(run, observers)
            outcome = optimize(
                problem,
                [Phase(Ascent(1.0), iterations)],
                bus=bus,
                state=state,
                checkpoint=states.append,
            )
            bus.finished(outcome)
            if folder is None and isinstance(outcome.error, DNOError):
                raise outcome.error
        except DNOError as error:
            if folder is None and not str(error).startswith('observer "'):
                pytest.skip(f"without a run folder the observer says: {error}")
            pytest.fail(f"the observer fails: {error}")
        return outcome, states

    def test_it_asks_for_events_that_there_are(self) -> None:
        """At least one method is marked by `hookimpl`, and all of those are events."""
        observer = self.observer()
        marked = [
            name for name in dir(observer) if hasattr(getattr(observer, name, None), "dno_impl")
        ]
        events = [name for name in vars(Events) if not name.startswith("_")]
        assert marked, (
            "no method is marked by dno.plugin.hookimpl, so that it sees nothing; events: "
            f"{', '.join(events)}"
        )
        try:
            Bus(RunInfo((), 0, 0, None), [observer])
        except DNOError as error:
            pytest.fail(f"{error}; events: {', '.join(events)}")

    def test_it_looks_on(self) -> None:
        """A run that is observed is the same run: records, noise and images, to the bit, as far as
        it goes.
        """
        with self._empty_folder() as (folder, _):
            minded = _Minded(self.observer())
            seen, _ = self.watch([minded], folder)
        changed = ", ".join(sorted(minded.changed))
        # A run gives each observer copies; others may share what this one is given.
        assert not changed, f"the observer changes tensors of the run: {changed}"
        self._require_unharmed(seen)
        stop = [_StopAt(seen.history[-1].iteration)] if seen.status is Status.STOPPED else []
        bare, _ = self.watch(stop, None)
        records = [
            [replace(record, seconds=0.0).to_json() for record in outcome.history]
            for outcome in (bare, seen)
        ]
        assert records[0] == records[1], "the run's records change when it is observed"

    def test_it_keeps_to_the_run_folder(self) -> None:
        """Files appear in the run folder alone, and none that was there is changed, whatever the
        prompts.
        """
        with self._empty_folder() as (folder, place):
            for name in RUN_FILES:
                (folder / name).write_bytes(b"kept")
            outcome, _ = self.watch([self.observer()], folder)
            self._require_unharmed(outcome)
            outside = [path.name for path in place.iterdir() if path != folder]
            lost = [name for name in RUN_FILES if (folder / name).read_bytes() != b"kept"]
        assert not outside, f"the observer writes outside the run folder: {', '.join(outside)}"
        assert not lost, (
            f"the observer overwrites the run's own files: {', '.join(lost)}; use names of its own"
        )

    def test_it_does_without_a_run_folder(self) -> None:
        """A run from Python may have none; an observer that needs one says so with an error of
        ours.
        """
        with self._empty_folder() as (_, place):
            before = set(place.rglob("*"))
            outcome, _ = self.watch([self.observer()], None)
            new = [path.name for path in set(place.rglob("*")) - before]
        self._require_unharmed(outcome)
        assert not new, (
            f"without a run folder the observer writes into the working folder: {', '.join(new)}"
        )

    def test_it_watches_a_resumed_run(self) -> None:
        """A run may be stopped and resumed by another process, with an observer built anew."""
        with self._empty_folder() as (folder, _):
            first, states = self.watch([self.observer()], folder)
            self._require_unharmed(first)
            outcome, _ = self.watch(
                [self.observer()], folder, state=states[-1], iterations=self.iterations + 2
            )
        self._require_unharmed(outcome)

    def test_it_watches_a_run_that_fails(self) -> None:
        """Then `run_finished` has an outcome with status `failed` and fewer records than were
        planned.
        """
        calls = 0

        def failing(images: Tensor, prompts: Sequence[str]) -> Tensor:
            nonlocal calls
            calls += 1
            return _brightness(images, prompts) * (float("nan") if calls > 1 else 1)

        with self._empty_folder() as (folder, _):
            outcome, _ = self.watch([self.observer()], folder, reward=failing)
        if outcome.status is Status.STOPPED:
            pytest.skip("the observer stops the run before it can fail")
        assert "not finite" in str(outcome.error), f"the observer fails: {outcome.error}"

    def test_it_watches_a_run_in_which_a_sample_fails(self) -> None:
        """The others go on; that sample's values are nan from then on."""
        calls = 0

        def failing_for_one(images: Tensor, prompts: Sequence[str]) -> Tensor:
            nonlocal calls
            calls += 1
            values = _brightness(images, prompts)
            if calls == 1:
                return values
            return values * torch.tensor([1.0] + [float("nan")] * (len(values) - 1))

        with self._empty_folder() as (folder, _):
            outcome, _ = self.watch([self.observer()], folder, reward=failing_for_one)
        self._require_unharmed(outcome)

    def _require_unharmed(self, outcome: Outcome) -> None:
        assert outcome.status is not Status.FAILED, f"the observer fails: {outcome.error}"

    @contextlib.contextmanager
    def _empty_folder(self) -> Iterator[tuple[Path, Path]]:
        """An empty run folder, in an empty working folder."""
        with tempfile.TemporaryDirectory() as place, contextlib.chdir(place):
            folder = Path(place, "run")
            folder.mkdir()
            yield folder, Path(place)
