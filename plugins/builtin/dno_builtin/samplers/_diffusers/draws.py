"""Random numbers that a pipeline's networks draw by themselves, seen as they are drawn."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Draws(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While active, notes whether this thread drew random numbers, from whichever generator.

    It looks at the operations themselves, not at the state of a generator: what another thread
    draws is none of ours, and what a module draws from a generator of its own is.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found = False
        self._looking = True

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """What is drawn inside does not count."""
        before = self._looking
        self._looking = False
        try:
            yield
        finally:
            self._looking = before

    def __torch_dispatch__(
        self,
        func: Any,
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Let one operation pass, and note what it is."""
        kwargs = kwargs or {}
        if self._looking and torch.Tag.nondeterministic_seeded in func.tags:
            self.found = self.found or not _is_idle(func, args, kwargs)
        operation: Callable[..., Any] = func
        return operation(*args, **kwargs)


def _is_idle(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether an operation that may draw does not, such as attention without dropout."""
    names = [argument.name for argument in func._schema.arguments]
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    if "dropout_p" in names:
        return not given.get("dropout_p", 0.0)
    # Of those that act otherwise in training.
    return given.get("training", given.get("train", True)) is False
