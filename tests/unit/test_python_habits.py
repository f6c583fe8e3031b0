"""What people who come from diffusers type at `dno.optimize`: understood, or told in a sentence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import dno
from dno.core.function import FunctionSampler
from dno.errors import ConfigError, RunError
from dno.plugin import StepDone
from dno.runs.aliases import own_options
from dno.runs.shorthands import assemble

SAMPLER = FunctionSampler(torch.sigmoid, [(3, 8, 8)])


def bright(images: Tensor, prompts: Any) -> Tensor:
    return images.mean(dim=(1, 2, 3))


def go(prompt: Any = "a cat", *after: Any, **options: Any) -> dno.Result:
    given = {"reward": bright, "sampler": SAMPLER, "iterations": 2, **options}
    return dno.optimize(prompt, *after, **given)


def test_pictures_of_the_best_and_of_the_start_are_pil() -> None:
    result = go()
    assert result.images[0].size == result.initial.images[0].size == (8, 8)
    assert result.images[0].tobytes() != result.initial.images[0].tobytes()


@pytest.mark.parametrize(
    ("given", "seeds"),
    [
        ({"generator": torch.Generator().manual_seed(7)}, [7]),
        ({"num_images_per_prompt": 2, "seed": 3}, [3, 4]),
        ({"seed": 2**64 - 1}, [2**64 - 1]),
    ],
    ids=["generator", "num_images_per_prompt", "the greatest seed"],
)
def test_seeds_by_the_names_of_diffusers(given: dict[str, Any], seeds: list[int]) -> None:
    assert [seed for _, seed in go(**given).items] == seeds


def config(**options: Any) -> dno.RunConfig:
    """What `dno.optimize` would run."""
    return dno.load(**{"reward": bright, "sampler": SAMPLER}).config("a cat", **options)


def test_devices_and_dtypes_are_torchs_own() -> None:
    made = config(device=torch.device("cpu"), dtype=torch.bfloat16)
    assert (made.device, made.dtype) == ("cpu", "bfloat16")


def test_steps_height_and_width_by_the_names_of_diffusers() -> None:
    values = {"prompts": "a cat", "rewards": ["brightness"]}
    options = own_options({"num_inference_steps": 4, "height": 64, "width": 64})
    sampler: Any = assemble(values, options).sampler
    assert (sampler.steps, sampler.height, sampler.width) == (4, 64, 64)


@pytest.mark.parametrize(
    "reward",
    ["brightness=3", {"brightness": 3}, [("brightness", 3)], [{"use": "brightness", "weight": 3}]],
    ids=str,
)
def test_a_weighted_reward_in_any_form(reward: Any) -> None:
    result = go(reward=reward, iterations=0)
    assert result.history[0].reward[0] == pytest.approx(
        3 * result.history[0].rewards["brightness"][0]
    )


def test_several_weighted_rewards_as_a_table() -> None:
    result = go(reward={"brightness": 2, "darkness": 1}, iterations=0)
    record = result.history[0]
    assert record.reward[0] == pytest.approx(1 + record.rewards["brightness"][0])


def test_a_function_looks_on_and_may_stop() -> None:
    seen: list[int] = []

    def look(event: StepDone) -> bool:
        seen.append(event.record.iteration)
        return event.record.iteration == 1

    result = go(callback=look, iterations=5)
    assert result.status is dno.Status.STOPPED
    assert seen[:2] == [0, 1]
    seen.clear()
    go(observer=lambda event: seen.append(event.record.iteration))
    assert seen == [0, 1, 2]


def test_progress_is_shown_where_it_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    go()
    assert capsys.readouterr().err == ""
    go(progress=True)
    assert "iteration 2/2" in capsys.readouterr().err


def by_size(pictures: list[Any]) -> list[float]:
    return [picture.resize((1, 1)).getpixel((0, 0))[0] / 255 for picture in pictures]


def with_prompts(pictures: list[Any], prompts: list[str]) -> list[int]:
    return [len(prompt) for prompt in prompts]


def test_a_function_of_pil_pictures_is_a_reward() -> None:
    result = go(reward=dno.pil_reward(by_size), batch=2, iterations=1)
    red = result.initial.samples[:, 0].mean(dim=(1, 2))
    assert result.initial.rewards["by_size"].tolist() == pytest.approx(red.tolist(), abs=0.02)
    assert go(reward=dno.pil_reward(with_prompts)).history[0].reward == (5.0,)


def test_a_function_that_gives_too_few_scores_is_told() -> None:
    reward = dno.pil_reward(lambda pictures: [1.0])
    with pytest.raises(RunError, match="gave 1 scores for 2 pictures"):
        reward(torch.rand(2, 3, 4, 4), ["x", "y"])


def test_a_pipeline_may_stand_before_the_prompt() -> None:
    with pytest.raises(ConfigError, match="sampler.model: .*got FunctionSampler"):
        dno.optimize(SAMPLER, "a cat", reward=bright)


TOLD: dict[str, tuple[Callable[[], Any], str]] = {
    "two prompts by place": (lambda: go("a cat", "a dog"), "takes the prompt alone by place"),
    "rewards": (
        lambda: go(rewards="clip"),
        "did you mean reward",
    ),
    "one thing twice": (lambda: go(steps=3, num_inference_steps=4), "another name of steps"),
    "several generators": (lambda: go(generator=[torch.Generator()]), "needs one torch.Generator"),
    "an object without events": (lambda: go(observer=object()), "or a function"),
}


@pytest.mark.parametrize("case", TOLD.values(), ids=TOLD)
def test_what_cannot_be_meant_is_told(case: tuple[Callable[[], Any], str]) -> None:
    call, said = case
    with pytest.raises(ConfigError, match=said):
        call()
