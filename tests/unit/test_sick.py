"""A sample that cannot be evaluated is frozen, and the others go on as if it were not there."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from dno_builtin.optimizers.adam import Adam
from dno_builtin.optimizers.best_of_n import BestOfN
from dno_builtin.optimizers.local_search import LocalSearch
from PIL import Image
from small_problems import brightness, climb, equal, problem
from torch import Tensor

import dno
from dno.core.budget import Budget
from dno.core.engine import optimize
from dno.core.events import Bus, RunInfo, StepDone, hookimpl
from dno.core.failing import PATIENCE
from dno.core.function import FunctionSampler
from dno.core.gradients import GradientConfig
from dno.core.noise import gaussian_noise
from dno.core.problem import Problem
from dno.core.result import Outcome, Status
from dno.core.stages import LoopState, Phase
from dno.core.terms import RegularizerTerm, RewardTerm
from dno.errors import ConfigError
from dno.protocols import Objective, Penalty, State

SEEDS = (3, 4, 5)
ITEMS = [(f"prompt {seed}", seed) for seed in SEEDS]
SICK = 1
"""The row that falls ill."""
WELL = (0, 2)
DRAWS = ((3, 8, 8), (4,))


@dataclass(frozen=True)
class Ward:
    """A sampler whose sample of one seed can be told to be not finite."""

    noise_BN: Tensor
    seeds: Sequence[int]
    is_sick: Callable[[], bool]
    draws: tuple[tuple[int, ...], ...] = DRAWS

    def __call__(self, noise_BN: Tensor) -> Tensor:
        first, second = noise_BN.split([192, 4], dim=1)
        images = (first.view(-1, 3, 8, 8) + second.mean(1)[:, None, None, None]).sigmoid()
        if not self.is_sick() or SEEDS[SICK] not in self.seeds:
            return images
        factors = [math.nan if seed == SEEDS[SICK] else 1.0 for seed in self.seeds]
        factor_B = torch.tensor(factors).repeat(len(noise_BN) // len(self.seeds))
        return images * factor_B[:, None, None, None]


class Clock:
    """Counts the iterations of a run, for what is to go wrong at one."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.iteration = 0

    @hookimpl
    def step_done(self, event: StepDone) -> None:
        self.iteration = event.record.iteration + 1

    def struck(self) -> bool:
        return self.iteration >= self.at


def is_ill(prompt: str) -> bool:
    return prompt == ITEMS[SICK][0]


@dataclass(frozen=True)
class Illness:
    """What goes wrong with one sample, and what a run says of it."""

    name: str
    told: str
    reward: Callable[[Clock, Tensor, Sequence[str]], Tensor] | None = None
    sampler: bool = False
    penalty: Callable[[Clock, Tensor, Sequence[int]], Penalty] | None = None


def reward_of_nan(clock: Clock, images: Tensor, prompts: Sequence[str]) -> Tensor:
    ill = [clock.struck() and is_ill(prompt) for prompt in prompts]
    return brightness(images, prompts).where(~torch.tensor(ill), math.nan)


def failing_reward(clock: Clock, images: Tensor, prompts: Sequence[str]) -> Tensor:
    if clock.struck() and any(map(is_ill, prompts)):
        raise LookupError("no such face")
    return brightness(images, prompts)


def steep_reward(clock: Clock, images: Tensor, prompts: Sequence[str]) -> Tensor:
    ill = torch.tensor([clock.struck() and is_ill(prompt) for prompt in prompts])
    nought = (images - images.detach()).abs().mean(dim=(1, 2, 3))
    return brightness(images, prompts) + (nought + (~ill).float()).sqrt()


def hold(clock: Clock, noise_BN: Tensor, seeds: Sequence[int]) -> Penalty:
    length_B = noise_BN.square().mean(1)
    return Penalty((length_B - 1).square(), log_p_B=-length_B, figures={"length": length_B})


def penalty_of_nan(clock: Clock, noise_BN: Tensor, seeds: Sequence[int]) -> Penalty:
    right = hold(clock, noise_BN, seeds)
    ill = [clock.struck() and seed == SEEDS[SICK] for seed in seeds]
    return right._replace(value_B=right.value_B.where(~torch.tensor(ill), math.nan))


