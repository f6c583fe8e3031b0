"""A pipeline's public call: what it must take to be sampled here, and the images that it makes."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Container, Mapping
from typing import Any

import diffusers
from diffusers import DiffusionPipeline

from dno.plugin import ConfigError, quiet

from .needs import PICTURES, spelled

_NEEDED = ("prompt", "output_type", "return_dict")
"""Arguments without which a call cannot make images of prompts for us."""

_OUR_NAMES = {
    "num_inference_steps": "steps",
    "guidance_scale": "guidance_scale",
    "height": "height",
    "width": "width",
    "num_frames": "frames",
    "frame_rate": "frame_rate",
}
"""Arguments of the call that the sampler has options of its own for, and what it calls them."""

_PICTURES = {"image": "image", "mask_image": "mask", "control_image": "control_image"}
"""Arguments that are pictures, and what the sampler calls them."""


def call_pipeline(pipe: Any, options: Mapping[str, Any]) -> Any:
    """The pipeline's images."""
    # Lists are given away, because some pipelines write into their list of prompts.
    own = dict(options)
    for name, value in options.items():
        if isinstance(value, list):
            own[name] = copy.copy(value)

    # Some pipelines would say the same thing at every call.
    with quiet():
        result = pipe(**own)
    if isinstance(result, (tuple, list)):
        return result[0]
    return result


def pipeline_class(name: str) -> Any:
    """diffusers' class of that name.

    Raises:
        ConfigError: it has none.
    """
    found = getattr(diffusers, name, None)
    if not isinstance(found, type):
        raise ConfigError(f"this version of diffusers has no pipeline class {name}", at="model")
    return found


def check_class(cls: type) -> None:
    """Raise `ConfigError` unless the class is a diffusers pipeline that takes prompts."""
    if not issubclass(cls, DiffusionPipeline):
        raise ConfigError(f"should be a diffusers pipeline, got a {cls.__name__}", at="model")

    known = call_parameters(cls)
    for name in _NEEDED:
        if name not in known:
            raise ConfigError(
                f"{cls.__name__} takes no `{name}`; only pipelines that draw from a prompt are "
                "sampled",
                at="model",
            )


def check_options(cls: type, options: Mapping[str, Any], free: Container[str]) -> None:
    """Raise `ConfigError` unless a pipeline's call takes these options and needs no others.

    Args:
        cls: the pipeline's class.
        options: arguments that the sampler calls it with, but for the prompts.
        free: names of those that came as they are, not by an option of the sampler.
    """
    known = call_parameters(cls)
    for name in options:
        if name not in known:
            at = "options"
            if name not in free:
                at = _OUR_NAMES.get(name, "options")
            raise ConfigError(f"{cls.__name__} takes no `{name}`", at=at)

    given = {"self", "prompt", *options}
    for name, parameter in known.items():
        if name not in given and _is_required(parameter):
            if name in _PICTURES:
                option = _PICTURES[name]
                raise ConfigError(
                    f"a {cls.__name__} needs {PICTURES[option]}; give it as {spelled(option)}",
                    at=option,
                )
            raise ConfigError(
                f"{cls.__name__} needs `{name}` besides a prompt, which no option gives",
                at="model",
            )


def check_negative_prompt(cls: type) -> None:
    """Raise `ConfigError` unless a pipeline's call takes a negative prompt."""
    if "negative_prompt" not in call_parameters(cls):
        raise ConfigError(f"{cls.__name__} takes no `negative_prompt`", at="negative_prompt")


def call_parameters(cls: type) -> Mapping[str, inspect.Parameter]:
    """What a pipeline's call takes, by name."""
    return inspect.signature(cls.__call__).parameters


def _is_required(parameter: inspect.Parameter) -> bool:
    if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
        return False
    return parameter.default is parameter.empty
