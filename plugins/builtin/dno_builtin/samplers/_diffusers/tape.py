"""The noise tape: code that draws Gaussian noise, as a differentiable function of its draws."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from dno.plugin import RunError

_OTHER_DRAWS = frozenset(
    {
        torch.bernoulli,
        torch.multinomial,
        torch.normal,
        torch.poisson,
        torch.rand,
        torch.rand_like,
        torch.randint,
        torch.randint_like,
        torch.randperm,
        Tensor.bernoulli_,
        Tensor.cauchy_,
        Tensor.exponential_,
        Tensor.geometric_,
        Tensor.log_normal_,
        Tensor.normal_,
        Tensor.random_,
        Tensor.uniform_,
    }
)


class NoiseTape(TorchFunctionMode):
    """While active, every Gaussian draw is answered, and nothing switches gradients off or on.

    It knows no model: it answers `torch.randn` and `torch.randn_like`, and ignores
    `torch._C._set_grad_enabled`, so that `torch.no_grad` inside a library's function has no effect
    and gradients are recorded exactly if they were when the tape was entered. Code that runs inside
    `torch._C.DisableTorchFunction()` is out of its sight.

    Args:
        draw: gives the noise for a draw of that shape; called once for each draw, in the order of
            drawing. What it returns must have that shape; it is cloned to the device and dtype
            asked for, since callers may write into their draw.

    Raises:
        RunError: inside the tape, something was drawn that is not Gaussian noise of unit variance.
    """

    def __init__(self, draw: Callable[[tuple[int, ...]], Tensor]) -> None:
        super().__init__()
        self._draw = draw

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Answer one torch function."""
        kwargs = kwargs or {}

        # What `no_grad` and `enable_grad` call as they are entered and left.
        if func is torch._C._set_grad_enabled:
            return None

        if func is torch.randn:
            return self._randn(args, **kwargs)
        if func is torch.randn_like:
            return self._randn_like(*args, **kwargs)
        if func in _OTHER_DRAWS:
            raise RunError(
                f"the sampler drew with {func.__name__}, which is not Gaussian noise and cannot "
                "be optimised; use a scheduler that draws Gaussian noise alone"
            )
        return func(*args, **kwargs)

    def _randn(
        self,
        sizes: tuple[Any, ...],
        *,
        size: Sequence[int] | int | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        **_: Any,
    ) -> Tensor:
        """Answer `torch.randn`, which takes its sizes one by one or together."""
        if size is None:
            size = sizes
            if len(sizes) == 1:
                size = sizes[0]
        if isinstance(size, int):
            size = (size,)

        return self._answer(
            tuple(size),
            dtype or torch.get_default_dtype(),
            device,
        )

    def _randn_like(
        self,
        input: Tensor,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        **_: Any,
    ) -> Tensor:
        """Answer `torch.randn_like`."""
        if device is None:
            device = input.device
        return self._answer(tuple(input.shape), dtype or input.dtype, device)

    def _answer(
        self,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        device: torch.device | str | None,
    ) -> Tensor:
        noise = self._draw(shape)
        if tuple(noise.shape) != shape:
            raise RunError(
                f"the sampler drew noise of shape {shape} where {tuple(noise.shape)} was recorded"
            )

        if device is None:
            device = torch.get_default_device()
        return noise.to(device=device, dtype=dtype, copy=True)
