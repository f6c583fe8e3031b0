"""Parts of a pipeline that a climb does not call: their weights lie on the CPU meanwhile.

Prompts are encoded once, when they are bound, and at full size what encodes them is half of the
pipeline. While a climb goes on such weights can lie elsewhere, both those of the sampler's private
views and those of the live pipeline, which are the same memory. Nobody has to know: whoever calls a
part has it back before it computes, the next binding as well as somebody who draws with the live
pipeline meanwhile.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import weakref
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn

from dno.plugin import first_line, is_shape, out_of_memory

from .hooks import is_cast, is_compiled, is_offloaded, uncompiled
from .packed import is_quantised

PLACE: Final = torch.device("cpu")
"""Where they lie."""

_log = logging.getLogger("dno")

_lock = threading.RLock()
"""Held while weights are moved, and while it is found out whether they are to be."""


def _forked() -> None:
    """In a child process, where no thread goes on but the one that forked."""
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


class Size(NamedTuple):
    """Bytes of a part on the device."""

    own: int = 0
    """What a sampler's view of it computes with."""
    besides: int = 0
    """What others have of it: the live pipeline, where it keeps the part in another type, or
    another run."""


@dataclass(frozen=True)
class _Member:
    """A weight of one module."""

    tensor: weakref.ref[Tensor]
    module: weakref.ref[nn.Module]
    is_given: bool
    """Whether the module is a live pipeline's."""


@dataclass(frozen=True)
class _Piece:
    """Memory of one weight, which may be in several modules."""

    members: list[_Member]
    size: int
    copy: Tensor | None = None
    """The weight where it lies; None where that is on its device."""
    device: torch.device | None = None
    """Where it belongs."""

    def is_of(self, view: nn.Module | None) -> bool:
        return any(member.module() is view for member in self.members)

    def leave(self) -> _Piece:
        """What it is elsewhere; nobody is pointed there yet."""
        held = (member.tensor() for member in self.members)
        first = next(tensor for tensor in held if tensor is not None)
        copy = first.detach().to(PLACE, copy=True)
        return _Piece(self.members, self.size, copy, first.device)

    def settle(self, *, at_home: bool) -> None:
        """Point all members at the copy, or at their device."""
        assert self.copy is not None
        assert self.device is not None
        back = self.copy.to(self.device, copy=True) if at_home else None
        for member in self.members:
            tensor = member.tensor()
            if tensor is None:
                continue
            if back is not None:
                tensor.data = back
            else:
                # What a live pipeline has stays its numbers, wherever they are. A view says what
                # it said, so that pipelines that ask it for its device go on computing there.
                tensor.data = self.copy if member.is_given else _hollow(self.copy, self.device)


def _hollow(like: Tensor, device: torch.device) -> Tensor:
    """A tensor of that form, of one number; whoever reads it by mistake reads no number at all."""
    value = torch.nan if like.is_floating_point() else 0
    return torch.full((), value, dtype=like.dtype, device=device).expand(like.shape)


