"""What a pipeline's call makes: images, videos or sounds, in the form that samples have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from dno.plugin import IMAGE, ConfigError, Medium

from .call import call_parameters
from .parts import family

_RATES = ("sampling_rate", "sample_rate")
"""What configurations of decoders and vocoders call moments a second."""


def medium_of(name: str, made: Any, items: int, rate: float | None) -> Medium:
    """What a pipeline made of so many prompts.

    Args:
        name: the pipeline's class, for messages.
        made: what its call returned.
        items: prompts that it was given.
        rate: frames or moments a second; None where it is not known.

    Raises:
        ConfigError: it is not one image, video or sound for each prompt.
    """
    found = f"a {type(made).__name__}"
    if isinstance(made, Tensor):
        shape = tuple(made.shape)
        found = f"a {shape} tensor"
        if shape[:1] == (items,) and _kind(shape) is not None:
            kind = _kind(shape)
            if kind == "image":
                return IMAGE
            return Medium("video" if kind == "video" else "audio", rate)

    raise ConfigError(
        f"{name} makes {found} of {items} prompts, not one RGB image, video or sound each; "
        "such a pipeline is not sampled",
        at="model",
    )


def _kind(shape: tuple[int, ...]) -> str | None:
    if len(shape) == 4 and shape[1] == 3:
        return "image"
    if len(shape) == 5 and shape[2] == 3:
        return "video"
    # Some give a sound without its one channel.
    if len(shape) in (2, 3):
        return "audio"
    return None


def as_samples(made: Tensor, medium: Medium, *, signed: bool) -> Tensor:
    """What a pipeline made as samples of its medium: `dno.plugin.Medium` has their shapes.

    Args:
        made: what its call returned.
        medium: what that is.
        signed: whether its pixels come as decoders give them, in [-1, 1] and not clamped.
    """
    if medium.kind == "audio":
        if made.ndim == 2:
            made = made[:, None]
        return made.clamp(-1, 1)
    if signed:
        return (made / 2 + 0.5).clamp(0, 1)
    return made


def rate_of(pipe: Any, options: Mapping[str, Any]) -> float | None:
    """Frames or moments a second of what a pipeline makes; None where it does not say.

    Args:
        pipe: the pipeline.
        options: what it is called with.
    """
    known = call_parameters(type(pipe))
    for name in ("frame_rate", "fps"):
        default = getattr(known.get(name), "default", None)
        rate = options.get(name, default)
        if isinstance(rate, (int, float)):
            return float(rate)

    for member in family(pipe):
        for part in ("vocoder", "vae"):
            config = getattr(getattr(member, part, None), "config", None)
            for name in _RATES:
                rate = getattr(config, name, None)
                if rate is not None:
                    return float(rate)
    return None
