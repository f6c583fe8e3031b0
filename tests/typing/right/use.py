"""What a registry loads has the type of its kind, and a script may pass any object of the right
form.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

import dno
from dno.plugin import BuildContext, Penalty, Reward, RewardConfig, Sampler
from dno.registry.registry import REGULARIZERS, REWARDS, SAMPLERS, Registry


def load(ctx: BuildContext, noise_BN: Tensor) -> Tensor:
    sampler: Sampler = SAMPLERS.load("ddim")().build(ctx)
    reward: Reward = REWARDS.load("clip")(weight=2).build(ctx)
    penalty = REGULARIZERS.load("norm")().build(ctx)(noise_BN, [])
    value_B = penalty.value_B if isinstance(penalty, Penalty) else penalty
    return reward(sampler.bind(["a frog"], [0])(noise_BN), ["a frog"]) - value_B


def redness(images: Tensor, prompts: Sequence[str]) -> Tensor:
    return images[:, 0].mean(dim=(1, 2))


def script() -> Tensor:
    own = Registry("rewards", RewardConfig)
    result = dno.optimize(
        "a frog", reward=[(redness, 2), "brightness", own.load("clip")()], iterations=2
    )
    result.images[0].save("frog.png")
    print(result.verdict(), result.failures, result.best.score_B)
    return result.best.samples


def session() -> list[float]:
    loaded = dno.load(reward=redness, steps=4)
    reached: list[float] = []
    for prompt in ("a frog", "a toad"):
        result: dno.Result = loaded.optimize(prompt, seed=1, optimizer={"use": "sgd"})
        reached.append(result.best.rewards["redness"].mean().item())
    both: dno.Comparison = loaded.compare("a newt", "best-of-n", iterations=3)
    return [*reached, both.ours.meter()["seconds"]]


def read(folder: str) -> Tensor:
    saved: dno.SavedRun = dno.open_run(folder)
    status: dno.Status | None = saved.status
    if status is None or not saved.resumable:
        (saved,) = dno.list_runs("runs")
    losses = [-value for record in saved.history for value in record.objective]
    return saved.noise("best") * max(losses)
