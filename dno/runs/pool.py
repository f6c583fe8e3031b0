"""Orders, and the actors that carry them out: each actor one at a time, whatever becomes of it.

The pool knows nothing of runs. An actor has two methods: `place`, answered once it can work, and
`attempt`. One that dies, or that fails again and again, is replaced; its order goes back into the
queue, to another actor where there is one. What the queue holds is a number and two counters for
each order.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Final

from dno.errors import RunError
from dno.wording import short

DEATHS: Final = 6
"""Actors that may die at one order before it is taken for the reason."""
_FAILURES: Final = 2
"""Orders in a row that an actor may fail at before it is taken for the reason."""
_STARTS: Final = 3
"""Actors in a row that may fail to begin while none has begun yet."""
_LOOK: Final = 5.0
"""Seconds between two looks at how large the cluster is."""
_LONGEST_PAUSE: Final = 300.0
_LOST: Final = 60.0
"""Seconds that a cluster may have no room for a single actor."""


@dataclass
class Order:
    """One thing to do."""

    number: int
    failures: int = 0
    deaths: int = 0
    avoid: int = 0
    """Seat of the actor that it failed on last."""


@dataclass
class Seat:
    """One actor, and what it is at."""

    number: int
    actor: Any
    place: Any = None
    """What it answered when it could begin."""
    order: Order | None = None
    failures: int = 0
    """In a row."""


@dataclass
class Pool:
    """Actors of one kind.

    Args:
        ray: the module, connected.
        make: begins an actor.
        asks: the place's arguments.
        room: how many actors there is room for now.
        refused: why an actor with this place cannot work; empty where it can.
    """

    ray: ModuleType
    make: Callable[[], Any]
    asks: tuple[Any, ...]
    room: Callable[[], int]
    refused: Callable[[Any], str]
    seats: dict[Any, Seat] = field(default_factory=dict)
    """By the reference that answers next; idle ones are in `idle`."""
    idle: list[Seat] = field(default_factory=list)
    queue: deque[Order] = field(default_factory=deque)
    _made: int = 0
    _bad_starts: int = 0
    _looked: float = 0.0
    _roomy: float = field(default_factory=time.monotonic)
    _pause: float = _LOOK
    _began: bool = False

    def __len__(self) -> int:
        return len(self.seats) + len(self.idle)

    @property
    def busy(self) -> int:
        """Orders that actors are at."""
        return sum(seat.order is not None for seat in self.seats.values())

    def work(
        self,
        orders: Iterable[Order],
        send: Callable[[Order], tuple[Any, ...]],
        ended: Callable[[Order, Any, Any], bool],
        lost: Callable[[Order, str], None],
    ) -> None:
        """Carry out all orders.

        Args:
            orders: what to do.
            send: the arguments of `attempt` for an order.
            ended: is told what an actor answered, and its place; whether the order is to be tried
                again.
            lost: is told of an order at which too many actors died, and how the last one did.

        Raises:
            RunError: no actor can begin, or the cluster has lost all its machines.
        """
        self.queue.extend(orders)
        while self.queue or self.busy:
            self._grow()
            self._assign(send)
            for reference in self._answered():
                self._take(reference, ended, lost)

    def end(self) -> None:
        """End the actors of this pool, and nothing else."""
        for seat in [*self.seats.values(), *self.idle]:
            self._kill(seat)
        self.seats.clear()
        self.idle.clear()

    def _grow(self) -> None:
        now = time.monotonic()
        if now - self._looked < self._pause and self._looked:
            return
        self._looked = now
        room = self.room()
        if room or self.busy or self.idle:
            self._roomy = now
        elif now - self._roomy > _LOST:
            raise RunError("the cluster has lost all machines with room for a worker")
        wanted = min(room, len(self.queue) + self.busy)
        for _ in range(len(self), wanted):
            self._made += 1
            seat = Seat(self._made, self.make())
            self.seats[seat.actor.place.remote(*self.asks)] = seat

    def _assign(self, send: Callable[[Order], tuple[Any, ...]]) -> None:
        for seat in [*self.idle]:
            order = self._order_for(seat) if self.queue else None
            if order is not None:
                self.idle.remove(seat)
                seat.order = order
                self.seats[seat.actor.attempt.remote(*send(order))] = seat

    def _order_for(self, seat: Seat) -> Order | None:
        """The first order that did not fail on this actor; any, where no other has begun."""
        if len(self.idle) + self.busy == 1:
            return self.queue.popleft()
        for _ in range(len(self.queue)):
            order = self.queue.popleft()
            if order.avoid != seat.number:
                return order
            self.queue.append(order)
        return None

    def _answered(self) -> list[Any]:
        waiting = list(self.seats)
        if not waiting:
            time.sleep(0.2)
            return []
        ready, _ = self.ray.wait(waiting, num_returns=1, timeout=1.0)
        if ready and len(waiting) > 1:
            # Whatever else has answered by now.
            ready, _ = self.ray.wait(waiting, num_returns=len(waiting), timeout=0)
        return list(ready)

    def _take(
        self,
        reference: Any,
        ended: Callable[[Order, Any, Any], bool],
        lost: Callable[[Order, str], None],
    ) -> None:
        seat = self.seats.pop(reference)
        order = seat.order
        seat.order = None
        try:
            answer = self.ray.get(reference)
        except self.ray.exceptions.RayError as error:
            self._kill(seat)
            if order is None:
                self._not_begun(_last_line(error))
                return
            self._looked = 0.0
            order.deaths += 1
            order.avoid = 0
            if order.deaths >= DEATHS:
                lost(order, _last_line(error))
            else:
                self.queue.append(order)
            return
        if order is None:
            self._begin(seat, answer)
            return
        again = ended(order, answer, seat.place)
        if again:
            order.avoid = seat.number
            self.queue.append(order)
        self._keep_or_replace(seat, failed=again)

    def _begin(self, seat: Seat, place: Any) -> None:
        why = self.refused(place)
        if why:
            self._kill(seat)
            self._not_begun(why)
            return
        self._began = True
        self._bad_starts = 0
        self._pause = _LOOK
        seat.place = place
        self.idle.append(seat)

    def _not_begun(self, why: str) -> None:
        """Another is begun after a pause; where none ever began, the reason is told at last."""
        self._bad_starts += 1
        if not self._began and self._bad_starts >= _STARTS:
            raise RunError(f"no worker can begin: {why}")
        if self._began:
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        else:
            self._looked = 0.0

    def _keep_or_replace(self, seat: Seat, *, failed: bool) -> None:
        seat.failures = seat.failures + 1 if failed else 0
        if seat.failures < _FAILURES:
            self.idle.append(seat)
            return
        # Whatever it suffers from, as a GPU that has to be begun anew: another one may not.
        self._kill(seat)
        self._looked = 0.0

    def _kill(self, seat: Seat) -> None:
        self.ray.kill(seat.actor)


def _last_line(error: BaseException) -> str:
    """Of what Ray tells at length, the line that says why."""
    cause = getattr(error, "cause", None)
    text = str(cause if isinstance(cause, BaseException) else error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return short(lines[-1]) if lines else type(error).__name__