class Parkable:
    """One part of a pipeline, in all modules that share its weights."""

    def __init__(self) -> None:
        self._modules: list[tuple[weakref.ref[nn.Module], bool]] = []
        self._device: torch.device = PLACE
        """Where it belongs while somebody climbs without it."""
        self._needs = 0
        """How many are about to call it."""
        self._claims = 0
        """How many climb without it."""
        self._stays = False
        """Whether it was called all the same, or cannot be moved."""
        self._away: list[_Piece] = []
        self._hooks: list[tuple[Any, bool]] = []
        """What calls are noticed by, and whether it is in a live pipeline's module."""

    def add(self, module: nn.Module, *, is_given: bool) -> None:
        """One more module of the same part."""
        with _lock:
            known = [one for one in self._modules if one[0]() not in (None, module)]
            self._modules = [*known, (weakref.ref(module), is_given)]

    def size(self, view: nn.Module | None, device: torch.device) -> Size:
        """What of it can be moved off a device.

        Args:
            view: whose weights are one's own.
            device: where it is.
        """
        with _lock:
            return _size_of([*self._pieces(device), *self._away], view)

    def away(self, view: nn.Module | None) -> Size:
        """What of it is elsewhere now."""
        with _lock:
            return _size_of(self._away, view)

    @contextlib.contextmanager
    def needed(self) -> Iterator[None]:
        """Inside, it is on its device."""
        with _lock:
            self._needs += 1
        try:
            with _lock:
                self._come_back()
            yield
        finally:
            with _lock:
                self._needs -= 1
                self._leave_if_idle()

    @contextlib.contextmanager
    def idle(self, device: torch.device) -> Iterator[None]:
        """Inside, it lies elsewhere unless somebody needs it.

        Args:
            device: where it is.
        """
        with _lock:
            self._claims += 1
            self._device = device
        try:
            with _lock:
                self._leave_if_idle()
            yield
        finally:
            with _lock:
                self._claims -= 1
                if not self._claims:
                    self._stays = False
                    self._give_back()

    def _leave_if_idle(self) -> None:
        if self._needs or not self._claims or self._stays or self._away:
            return
        pieces = list(self._pieces(self._device))
        self._listen(pieces)
        try:
            for piece in pieces:
                left = piece.leave()
                # Known before it has left, so that an interrupt loses nothing.
                self._away.append(left)
                left.settle(at_home=False)
        except Exception as error:
            self._stays = True
            self._come_back()
            if not out_of_memory(error):
                raise
            _log.warning(
                "what a climb does not call could not be moved to the CPU, and stays on %s: %s",
                self._device,
                first_line(error),
            )

    def _give_back(self) -> None:
        """Have it where it belongs, if it is a live pipeline's.

        What is a sampler's alone comes when it is next called, if it ever is.
        """
        if not any(member.is_given for piece in self._away for member in piece.members):
            self._leave_alone(given_only=bool(self._away))
            return
        try:
            self._come_back()
        except Exception as error:
            if not out_of_memory(error):
                raise
            # The run has ended well; whoever calls it next is told what there is to tell.
            _log.warning(
                "a part of the pipeline stays on the CPU, since %s has no memory for it now; it "
                "comes back when it is called: %s",
                self._device,
                first_line(error),
            )

    def _come_back(self) -> None:
        while self._away:
            self._away[-1].settle(at_home=True)
            self._away.pop()
        self._leave_alone()

    def _leave_alone(self, *, given_only: bool = False) -> None:
        """Notice no more who calls it, or who calls the live pipeline's."""
        for hook, is_given in self._hooks:
            if is_given or not given_only:
                hook.remove()
        self._hooks = [one for one in self._hooks if given_only and not one[1]]

    def _listen(self, pieces: Sequence[_Piece]) -> None:
        """Have whoever calls it, or a part of it, get it back first.

        Args:
            pieces: what is about to leave; modules that lose nothing are left alone.
        """

        def is_called(*_: object) -> None:
            with _lock:
                # Once the climb is over, a call says nothing about the next one.
                if self._claims:
                    self._stays = True
                self._come_back()

        for reference, is_given in self._modules:
            module = reference()
            if module is None or not any(piece.is_of(module) for piece in pieces):
                continue
            for part in module.modules():
                # A view as a whole may be called for an answer that is remembered.
                if is_given or part is not module:
                    hook = part.register_forward_pre_hook(is_called)
                    self._hooks.append((hook, is_given))

    def _pieces(self, device: torch.device) -> Iterator[_Piece]:
        """Its weights on a device, piece by piece of memory."""
        found: dict[int, list[tuple[Tensor, _Member]]] = {}
        for reference, is_given in self._modules:
            module = reference()
            if module is None:
                continue
            for tensor in (*module.parameters(), *module.buffers()):
                if tensor.device != device or tensor.is_inference() or not tensor.nbytes:
                    continue
                member = _Member(weakref.ref(tensor), reference, is_given)
                found.setdefault(_memory_of(tensor), []).append((tensor, member))

        for members in found.values():
            first = members[0][0]
            # Others would have to be cut out of it again.
            if all(_is_all_of_it(first, tensor) for tensor, _ in members):
                yield _Piece([member for _, member in members], first.nbytes)


def _is_all_of_it(first: Tensor, tensor: Tensor) -> bool:
    """Whether a tensor is the whole of a piece of memory, as another one is that has it too."""
    same = (first.shape, first.stride(), first.dtype) == (
        tensor.shape,
        tensor.stride(),
        tensor.dtype,
    )
    return same and tensor.untyped_storage().nbytes() == tensor.nbytes