ILLNESSES = (
    Illness("sampler", "the sampler: its output is not finite for sample 1; try", sampler=True),
    Illness("reward", 'reward "r": its value is not finite for sample 1; look', reward_of_nan),
    Illness("exception", 'reward "r" failed with LookupError: no such face', failing_reward),
    Illness("gradient", "the objective: its gradient is not finite for sample 1; l", steep_reward),
    Illness(
        "penalty",
        'regularizer "p": its value is not finite for sample 1; look',
        penalty=penalty_of_nan,
    ),
)
OPTIMIZERS = {"adam": Adam(lr=0.05), "local-search": LocalSearch(beta=0.5), "best-of-n": BestOfN()}


def posed(illness: Illness, clock: Clock, rows: Sequence[int], **options: Any) -> Problem:
    """The problem of these rows alone, whose samples fall ill when the clock strikes."""
    items = [ITEMS[row] for row in rows]
    seeds = [seed for _, seed in items]

    def bind(copies: int) -> Ward:
        several = seeds * copies
        sick = illness.sampler
        return Ward(gaussian_noise(DRAWS, several), several, lambda: sick and clock.struck())

    def reward(images: Tensor, prompts: Sequence[str]) -> Tensor:
        assert images.isfinite().all(), "rewards are asked about pictures alone"
        if illness.reward is None:
            return brightness(images, prompts)
        return illness.reward(clock, images, prompts)

    def regularizer(noise_BN: Tensor, generators: Sequence[Any]) -> Penalty:
        return (illness.penalty or hold)(clock, noise_BN, seeds)

    return Problem(
        items,
        bind(1),
        [RewardTerm("r", reward, differentiable=options.pop("differentiable", True))],
        regularizers=[RegularizerTerm("p", regularizer, 0.1)],
        copies=bind,
        **options,
    )


def ward_run(
    illness: Illness,
    at: int,
    rows: Sequence[int] = (0, 1, 2),
    optimizer: str = "adam",
    iterations: int = 5,
    state: LoopState | None = None,
    checkpoint: Callable[[LoopState], None] = lambda state: None,
    **options: Any,
) -> Outcome:
    clock = Clock(at)
    if state is not None:
        clock.iteration = state.iteration
    setting = posed(illness, clock, rows, **options)
    climber = OPTIMIZERS[optimizer].build(None)
    bus = Bus(RunInfo(setting.items, iterations, 0, None), [clock])
    return optimize(
        setting, [Phase(climber, iterations)], bus=bus, state=state, checkpoint=checkpoint
    )


def rows_of(record: Any, rows: Sequence[int]) -> dict[str, Any]:
    """A record's values for these samples; what is not of a sample is left out, as is time."""
    kept: dict[str, Any] = {}
    for name, value in vars(record).items():
        if name == "seconds":
            continue
        if isinstance(value, dict):
            kept |= {f"{name}.{key}": [inner[row] for row in rows] for key, inner in value.items()}
        else:
            kept[name] = [value[row] for row in rows] if isinstance(value, tuple) else value
    return json.loads(json.dumps(kept).replace("NaN", '"nan"'))


def require_well(joint: Outcome, alone: Outcome, rows: Sequence[int], own: Sequence[int]) -> None:
    """The rows of one outcome are to the bit those of another one."""
    for name in ("initial", "best", "last"):
        ours = getattr(joint, name).tensors()
        theirs = getattr(alone, name).tensors()
        for part, value in ours.items():
            assert equal(value[list(rows)], theirs[part][list(own)]), f"{name}.{part}"
    records = [rows_of(record, rows) for record in joint.history]
    assert records == [rows_of(record, own) for record in alone.history]


@pytest.mark.parametrize("at", [0, 2, 5], ids=["at first", "midway", "at last"])
@pytest.mark.parametrize("illness", ILLNESSES, ids=lambda illness: illness.name)
def test_the_others_are_to_the_bit_as_without_it(illness: Illness, at: int) -> None:
    joint = ward_run(illness, at)
    if illness.name == "gradient" and at == 5:
        # The last evaluation asks for no gradient, so that nothing goes wrong.
        assert joint.status is Status.FINISHED
        return
    assert joint.status is Status.PARTIAL
    assert list(joint.failures) == [SICK]
    assert joint.failures[SICK].startswith(illness.told)
    assert joint.error is None
    two = ward_run(illness, at, rows=WELL)
    assert two.status is Status.FINISHED
    require_well(joint, two, WELL, (0, 1))


