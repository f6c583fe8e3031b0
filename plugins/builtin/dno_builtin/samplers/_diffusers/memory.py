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
