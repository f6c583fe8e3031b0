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

from dno.plugin import ConfigError, is_shape

from .hooks import uncompiled
from .memory import chooses, spare_blocks, spare_inner_blocks, with_memory
from .modules import Function, computes_in, frozen_view, heavy, remember, wide_dtype
from .nests import cast
from .packed import check_placed, is_quantised
from .reusable import is_unet
from .reuse import Reuse, takes_deep, with_reuse
from .schedule import unclipped
from .speed import Speed, compile_blocks, put_channels_last, repeated

_ARITHMETIC = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""What networks can compute in."""

Role = Literal["scheduler", "encoder", "decoder", "vocoder", "network"]

Answer = Callable[[Function, bool, Any, Any], Any]
"""Answers for a network or decoder: from its function, whether it decodes, and its arguments."""


def role_of(part: Any) -> Role | None:
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


def networks_of(pipe: Any) -> list[nn.Module]:
    """The pipeline's denoising networks, and what goes with them, as ControlNets do."""
    parts = [uncompiled(part) for member in family(pipe) for part in vars(member).values()]
    return [part for part in parts if role_of(part) == "network"]


def own_dtype(pipe: Any) -> torch.dtype:
    """What the pipeline's denoising networks compute in as it stands, the first of them at least.

    Raises:
        ConfigError: that is nothing to compute in.
    """
    for member in family(pipe):
        for name, part in vars(member).items():
            part = uncompiled(part)
            if role_of(part) != "network":
                continue
            return arithmetic_of(name, part)
    return torch.float32


def arithmetic_of(name: str, part: nn.Module) -> torch.dtype:
    """What a part of a pipeline computes in as it stands.

    Raises:
        ConfigError: it is stored in a type that is nothing to compute in.
    """
    dtype = computes_in(part)
    if dtype not in _ARITHMETIC:
        raise ConfigError(
            f"the pipeline's {name} is in {str(dtype).removeprefix('torch.')}, in which nothing "
            "can be computed; choose what it computes in, dtype=bfloat16 say",
            at="dtype",
        )
    return dtype


def _rebuilt(pipe: Any, change: Callable[[str, Any], Any]) -> Any:
    """A pipeline like this, of pipelines like its own, whose parts are changed, each part once."""
    done: dict[int, Any] = {}

    def rebuilt(pipe: Any) -> Any:
        own = copy.copy(pipe)
        for name, part in vars(pipe).items():
            if isinstance(part, DiffusionPipeline):
                vars(own)[name] = rebuilt(part)
            elif role_of(part):
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
    dtype: torch.dtype | None,
    vae_dtype: torch.dtype | None,
    memory: str,
    speed: Speed,
    reuses: bool = False,
) -> Any:
    """The pipeline as the sampler calls it: it shares weights, and nothing else that can change.

    Args:
        pipe: left as it is.
        scheduler: what takes the place of the pipeline's own `scheduler`; None: that one.
        device: where to compute.
        dtype: what networks and encoders compute in; None: each in its own.
        vae_dtype: what decoders compute in; None: `wide_dtype` of what the networks do.
        memory: what networks and decoders keep for the backward pass.
        speed: what is done for speed.
        reuses: whether calls are to reuse what deep blocks of a UNet answered.

    Raises:
        ConfigError: a part cannot be moved or cast to there, or a decoder overflows in that, or
            what is done for speed cannot be done to a part.
    """
    wide = wide_dtype(dtype or own_dtype(pipe))
    if speed.compile and reuses:
        raise ConfigError(
            "reuses what was computed, and nobody compared its gradients once blocks are compiled; "
            "leave reuse or compile out",
            at="reuse",
        )
    if speed.compile:
        check_blocks(pipe)

    def change(name: str, part: Any) -> Any:
        # It would take the image out of torch.
        if name == "safety_checker":
            return None

        part = uncompiled(part)
        match role_of(part):
            case "scheduler":
                if scheduler is not None and part is pipe.scheduler:
                    return unclipped(scheduler)
                return unclipped(part)
            case "decoder":
                return _private_decoder(name, part, device, vae_dtype or wide, wide, memory, speed)
            case "vocoder":
                return _private_vocoder(name, part, device, wide, memory)
            case "network":
                return _private_network(name, part, device, dtype, wide, memory, speed, reuses)
            case _:
                return _private_encoder(name, part, device, dtype)

    own = _rebuilt(pipe, change)
    for member in family(own):
        member.set_progress_bar_config(disable=True)
        # Stable Diffusion XL's, which would take the image out of torch too.
        if getattr(member, "watermark", None) is not None:
            member.watermark = None
        # Its modules have no hooks, and it is not to put any on them after a call.
        member._all_hooks = []
        member.hf_device_map = None
    return own


def _private_encoder(name: str, part: Any, device: torch.device, dtype: torch.dtype | None) -> Any:
    check_placed(name, part, device, dtype)
    if is_quantised(part):
        return frozen_view(part, device, None)
    if dtype is None:
        arithmetic_of(name, part)
    return frozen_view(part, device, dtype)


def _private_decoder(
    name: str,
    part: Any,
    device: torch.device,
    dtype: torch.dtype,
    wide: torch.dtype,
    memory: str,
    speed: Speed,
) -> Any:
    check_overflow(name, part, dtype)
    check_placed(name, part, device, None)
    packed = is_quantised(part)
    view = frozen_view(part, device, None if packed else dtype)
    inside = computes_in(part) if packed else dtype
    hidden = functools.partial(heavy, name=name, inside=inside, outside=wide, packed=packed)
    if speed.channels_last and not _is_shapes(view):
        put_channels_last(name, view)

    decode = view.decode
    if not spare_blocks(memory, view):
        decode = with_memory(memory, decode)
    view.decode = hidden(decode)
    if callable(getattr(view, "encode", None)):
        view.encode = hidden(view.encode)
    # It is as wide as it is to be, and pipelines that widen it would make it float32 for good.
    if view.config.get("force_upcast"):
        view.register_to_config(force_upcast=False)
    return view


