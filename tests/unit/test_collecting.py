"""Large imports without a search for garbage among them."""

from __future__ import annotations

import gc
import weakref

import pytest

from dno.guard import collecting_later


class Cycle:
    def __init__(self) -> None:
        self.me = self


def test_garbage_is_looked_for_again_afterwards() -> None:
    @collecting_later()
    def broken() -> None:
        assert not gc.isenabled()
        raise ValueError("broken")

    assert gc.isenabled()
    with pytest.raises(ValueError, match="broken"):
        broken()
    assert gc.isenabled()
    with collecting_later():
        garbage = weakref.ref(Cycle())
    assert garbage() is not None
    # It became old, and is found all the same.
    gc.collect()
    assert garbage() is None


def test_who_has_switched_it_off_finds_it_so() -> None:
    gc.disable()
    try:
        with collecting_later():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_what_others_keep_apart_stays_there() -> None:
    gc.freeze()
    try:
        kept = gc.get_freeze_count()
        with collecting_later():
            pass
        # Other threads may let go of some meanwhile.
        assert gc.get_freeze_count() > 0.9 * kept > 0
    finally:
        gc.unfreeze()
    assert gc.get_freeze_count() == 0
    with collecting_later():
        pass
    assert gc.get_freeze_count() == 0
