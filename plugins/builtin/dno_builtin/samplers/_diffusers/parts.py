"""A pipeline's parts: which there are, and private pipelines in which some are changed."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from diffusers import DiffusionPipeline, SchedulerMixin
from torch import nn
from transformers import PreTrainedModel

from dno.plugin import is_shape

from .memory import chooses, spare_blocks, spare_inner_blocks, with_memory
from .modules import Function, frozen_view, heavy, remember, wide_dtype
from .nests import cast
from .schedule import unclipped

Role = Literal["scheduler", "encoder", "decoder", "vocoder", "network"]

Answer = Callable[[Function, bool, Any, Any], Any]
"""Answers for a network or decoder: from its function, whether it decodes, and its arguments."""


def _role(part: Any) -> Role | None:
    """What a pipeline does with one of its parts, told from the part alone."""
    if isinstance(part, SchedulerMixin):
        return "scheduler"
    if not isinstance(part, nn.Module):
        return None

    # Prompts are encoded by models of transformers; those of diffusers decode or denoise.
    if isinstance(part, PreTrainedModel):
        # But for those that make sound of what a decoder gives.
        if part.main_input_name == "spectrogram":
            return "vocoder"
        return "encoder"
    if callable(getattr(part, "decode", None)):
        return "decoder"
    return "network"


def family(pipe: Any) -> Iterator[Any]:
    """The pipeline and the pipelines that it is made of."""
    yield pipe
    for part in vars(pipe).values():
        if isinstance(part, DiffusionPipeline):
            yield from family(part)


def own_dtype(pipe: Any) -> torch.dtype:
    """What the pipeline's denoising networks compute in as it stands."""
    for member in family(pipe):
        for part in vars(member).values():
            if _role(part) != "network":
                continue
            for weight in part.parameters():
                if weight.is_floating_point():
                    dtype: torch.dtype = weight.dtype
                    return dtype
    return torch.float32


def _rebuilt(pipe: Any, change: Callable[[str, Any], Any]) -> Any:
    """A pipeline like this, of pipelines like its own, whose parts are changed, each part once."""
    done: dict[int, Any] = {}

    def rebuilt(pipe: Any) -> Any:
        own = copy.copy(pipe)
        for name, part in vars(pipe).items():
            if isinstance(part, DiffusionPipeline):
                vars(own)[name] = rebuilt(part)
            elif _role(part):
                # The pipelines of a combined one share parts.
                if id(part) not in done:
                    done[id(part)] = change(name, part)
                vars(own)[name] = done[id(part)]
        return own

    return rebuilt(pipe)


# A pipeline of the sampler's own, made once.


def private_pipeline(
    pipe: Any,
    *,
    scheduler: Any,
    device: torch.device,
    dtype: torch.dtype,
    memory: str,
) -> Any:
    """The pipeline as the sampler calls it: it shares weights, and nothing else that can change.

    Args:
        pipe: left as it is.
        scheduler: what takes the place of the pipeline's own `scheduler`; None: that one.
        device: where to compute.
        dtype: what networks and encoders compute in; decoders compute in `wide_dtype` of it.
        memory: what networks and decoders keep for the backward pass.
    """

    def change(name: str, part: Any) -> Any:
        # It would take the image out of torch.
        if name == "safety_checker":
            return None

        match _role(part):
            case "scheduler":
                if scheduler is not None and part is pipe.scheduler:
                    return unclipped(scheduler)
                return unclipped(part)
            case "decoder":
                return _private_decoder(part, device, dtype, memory)
            case "vocoder":
                return _private_vocoder(part, device, dtype, memory)
            case "network":
                return _private_network(part, device, dtype, memory)
            case _:
                return frozen_view(part, device, dtype)

    own = _rebuilt(pipe, change)
    for member in family(own):
        member.set_progress_bar_config(disable=True)
        # Stable Diffusion XL's, which would take the image out of torch too.
        if getattr(member, "watermark", None) is not None:
            member.watermark = None
    return own


