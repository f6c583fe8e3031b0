"""The same, computed faster: compiled blocks, and weights in the order that convolves best."""

from __future__ import annotations

import functools
import importlib.util
import inspect
import os
import shutil
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn
from torch._dynamo.exc import TorchDynamoException
from torch.overrides import _get_current_function_mode_stack, _pop_mode_temporarily

from dno.plugin import ConfigError, first_line, is_shape

from .nests import tensors
from .packed import is_quantised
from .sight import GradientWatch

_FORMS: Final = 256
"""Forms of arguments that a block may be compiled for, each for itself."""
_COMPILERS: Final = ("g++", "clang++", "c++", "cl")


@dataclass(frozen=True)
class Speed:
    """What is done for speed; see `DiffusersConfig`."""

    compile: bool = False
    channels_last: bool = False


def check_compiler(device: torch.device) -> None:
    """Raise `ConfigError` where nothing is there that `torch.compile` makes code by."""
    own = os.environ.get("CXX")
    if not any(map(shutil.which, (own,) if own else _COMPILERS)):
        raise ConfigError(
            "torch.compile needs a C++ compiler, and there is none here (CXX names one, such as "
            "g++); leave it out",
            at="compile",
        )
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        raise ConfigError(
            "torch.compile needs Triton on a GPU, which is not installed; leave it out",
            at="compile",
        )


def repeated(network: Any) -> list[nn.Module]:
    """The blocks that a network repeats, as its class names them."""
    names = getattr(network, "_repeated_blocks", None) or ()
    return [part for part in network.modules() if type(part).__name__ in names]


def compile_blocks(name: str, view: Any) -> bool:
    """Compile the blocks that a network repeats.

    Blocks of a class share what was compiled, a form of arguments at a time: sizes are not left
    open, so that the numbers do not depend on what was computed before. A block that is computed
    once more for its backward pass is compiled in both passes alike. While a network is rehearsed
    or watched its blocks are the plain ones.

    Args:
        name: what the pipeline calls the network.
        view: a private module, before anything is put around its blocks.

    Returns:
        Whether there are such blocks.

    Raises:
        ConfigError: it has quantised weights.
    """
    if is_quantised(view):
        raise ConfigError(
            f"the pipeline's {name} has quantised weights, whose gradients nobody compared once "
            "compiled; leave it out",
            at="compile",
        )
    blocks = repeated(view)
    compiled: dict[type, Callable[..., Any]] = {}
    for part in blocks:
        cls = type(part)
        if cls not in compiled:
            compiled[cls] = _compiled(name, cls.forward)
        part.forward = _unless_looked_at(part.forward, functools.partial(compiled[cls], part))
    return bool(blocks)


def _compiled(name: str, forward: Callable[..., Any]) -> Callable[..., Any]:
    options: dict[str, Any] = {"fullgraph": True, "dynamic": False}
    # Versions without it stop at eight.
    if "recompile_limit" in inspect.signature(torch.compile).parameters:
        options["recompile_limit"] = _FORMS
    fast = torch.compile(forward, **options)
    seen: set[Any] = set()

    def compiled(*args: Any, **kwargs: Any) -> Any:
        form = _form((args, kwargs))
        is_new = form not in seen
        seen.add(form)
        try:
            with ExitStack() as around:
                # What others do to functions of torch meanwhile is not compiled in, nor for: a
                # noise tape is there in the forward pass, and gone in the backward pass.
                around.enter_context(torch._C.DisableTorchFunction())
                while torch._C._len_torch_function_stack():
                    around.enter_context(_pop_mode_temporarily())
                if is_new:
                    # The compiler looks at tensors in ways that torch itself warns of.
                    around.enter_context(warnings.catch_warnings())
                    warnings.simplefilter("ignore")
                return fast(*args, **kwargs)
        except TorchDynamoException as error:
            raise ConfigError(
                f"the pipeline's {name} cannot be compiled: {first_line(error)}; leave it out",
                at="sampler.compile",
            ) from error

    return compiled


def _form(given: Any) -> Any:
    """What of a block's arguments decides whether it is compiled anew."""
    each = [(tuple(one.shape), one.dtype, one.requires_grad) for one in tensors(given)]
    return torch.is_grad_enabled(), id(given[0][0]), *each


def _unless_looked_at(plain: Callable[..., Any], fast: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(plain)
    def choose(*args: Any, **kwargs: Any) -> Any:
        return (plain if _is_looked_at((args, kwargs)) else fast)(*args, **kwargs)

    return choose


def _is_looked_at(given: Any) -> bool:
    """Whether somebody follows each operation, which compiled code does not show."""
    if torch._C._len_torch_dispatch_stack():
        return True
    modes = _get_current_function_mode_stack()  # type: ignore[no-untyped-call]
    if any(isinstance(mode, GradientWatch) for mode in modes):
        return True
    return any(is_shape(tensor) for tensor in tensors(given))


def put_channels_last(name: str, view: nn.Module) -> None:
    """Keep the weights of convolutions with the channel as the innermost dimension.

    Pictures on their way take that form from the weights.

    Args:
        name: what the pipeline calls the network or decoder.
        view: a private module; who shares weights with it keeps theirs.

    Raises:
        ConfigError: it convolves in three dimensions, or has quantised weights.
    """
    if is_quantised(view):
        raise ConfigError(
            f"the pipeline's {name} has quantised weights, which have an order of their own; leave "
            "it out",
            at="channels_last",
        )
    if any(weight.ndim > 4 for weight in view.parameters()):
        raise ConfigError(
            f"the pipeline's {name} convolves in three dimensions, for which there is no such "
            "order; leave it out",
            at="channels_last",
        )
    nn.Module.to(view, memory_format=torch.channels_last)  # type: ignore[call-overload]
