"""Rewards of images on videos: frame by frame, or of one frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from dno.errors import ConfigError
from dno.media import Medium
from dno.protocols import Reward
from dno.registry.configs import RewardConfig

if TYPE_CHECKING:
    from torch import Tensor

Frames: TypeAlias = Literal["all", "first", "middle", "last"] | int
"""Which frames of a video are judged: all, one by name, or one by its number."""

_THINGS: Final = {"image": "images", "video": "videos", "audio": "sounds"}


def on_frames(reward: Reward, config: RewardConfig) -> Reward:
    """The reward, which judges frames where it is given videos and its options say so."""
    frames = config.frames
    if frames is None and config.judges == "image":
        frames = "all"
    if frames is None:
        return reward
    return FrameReward(reward, frames)


@dataclass(frozen=True)
class FrameReward:
    """A reward of images that takes videos too; of all frames it is the mean of their scores.

    Args:
        reward: takes `B x 3 x H x W`.
        frames: which frames of `B x F x 3 x H x W` it is given; images are passed on as they are.
    """

    reward: Reward
    frames: Frames

    @property
    def on_cpu(self) -> Sequence[Any]:
        """See `dno.protocols.Reward`."""
        found: Sequence[Any] = getattr(self.reward, "on_cpu", ())
        return found

    def __call__(self, samples: Tensor, prompts: Sequence[str], /) -> Tensor:
        """`B` scores of `B x 3 x H x W` images or `B x F x 3 x H x W` videos.

        Raises:
            ConfigError: the videos have no frame of that number.
        """
        if samples.ndim != 5:
            return self.reward(samples, prompts)

        count = samples.shape[1]
        if self.frames != "all":
            return self.reward(samples[:, self._number(count)], prompts)

        each = [prompt for prompt in prompts for _ in range(count)]
        scores = self.reward(samples.flatten(0, 1), each)
        return scores.view(-1, count).mean(dim=1)

    def _number(self, count: int) -> int:
        """The frame that is judged, of so many."""
        named = {"first": 0, "middle": count // 2, "last": count - 1}
        if isinstance(self.frames, str):
            return named[self.frames]
        if not -count <= self.frames < count:
            raise ConfigError(
                f"there is no frame {self.frames}: the videos have {count}, from 0 to {count - 1}",
                at="frames",
            )
        return self.frames


def check_medium(config: RewardConfig, name: str, medium: object) -> None:
    """Raise `ConfigError` where a reward says that it judges something else.

    Args:
        config: the reward's.
        name: what it is called.
        medium: what the samples are; nothing is checked where nobody says, and what is no medium
            is for the run to tell.
    """
    if (
        not isinstance(medium, Medium)
        or medium.kind == "other"
        or config.judges in (None, medium.kind)
    ):
        return
    if config.judges == "image" and medium.kind == "video":
        return
    assert config.judges is not None
    raise ConfigError(
        f'"{name}" judges {_THINGS[config.judges]}, and the sampler makes '
        f"{_THINGS[medium.kind]}; choose another reward"
    )
