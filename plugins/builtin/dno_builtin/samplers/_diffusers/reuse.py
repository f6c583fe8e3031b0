"""Feature reuse with gradient: the deep blocks of a UNet run at every n-th step alone.

DeepCache (Ma et al., CVPR 2024, arXiv 2312.00858): what the deep blocks of a UNet answer changes
little from one step of the sampler to the next. At a full step all blocks run, and what the deep
ones hand to the outermost block on the way up is held; at the steps after it the outermost blocks
alone run, on their own input and on what is held.

What is held stays in the graph, so that gradients of the later steps flow through it into the full
one. It crosses from call to call as an argument and as a part of the answer, never behind the
caller's back: a call that is computed once more is given it again.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final

from torch import Tensor, nn

from .modules import Function
from .reusable import skips_of

DEEP: Final = "deep"
"""Argument of a UNet's forward: True to be given what its deep blocks answer, or that itself."""
_TAKES_DEEP: Final = "takes_deep"
"""Attribute of a private UNet whose forward takes and gives what its deep blocks answer."""


@dataclass
class _Pass:
    """One pass through a UNet."""

    given: Tensor | None
    """What an earlier pass's deep blocks answered; None where this one's are to run."""
    made: Tensor | None = None
    """What this pass's deep blocks answered."""


_pass: ContextVar[_Pass | None] = ContextVar("pass", default=None)


def with_reuse(view: Any) -> Function:
    """A UNet's forward that can do without its deep blocks: all but the outermost down and up.

    It takes one argument more, `deep`. Left out, it answers as ever; with True, it answers a pair,
    of which the second is what the deep blocks answered; with that, it runs without them.

    Args:
        view: a private `UNet2DConditionModel` of two levels at least; its blocks are changed.
    """
    outermost, *down = view.down_blocks
    up = list(view.up_blocks)[:-1]
    for block in down:
        stand_in = functools.partial(_as_a_down_block, skips=skips_of(block))
        block.forward = _skipped(block.forward, stand_in)
    for part in (*(outermost.downsamplers or ()), view.mid_block, *up[:-1]):
        if part is not None:
            part.forward = _skipped(part.forward, _as_one)
    up[-1].forward = _held(up[-1].forward)

    setattr(view, _TAKES_DEEP, True)
    forward = view.forward

    @functools.wraps(forward)
    def reusing(*args: Any, deep: Tensor | bool = False, **kwargs: Any) -> Any:
        if deep is False:
            return forward(*args, **kwargs)
        if deep is True:
            whole = _Pass(None)
            return _passed(whole, forward, args, kwargs), whole.made

        assert isinstance(deep, Tensor)
        kwargs = _without_deep_adapters(outermost, kwargs)
        return _passed(_Pass(deep), forward, args, kwargs)

    return reusing


def takes_deep(part: Any) -> bool:
    """Whether a pipeline's part is a UNet whose forward is one of `with_reuse`."""
    return hasattr(part, _TAKES_DEEP)


class Reuse:
    """What is held in one call of a pipeline, and for how long.

    Args:
        every: steps of a scheduler from one full step to the next.
    """

    def __init__(self, every: int) -> None:
        self._every = every
        self._steps = 0

    def stepped(self) -> None:
        """Note that a scheduler has taken a step."""
        self._steps += 1

    def between_steps(self, forward: Function) -> Function:
        """A UNet's forward as the pipeline calls it; full at its first step, and every so many."""
        held: list[Tensor] = []
        first = self._steps
        step = -1
        place = 0

        @functools.wraps(forward)
        def called(*args: Any, **kwargs: Any) -> Any:
            nonlocal first, step, place
            if step < 0:
                first = self._steps
            # Some pipelines call it more than once a step, each time for something else.
            place = place + 1 if step == self._steps else 0
            step = self._steps

            is_full = (step - first) % self._every == 0
            if is_full and place == 0:
                held.clear()
            if not is_full and place < len(held):
                return forward(*args, **kwargs, deep=held[place])
            answer, deep = forward(*args, **kwargs, deep=True)
            held.append(deep)
            return answer

        return called


def _passed(going: _Pass, forward: Function, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    token = _pass.set(going)
    try:
        return forward(*args, **kwargs)
    finally:
        _pass.reset(token)


def _skipped(forward: Function, stand_in: Callable[[Tensor], Any]) -> Function:
    """A deep module's forward, which has nothing to do where a pass is given what it leads to.

    Args:
        forward: the module's own.
        stand_in: its answer then, from a number that nobody reads.
    """

    @functools.wraps(forward)
    def skipping(*args: Any, **kwargs: Any) -> Any:
        going = _pass.get()
        if going is None or going.given is None:
            return forward(*args, **kwargs)
        # Whatever is added to it, a ControlNet's answers say, has a shape of its own.
        return stand_in(going.given.new_zeros(()))

    return skipping


def _as_one(nothing: Tensor) -> Tensor:
    return nothing


def _as_a_down_block(nothing: Tensor, skips: int) -> tuple[Tensor, tuple[Tensor, ...]]:
    return nothing, (nothing,) * skips


def _held(forward: Function) -> Function:
    """The last deep block's forward, whose answer is what passes are given."""

    @functools.wraps(forward)
    def holding(*args: Any, **kwargs: Any) -> Any:
        going = _pass.get()
        if going is None:
            return forward(*args, **kwargs)
        # Copies, since FreeU writes into what a block is handed.
        if going.given is not None:
            return going.given.clone()
        answer = forward(*args, **kwargs)
        going.made = answer.clone()
        return answer

    return holding


def _without_deep_adapters(outermost: nn.Module, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments without what a T2I adapter adds inside of deep blocks, to which it adds in
    place."""
    name = "down_intrablock_additional_residuals"
    if kwargs.get(name) is None:
        return kwargs
    # Blocks without attention have theirs added behind their downsampler, which is deep.
    own = 1 if getattr(outermost, "has_cross_attention", False) else 0
    return {**kwargs, name: list(kwargs[name])[:own]}
