"""Observers: all three events, and one event with fewer arguments."""

from __future__ import annotations

from torch import Tensor

from dno.plugin import BuildContext, ObserverConfig, Result, RunInfo, StepRecord, hookimpl


class Diary:
    def __init__(self) -> None:
        self.lines: list[str] = []

    @hookimpl
    def run_started(self, run: RunInfo) -> None:
        self.lines += [f"{prompt} from seed {seed}" for prompt, seed in run.items]

    @hookimpl
    def step_done(self, run: RunInfo, record: StepRecord, samples: Tensor) -> bool | None:
        self.lines.append(
            f"{record.iteration} of {run.iterations}: {max(record.objective)}, "
            f"{samples.mean().item()}"
        )
        return samples.isnan().any().item() is True

    @hookimpl(trylast=True)
    def run_finished(self, run: RunInfo, result: Result) -> None:
        if run.folder is not None:
            (run.folder / "diary.txt").write_text("\n".join([*self.lines, result.status]))


class DiaryConfig(ObserverConfig):
    def build(self, ctx: BuildContext) -> object:
        return Diary()


class Patience:
    @hookimpl
    def step_done(self, record: StepRecord) -> bool:
        return record.iteration > 10


class PatienceConfig(ObserverConfig):
    def build(self, ctx: BuildContext) -> Patience:
        return Patience()
