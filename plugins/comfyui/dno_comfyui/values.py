"""What goes along the wires between nodes, and what people type into them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dno.plugin import ConfigError, Medium, RunError, short
from dno.runs.spellings import parse_value

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor


@dataclass(frozen=True)
class Noise:
    """Noise that a run may start from; goes along wires of the type DNO_NOISE."""

    noise_BN: Tensor
    """All draws of each sample in a row, float32, on the CPU."""
    about: str
    """Where it is from, a line a sample, for people."""


def comfy_images(medium: Medium, samples: Tensor) -> Tensor:
    """Samples as ComfyUI's IMAGE, `B x H x W x 3` float32 in [0, 1] on the CPU.

    Of videos, the frames of each in a row.

    Raises:
        RunError: the samples are no pictures.
    """
    if medium.kind == "video":
        images = samples.flatten(0, 1)
    elif medium.kind == "image":
        images = samples
    else:
        raise RunError(
            f"the model gives samples of the kind {medium.kind}, and these nodes hand on pictures "
            "and videos alone; the run's folder has the samples"
        )
    return images.detach().float().cpu().clamp(0, 1).permute(0, 2, 3, 1).contiguous()


def images_of_pictures(pictures: Sequence[Image]) -> Tensor:
    """Pictures of one size as ComfyUI's IMAGE; see `comfy_images`.

    Raises:
        RunError: there are none.
    """
    import numpy as np
    import torch

    if not pictures:
        raise RunError("the run kept no pictures; videos and sounds are in its folder")
    levels = np.stack([np.asarray(picture) for picture in pictures])
    return torch.from_numpy(levels).float() / 255


def parse_lines(text: str, at: str) -> dict[str, Any]:
    """The values by their place of `PLACE=VALUE` lines; empty lines and those with # are left out.

    Raises:
        ConfigError: a line has another form, or a place is named twice.
    """
    found: dict[str, Any] = {}
    for line in text.splitlines():
        told = line.strip()
        if not told or told.startswith("#"):
            continue
        place, equals, value = told.partition("=")
        place = place.strip()
        if not equals or not place:
            raise ConfigError(f"needs lines of the form PLACE=VALUE, got {short(told)}", at=at)
        if place in found:
            raise ConfigError(f"names {short(place)} twice; leave one of the lines out", at=at)
        found[place] = parse_value(value.strip())
    return found
