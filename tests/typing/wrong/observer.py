"""Observers that misread what they are shown, and hooks with options that pluggy has not."""

from __future__ import annotations

from torch import Tensor

from dno.plugin import BuildContext, ObserverConfig, Result, RunInfo, StepRecord, hookimpl


class Diary:
    @hookimpl(first=True)  # wrong: no such option
    def run_started(self, run: RunInfo) -> None:
        run.iterations = 3  # wrong: observers look on

    @hookimpl(tryfirst="yes")  # wrong: yes or no, not a word
    def step_done(self, run: RunInfo, record: StepRecord, samples: Tensor) -> bool | None:
        record.rewards["brightness"] = (0.0,)  # wrong: observers look on
        return record.reward > 0  # wrong: no such figure

    @hookimpl
    def run_finished(self, run: RunInfo, result: Result) -> None:
        (run.folder / "diary.txt").write_text(result.status)  # wrong: a run may have no folder


@hookimpl(run_started=True)  # wrong: no such option
def run_started(run: RunInfo) -> None: ...


hookimpl("run_started")  # wrong: takes a method


class NoContext(ObserverConfig):
    def build(self) -> object:  # wrong: build takes the context
        return Diary()


class Unbuilt(ObserverConfig):
    def observe(self, ctx: BuildContext) -> object:
        return Diary()


Unbuilt()  # wrong: build is missing
