"""What the backward pass finds in memory, and what it computes once more.

A policy is what a user asks for; a level is what one call of a network or decoder keeps. `keep`
and `recompute` are one level for all calls; `auto` and a size choose one for each, see `choice.py`.
A further level is a name in `Level`, a case of `with_memory`, its price and its words in
`choice.py`, and its cost in `ledger.py`.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Annotated, Any, Final, Literal, assert_never, get_args

from pydantic import BeforeValidator, WithJsonSchema

Policy = Literal["auto", "keep", "recompute"]
"""Names of the policies; a size is one too."""

Level = Literal["keep", "step", "blocks"]
"""What a call keeps for its backward pass: all; its arguments alone, from which it is computed once
more when its turn comes; the same, and then its blocks one at a time once more."""

_SIZE: Final = re.compile(r"(\d{1,15}(?:\.\d{1,15})?)\s*([kmgt]?i?b?)", re.IGNORECASE)
_PREFIXES: Final = "kmgt"


def _policy(given: object) -> object:
    """A policy as it is written in a configuration."""
    if given in get_args(Policy):
        return given
    text = f"{given}" if isinstance(given, (int, float, str)) and given is not True else ""
    if _bytes(text) is None:
        raise ValueError(
            "should be auto, keep, recompute, or a size such as 20GiB, which the run may take of "
            "its device in all"
        )
    return f"{text}GiB" if isinstance(given, (int, float)) else text.strip()


def _bytes(text: str) -> int | None:
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        return None
    number, unit = found.groups()
    # A bare number is one of GiB.
    unit = unit.lower() or "gib"
    base = 1024 if "i" in unit else 1000
    power = _PREFIXES.find(unit[0]) + 1
    return int(float(number) * base**power) or None


Memory = Annotated[str, BeforeValidator(_policy), WithJsonSchema({"type": "string"})]
"""A policy by its name, or the size that all may take: `20GiB`, `20GB`, or a number of GiB."""


def limit_of(memory: str) -> int | None:
    """Bytes that a policy lets a run take in all; None for those that are names."""
    return None if memory in get_args(Policy) else _bytes(memory)


def chooses(memory: str) -> bool:
    """Whether a policy chooses a level for each call."""
    return memory not in ("keep", "recompute")


_level: ContextVar[Level | None] = ContextVar("level", default=None)


@contextlib.contextmanager
def at_level(level: Level | None) -> Iterator[None]:
    """Inside, calls of networks and decoders keep what this level lets them keep; None: what their
    policy says."""
    token = _level.set(level)
    try:
        yield
    finally:
        _level.reset(token)


def with_memory(memory: str, forward: Callable[..., Any]) -> Callable[..., Any]:
    """A network's forward, or a decoder's, that keeps what a policy lets it keep.

    Its answers and gradients are those of `forward` whatever the policy.

    Args:
        memory: the policy.
        forward: what to wrap. It must draw no noise, since it may be computed once more.
    """
    usual: Level = "step" if memory == "recompute" else "keep"

    @functools.wraps(forward)
    def sparing(*args: Any, **kwargs: Any) -> Any:
        level = _level.get() or usual
        match level:
            case "keep":
                return forward(*args, **kwargs)
            case "step" | "blocks":
                return _again(forward, level, args, kwargs)
            case _:
                assert_never(level)

    return sparing


def spare_blocks(memory: str, view: Any) -> bool:
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
    blocks = list(_blocks(view))
    for part in blocks:
        part.forward = _unless_it_keeps_books(part.forward, with_memory(memory, part.forward))
    return bool(blocks)


def spare_inner_blocks(view: Any) -> None:
    """Let the innermost blocks of a network be computed once more, where a level says so."""
    for part in _blocks(view):
        if any(True for _ in _blocks(part)):
            continue

        forward = part.forward

        @functools.wraps(forward)
        def sparing(*args: Any, forward: Callable[..., Any] = forward, **kwargs: Any) -> Any:
            if _level.get() != "blocks":
                return forward(*args, **kwargs)
            return _again(forward, "keep", args, kwargs)

        # Networks hand on tables of options, mostly empty, and nobody writes into those.
        part.forward = _unless_it_keeps_books(forward, sparing, empty=True)


def _blocks(view: Any) -> Iterator[Any]:
    for part in view.modules():
        if part is not view and "Block" in type(part).__name__:
            yield part


def _unless_it_keeps_books(
    forward: Callable[..., Any], spared: Callable[..., Any], *, empty: bool = False
) -> Any:
    """The spared forward, but the plain one where it is handed a list or a table.

    Decoders of videos pass on what they remember of earlier frames so, and write into it: computed
    once more, they would go on from what they wrote.

    Args:
        forward: the plain one.
        spared: the spared one.
        empty: whether an empty table is none.
    """

    def is_book(given: object) -> bool:
        return isinstance(given, (list, dict)) and not (empty and given == {})

    @functools.wraps(forward)
    def choose(*args: Any, **kwargs: Any) -> Any:
        books = any(map(is_book, (*args, *kwargs.values())))
        return (forward if books else spared)(*args, **kwargs)

    return choose


def _again(forward: Callable[..., Any], level: Level, args: Any, kwargs: Any) -> Any:
    """Keeps its arguments alone, from which the backward pass computes the rest once more.

    Args:
        forward: what to call.
        level: what the calls inside of it keep then.
        args, kwargs: what to call it with.
    """
    import torch
    from torch.utils.checkpoint import checkpoint

    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)

    def at_its_level(*args: Any, **kwargs: Any) -> Any:
        # The backward pass comes when whoever chose the level is gone.
        with at_level(level):
            return forward(*args, **kwargs)

    # Without the state of the random generators: there is nothing to draw again.
    return checkpoint(at_its_level, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)
