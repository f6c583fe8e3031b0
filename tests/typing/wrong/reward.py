"""Rewards that no run could call, and options that no reward has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from dno.plugin import BuildContext, Regularizer, Reward, RewardConfig, Sampler


def brightness(images: Tensor, prompts: Sequence[str]) -> Tensor:
    return images.mean(dim=(1, 2, 3))


def promptless(images: Tensor) -> Tensor:
    return images.mean(dim=(1, 2, 3))


def one_number(images: Tensor, prompts: Sequence[str]) -> float:
    return images.mean().item()


def a_list(images: Tensor, prompts: Sequence[str]) -> list[float]:
    return [image.mean().item() for image in images]


def greedy(images: Tensor, prompts: list[str]) -> Tensor:
    return images.mean(dim=(1, 2, 3))


def swapped(prompts: Sequence[str], images: Tensor) -> Tensor:
    return images.mean(dim=(1, 2, 3))


def named(*, images: Tensor, prompts: Sequence[str]) -> Tensor:
    return images.mean(dim=(1, 2, 3))


def demanding(images: Tensor, prompts: Sequence[str], negative_prompts: Sequence[str]) -> Tensor:
    return images.mean(dim=(1, 2, 3))


async def later(images: Tensor, prompts: Sequence[str]) -> Tensor:
    return images.mean(dim=(1, 2, 3))


@dataclass(frozen=True)
class Scorer:
    weight: float

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return images.mean(dim=(1, 2, 3))


@dataclass(frozen=True)
class Promptless:
    def __call__(self, images: Tensor) -> Tensor:
        return images.mean(dim=(1, 2, 3))


def accept(reward: Reward) -> None: ...


accept(brightness)
accept(promptless)  # wrong: takes no prompts
accept(one_number)  # wrong: returns a float
accept(a_list)  # wrong: returns no tensor
accept(greedy)  # wrong: prompts may be any sequence
accept(swapped)  # wrong: images come first
accept(named)  # wrong: both arguments are given by position
accept(demanding)  # wrong: wants a third argument
accept(later)  # wrong: an answer to be awaited
accept(Scorer(1.0).score)
accept(Scorer(1.0))  # wrong: cannot be called
accept(Scorer)  # wrong: the class, not an object of it
accept(Promptless())  # wrong: takes no prompts
accept(lambda images, prompts: images.mean(dim=(1, 2, 3)))
accept(lambda images: images.mean(dim=(1, 2, 3)))  # wrong: takes no prompts
accept(lambda images, prompts: 0.5)  # wrong: returns a float


class BuildsPromptless(RewardConfig):
    def build(self, ctx: BuildContext) -> Reward:
        return promptless  # wrong: takes no prompts


class BuildsNumber(RewardConfig):
    def build(self, ctx: BuildContext) -> Reward:
        return one_number  # wrong: returns a float


class BuildsNothing(RewardConfig):
    def build(self, ctx: BuildContext) -> Reward:  # wrong: returns nothing
        self.check()


class Contextless(RewardConfig):
    def build(self) -> Reward:  # wrong: build takes the context
        return brightness


class OtherContext(RewardConfig):
    def build(self, ctx: str) -> Reward:  # wrong: the context is no string
        return brightness


class AnswersPromptless(RewardConfig):
    def build(self, ctx: BuildContext) -> Promptless:  # wrong: that is no reward
        return Promptless()


class AnswersTensor(RewardConfig):
    def build(self, ctx: BuildContext) -> Tensor:  # wrong: build makes the reward, it scores not
        return brightness(ctx, [])  # wrong: the context is no image


class AnswersSampler(RewardConfig):
    def build(self, ctx: BuildContext) -> Sampler:  # wrong: a sampler is no reward
        raise NotImplementedError


class AnswersRegularizer(RewardConfig):
    def build(self, ctx: BuildContext) -> Regularizer:  # wrong: a regularizer is no reward
        raise NotImplementedError


class Unbuilt(RewardConfig):
    blue: float = 0.5


class Checks(RewardConfig):
    def check(self) -> bool:  # wrong: check raises, it does not answer
        return True

    def build(self, ctx: BuildContext) -> Reward:
        return brightness


class OptionalGradient(RewardConfig):
    differentiable: bool = False  # wrong: a class variable, not an option

    def build(self, ctx: BuildContext) -> Reward:
        return brightness


class Greenness(RewardConfig):
    blue: float = 0.5
    shade: float = "dark"  # wrong: default of another type

    def build(self, ctx: BuildContext) -> Reward:
        print(self.blues)  # wrong: no such option
        print(ctx.generator)  # wrong: no such thing in the context
        return brightness


Greenness(blue=0.2, weight=3)
Greenness(blue="x")  # wrong: a word for a number
Greenness(weight=None)  # wrong: nothing for a number
Greenness(bleu=0.2)  # wrong: no such option
Greenness(0.2)  # wrong: options are given by name
Unbuilt()  # wrong: build is missing
RewardConfig()  # wrong: the base cannot be built
Greenness().build()  # wrong: build takes the context
