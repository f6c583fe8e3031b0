"""Models that stay loaded from one run to the next, where that was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from . import host

if TYPE_CHECKING:
    from dno import Result, Session

_held: dict[str, Session] = {}
"""At most one, by what decided its models."""


def optimize(
    prompt: str, *, models: Mapping[str, Any], run: Mapping[str, Any], keep: bool
) -> Result:
    """As `dno.optimize`, on the models that are loaded where they are the ones.

    Args:
        prompt: what to draw.
        models: its arguments that decide what is loaded.
        run: its others.
        keep: whether the models stay loaded, until a run that needs others or says no.

    Raises:
        DNOError: see `dno.optimize`.
    """
    import dno

    told = repr(sorted(models.items()))
    session = _held.pop(told, None) if keep else None
    _held.clear()
    if session is None:
        host.make_room()
    if not keep:
        return dno.optimize(prompt, **models, **run)

    if session is None:
        session = dno.load(**models)
    _held[told] = session
    return session.optimize(prompt, **run)
