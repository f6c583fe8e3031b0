"""How long a video or a sound is, as pipelines' calls name it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dno.plugin import ConfigError

from .call import call_parameters

_NAMES = {
    "frames": ("num_frames",),
    "frame_rate": ("frame_rate", "fps"),
    "seconds": ("audio_length_in_s", "audio_end_in_s", "audio_duration"),
}


def length_arguments(cls: type, lengths: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a pipeline's call that stand for lengths.

    Args:
        cls: the pipeline's class.
        lengths: of `frames`, `frame_rate` and `seconds`, those that are given.

    Raises:
        ConfigError: the pipeline has no such length.
    """
    known = call_parameters(cls)
    found = {}
    for option, value in lengths.items():
        names = [name for name in _NAMES[option] if name in known]
        if not names:
            raise ConfigError(
                f"a {cls.__name__} has no such length; leave it out, or choose a model of "
                f"{'sounds' if option == 'seconds' else 'videos'}",
                at=option,
            )
        found[names[0]] = value
    return found
