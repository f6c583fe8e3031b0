"""DDIM's coarser maps: the same Brownian path on fewer timesteps."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from dno_builtin.samplers._ddim import DDIMSampler
from dno_builtin.samplers._diffusers.coarse import guess_of_nothing
from dno_builtin.samplers._diffusers.schedule import make_scheduler
from dno_builtin.samplers._diffusers.tape import NoiseTape
from dno_builtin.samplers._pipeline import PipelineSampler
from families.tiny_families import tiny_pipeline
from torch import Tensor

import dno
from dno.core.rows import part_of, widened
from dno.errors import ConfigError
from dno.plugin import quiet
from dno.runs.load import load
from dno.runs.pose import pose
from dno.testing.models import tiny_stable_diffusion

pytestmark = pytest.mark.slow

STEPS = 20


@pytest.fixture(scope="module")
def pipe() -> Any:
    return tiny_stable_diffusion("sd1")


def bound(pipe: Any, steps: int = STEPS, **options: Any) -> Any:
    return DDIMSampler(pipe, steps=steps, **options).bind(["a cat", "a dog"], [3, 4])


@pytest.mark.parametrize("eta", [1.0, 0.4])
@pytest.mark.parametrize("steps", [10, 5, 2])
def test_coarse_noise_is_gaussian_and_refining_undoes_coarsening(
    pipe: Any, steps: int, eta: float
) -> None:
    fine = bound(pipe, eta=eta)
    coarse = fine.coarser(steps)
    noise_BN = torch.randn(2, fine.noise_BN.shape[1], generator=torch.Generator().manual_seed(0))

    assert torch.allclose(coarse.weights.norm(dim=1), torch.ones(steps, dtype=torch.float64))
    assert torch.equal(coarse.refine(noise_BN, coarse.coarsen(noise_BN)), noise_BN)
    other_BM = torch.randn_like(coarse.sample.noise_BN)
    refined_BN = coarse.refine(noise_BN, other_BM)
    assert torch.allclose(coarse.coarsen(refined_BN), other_BM, atol=1e-5)
    # An orthogonal change of variables: what is added lies in the coarse space alone.
    moved_BN = refined_BN - noise_BN
    assert torch.allclose(
        moved_BN.norm(dim=1), (other_BM - coarse.coarsen(noise_BN)).norm(dim=1), rtol=1e-4
    )


@pytest.mark.parametrize("steps", [10, 5, 2])
def test_with_the_network_held_both_grids_end_at_the_same_latent(pipe: Any, steps: int) -> None:
    """At eta 1 and a constant guess of x_0, by the formulas of method and paper in float64."""
    fine = bound(pipe, eta=1.0)
    coarse = fine.coarser(steps)
    noise_BN = fine.noise_BN.double()
    clean = 0.3

    def walk(map_: Any, noise: Tensor) -> Tensor:
        scheduler = map_.pipe.scheduler
        scheduler.set_timesteps(map_.steps)
        levels = [scheduler.alphas_cumprod[t].double() for t in scheduler.timesteps]
        levels.append(scheduler.final_alpha_cumprod.double())
        x, *drawn = noise.view(len(noise), map_.steps + 1, -1).unbind(1)
        for level, cleaner, z in zip(levels, levels[1:], drawn, strict=False):
            variance = (1 - cleaner) / (1 - level) * (1 - level / cleaner)
            towards = (x - level.sqrt() * clean) / (1 - level).sqrt()
            x = cleaner.sqrt() * clean + (1 - cleaner - variance).sqrt() * towards
            x = x + variance.sqrt() * z
        return x

    ends = walk(fine, noise_BN), walk(coarse.sample, coarse.coarsen(noise_BN))
    assert torch.allclose(*ends, atol=1e-4)


def test_at_eta_1_the_weights_are_roots_of_shares_of_the_signal_to_noise_ratio(pipe: Any) -> None:
    fine = bound(pipe, eta=1.0)
    scheduler = fine.pipe.scheduler
    scheduler.set_timesteps(STEPS)
    levels = [scheduler.alphas_cumprod[t].double() for t in scheduler.timesteps]
    levels.append(scheduler.final_alpha_cumprod.double())
    ratios = torch.stack([level / (1 - level) for level in levels])
    gains = ratios.diff().view(5, 4)
    expected = (gains / gains.sum(1, keepdim=True)).sqrt()
    assert torch.allclose(fine.coarser(5).weights, expected, atol=1e-4)


def test_the_coarse_grid_is_a_part_of_the_fine_one(pipe: Any) -> None:
    fine = bound(pipe)
    grids = []
    for map_ in (fine, fine.coarser(5).sample):
        map_.pipe.scheduler.set_timesteps(map_.steps)
        grids.append(map_.pipe.scheduler.timesteps.tolist())
    assert grids[1] == grids[0][::4]


def test_a_coarse_map_is_a_map_like_any_other(pipe: Any) -> None:
    """Pure, differentiable, each sample by itself, at the price of its own steps."""
    fine = bound(pipe)
    coarse = fine.coarser(5).sample
    assert coarse.network_evaluations * 4 == fine.network_evaluations
    assert len(coarse.draws) == 6
    noise = coarse.noise_BN.clone().requires_grad_(True)
    samples = coarse(noise)
    (grad,) = torch.autograd.grad(samples[0].sum(), noise)
    assert grad[0].any()
    assert not grad[1].any()
    with torch.no_grad():
        assert torch.equal(coarse(coarse.noise_BN), samples.detach())


def test_without_noise_in_its_steps_both_grids_share_the_initial_noise(pipe: Any) -> None:
    fine = bound(pipe, eta=0.0)
    coarse = fine.coarser(5)
    assert torch.equal(coarse.coarsen(fine.noise_BN), fine.noise_BN)
    assert torch.equal(coarse.refine(fine.noise_BN, 2 * fine.noise_BN), 2 * fine.noise_BN)
    assert math.prod(coarse.sample.draws[0]) == fine.noise_BN.shape[1]


@dataclass(frozen=True)
class Refused:
    said: str
    coarse: int = 5
    steps: int = STEPS
    last_steps: int | None = None


REFUSED = {
    "not a part": Refused("7 is not a part of the sampler's 20 steps", coarse=7),
    "as many": Refused("20 is not a part", coarse=20),
    "uneven": Refused("cannot be thinned to 4", steps=16, coarse=4),
    "not all noise moves": Refused("needs all the noise to move", last_steps=4),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_grids_that_cannot_be_thinned_are_refused(pipe: Any, case: Refused) -> None:
    fine = bound(pipe, steps=case.steps, last_steps=case.last_steps)
    with pytest.raises(ConfigError, match=case.said):
        fine.coarser(case.coarse)


SCHEDULERS = {
    "ddpm": ("DDPMScheduler", {"variance_type": "fixed_small"}),
    "euler-ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "dpm++ sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
}
"""Samplers that draw noise at each step, but for their last one."""


def under(pipe: Any, name: str, steps: int = STEPS) -> Any:
    cls, changes = SCHEDULERS[name]
    scheduler = make_scheduler(pipe, cls, changes)
    return PipelineSampler(pipe, steps=steps, scheduler=scheduler).bind(["a cat", "a dog"], [3, 4])


def states(map_: Any, noise_BN: Tensor) -> list[Tensor]:
    """The latent after each step, if the network always takes the clean sample for zero."""
    scheduler = copy.deepcopy(map_.pipe.scheduler)
    with quiet():
        scheduler.set_timesteps(map_.steps)
    shape = (len(noise_BN), *map_.draws[0])
    drawn = iter(noise_BN.split(math.prod(map_.draws[0]), dim=1))
    x = next(drawn).view(shape) * scheduler.init_noise_sigma
    # The draw of a last step that has no effect is not among those that move.
    inert = torch.zeros(shape)
    found = []
    with NoiseTape(lambda shape: next(drawn, inert).reshape(shape)):
        for timestep in scheduler.timesteps:
            scheduler.scale_model_input(x, timestep)
            answer = guess_of_nothing(scheduler, x, timestep)
            x = scheduler.step(answer, timestep, x, return_dict=False)[0]
            found.append(x)
    return found


@pytest.mark.parametrize("name", SCHEDULERS)
def test_other_samplers_share_a_path_too(pipe: Any, name: str) -> None:
    fine = under(pipe, name)
    coarse = fine.coarser(5)
    noise_BN = torch.randn(2, fine.noise_BN.shape[1], generator=torch.Generator().manual_seed(0))

    norms = coarse.weights.norm(dim=1)
    assert torch.allclose(norms, torch.ones_like(norms))
    coarse_BM = coarse.coarsen(noise_BN)
    assert torch.allclose(coarse.refine(noise_BN, coarse_BM), noise_BN, atol=1e-6)
    other_BM = torch.randn_like(coarse_BM)
    refined_BN = coarse.refine(noise_BN, other_BM)
    assert torch.allclose(coarse.coarsen(refined_BN), other_BM, atol=1e-5)

    # With the network held, the coarse latents are the fine ones at the timesteps in common.
    fine_states = states(fine, noise_BN)[3:-1:4]
    coarse_states = states(coarse.sample, coarse_BM)[:-1]
    for one, other in zip(fine_states, coarse_states, strict=True):
        assert torch.allclose(one, other, atol=2e-3 * float(one.abs().max()))


def test_a_flow_that_draws_at_each_step_keeps_the_last_draw_of_each_coarse_one() -> None:
    """It forgets the sample at each step, so that the others have no effect."""
    pipe = tiny_pipeline("sd3")
    scheduler = make_scheduler(pipe, None, {"stochastic_sampling": True})
    fine = PipelineSampler(pipe, steps=8, scheduler=scheduler).bind(["a cat"], [3])
    coarse = fine.coarser(4)
    assert coarse.weights.tolist() == [[0.0, 1.0]] * 3
    pictures = coarse.sample(coarse.coarsen(fine.noise_BN))
    assert pictures.shape == fine(fine.noise_BN).shape


def test_a_sampler_that_draws_once_shares_its_draw(pipe: Any) -> None:
    scheduler = make_scheduler(pipe, "EulerDiscreteScheduler", {})
    fine = PipelineSampler(pipe, steps=STEPS, scheduler=scheduler).bind(["a cat"], [3])
    coarse = fine.coarser(5)
    assert torch.equal(coarse.coarsen(fine.noise_BN), fine.noise_BN)
    assert coarse.sample.network_evaluations * 4 == fine.network_evaluations


def test_a_scheduler_that_cannot_be_thinned_is_named(pipe: Any) -> None:
    scheduler = make_scheduler(pipe, "UniPCMultistepScheduler", {})
    fine = PipelineSampler(pipe, steps=STEPS, scheduler=scheduler).bind(["a cat"], [3])
    with pytest.raises(
        ConfigError, match="the grid of a UniPCMultistepScheduler cannot be thinned"
    ):
        fine.coarser(5)


def test_a_run_climbs_coarsely_under_a_pipelines_own_scheduler(pipe: Any) -> None:
    result = dno.optimize(
        "a cat",
        reward="brightness",
        model=pipe,
        sampler={"use": "pipeline", "scheduler_class": "EulerAncestralDiscreteScheduler"},
        steps=8,
        coarse=4,
        iterations=3,
    )
    assert [record.grid for record in result.history][:5] == [None, 4, 4, 4, None]
    assert (result.best.score_B > result.initial.score_B).all()


def test_some_samples_are_asked_alone_as_they_are_among_the_others(pipe: Any) -> None:
    """What a repair goes by: their pictures, rewards, scales, laws of noise and slopes."""
    config = dno.RunConfig.parse(
        {
            "prompts": ["a cat", "a dog", "a bat"],
            "seeds": [5],
            "rewards": ["brightness", "contrast"],
            "regularizers": ["permutation"],
            "spread": 2,
            "sampler": {"use": "ddim", "model": pipe, "steps": 4},
        }
    )
    problem = pose(load(config), config).problem
    rows = [2, 0]
    part = part_of(problem, rows)
    assert part.items == [problem.items[2], problem.items[0]]
    noise_BN = problem.sample.noise_BN
    whole = problem.evaluate(noise_BN, 7, with_grad=True)
    some = part.evaluate(noise_BN[rows], 7, with_grad=True)

    def close(ours: Tensor, theirs: Tensor) -> bool:
        return torch.allclose(ours, theirs[rows], rtol=1e-4, atol=1e-5)

    assert close(some.samples, whole.samples)
    assert close(some.reward_B, whole.reward_B)
    assert close(some.penalty_B, whole.penalty_B)
    assert some.reward_grad_BN is not None
    assert whole.reward_grad_BN is not None
    assert close(some.reward_grad_BN, whole.reward_grad_BN)
    for name, value_B in whole.figures.items():
        assert torch.equal(some.figures[name], value_B[rows]), name

    wide = widened(whole, some, rows)
    assert torch.equal(wide.samples[1], whole.samples[1])
    assert torch.equal(wide.samples[rows], some.samples)
    assert wide.reward_grad_BN is not None
    assert not wide.reward_grad_BN[1].any()
