"""Rewards of images on videos."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import dno
from dno.core.function import FunctionSampler
from dno.errors import ConfigError, RunError
from dno.media import Medium
from dno.runs.frames import FrameReward
from dno.runs.run_config import RunConfig


def brightness(images: Tensor, prompts: Any) -> Tensor:
    assert images.ndim == 4
    assert len(prompts) == len(images)
    return images.mean(dim=(1, 2, 3))


def clips(count: int = 4) -> Tensor:
    """Two videos whose frames are of the levels 0, 0.1, ... and 0.5, 0.6, ..."""
    levels = torch.arange(count) / 10
    starts = torch.tensor([0.0, 0.5])
    return (starts[:, None] + levels).view(2, count, 1, 1, 1).expand(2, count, 3, 2, 2)


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        ("all", [0.15, 0.65]),
        ("first", [0.0, 0.5]),
        ("middle", [0.2, 0.7]),
        ("last", [0.3, 0.8]),
        (1, [0.1, 0.6]),
        (-1, [0.3, 0.8]),
    ],
)
def test_which_frames_are_judged(frames, expected):
    scores = FrameReward(brightness, frames)(clips(), ["a", "b"])
    assert scores.tolist() == pytest.approx(expected)


def test_each_frame_is_judged_by_its_own_prompt():
    def length(images: Tensor, prompts: Any) -> Tensor:
        return torch.tensor([float(len(prompt)) for prompt in prompts])

    assert FrameReward(length, "all")(clips(), ["a", "bcd"]).tolist() == [1, 3]


def test_frames_that_are_not_judged_have_no_gradient():
    videos = clips().requires_grad_()
    (slopes,) = torch.autograd.grad(FrameReward(brightness, 2)(videos, "ab").sum(), videos)
    assert slopes.flatten(2).abs().sum(dim=2).bool().tolist() == [[False, False, True, False]] * 2


def test_images_are_passed_on():
    images = torch.rand(2, 3, 4, 4)
    expected = brightness(images, "ab")
    assert torch.equal(FrameReward(brightness, "all")(images, "ab"), expected)


def test_a_frame_that_is_not_there_is_told():
    with pytest.raises(ConfigError, match="there is no frame 4: the videos have 4, from 0 to 3"):
        FrameReward(brightness, 4)(clips(), ["a", "b"])


def sampler(kind: str = "video") -> FunctionSampler:
    if kind == "video":
        return FunctionSampler(torch.sigmoid, [(4, 3, 8, 8)], Medium("video"))
    return FunctionSampler(torch.tanh, [(1, 256)], Medium("audio"))


def climbed(reward: Any, kind: str = "video") -> Any:
    return dno.optimize("a cat", reward=reward, sampler=sampler(kind), iterations=2)


def test_a_reward_of_images_climbs_videos_by_all_their_frames():
    result = climbed("brightness")
    samples = result.best.samples
    assert samples.shape == (1, 4, 3, 8, 8)
    assert result.best.rewards["brightness"].item() == pytest.approx(samples.mean().item())


def test_a_reward_of_images_climbs_one_frame():
    result = climbed({"use": "brightness", "frames": "first"})
    frame = result.best.samples[:, 0]
    assert result.best.rewards["brightness"].item() == pytest.approx(frame.mean().item())


def test_a_function_sees_the_video_as_it_is():
    def sees(videos: Tensor, prompts: Any) -> Tensor:
        assert videos.shape == (1, 4, 3, 8, 8)
        return videos.mean(dim=(1, 2, 3, 4))

    climbed(sees)


def test_a_function_may_be_given_frames():
    climbed({"use": brightness, "frames": "middle"})


def test_a_reward_of_images_is_told_of_sounds():
    with pytest.raises(ConfigError, match='"brightness" judges images, and the sampler makes soun'):
        climbed("brightness", "audio")


def test_frames_are_told_where_they_are_wrong():
    with pytest.raises((ConfigError, RunError), match="there is no frame 9"):
        climbed({"use": "brightness", "frames": 9})
    with pytest.raises(ConfigError, match="input should be 'all', 'first', 'mid") as caught:
        RunConfig.parse({"prompts": "a", "rewards": {"use": "brightness", "frames": "second"}})
    assert caught.value.at == "rewards.0.frames"
