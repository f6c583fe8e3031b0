"""What the backward pass finds in memory, and what it computes once more.

A further policy is a name in `Memory`, a case of `with_memory`, and a sentence in the docstring of
the samplers' option `memory`. Nothing else knows which policies there are.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal, assert_never

Memory = Literal["keep", "recompute"]
"""Names of the policies."""


def with_memory(memory: Memory, forward: Callable[..., Any]) -> Callable[..., Any]:
    """A network's forward, or a decoder's, that keeps what a policy lets it keep.

    Its answers and gradients are those of `forward` whatever the policy.

    Args:
        memory: the policy.
        forward: what to wrap. It must draw no noise, since it may be computed once more.
    """
    match memory:
        case "keep":
            return forward
        case "recompute":
            return _recomputed(forward)
        case _:
            assert_never(memory)


def spare_blocks(memory: Memory, view: Any) -> bool:
    """Let the blocks of a decoder keep what a policy lets them keep; its answers stay the same.

    A decoder runs once for all steps, and at full size keeps more than any of them: 22.7 GB for a
    picture of 1024 px. Its blocks are computed once more one at a time, and those inside of blocks
    one at a time again, so that what is kept at any moment is one innermost block's.

    Args:
        memory: the policy.
        view: a private module whose class calls its parts blocks, as diffusers' do.

    Returns:
        Whether there were such blocks.
    """
    found = False
    for part in view.modules():
        if part is view or "Block" not in type(part).__name__:
            continue
        part.forward = _unless_it_keeps_books(part.forward, with_memory(memory, part.forward))
        found = True
    return found


def _unless_it_keeps_books(forward: Callable[..., Any], spared: Callable[..., Any]) -> Any:
    """The spared forward, but the plain one where it is handed a list or a table.

    Decoders of videos pass on what they remember of earlier frames so, and write into it: computed
    once more, they would go on from what they wrote.
    """

    @functools.wraps(forward)
    def choose(*args: Any, **kwargs: Any) -> Any:
        books = any(isinstance(given, (list, dict)) for given in (*args, *kwargs.values()))
        return (forward if books else spared)(*args, **kwargs)

    return choose


def _recomputed(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Keeps its arguments alone, from which the backward pass computes the rest once more."""
    import torch
    from torch.utils.checkpoint import checkpoint

    @functools.wraps(forward)
    def recomputed(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)

        # Without the state of the random generators: there is nothing to draw again.
        return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

    return recomputed