@pytest.mark.parametrize("illness", ILLNESSES, ids=lambda illness: illness.name)
def test_the_others_are_to_the_bit_as_alone(illness: Illness) -> None:
    joint = ward_run(illness, 2)
    for row in WELL:
        require_well(joint, ward_run(illness, 2, rows=[row]), [row], [0])


@pytest.mark.parametrize("at", [0, 2], ids=["at first", "midway"])
@pytest.mark.parametrize("illness", ILLNESSES, ids=lambda illness: illness.name)
def test_the_sick_one_is_frozen_at_noise_at_which_it_was_well(illness: Illness, at: int) -> None:
    states: list[LoopState] = []
    joint = ward_run(illness, at, checkpoint=states.append)
    frozen = [state.noise_BN[SICK] for state in states if SICK in state.failures]
    assert len(frozen) == 5 - at
    assert all(torch.equal(noise_N, frozen[0]) for noise_N in frozen)
    assert frozen[0].isfinite().all()
    assert torch.equal(frozen[0], joint.best.noise_BN[SICK])
    if illness.name != "gradient":
        # The last evaluation asks for no gradient, and so nothing is wrong with it.
        assert math.isfinite(joint.best.score_B[SICK]) == (at > 0)
    assert not joint.history[at].healthy[SICK]
    assert math.isnan(joint.history[at].objective[SICK])
    assert all(record.healthy[SICK] for record in joint.history[:at])


@pytest.mark.parametrize("stopped_at", [1, 3, 4])
@pytest.mark.parametrize("illness", ILLNESSES, ids=lambda illness: illness.name)
def test_a_run_with_a_sick_one_resumes_to_the_same_bits(illness: Illness, stopped_at: int) -> None:
    states: list[LoopState] = []
    whole = ward_run(illness, 2, checkpoint=states.append)
    resumed = ward_run(illness, 2, state=states[stopped_at - 1])
    assert (resumed.status, resumed.failures) == (whole.status, whole.failures)
    require_well(resumed, whole, (0, 1, 2), (0, 1, 2))


@pytest.mark.parametrize("illness", ILLNESSES, ids=lambda illness: illness.name)
def test_when_nobody_is_well_the_run_fails_as_it_did(illness: Illness) -> None:
    alone = ward_run(illness, 2, rows=[SICK])
    assert alone.status is Status.FAILED
    assert illness.told.replace("sample 1", "sample 0") in str(alone.error)
    assert len(alone.history) == 2
    with pytest.raises(dno.RunError):
        ward_run(illness, 0, rows=[SICK])


def test_when_one_after_the_other_falls_ill_the_run_fails_with_both_reasons() -> None:
    calls = []

    def reward(images: Tensor, prompts: Sequence[str]) -> Tensor:
        calls.append(1)
        values = brightness(images, prompts)
        known = torch.tensor([len(calls) != 3, len(calls) <= 4])
        return values.where(known, math.nan)

    outcome = climb(problem((0, 1), reward=reward))
    assert outcome.status is Status.FAILED
    assert len(outcome.history) == 5
    assert list(outcome.failures) == [0, 1]
    assert "for sample 0;" in str(outcome.error)
    assert "for sample 1;" in str(outcome.error)
    assert outcome.best.score_B.isfinite().all()


def well_again(illness: Illness, rows: Sequence[int], optimizer: str, sick: range) -> Outcome:
    """A search whose proposals for one sample cannot be evaluated at these iterations."""
    clock = Clock(0)
    clock.struck = lambda: clock.iteration in sick  # type: ignore[method-assign]
    setting = posed(illness, clock, rows)
    bus = Bus(RunInfo(setting.items, 5, 0, None), [clock])
    return optimize(setting, [Phase(OPTIMIZERS[optimizer].build(None), 5)], bus=bus)


@pytest.mark.parametrize("optimizer", ["best-of-n", "local-search"])
@pytest.mark.parametrize("rows", [(0, 1, 2), (SICK,)], ids=["beside others", "alone"])
@pytest.mark.parametrize("at", [0, 2, 5], ids=["at first", "midway", "at last"])
@pytest.mark.parametrize("illness", ILLNESSES, ids=lambda illness: illness.name)
def test_a_search_passes_over_a_sick_proposal(
    illness: Illness, at: int, rows: Sequence[int], optimizer: str
) -> None:
    """The others are as without it, and its own sample goes on with the next proposal."""
    if illness.name == "exception" and at == 0 and len(rows) == 1:
        # What raises at once may never work.
        with pytest.raises(dno.RunError, match="no such face"):
            well_again(illness, rows, optimizer, range(1))
        return
    joint = well_again(illness, rows, optimizer, range(at, at + 1))
    assert joint.status is Status.FINISHED
    assert joint.failures == {}
    assert len(joint.history) == 6
    mine = rows.index(SICK)
    scores = [record.rewards["r"][mine] for record in joint.history]
    if illness.name == "gradient":
        return
    ill = [math.isnan(record.objective[mine]) for record in joint.history]
    assert ill == [iteration == at for iteration in range(6)]
    well = [score for score, is_ill in zip(scores, ill, strict=True) if not is_ill]
    assert joint.best.score_B[mine] == pytest.approx(max(well))
    if len(rows) > 1:
        require_well(joint, well_again(illness, WELL, optimizer, range(0)), WELL, (0, 1))