def check_overflow(name: str, part: Any, dtype: torch.dtype) -> None:
    """Raise `ConfigError` where a decoder says that it overflows in float16.

    It does where its configuration itself has `force_upcast`, as Stable Diffusion XL's has; for
    all others diffusers fills that in.
    """
    config = part.config
    assumed = config.get("_use_default_values", ())
    if dtype == torch.float16 and config.get("force_upcast") and "force_upcast" not in assumed:
        raise ConfigError(
            f"the model's {name} overflows in float16 (its configuration has force_upcast); "
            "choose bfloat16 or float32, or a decoder made for float16 (sampler.vae)",
            at="vae_dtype",
        )


def _private_vocoder(
    name: str, part: Any, device: torch.device, wide: torch.dtype, memory: str
) -> Any:
    view = frozen_view(part, device, wide)
    forward = with_memory(memory, view.forward)
    view.forward = heavy(forward, name=name, inside=wide, outside=wide)
    return view


def _private_network(
    name: str,
    part: Any,
    device: torch.device,
    dtype: torch.dtype | None,
    wide: torch.dtype,
    memory: str,
    speed: Speed,
    reuses: bool,
) -> Any:
    check_placed(name, part, device, dtype)
    packed = is_quantised(part)
    inside = arithmetic_of(name, part) if packed or dtype is None else dtype
    view = frozen_view(part, device, None if packed else dtype)
    is_flat = all(weight.ndim < 5 for weight in view.parameters())
    is_there = not _is_shapes(view)
    # oneDNN convolves a tenth faster this way: it need not reorder the weights at each call.
    pays = device.type == "cpu" and inside == wide and is_flat and not packed
    if is_there and (pays or speed.channels_last):
        put_channels_last(name, view)
    compiled = is_there and speed.compile and compile_blocks(name, view)

    if chooses(memory):
        spare_inner_blocks(view)
    if reuses and is_unet(part):
        view.forward = with_reuse(view)
    forward = with_memory(memory, view.forward)
    view.forward = heavy(
        forward,
        name=name,
        inside=inside,
        outside=wide,
        packed=packed,
        compiled=compiled,
    )
    return view


def check_blocks(pipe: Any) -> None:
    """Raise `ConfigError` where no network of a pipeline has blocks that can be compiled."""
    networks: dict[str, Any] = {}
    for member in family(pipe):
        for name, part in vars(member).items():
            if role_of(uncompiled(part)) == "network":
                networks[name] = uncompiled(part)
    if not any(repeated(part) for part in networks.values()):
        raise ConfigError(
            f"no network of the pipeline ({', '.join(networks)}) has blocks that its class names "
            "as repeated, which are what is compiled; leave it out",
            at="compile",
        )


def _is_shapes(view: nn.Module) -> bool:
    return any(is_shape(weight) for weight in view.parameters())


def remedy(pipe: Any) -> str:
    """What to do where a private pipeline's samples, or their gradients, are not finite."""
    found: dict[Any, list[str]] = {}
    for member in family(pipe):
        for name, part in vars(member).items():
            if role_of(part) in ("network", "decoder"):
                found.setdefault((role_of(part), computes_in(part)), []).append(name)

    overflowing = found.get(("network", torch.float16), ())
    if overflowing:
        return (
            f"the model computes {' and '.join(overflowing)} in float16, which ends at 65504; "
            "choose dtype=bfloat16, which does not, or dtype=float32"
        )
    overflowing = found.get(("decoder", torch.float16), ())
    if overflowing:
        return (
            f"the model computes {' and '.join(overflowing)} in float16, which ends at 65504; "
            "leave sampler.vae_dtype out, for float32"
        )
    coarse = found.get(("network", torch.bfloat16), ())
    if coarse:
        return (
            f"try a smaller learning rate, or dtype=float32: the model computes "
            f"{' and '.join(coarse)} in bfloat16, with 3 digits"
        )
    return (
        "try a smaller learning rate; the model computes in float32 already, so that another dtype "
        "does not help"
    )


# A pipeline for one set of prompts.


def remembering(pipe: Any, dtype: torch.dtype) -> Any:
    """The pipeline for one set of prompts, which encodes each, and each picture, but once.

    Args:
        pipe: left as it is.
        dtype: what the encoded prompts are cast to.
    """

    def change(_: str, part: Any) -> Any:
        role = role_of(part)
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
    reuse: int = 1,
) -> Any:
    """The pipeline for one call, with somebody else answering for its networks and decoders.

    Args:
        pipe: left as it is, so that no call leaves anything to the next: schedulers keep state.
        answer: answers for the networks and decoders.
        stepped: called after each step of a scheduler.
        stepping: called before each.
        reuse: steps from one in which all blocks of a UNet run to the next.
    """
    held = Reuse(reuse)

    def after_step() -> None:
        held.stepped()
        stepped()

    def change(_: str, part: Any) -> Any:
        role = role_of(part)
        if role == "encoder":
            return part

        if role == "scheduler":
            own = copy.deepcopy(part)
            own.step = _between(stepping, own.step, after_step)
            return own

        own = copy.copy(part)
        if role == "decoder":
            own.decode = _answered(part.decode, answer, decodes=True)
        else:
            own.forward = _answered(part.forward, answer, decodes=role == "vocoder")
            if reuse > 1 and takes_deep(part):
                own.forward = held.between_steps(own.forward)
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
