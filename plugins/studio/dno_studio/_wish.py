"""The tab Optimise's errand: one run."""

from __future__ import annotations

from dataclasses import dataclass, replace

from dno_studio._job import NOTHING, Job, Onlooker, Phase, View, address
from dno_studio._workshop import Workshop


@dataclass(frozen=True)
class Wish:
    """A run that somebody asks for."""

    prompt: str
    rewards: tuple[tuple[str, float], ...]
    """Names and weights."""
    model: str
    steps: int
    iterations: int
    seed: int

    def carry_out(self, job: Job, workshop: Workshop) -> View:
        """Run it, before the eyes of whoever asked."""
        rewards = [{"use": name} for name, _ in self.rewards]
        session = workshop.session(self.model, self.steps, rewards)
        if job.stop_asked:
            return NOTHING
        folder = workshop.folder(self.prompt)
        job.show(View(Phase.LOADING, folder=folder))
        result = session.optimize(
            self.prompt,
            seed=self.seed,
            iterations=self.iterations,
            settings={f"rewards.{i}.weight": weight for i, (_, weight) in enumerate(self.rewards)},
            onlookers=[Onlooker(job)],
            out=folder,
            **workshop.budget(),
        )
        return replace(
            job.view,
            phase=Phase.ENDED,
            now=address(result.images[0]),
            told=result.verdict(),
            failed=result.status.value in ("failed", "partial"),
        )