@pytest.mark.parametrize("optimizer", ["best-of-n", "local-search"])
def test_a_search_without_a_proposal_that_can_be_evaluated_fails(optimizer: str) -> None:
    reward = ILLNESSES[1]
    joint = ward_run(reward, 0, optimizer=optimizer, iterations=3)
    assert joint.status is Status.PARTIAL
    assert list(joint.failures) == [SICK]
    assert joint.failures[SICK].startswith(reward.told)
    alone = ward_run(reward, 0, rows=[SICK], optimizer=optimizer, iterations=3)
    assert alone.status is Status.FAILED
    assert "its value is not finite" in str(alone.error)


def test_a_search_gives_a_sample_up_after_many_sick_proposals() -> None:
    reward = ILLNESSES[1]
    long = ward_run(reward, 2, optimizer="best-of-n", iterations=PATIENCE + 5)
    assert long.status is Status.PARTIAL
    assert f"nor could {PATIENCE - 1} proposals before it" in long.failures[SICK]
    assert math.isfinite(long.best.score_B[SICK])
    alone = ward_run(reward, 2, [SICK], "best-of-n", iterations=PATIENCE + 5)
    assert alone.status is Status.FAILED
    assert len(alone.history) == PATIENCE + 2


@pytest.mark.parametrize("method", ["hybrid-2", "hybrid-1", "zo"])
@pytest.mark.parametrize(
    "illness",
    [illness for illness in ILLNESSES if illness.name != "gradient"],
    ids=lambda illness: illness.name,
)
def test_black_boxes_go_on_beside_a_sick_one(illness: Illness, method: Any) -> None:
    options = {"differentiable": False, "gradient": GradientConfig(method=method, samples=3)}
    joint = ward_run(illness, 2, **options)
    assert joint.status is Status.PARTIAL
    assert joint.failures[SICK].startswith(illness.told)
    require_well(joint, ward_run(illness, 2, WELL, **options), WELL, (0, 1))


@pytest.mark.parametrize("method", ["hybrid-2", "zo"])
def test_a_copy_that_fails_is_its_own_samples_trouble(method: Any) -> None:
    """The sample is well where it is, and its perturbed copies are not."""
    calls = []

    def reward(images: Tensor, prompts: Sequence[str]) -> Tensor:
        calls.append(len(images))
        if len(images) > 2 or (len(calls) > 3 and len(images) == 1 and "b" in prompts):
            raise OverflowError("too many faces")
        return brightness(images, prompts)

    items = [("a", 0), ("b", 1)]
    sampler = FunctionSampler(torch.sigmoid, [(3, 4, 4)])
    setting = Problem(
        items,
        sampler.bind(["a", "b"], [0, 1]),
        [RewardTerm("r", reward, differentiable=False)],
        copies=lambda copies: sampler.bind(["a", "b"] * copies, [0, 1] * copies),
        gradient=GradientConfig(method=method, samples=2),
    )
    evaluation = setting.evaluate(setting.sample.noise_BN, 0, with_grad=True)
    assert list(evaluation.failures) == [1]
    assert "OverflowError: too many faces" in evaluation.failures[1]
    grad_BN = evaluation.grad_BN()
    assert grad_BN[0].norm() > 0
    assert grad_BN[1].norm() == 0


def test_what_a_plugin_raises_on_purpose_concerns_the_whole_run() -> None:
    def reward(images: Tensor, prompts: Sequence[str]) -> Tensor:
        raise ConfigError("there is no key for this judge")

    with pytest.raises(ConfigError, match="no key for this judge"):
        climb(problem((0, 1), reward=reward))


