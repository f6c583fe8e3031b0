"""Observers: all three events, and one alone."""

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
    def __init__(self) -> None:
        self.lines: list[str] = []

    @hookimpl
    def run_started(self, event: RunStarted) -> None:
        self.lines += [f"{prompt} from seed {seed}" for prompt, seed in event.run.items]
        self.lines.append(str(event.run.config["optimizer"]))

    @hookimpl
    def step_done(self, event: StepDone) -> bool | None:
        record = event.record
        self.lines.append(
            f"{record.iteration} of {event.run.iterations}: {max(record.objective)}, "
            f"{record.rewards}, {record.monitors}, {record.log_p}, {record.least_log_p}, "
            f"{record.gamma}, {event.samples.mean().item()}"
        )
        return event.samples.isnan().any().item() is True

    @hookimpl(trylast=True)
    def run_finished(self, event: RunFinished) -> None:
        if event.run.folder is not None:
            text = "\n".join([*self.lines, event.outcome.status])
            write_file(event.run.folder / "diary.txt", text.encode())


class DiaryConfig(ObserverConfig):
    def build(self, ctx: BuildContext) -> object:
        return Diary()


class Patience:
    @hookimpl
    def step_done(self, event: StepDone) -> bool:
        return event.record.iteration > 10


class PatienceConfig(ObserverConfig):
    def build(self, ctx: BuildContext) -> Patience:
        return Patience()
