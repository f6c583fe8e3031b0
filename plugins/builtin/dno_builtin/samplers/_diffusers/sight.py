"""Networks under gradient: out of the noise tape's sight, and seen to record one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode, _pop_mode_temporarily

from dno.plugin import ConfigError

from .nests import tensors

_FORMS_ALONE = frozenset({"to", "type_as", "expand_as", "view_as", "detach", "__get__", "one_hot"})
"""Functions that may take no more than the form of a tensor, or say that they leave its gradient:
quantising decoders pass theirs on in a way of their own."""
_FORMS_IN_NAME = ("_like", "new_", "is_")


@contextlib.contextmanager
def aside() -> Iterator[None]:
    """Code in here is out of a noise tape's sight; that of tensors with classes of their own is
    theirs still, unlike inside of `torch._C.DisableTorchFunction`."""
    if torch._C._len_torch_function_stack() == 0:
        yield
        return
    with _pop_mode_temporarily():
        yield


class GradientWatch(TorchFunctionMode):
    """While active, no function may take a tensor with a gradient and answer without.

    What is computed under `torch.no_grad` in the middle of a network, or in whole numbers, would
    leave the network's answer as it is and its gradient wrong, with nothing to show for it.

    Args:
        name: what the pipeline calls the network.

    Raises:
        ConfigError: a function did so.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name
        self._switched_off = False

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call one torch function, and look at what comes of it."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        # What `no_grad` and `enable_grad` call as they are entered and left.
        if func is torch._C._set_grad_enabled:
            self._switched_off = not args[0]
            return result

        # Not switched off, but off: in a function of autograd's, whose gradient comes with it.
        off = self._switched_off or torch.is_inference_mode_enabled()
        if not torch.is_grad_enabled() and not off:
            return result

        name = getattr(func, "__name__", str(func))
        if name in _FORMS_ALONE or any(part in name for part in _FORMS_IN_NAME):
            return result
        if _has_gradient((args, kwargs)) and _lacks_gradient(result):
            raise _cut(self._name, name)
        return result


def check_gradient(name: str, given: Any, answer: Any) -> None:
    """Raise `ConfigError` where a network answers without a gradient to what it was given."""
    if _has_gradient(given) and _lacks_gradient(answer):
        raise _cut(name, "forward")


def _cut(network: str, where: str) -> ConfigError:
    return ConfigError(
        f"the pipeline's {network} computes a part of its answer without a gradient (in {where}), "
        "so that the gradient of the image would be wrong; take off what was put on it "
        "(torch.no_grad around a block, rounded activations), or load it anew",
        at="model",
    )


def _has_gradient(value: Any) -> bool:
    return any(tensor.requires_grad for tensor in tensors(value))


def _lacks_gradient(value: Any) -> bool:
    """Whether a value has floating-point tensors, and none of them a gradient."""
    floats = [tensor for tensor in tensors(value) if tensor.is_floating_point()]
    return bool(floats) and not any(tensor.requires_grad for tensor in floats)
