"""Methods for rewards without a gradient: trust-region search and the surrogate's climb."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from dno_builtin.constraints._shell import ShellRetraction
from dno_builtin.optimizers._surrogate import LinearModel
from dno_builtin.optimizers._trust_region import Boxes
from dno_builtin.optimizers.best_of_n import BestOfN
from dno_builtin.optimizers.local_search import LocalSearch
from dno_builtin.optimizers.surrogate import Surrogate
from dno_builtin.optimizers.trust_region import TrustRegion
from small_problems import brightness, climb, equal, problem
from torch import Tensor

from dno.core.noise import gaussian_noise
from dno.errors import ConfigError
from dno.plugin import BuildContext, Look
from dno.registry.registry import OPTIMIZERS
from dno.runs.run_config import RunConfig
from dno.runs.shorthands import assemble
from dno.testing.optimizers import Bowl

SIZE = 4000
DRAWS = ((4, 10, 10),) * 10


def context() -> BuildContext:
    return BuildContext(torch.device("cpu"), torch.float32, DRAWS)


class Asked(Bowl):
    """A bowl that keeps the noise it was asked about."""

    def __init__(self, iteration: int, slope: float = 1.0) -> None:
        super().__init__(gaussian_noise([(SIZE,)], [9]), [3], iteration, slope)
        self.noises: list[Tensor] = []

    def value(self, noise_BN: Tensor, /) -> Tensor:
        self.noises.append(noise_BN.clone())
        return super().value(noise_BN)


def walk(optimizer, iterations: int, slope: float = 1.0):
    """What each iteration asked about, and the states after them."""
    noise_BN = gaussian_noise([(SIZE,)], [3])
    state = optimizer.init(noise_BN)
    asked, states = [], []
    for iteration in range(iterations):
        objective = Asked(iteration, slope)
        noise_BN, state = optimizer.step(objective, noise_BN, state)
        asked.append(objective.noises)
        states.append(state)
    return asked, states


def test_a_box_grows_after_successes_shrinks_after_failures_and_begins_again():
    boxes = Boxes(length=0.8, shortest=0.4, longest=1.6, factor=2.0, patience=2)
    length_B = torch.tensor([0.8])
    wins_B, losses_B = torch.zeros(1), torch.zeros(1)
    lengths = []
    for won in (
        True,
        True,
        True,
        True,
        True,
        True,
        False,
        False,
        False,
        False,
        False,
        False,
        False,
    ):
        length_B, wins_B, losses_B = boxes.after(torch.tensor([won]), length_B, wins_B, losses_B)
        lengths.append(round(float(length_B), 3))
    assert lengths == [0.8, 1.6, 1.6, 1.6, 1.6, 1.6, 1.6, 0.8, 0.8, 0.4, 0.4, 0.8, 0.8]


def test_a_proposal_lies_in_the_box_and_moves_a_share_of_the_entries():
    config = TrustRegion(regions=1, warm_up=1, least_moved=0.3, most_moved=0.3, keep_variance=False)
    asked, _ = walk(config.build(context()), 2)
    centre_BN = asked[0][0]
    step_BN = asked[1][0] - centre_BN
    moved_BN = step_BN[step_BN != 0]
    assert len(moved_BN) / SIZE == pytest.approx(0.3, abs=0.04)
    assert moved_BN.abs().max() <= config.length / 2 + 1e-6
    # Uniform in the box, not a normal one cut off.
    assert moved_BN.std() == pytest.approx(config.length / math.sqrt(12), rel=0.05)


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "as published"])
def test_the_variance_of_entries_stays_one_where_it_is_kept(kept):
    boxes = {"length": 2.0, "longest": 2.0, "least_moved": 0.9}
    config = TrustRegion(regions=1, warm_up=1, keep_variance=kept, **boxes)
    optimizer = config.build(context())
    noise_BN = gaussian_noise([(SIZE,)], [3])
    state = optimizer.init(noise_BN)

    class Rising(Asked):
        def score(self, noise_BN: Tensor, /) -> Tensor:
            return torch.tensor([float(self.iteration)])

    for iteration in range(20):
        noise_BN, state = optimizer.step(Rising(iteration), noise_BN, state)
    grown = float(noise_BN.var())
    if kept:
        assert grown == pytest.approx(1, abs=6 * math.sqrt(2 / SIZE))
    else:
        assert grown > 3


def test_centres_are_the_best_that_were_seen_best_first():
    optimizer = TrustRegion(regions=3, warm_up=5).build(context())
    asked, states = walk(optimizer, 12)
    scores = torch.cat([Asked(0).value(noise) for noises in asked for noise in noises])
    torch.testing.assert_close(states[-1]["score_BR"][0], scores.sort(descending=True).values[:3])
    of_centres = torch.cat([Asked(0).value(c[None]) for c in states[-1]["centres_BRN"][0]])
    torch.testing.assert_close(of_centres, states[-1]["score_BR"][0])


def test_unhealthy_noise_is_never_a_centre():
    class Sick(Asked):
        def score(self, noise_BN: Tensor, /) -> Tensor:
            return torch.full((1,), -math.inf) if self.iteration % 2 else super().score(noise_BN)

    optimizer = TrustRegion(regions=2, warm_up=2).build(context())
    noise_BN = gaussian_noise([(SIZE,)], [3])
    state = optimizer.init(noise_BN)
    for iteration in range(6):
        noise_BN, state = optimizer.step(Sick(iteration), noise_BN, state)
    assert state["score_BR"].isfinite().all()


@pytest.mark.parametrize(
    ("options", "place"),
    [({"length": 3.0}, "length"), ({"least_moved": 0.95}, "least_moved")],
    ids=["length", "share"],
)
def test_limits_in_the_wrong_order_are_refused(options, place):
    with pytest.raises(ConfigError) as found:
        TrustRegion(**options).check()
    assert found.value.at == place


def test_the_model_is_ridge_regression():
    generator = torch.Generator().manual_seed(0)
    shown_RD = torch.randn(12, 5, generator=generator)
    score_R = torch.randn(12, generator=generator)
    found_D = LinearModel(ridge=0.3).slope(shown_RD, score_R)

    offset_RD = (shown_RD - shown_RD.mean(0)).double()
    size = offset_RD.square().sum(1).mean()
    normal_DD = offset_RD.T @ offset_RD + 0.3 * size * torch.eye(5).double()
    primal_D = torch.linalg.solve(normal_DD, offset_RD.T @ (score_R - score_R.mean()).double())
    torch.testing.assert_close(found_D.double(), primal_D, rtol=1e-4, atol=1e-6)


def test_the_model_finds_the_slope_of_a_linear_reward_and_ignores_what_is_not_healthy():
    generator = torch.Generator().manual_seed(0)
    shown_RD = torch.randn(30, 5, generator=generator)
    slope_D = torch.tensor([1.0, -2.0, 0.0, 0.5, 3.0])
    score_R = shown_RD @ slope_D + 7
    score_R[3] = -math.inf
    torch.testing.assert_close(
        LinearModel(ridge=1e-9).slope(shown_RD, score_R), slope_D, rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("score", [0.5, -math.inf], ids=["flat", "all sick"])
def test_the_model_of_nothing_to_learn_is_flat(score):
    shown_RD = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    assert not LinearModel(ridge=0.1).slope(shown_RD, torch.full((6,), score)).any()


def test_the_first_iteration_looks_at_fresh_noise_and_the_next_step_is_from_the_best():
    asked, states = walk(Surrogate(warm_up=6, samples=2).build(context()), 2)
    assert len(asked[0]) == 6
    assert len(asked[1]) == 3
    scores = [float(Asked(0).value(noise)) for noise in asked[0]]
    best_BN = asked[0][max(range(6), key=scores.__getitem__)]
    assert torch.equal(states[0]["centre_BN"], best_BN)
    assert float((asked[1][0] - best_BN).norm()) == pytest.approx(8.0, abs=0.5)


def test_proposals_are_near_the_best_and_have_its_law():
    asked, states = walk(Surrogate(warm_up=1, samples=1, size=0.3).build(context()), 8)
    for noises, before in zip(asked[2:], states[1:], strict=False):
        centre_BN = before["centre_BN"]
        if Asked(0).value(noises[0]) > before["best_B"]:
            centre_BN = noises[0]
        along = float((noises[1] * centre_BN).sum() / centre_BN.square().sum())
        assert along == pytest.approx(math.sqrt(1 - 0.3**2), abs=0.03)
        assert float(noises[1].var()) == pytest.approx(1, abs=6 * math.sqrt(2 / SIZE))


def test_the_centre_is_the_best_that_was_seen():
    asked, states = walk(Surrogate(warm_up=4, samples=2).build(context()), 6)
    scores = [float(Asked(0).value(noise)) for noises in asked for noise in noises]
    assert float(states[-1]["best_B"]) == max(scores)
    torch.testing.assert_close(Asked(0).value(states[-1]["centre_BN"]), states[-1]["best_B"])


def test_a_step_keeps_what_the_shell_keeps():
    built = Surrogate(warm_up=1, samples=0)
    asked, _ = walk(built.build(context()), 2)
    # With one sample seen there is no line yet, and a proposal takes the step's place.
    assert (asked[1][0] - asked[0][0]).norm() > 20

    asked, states = walk(Surrogate(warm_up=5, samples=0).build(context()), 12)
    shell: ShellRetraction = built.build(context()).shell
    for before, (stepped_BN,) in zip(states, asked[1:], strict=False):
        centre_BN = before["centre_BN"]
        again_BN = shell.retract(stepped_BN, shell.init(centre_BN))
        assert (again_BN - stepped_BN).norm() < 0.05
    steps = [float(state["step_B"]) for state in states]
    assert max(steps) > 8.0
    assert max(steps) <= 16.0


def test_on_flat_ground_it_proposes():
    asked, states = walk(Surrogate(warm_up=1, samples=2).build(context()), 4, slope=0.0)
    assert torch.equal(states[-1]["centre_BN"], asked[0][0])
    assert (asked[-1][0] - asked[0][0]).norm() > 20


def test_the_memory_is_the_last_that_was_seen():
    _, states = walk(Surrogate(warm_up=5, samples=3, memory=10).build(context()), 4)
    assert [state["score_BR"].shape[1] for state in states] == [5, 9, 10, 10]
    assert states[-1]["shown_BRD"].shape == (1, 10, SIZE)


def hidden(images: Tensor, prompts: Sequence[str]) -> Tensor:
    """Brightness in whole hundredths, so that it has no gradient at all."""
    assert not images.requires_grad
    return (brightness(images, prompts) * 100).round() / 100


def test_every_reward_call_is_counted_and_the_surrogate_climbs_further_than_fresh_draws():
    posed = problem(seeds=(0, 1, 2), reward=hidden, regularizer=None, differentiable=False)
    draws = ((3, 8, 8),) * 2
    built = Surrogate(warm_up=4, samples=3).build(
        BuildContext(torch.device("cpu"), torch.float32, draws)
    )
    ours = climb(posed, 9, optimizer=built)
    # The warm-up, eight iterations and the look at where the last one led; a pull for each step.
    assert ours.history[-1].reward_calls == 4 + 8 * 4 + 1
    assert ours.history[-1].network_evaluations == 4 + 8 * 4 + 1 + 9
    theirs = climb(posed, 36, optimizer=BestOfN().build(context()))
    assert theirs.history[-1].reward_calls == 37
    assert ours.best.score_B.mean() > theirs.best.score_B.mean()


@pytest.mark.parametrize("seed", [0, 1])
def test_a_batch_of_two_is_two_of_one_on_the_engine(seed):
    draws = ((3, 8, 8),) * 2
    for config in (Surrogate(warm_up=3, samples=2), TrustRegion(warm_up=3, regions=2)):
        built = config.build(BuildContext(torch.device("cpu"), torch.float32, draws))
        options = {"reward": hidden, "regularizer": None, "differentiable": False}
        both = climb(problem(seeds=(0, 1), **options), 5, optimizer=built)
        alone = climb(problem(seeds=(seed,), **options), 5, optimizer=built)
        found, expected = both.best.noise_BN[seed], alone.best.noise_BN[0]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_the_same_seeds_climb_to_the_same_bits():
    draws = ((3, 8, 8),) * 2
    for config in (Surrogate(warm_up=3, samples=2), TrustRegion(warm_up=3, regions=2)):
        built = config.build(BuildContext(torch.device("cpu"), torch.float32, draws))
        first, second = (climb(problem(seeds=(4,)), 5, optimizer=built) for _ in range(2))
        assert equal(first.best.noise_BN, second.best.noise_BN)


class Looking:
    """Looks once, pulls by the mean, and remembers what came back."""

    def __init__(self) -> None:
        self.looks: list[Look] = []
        self.moves: list[Tensor] = []

    def init(self, noise_BN):
        return {}

    def step(self, objective, noise_BN, state):
        look = objective.look(noise_BN)
        self.looks.append(look)
        mean = torch.ones_like(look.samples) / look.samples[0].numel()
        self.moves.append(objective.pull(noise_BN, mean))
        return noise_BN, state


def test_a_look_shows_score_and_samples_and_a_pull_asks_no_reward():
    looking = Looking()
    posed = problem(seeds=(0, 1), reward=hidden, differentiable=False)
    outcome = climb(posed, 1, optimizer=looking)
    (look,) = looking.looks
    assert not look.samples.requires_grad
    torch.testing.assert_close(look.samples, posed.sample(posed.sample.noise_BN))
    torch.testing.assert_close(look.score_B, hidden(look.samples, ["x", "x"]))

    seen = problem(seeds=(0, 1), regularizer=None)
    exact = seen.evaluate(seen.sample.noise_BN, 0, with_grad=True)
    torch.testing.assert_close(looking.moves[0], exact.grad_BN())
    # A look and the last record; the pull drew a sample and asked nothing.
    assert outcome.history[-1].reward_calls == 2
    assert outcome.history[-1].network_evaluations == 3


def test_a_sampler_that_is_cut_off_cannot_be_pulled():
    posed = problem(reward=hidden, differentiable=False)
    cut = posed.sample

    class Cut:
        draws, noise_BN = cut.draws, cut.noise_BN

        def __call__(self, noise_BN: Tensor) -> Tensor:
            return cut(noise_BN).detach()

    with pytest.raises(Exception, match="cut off from the noise"):
        climb(type(posed)(posed.items, Cut(), posed.rewards), 1, optimizer=Looking())


def blind(images: Tensor, prompts: Sequence[str]) -> Tensor:
    return hidden(images, prompts)


blind.differentiable = False  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("values", "optimizer"),
    [
        ({"rewards": "jpeg"}, LocalSearch(beta=0.6)),
        ({"rewards": [blind]}, LocalSearch(beta=0.6)),
        ({"rewards": ["jpeg", {"use": "clip", "weight": 0}]}, LocalSearch(beta=0.6)),
        ({"rewards": ["jpeg"], "constraints": ["shell"], "iterations": 3}, LocalSearch(beta=0.6)),
        ({"rewards": ["jpeg", "clip"]}, None),
        ({"rewards": ["clip", {"use": "jpeg", "weight": 0}]}, None),
        ({"rewards": "jpeg", "gradient": {"samples": 8}}, None),
        ({"rewards": "jpeg", "optimizer": "best-of-n"}, BestOfN()),
    ],
    ids=[
        "jpeg",
        "a function",
        "beside a watched one",
        "beside other options",
        "beside one with a gradient",
        "watched",
        "estimates asked for",
        "an optimizer asked for",
    ],
)
def test_a_run_without_a_gradient_searches_unless_told_otherwise(values, optimizer):
    values = {"prompts": "x", **values}
    usual = RunConfig.model_fields["optimizer"].default
    expected = optimizer or OPTIMIZERS.load(usual)()
    for config in (RunConfig.parse(values), assemble(values, {"steps": 5})):
        assert config.optimizer == expected
    if blind not in list(values["rewards"]):
        assert RunConfig.parse(config.dump()) == config


def test_an_option_without_an_optimizer_is_that_of_the_one_that_will_run():
    values = {"prompts": "x", "rewards": "jpeg", "gradient": {}}
    with pytest.raises(ConfigError, match=r"optimizer\.beta"):
        assemble(values, {}, [("optimizer.beta", 0.5)])
    del values["gradient"]
    config = assemble(values, {}, [("optimizer.beta", 0.5)])
    assert config.optimizer == LocalSearch(beta=0.5)


def test_what_is_no_reward_is_told_as_before():
    with pytest.raises(ConfigError, match="no reward is called"):
        RunConfig.parse({"prompts": "x", "rewards": "jpg"})
