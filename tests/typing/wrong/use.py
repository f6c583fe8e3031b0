"""What a registry loads, taken for another kind, and live objects that a run cannot use."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

import dno
from dno.plugin import BuildContext, Optimizer, OptimizerConfig, Reward, Sampler, SamplerConfig
from dno.registry.registry import OPTIMIZERS, REWARDS, Registry

sampler_class: type[SamplerConfig] = REWARDS.load("clip")  # wrong: a reward
sampler_config: SamplerConfig = REWARDS.load("clip")()  # wrong: a reward
kind: Registry[OptimizerConfig] = REWARDS  # wrong: rewards
texts = Registry("texts", str)  # wrong: a kind's base is a config


def build(ctx: BuildContext) -> Sampler:
    reward: Reward = OPTIMIZERS.load("adam")().build(ctx)  # wrong: an optimizer
    optimizer: Optimizer = REWARDS.load("clip")().build(ctx)  # wrong: a reward
    REWARDS.load("clip")(wieght=2)  # wrong: no such option
    REWARDS.load("clip")().build(ctx).bind([], [])  # wrong: a reward is not bound
    if ctx.draws:
        return optimizer  # wrong: no sampler
    return reward  # wrong: no sampler


def promptless(images: Tensor) -> Tensor:
    return images.mean(dim=(1, 2, 3))


def brightness(images: Tensor, prompts: Sequence[str]) -> Tensor:
    return images.mean(dim=(1, 2, 3))


dno.optimize("a frog", reward=brightness)
dno.optimize("a frog", reward=promptless)  # wrong: takes no prompts
dno.optimize("a frog", reward=lambda images: images)  # wrong: takes no prompts
dno.optimize("a frog", reward=brightness, sampler=brightness)  # wrong: a reward is no sampler
adam = OPTIMIZERS.load("adam")
dno.optimize("a frog", reward=brightness, optimizer=adam)  # wrong: the class, not an object of it
dno.optimize("a frog", reward=brightness, iterations="many")  # wrong: a word for a number
dno.optimize("a frog", reward=brightness, iteration=3)  # wrong: no such option
dno.optimize("a frog")  # wrong: nothing to climb
print(dno.optimize("a frog", reward=brightness).held_out)  # wrong: what was climbed is told
dno.load()  # wrong: nothing to climb
dno.load(prompt="a frog", reward=brightness)  # wrong: prompts come later
session = dno.load(reward=brightness)
session.optimize()  # wrong: what to draw
session.optimize("a frog", reward=brightness)  # wrong: rewards are loaded
session.optimize("a frog", sampler="ddim")  # wrong: the sampler is loaded
session.compare("a frog")  # wrong: with what
dno.open_run("runs/frog").status = None  # wrong: a run is read, not changed
dno.open_run("runs/frog").noise().upper()  # wrong: a tensor