def _private_decoder(part: Any, device: torch.device, dtype: torch.dtype, memory: str) -> Any:
    wide = wide_dtype(dtype)
    view = frozen_view(part, device, wide)
    decode = view.decode
    if not spare_blocks(memory, view):
        decode = with_memory(memory, decode)
    view.decode = heavy(decode, inside=wide, outside=wide)
    if callable(getattr(view, "encode", None)):
        view.encode = heavy(view.encode, inside=wide, outside=wide)
    # It is wide already, and pipelines that widen it would make it float32 for good.
    if view.config.get("force_upcast"):
        view.register_to_config(force_upcast=False)
    return view


def _private_vocoder(part: Any, device: torch.device, dtype: torch.dtype, memory: str) -> Any:
    wide = wide_dtype(dtype)
    view = frozen_view(part, device, wide)
    view.forward = heavy(with_memory(memory, view.forward), inside=wide, outside=wide)
    return view


def _private_network(part: Any, device: torch.device, dtype: torch.dtype, memory: str) -> Any:
    view = frozen_view(part, device, dtype)
    weights = list(view.parameters())
    is_there = not any(is_shape(weight) for weight in weights)
    if device.type == "cpu" and is_there and all(weight.ndim < 5 for weight in weights):
        # oneDNN convolves a tenth faster this way: it need not reorder the weights at each call.
        nn.Module.to(view, memory_format=torch.channels_last)  # type: ignore[call-overload]

    if chooses(memory):
        spare_inner_blocks(view)
    forward = with_memory(memory, view.forward)
    view.forward = heavy(forward, inside=dtype, outside=wide_dtype(dtype))
    return view


# A pipeline for one set of prompts.


def remembering(pipe: Any, dtype: torch.dtype) -> Any:
    """The pipeline for one set of prompts, which encodes each, and each picture, but once.

    Args:
        pipe: left as it is.
        dtype: what the encoded prompts are cast to.
    """

    def change(_: str, part: Any) -> Any:
        role = _role(part)
        if role == "encoder":
            own = copy.copy(part)
            own.forward = remember(part.forward)
            return own

        if role == "decoder" and callable(getattr(part, "encode", None)):
            own = copy.copy(part)
            own.encode = remember(part.encode)
            return own
        return part

    own = _rebuilt(pipe, change)
    for member in family(own):
        if hasattr(member, "encode_prompt"):
            member.encode_prompt = remember(_casting(member.encode_prompt, dtype))
    return own


def _casting(function: Function, dtype: torch.dtype) -> Function:
    # Pipelines look at the signature, here and below.
    @functools.wraps(function)
    def casting(*args: Any, **kwargs: Any) -> Any:
        return cast(function(*args, **kwargs), dtype)

    return casting


# A pipeline for one call.


def for_one_call(
    pipe: Any,
    answer: Answer,
    stepped: Callable[[], None] = lambda: None,
    stepping: Callable[[], None] = lambda: None,
) -> Any:
    """The pipeline for one call, with somebody else answering for its networks and decoders.

    Args:
        pipe: left as it is, so that no call leaves anything to the next: schedulers keep state.
        answer: answers for the networks and decoders.
        stepped: called after each step of a scheduler.
        stepping: called before each.
    """

    def change(_: str, part: Any) -> Any:
        role = _role(part)
        if role == "encoder":
            return part

        if role == "scheduler":
            own = copy.deepcopy(part)
            own.step = _between(stepping, own.step, stepped)
            return own

        own = copy.copy(part)
        if role == "decoder":
            own.decode = _answered(part.decode, answer, decodes=True)
        else:
            own.forward = _answered(part.forward, answer, decodes=role == "vocoder")
        return own

    return _rebuilt(pipe, change)


def _between(before: Callable[[], None], function: Function, after: Callable[[], None]) -> Function:
    @functools.wraps(function)
    def between(*args: Any, **kwargs: Any) -> Any:
        before()
        result = function(*args, **kwargs)
        after()
        return result

    return between


def _answered(function: Function, answer: Answer, *, decodes: bool) -> Function:
    @functools.wraps(function)
    def answered(*args: Any, **kwargs: Any) -> Any:
        return answer(function, decodes, args, kwargs)

    return answered