class Asking:
    """Keeps what an objective answers."""

    def __init__(self) -> None:
        self.answers: list[dict[str, Tensor]] = []

    def init(self, noise_BN: Tensor, /) -> State:
        return {}

    def step(self, objective: Objective, noise_BN: Tensor, state: State, /) -> tuple[Tensor, State]:
        value_B, grad_BN = objective.value_and_grad(noise_BN)
        slopes = objective.slopes(noise_BN)._asdict()
        alone = {"value": objective.value(noise_BN), "score": objective.score(noise_BN)}
        self.answers.append({**alone, **slopes, "with_grad": value_B, "grad": grad_BN})
        return noise_BN, state


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_an_optimizer_sees_a_sick_one_as_the_worst_with_no_slope(bad: float) -> None:
    def penalty(noise_BN: Tensor, generators: Sequence[Any]) -> Tensor:
        sick = torch.tensor([False, True])
        return noise_BN.square().mean(1).where(~sick, bad)

    asking = Asking()
    climb(problem((0, 1), regularizer=penalty), 1, optimizer=asking)
    (answer,) = asking.answers
    for name in ("value", "with_grad", "score", "reward_B"):
        assert answer[name][1] == -math.inf, name
        assert answer[name][0].isfinite(), name
    assert answer["reward_B"][1] - answer["penalty_B"][1] == -math.inf
    for name in ("grad", "reward_grad_BN", "penalty_grad_BN"):
        assert not answer[name][1].any(), name
        assert answer[name][0].any(), name


def sick_from_the_third_call(images: Tensor, prompts: Sequence[str]) -> Tensor:
    sick_from_the_third_call.calls += 1  # type: ignore[attr-defined]
    values = brightness(images, prompts)
    if sick_from_the_third_call.calls <= 2:  # type: ignore[attr-defined]
        return values
    return values.where(torch.tensor([not is_ill(prompt) for prompt in prompts]), math.nan)


@pytest.fixture
def falling_ill() -> Callable[[Tensor, Sequence[str]], Tensor]:
    sick_from_the_third_call.calls = 0  # type: ignore[attr-defined]
    return sick_from_the_third_call


def test_a_run_folder_keeps_why_and_its_pictures(falling_ill, tmp_path) -> None:
    options = {
        "sampler": FunctionSampler(torch.sigmoid, [(3, 8, 8)]),
        "iterations": 5,
        "paper": True,
        "lr": 0.1,
    }
    prompts = [prompt for prompt, _ in ITEMS]
    result = dno.optimize(prompts, reward=falling_ill, out=tmp_path / "all", **options)
    others = [prompts[row] for row in WELL]
    well = dno.optimize(others, reward=falling_ill, out=tmp_path / "well", **options)
    assert result.status is Status.PARTIAL
    assert well.status is Status.FINISHED
    told = f"failed: {result.failures[SICK]}"
    assert told in result.verdict()

    saved = dno.open_run(tmp_path / "all")
    assert saved.status is Status.PARTIAL
    assert saved.result["failures"] == {"1": result.failures[SICK]}
    for name in ("initial", "best", "last"):
        for row, own in zip(WELL, (0, 1), strict=True):
            ours = (tmp_path / "all" / f"{name}-{row}.png").read_bytes()
            assert ours == (tmp_path / "well" / f"{name}-{own}.png").read_bytes()
        sick = Image.open(tmp_path / "all" / f"{name}-{SICK}.png")
        assert np.asarray(sick).std() > 0


def test_a_resumed_run_tries_a_sick_sample_again(site, tmp_path, monkeypatch) -> None:
    """A reward of a plugin, since a Python object cannot be resumed."""
    code = """
import math, os
from dno.plugin import RewardConfig
class Sickly(RewardConfig):
    "Brightness, nan for one prompt where the environment says so."
    def build(self, ctx):
        def reward(images, prompts):
            sick = os.environ.get("SICK") == "yes"
            values = images.mean(dim=(1, 2, 3))
            factors = [math.nan if sick and prompt == "ill" else 1.0 for prompt in prompts]
            return values * values.new_tensor(factors)
        return reward
"""
    site.install("dno-sickly", "[dno.v1.rewards]\nsickly = sickly_reward:Sickly\n", "sickly_reward")
    (tmp_path / "sickly_reward.py").write_text(code)
    monkeypatch.setenv("SICK", "yes")
    site.install_toy()
    options = {"reward": "sickly", "sampler": "toy"}
    first = dno.optimize(["well", "ill"], iterations=2, out=tmp_path / "run", **options)
    assert first.status is Status.PARTIAL

    # Not mended, and so no better.
    still = dno.resume(tmp_path / "run", iterations=3)
    assert still.status is Status.PARTIAL
    assert list(still.failures) == [1]

    # Mended: it goes on from where it rested.
    monkeypatch.setenv("SICK", "no")
    longer = dno.resume(tmp_path / "run", iterations=5)
    assert longer.status is Status.FINISHED
    assert not longer.failures
    assert not torch.equal(longer.last.noise_BN[1], first.last.noise_BN[1])
    whole = dno.optimize("well", iterations=5, **options)
    torch.testing.assert_close(longer.last.noise_BN[0], whole.last.noise_BN[0])


