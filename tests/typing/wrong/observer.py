"""Observers that misread what they are shown, and hooks with options that pluggy has not."""

from __future__ import annotations

from dno.plugin import (
    BuildContext,
    ObserverConfig,
    RunFinished,
    RunStarted,
    StepDone,
    hookimpl,
    write_file,
)


class Diary:
    @hookimpl(first=True)  # wrong: no such option
    def run_started(self, event: RunStarted) -> None:
        event.run.iterations = 3  # wrong: observers look on
        event.run.config["seeds"] = [1]  # wrong: observers look on
        print(event.record)  # wrong: nothing is recorded yet

    @hookimpl(tryfirst="yes")  # wrong: yes or no, not a word
    def step_done(self, event: StepDone) -> bool | None:
        event.record = event.record  # wrong: observers look on
        event.record.rewards["brightness"] = (0.0,)  # wrong: observers look on
        least: float = event.record.log_p  # wrong: by regularizer
        gamma: tuple[float, ...] = event.record.gamma  # wrong: there may be none
        event.record.figures["log_p"][0] = least + gamma[0]  # wrong: observers look on
        return event.record.reward > 0  # wrong: no such figure

    @hookimpl
    def run_finished(self, event: RunFinished) -> None:
        (event.run.folder / "diary.txt").touch()  # wrong: a run may have no folder
        if event.run.folder is not None:
            write_file(event.run.folder / "diary.txt", "done")  # wrong: bytes
        print(event.result)  # wrong: it is called outcome
        event.outcome.verdict()  # wrong: words for people are dno.Result's


@hookimpl(run_started=True)  # wrong: no such option
def run_started(event: RunStarted) -> None: ...


hookimpl("run_started")  # wrong: takes a method


class NoContext(ObserverConfig):
    def build(self) -> object:  # wrong: build takes the context
        return Diary()


class Unbuilt(ObserverConfig):
    def observe(self, ctx: BuildContext) -> object:
        return Diary()


Unbuilt()  # wrong: build is missing