def _memory_of(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _size_of(pieces: Collection[_Piece], view: nn.Module | None) -> Size:
    own = sum(piece.size for piece in pieces if piece.is_of(view))
    return Size(own, sum(piece.size for piece in pieces) - own)


_parkables: weakref.WeakKeyDictionary[nn.Module, Parkable] = weakref.WeakKeyDictionary()
"""Of live pipelines' parts, each of which several samplers may have views of."""


def _parts_of(pipe: Any) -> dict[str, nn.Module]:
    return {name: part for name, part in vars(pipe).items() if isinstance(part, nn.Module)}


@contextlib.contextmanager
def at_home(pipe: Any) -> Iterator[None]:
    """Inside, all parts of a live pipeline are where they belong.

    Args:
        pipe: which other runs may climb with.
    """
    with ExitStack() as undo:
        for part in _parts_of(pipe).values():
            parkable = _parkables.get(uncompiled(part))
            if parkable is not None:
                undo.enter_context(parkable.needed())
        yield


class ParkingLot:
    """The parts of one sampler's pipeline that can lie elsewhere.

    Those of a live pipeline with offloading or layerwise casting, or compiled, are left alone; so
    are quantised weights, and parts that share weights with one another.

    Args:
        given: the pipeline that the sampler was made of.
        private: its views of that, see `parts.private_pipeline`.
        device: where it computes.
    """

    def __init__(self, given: Any, private: Any, device: torch.device) -> None:
        self._device = device
        self._views = _parts_of(private)
        live = {name: uncompiled(part) for name, part in _parts_of(given).items()}
        self.unused: frozenset[str] = frozenset(live) - frozenset(self._views)
        """Parts of the given pipeline that the sampler does without, such as a safety checker."""

        names = [*self._views, *self.unused]
        places = {name: _places(self._views.get(name), live.get(name)) for name in names}
        times = Counter(place for found in places.values() for place in found)
        self._parkables: dict[str, Parkable] = {}
        for name in names:
            if all(times[place] == 1 for place in places[name]):
                parkable = _parkable_of(self._views.get(name), live.get(name))
                if parkable is not None:
                    self._parkables[name] = parkable

    def sizes(self, names: Collection[str]) -> dict[str, Size]:
        """What moving parts would free on the device, by their names, the largest first; those
        that cannot be moved left out."""
        found: dict[str, Size] = {}
        for name, parkable in self._parkables.items():
            if name not in names:
                continue
            size = parkable.size(self._views.get(name), self._device)
            if any(size):
                found[name] = size
        return dict(sorted(found.items(), key=lambda one: -sum(one[1])))

    def away(self) -> dict[str, Size]:
        """What of the parts is elsewhere now, by their names."""
        return {
            name: parkable.away(self._views.get(name)) for name, parkable in self._parkables.items()
        }

    @contextlib.contextmanager
    def at_home(self) -> Iterator[None]:
        """Inside, all parts are on the device."""
        with ExitStack() as undo:
            for parkable in self._parkables.values():
                undo.enter_context(parkable.needed())
            yield

    @contextlib.contextmanager
    def parked(self, names: Collection[str]) -> Iterator[None]:
        """Inside, these parts lie elsewhere unless somebody needs them. Afterwards a live
        pipeline's are where they were; the sampler's alone come back when they are next called."""
        with ExitStack() as undo:
            for name in names:
                undo.enter_context(self._parkables[name].idle(self._device))
            yield


def _parkable_of(view: nn.Module | None, module: nn.Module | None) -> Parkable | None:
    """The parkable of a part; None where it must stay where it is.

    Args:
        view: the sampler's own view of it.
        module: the given pipeline's.
    """
    known = [part for part in (view, module) if part is not None]
    if any(is_quantised(part) for part in known):
        return None

    if module is not None and _is_plain(module):
        parkable = _parkables.setdefault(module, Parkable())
        parkable.add(module, is_given=True)
    elif _places(view) & _places(module):
        return None
    else:
        parkable = Parkable()
    if view is not None:
        parkable.add(view, is_given=False)
    return parkable


def _is_plain(module: nn.Module) -> bool:
    """Whether no library moves, widens or has compiled what a live pipeline has."""
    return not (is_offloaded(module) or is_cast(module) or is_compiled(module))


def _places(*modules: nn.Module | None) -> set[int]:
    """Where the weights of modules are in memory; nowhere, where they are shapes."""
    return {
        _memory_of(tensor)
        for module in modules
        if module is not None
        for tensor in (*module.parameters(), *module.buffers())
        if not tensor.is_meta and not is_shape(tensor) and tensor.nbytes
    }