def test_noise_that_left_is_one_thing_and_a_sample_that_failed_another(falling_ill) -> None:
    """Of a sick sample nobody says that its noise left N(0, I)."""
    options = {
        "sampler": FunctionSampler(torch.sigmoid, [(3, 8, 8)]),
        "iterations": 5,
        "paper": True,
        "lr": 1e-3,
    }
    prompts = [prompt for prompt, _ in ITEMS]
    result = dno.optimize(prompts, reward=falling_ill, **options)
    assert result.status is Status.PARTIAL
    assert [record.healthy[SICK] for record in result.history][:3] == [True, True, False]
    assert result.crossed_floor(SICK) is None
    assert "noise left" not in result.verdict()


@dataclass(frozen=True)
class Limit:
    """A limit of the sort that waits for every sample, and the record's field that it looks at."""

    name: str
    value: float


@pytest.mark.parametrize(
    "limit", [Limit("target", 0.51), Limit("log_p", -0.2)], ids=lambda limit: limit.name
)
@pytest.mark.parametrize("sick", [0, 1])
def test_a_limit_does_not_wait_for_a_sick_one(limit: Limit, sick: int) -> None:
    """Nor is it met by one: the others stop where they would alone."""

    def reward(images: Tensor, prompts: Sequence[str]) -> Tensor:
        ill = torch.tensor([prompt == "ill" for prompt in prompts])
        return brightness(images, prompts).where(~ill, math.nan)

    def shifting(noise_BN: Tensor, generators: Sequence[Any]) -> Penalty:
        away_B = noise_BN.mean(1).abs()
        return Penalty(0 * away_B, log_p_B=-away_B)

    def go(prompts: Sequence[str], seeds: Sequence[int]) -> Outcome:
        items = list(zip(prompts, seeds, strict=True))
        sampler = FunctionSampler(torch.sigmoid, [(3, 8, 8)])
        setting = Problem(
            items,
            sampler.bind(prompts, seeds),
            [RewardTerm("r", reward)],
            regularizers=[RegularizerTerm("shifting", shifting)],
        )
        return optimize(
            setting,
            [Phase(Adam(lr=0.01).build(None), 30)],
            bus=Bus(RunInfo(items, 30, 0, None)),
            budget=Budget(**{limit.name: limit.value}),
        )

    prompts = ["well", "well"]
    prompts[sick] = "ill"
    joint = go(prompts, [7, 7])
    alone = go(["well"], [7])
    assert alone.status is Status.STOPPED
    assert 0 < alone.history[-1].iteration < 30
    assert joint.history[-1].iteration == alone.history[-1].iteration
    assert joint.status is Status.PARTIAL
    assert joint.reason == alone.reason


def test_an_adapted_weight_of_the_others_knows_no_sick_one() -> None:
    clock = Clock(2)

    def go(rows: Sequence[int]) -> Outcome:
        clock.iteration = 0
        setting = posed(ILLNESSES[1], clock, rows)

        def report(noise_BN: Tensor, generators: Sequence[Any]) -> Penalty:
            right = hold(clock, noise_BN, SEEDS)
            ill = [clock.struck() and seed == SEEDS[SICK] for _, seed in setting.items]
            return right._replace(log_p_B=right.log_p_B.where(~torch.tensor(ill), math.nan))

        held = [RegularizerTerm("p", report, log_p_target=-0.5)]
        return climb(replace(setting, regularizers=held), 8, observers=[clock])

    joint = go((0, 1, 2))
    assert joint.status is Status.PARTIAL
    require_well(joint, go(WELL), WELL, (0, 1))
    assert all(math.isfinite(record.gamma[SICK]) for record in joint.history)
