"""What an image processor does to pictures, done to tensors so that gradients go through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from dno.plugin import ConfigError

MEAN = (0.48145466, 0.4578275, 0.40821073)
"""Means of red, green and blue that OpenAI's CLIP was trained with."""
STD = (0.26862954, 0.26130258, 0.27577711)
"""Their standard deviations."""

_MODES = {2: "bilinear", 3: "bicubic"}
"""By PIL's numbers of its resampling filters."""


@dataclass(frozen=True)
class Preprocess:
    """Resize, pad, crop at the centre, normalise: `B x 3 x H x W` in [0, 1] to `B x 3 x h x w` for
    a model.

    Resizing is antialiased and clamped to [0, 1], as PIL does it on 8-bit pictures; the two then
    differ by PIL's rounding: 0.5/255 or less root-mean-square, before normalising.
    """

    size: tuple[int, int] | int | None
    """Height and width to resize to; or the length of one edge, see `longest`; None leaves the
    size."""
    mode: str
    """Interpolation: bicubic or bilinear."""
    crop: tuple[int, int] | None
    """Height and width to cut out of the middle, with black added where there is less."""
    scale: float
    """What [0, 1] is multiplied by before normalising."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    longest: bool = False
    """Whether an int `size` is the longer edge, after which black makes a square of it, or the
    shorter one."""
    antialias: bool = True
    """False where the model's own code resized tensors without; a reduction then skips pixels."""
    clamp: bool = True
    """False where the model's own code resized tensors, in which bicubic overshoots [0, 1]."""
    half_even: bool = False
    """Which way a crop with an odd pixel to spare goes: torchvision's rounding of halves to even,
    or down."""

    @classmethod
    def torchvision(cls, size: int) -> Preprocess:
        """torchvision's `Resize(size, BICUBIC)`, `CenterCrop(size)` on a PIL picture; OpenAI's mean
        and deviation.
        """
        return cls(
            size=size,
            mode="bicubic",
            crop=(size, size),
            scale=1.0,
            mean=MEAN,
            std=STD,
            half_even=True,
        )

    @classmethod
    def whole(cls, size: int, *, antialias: bool) -> Preprocess:
        """The whole picture in a square, as torchvision resizes the longer edge of a *tensor* and
        pads the other.
        """
        return cls(
            size=size,
            mode="bicubic",
            crop=None,
            scale=1.0,
            mean=MEAN,
            std=STD,
            longest=True,
            antialias=antialias,
            clamp=False,
        )

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Preprocess:
        """What a transformers image processor's `to_dict` says.

        Raises:
            ConfigError: it asks for something that this class does not do.
        """
        size, crop = config.get("size"), config.get("crop_size")
        resample = config.get("resample", 3)
        normalise = config.get("do_normalize", True)
        if config.get("do_resize", True):
            if resample not in _MODES:
                raise ConfigError(
                    f"its image processor resizes with PIL's filter {resample}; {_known()}"
                )
            if isinstance(size, Mapping):
                # Keys of other ways to give a size may be there, with None.
                size = {key: value for key, value in size.items() if value is not None}
                if set(size) == {"shortest_edge"}:
                    size = int(size["shortest_edge"])
                elif set(size) == {"height", "width"}:
                    size = (int(size["height"]), int(size["width"]))
            if not isinstance(size, int | tuple):
                raise ConfigError(f"its image processor resizes to {size!r}; {_known()}")
        else:
            size = None
        if config.get("do_pad") or config.get("pad_size"):
            raise ConfigError(f"its image processor pads images; {_known()}")
        if isinstance(crop, Mapping):
            crop = (int(crop["height"]), int(crop["width"]))
        elif isinstance(crop, int):
            crop = (crop, crop)
        return cls(
            size=size,
            mode=_MODES.get(resample, "bicubic"),
            crop=crop if config.get("do_center_crop", crop is not None) else None,
            scale=255 * float(config.get("rescale_factor", 1 / 255))
            if config.get("do_rescale", True)
            else 255.0,
            mean=_each(config["image_mean"]) if normalise else (0.0,) * 3,
            std=_each(config["image_std"]) if normalise else (1.0,) * 3,
        )

    def __call__(self, images: Tensor) -> Tensor:
        """Preprocess a batch; everything is differentiable."""
        mean, std = (
            images.new_tensor(values).view(1, -1, 1, 1) for values in (self.mean, self.std)
        )
        return (self.pixels(images) * self.scale - mean) / std

    def pixels(self, images: Tensor) -> Tensor:
        """The resized, padded and cropped images, still in [0, 1]."""
        height, width = images.shape[-2:]
        size = self.size
        if isinstance(size, int):
            if self.longest:
                scale = size / max(height, width)
                size = (max(round(height * scale), 1), max(round(width * scale), 1))
            else:
                short = min(height, width)
                size = (int(size * height / short), int(size * width / short))
        if size is not None:
            # One way after the other with a limit between, as PIL does it: bicubic overshoots, 8
            # bits cannot.
            for step in ((height, size[1]), size) if self.clamp else (size,):
                if step != images.shape[-2:]:
                    images = F.interpolate(
                        images, step, mode=self.mode, antialias=self.antialias, align_corners=False
                    )
                    images = images.clamp(0, 1) if self.clamp else images
        if self.longest:
            images = _square(images)
        return images if self.crop is None else _centre(images, *self.crop, self.half_even)


def _each(values: float | Sequence[float]) -> tuple[float, ...]:
    """One value a channel."""
    return (values,) * 3 if isinstance(values, int | float) else tuple(values)


def _known() -> str:
    return (
        "only resizing by a bicubic or bilinear filter, to a shortest edge or a height and "
        "width, is known"
    )


def _square(images: Tensor) -> Tensor:
    """Black beside the shorter edges, the spare row or column below or right."""
    height, width = images.shape[-2:]
    down, across = max(width - height, 0), max(height - width, 0)
    return F.pad(images, (across // 2, across - across // 2, down // 2, down - down // 2))


def _centre(images: Tensor, height: int, width: int, half_even: bool) -> Tensor:
    """The middle `height x width`; where there is less, black with the spare row or column above or
    left.
    """
    have = images.shape[-2:]
    if have[0] < height or have[1] < width:
        down, across = max(height - have[0], 0), max(width - have[1], 0)
        images = F.pad(images, (across - across // 2, across // 2, down - down // 2, down // 2))
    down, across = images.shape[-2] - height, images.shape[-1] - width
    top, left = (round(down / 2), round(across / 2)) if half_even else (down // 2, across // 2)
    return images[..., top : top + height, left : left + width]
