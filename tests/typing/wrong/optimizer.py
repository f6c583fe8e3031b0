"""Optimizers with half an interface, and objectives asked for what they do not tell."""

from __future__ import annotations

from torch import Tensor

from dno.plugin import BuildContext, Objective, Optimizer, OptimizerConfig, Sampler, State


class Right:
    def init(self, noise_BN: Tensor) -> State:
        return {}

    def step(self, objective: Objective, noise_BN: Tensor, state: State) -> tuple[Tensor, State]:
        return noise_BN, state


class NoInit:
    def step(self, objective: Objective, noise_BN: Tensor, state: State) -> tuple[Tensor, State]:
        return noise_BN, state


class DerivedNoInit(Optimizer):
    def step(self, objective: Objective, noise_BN: Tensor, state: State, /) -> tuple[Tensor, State]:
        return noise_BN, state


class DerivedNoiseOnly(Optimizer):
    def init(self, noise_BN: Tensor, /) -> State:
        return {}

    def step(self, ask: Objective, noise_BN: Tensor, old: State, /) -> Tensor:  # wrong: no state
        return noise_BN


class NoStep:
    def init(self, noise_BN: Tensor) -> State:
        return {}


class NoiseOnly:
    def init(self, noise_BN: Tensor) -> State:
        return {}

    def step(self, objective: Objective, noise_BN: Tensor, state: State) -> Tensor:
        return noise_BN


class CountingStep:
    def init(self, noise_BN: Tensor) -> State:
        return {}

    def step(self, objective: Objective, noise_BN: Tensor, state: State) -> tuple[Tensor, State]:
        return noise_BN, {"steps": 1}  # wrong: state is made of tensors


class Stateless:
    def init(self, noise_BN: Tensor) -> State:
        return {}

    def step(self, objective: Objective, noise_BN: Tensor) -> tuple[Tensor, State]:
        return noise_BN, {}


class Counting:
    def init(self, noise_BN: Tensor) -> dict[str, int]:
        return {"steps": 0}

    def step(self, objective: Objective, noise_BN: Tensor, state: State) -> tuple[Tensor, State]:
        return noise_BN, state


class NarrowState:
    def init(self, noise_BN: Tensor) -> dict[str, Tensor]:
        return {}

    def step(
        self, objective: Objective, noise_BN: Tensor, state: dict[str, Tensor]
    ) -> tuple[Tensor, State]:
        return noise_BN, state


class StateFirst:
    def init(self, noise_BN: Tensor) -> State:
        return {}

    def step(self, objective: Objective, noise_BN: Tensor, state: State) -> tuple[State, Tensor]:
        return state, noise_BN


class Climber:
    def init(self, noise_BN: Tensor) -> State:
        return {}

    def step(self, objective: Sampler, noise_BN: Tensor, state: State) -> tuple[Tensor, State]:
        return noise_BN, state


class Forgetful:
    def init(self, noise_BN: Tensor) -> None:
        pass

    def step(self, objective: Objective, noise_BN: Tensor, state: State) -> tuple[Tensor, State]:
        return noise_BN, state


def accept(optimizer: Optimizer) -> None: ...


accept(Right())
accept(Right)  # wrong: the class, not an object of it
accept(NoInit())  # wrong: no init
accept(DerivedNoInit())  # wrong: no init
accept(NoStep())  # wrong: no step
accept(NoiseOnly())  # wrong: step returns no state
accept(Stateless())  # wrong: step takes no state
accept(Counting())  # wrong: state is made of tensors
accept(NarrowState())  # wrong: state may be any mapping
accept(StateFirst())  # wrong: the noise comes first
accept(Climber())  # wrong: step is given the objective
accept(Forgetful())  # wrong: init returns no state


class NoInitConfig(OptimizerConfig):
    def build(self, ctx: BuildContext) -> Optimizer:
        return NoInit()  # wrong: no init


class NoiseOnlyConfig(OptimizerConfig):
    def build(self, ctx: BuildContext) -> NoiseOnly:  # wrong: that is no optimizer
        return NoiseOnly()


class Contextless(OptimizerConfig):
    def build(self) -> Optimizer:  # wrong: build takes the context
        return Right()


class Steps(OptimizerConfig):
    steps: int = 1

    def build(self, ctx: BuildContext) -> Optimizer:
        return Right()


Steps(steps=1.5)  # wrong: half a step
OptimizerConfig()  # wrong: the base cannot be built


def ask(objective: Objective, noise_BN: Tensor, state: State) -> Tensor:
    gradient: Tensor = objective.value_and_grad(noise_BN)  # wrong: a pair
    state["steps"] = noise_BN  # wrong: a state is never changed in place
    objective.value()  # wrong: the value of which noise
    scores: list[float] = objective.score(noise_BN)  # wrong: a tensor
    objective.score(noise_BN, scores)  # wrong: takes noise alone
    both: tuple[Tensor, Tensor] = objective.slopes(noise_BN)  # wrong: rewards and penalties apart
    print(objective.slopes(noise_BN).grad_BN)  # wrong: there are two gradients
    objective.slopes(noise_BN).reward_B = both[0]  # wrong: slopes are told, not set
    print(objective.slopes(noise_BN).log_p_B)  # wrong: no such field
    objective(noise_BN)  # wrong: an objective is not called
    objective.gradient(noise_BN)  # wrong: no such method
    objective.gaussian(3)  # wrong: takes nothing
    return gradient
