"""A pipeline's parts: which there are, and private copies of the pipeline in which some are
changed.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from diffusers import DiffusionPipeline, SchedulerMixin
from torch import nn
from transformers import PreTrainedModel

from dno_builtin._quiet import quiet

from .modules import cast, frozen_view, heavy, remember

Function = Callable[..., Any]

UNCLIPPED = {"clip_sample": False, "thresholding": False}
"""Scheduler options that are always put in: gradients vanish where either acts."""


def scheduler_options(cls: Any) -> list[str]:
    """Names of the options of a scheduler class."""
    return list(inspect.signature(cls.__init__).parameters)[1:]


def _role(part: Any) -> Literal["scheduler", "encoder", "decoder", "network"] | None:
    """What a pipeline does with one of its parts, told from the part alone."""
    if isinstance(part, SchedulerMixin):
        return "scheduler"
    if not isinstance(part, nn.Module):
        return None
    if isinstance(part, PreTrainedModel):
        return "encoder"
    return "decoder" if callable(getattr(part, "decode", None)) else "network"


def own_dtype(pipe: Any) -> torch.dtype:
    """What the pipeline's denoising networks compute in as it stands."""
    networks: list[nn.Module] = [
        part for own in family(pipe) for part in vars(own).values() if _role(part) == "network"
    ]
    dtypes = (
        weight.dtype
        for network in networks
        for weight in network.parameters()
        if weight.is_floating_point()
    )
    return next(dtypes, torch.float32)


def family(pipe: Any) -> Iterator[Any]:
    """The pipeline and the pipelines that it is made of."""
    yield pipe
    for part in vars(pipe).values():
        if isinstance(part, DiffusionPipeline):
            yield from family(part)


def _rebuilt(pipe: Any, change: Callable[[str, Any], Any]) -> Any:
    """A copy of the pipeline, and of the pipelines it is made of, with its parts changed, each part
    once.
    """
    done: dict[int, Any] = {}

    def copied(pipe: Any) -> Any:
        own = copy.copy(pipe)
        for name, part in vars(pipe).items():
            if isinstance(part, DiffusionPipeline):
                vars(own)[name] = copied(part)
            elif _role(part):
                if id(part) not in done:
                    done[id(part)] = change(name, part)
                vars(own)[name] = done[id(part)]
        return own

    return copied(pipe)


def private_copy(
    pipe: Any,
    scheduler: Any,
    device: torch.device,
    dtype: torch.dtype,
    outside: torch.dtype,
    *,
    recompute: bool,
) -> Any:
    """The pipeline as the sampler calls it, sharing its weights and nothing else that can
    change.
    """

    def change(name: str, part: Any) -> Any:
        if name == "safety_checker":
            return None  # it would take the image out of torch
        role = _role(part)
        if role == "scheduler":
            chosen: Any = scheduler if scheduler is not None and part is pipe.scheduler else part
            known = scheduler_options(type(chosen))
            with quiet():
                return chosen.from_config(
                    chosen.config,
                    **{name: value for name, value in UNCLIPPED.items() if name in known},
                )
        view = frozen_view(part, device, outside if role == "decoder" else dtype)
        if role == "decoder":
            view.decode = heavy(view.decode, inside=outside, outside=outside)
        elif role == "network":
            if device.type == "cpu" and all(weight.ndim < 5 for weight in view.parameters()):
                # oneDNN convolves a tenth faster this way: it need not reorder the weights at each
                # call.
                nn.Module.to(view, memory_format=torch.channels_last)  # type: ignore[call-overload]
            view.forward = heavy(view.forward, inside=dtype, outside=outside, recompute=recompute)
        return view

    own = _rebuilt(pipe, change)
    for member in family(own):
        member.set_progress_bar_config(disable=True)
        if (
            getattr(member, "watermark", None) is not None
        ):  # SDXL's, which would take the image out of torch too
            member.watermark = None
    return own


def remembering(pipe: Any, dtype: torch.dtype) -> Any:
    """The pipeline for one set of prompts: it encodes each but once."""

    def change(_: str, part: Any) -> Any:
        if _role(part) != "encoder":
            return part
        own = copy.copy(part)
        own.forward = remember(part.forward)
        return own

    own = _rebuilt(pipe, change)
    for member in family(own):
        if hasattr(member, "encode_prompt"):
            member.encode_prompt = remember(_casting(member.encode_prompt, dtype))
    return own


def _casting(function: Function, dtype: torch.dtype) -> Function:
    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        return cast(function(*args, **kwargs), dtype)

    return run


def staged(
    pipe: Any,
    answer: Callable[[Function, bool, Any, Any], Any],
    stepped: Callable[[], None] = lambda: None,
) -> Any:
    """The pipeline for one call.

    Args: pipe: left as it is, so that no call leaves anything to the next: schedulers keep state.
        answer: answers for the networks and decoders: given the function, whether it decodes, and
        its arguments. stepped: called after each step of a scheduler.
    """

    def change(_: str, part: Any) -> Any:
        role = _role(part)
        if role == "scheduler":
            own = copy.deepcopy(part)
            own.step = _followed(own.step, stepped)
            return own
        if role == "encoder":
            return part
        own = copy.copy(part)
        method = "decode" if role == "decoder" else "forward"
        setattr(own, method, _answered(getattr(part, method), answer, role == "decoder"))
        return own

    return _rebuilt(pipe, change)


def _followed(function: Function, then: Callable[[], None]) -> Function:
    @functools.wraps(function)  # pipelines look at the signature
    def run(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        then()
        return result

    return run


def _answered(
    function: Function, answer: Callable[[Function, bool, Any, Any], Any], decodes: bool
) -> Function:
    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        return answer(function, decodes, args, kwargs)

    return run
