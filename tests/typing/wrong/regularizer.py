"""Regularizers that answer in another form, and figures without names."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Generator, Tensor

from dno.plugin import BuildContext, Penalty, Regularizer, RegularizerConfig, Reward


def right(noise_BN: Tensor, generators: Sequence[Generator]) -> Tensor:
    return noise_BN.square().mean(dim=1)


def generatorless(noise_BN: Tensor) -> Tensor:
    return noise_BN.square().mean(dim=1)


def one_generator(noise_BN: Tensor, generator: Generator) -> Tensor:
    return noise_BN.square().mean(dim=1)


def one_number(noise_BN: Tensor, generators: Sequence[Generator]) -> float:
    return noise_BN.square().mean().item()


def a_pair(noise_BN: Tensor, generators: Sequence[Generator]) -> tuple[Tensor, dict[str, Tensor]]:
    return noise_BN.square().mean(dim=1), {}


def perhaps(noise_BN: Tensor, generators: Sequence[Generator]) -> Penalty | None:
    return None


def accept(regularizer: Regularizer) -> None: ...


accept(right)
accept(generatorless)  # wrong: takes no generators
accept(one_generator)  # wrong: there is a generator a sample
accept(one_number)  # wrong: returns a float
accept(a_pair)  # wrong: a pair is no Penalty
accept(perhaps)  # wrong: may return nothing


class GeneratorlessConfig(RegularizerConfig):
    def build(self, ctx: BuildContext) -> Regularizer:
        return generatorless  # wrong: takes no generators


class PairConfig(RegularizerConfig):
    def build(self, ctx: BuildContext) -> Regularizer:
        return a_pair  # wrong: a pair is no Penalty


class Rewarding(RegularizerConfig):
    def build(self, ctx: BuildContext) -> Reward:  # wrong: a reward is no regularizer
        raise NotImplementedError


class Contextless(RegularizerConfig):
    def build(self) -> Regularizer:  # wrong: build takes the context
        return right


class Quiet(RegularizerConfig):
    def build(self, ctx: BuildContext) -> Regularizer:
        return right


Quiet(weight="auto")
Quiet(weight="automatic")  # wrong: no such weight
Quiet(log_p_target="low")  # wrong: a word for a number
RegularizerConfig()  # wrong: the base cannot be built


def penalties(value_B: Tensor) -> Penalty:
    Penalty(value_B)
    Penalty(value_B, value_B, {"sum": value_B})
    Penalty(value_B, {"log_p": value_B})  # wrong: log P is a field of its own
    Penalty(value_B, -3.0)  # wrong: log P is a tensor
    Penalty(value_B, log_p=value_B)  # wrong: it is called log_p_B
    Penalty(value_B, figures={"sum": -3.0})  # wrong: a figure is a tensor
    Penalty(value_B, figures=[value_B])  # wrong: figures have names
    Penalty(0.0)  # wrong: a penalty is a tensor
    Penalty()  # wrong: nothing to take off
    certain_B: Tensor = Penalty(value_B).log_p_B  # wrong: there may be none
    Penalty(value_B).value_B = certain_B  # wrong: a penalty is told, not set
    return value_B  # wrong: a tensor is no Penalty
