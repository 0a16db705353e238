"""A bound on the calls that one target has in progress, and a room where the others wait for a place.

The room is in order of priority, then of arrival. Who cannot be answered in time is refused on arrival, or as soon as
those who came later and go first have taken its time, rather than after a wait in vain. A full room refuses the least
important, who came last.
"""

from __future__ import annotations

import asyncio
import time
from bisect import insort
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from serve.config.overload import Priority
from serve.errors import DeadlineExceeded, Overloaded
from serve.resilience.gradient import Gradient
from serve.resilience.load import LoadSignal

# Waits are reckoned from means: who would end within this multiple of the reckoned time may well be late too.
_MARGIN = 1.15
# A class gets at least this share of the places in the reckoning, however many calls of higher ones come.
_LEAST_SHARE = 0.05

RANK: Mapping[Priority, int] = {"high": 0, "normal": 1, "low": 2}


@dataclass(order=True, slots=True)
class _Waiter:
    rank: int
    number: int
    deadline: float = field(compare=False)
    place: asyncio.Future[None] = field(compare=False)


class Place:
    """A call in progress. What it says of its end moves the limit; a call that says nothing moves nothing."""

    def __init__(self, gradient: Gradient, in_flight: Callable[[], int]) -> None:
        self._gradient = gradient
        self._in_flight = in_flight

    def succeeded(self, seconds: float) -> None:
        """An attempt was answered after so many seconds."""
        self._gradient.succeeded(seconds, self._in_flight())

    def dropped(self) -> None:
        """An attempt was refused for want of room, or not answered in time."""
        self._gradient.dropped()


class Concurrency:
    """One target's places.

    Args:
        name: of the target, for messages.
        max_waiting: most calls in the room.
        on_wait: told how long each call that got a place had waited, in seconds.
        on_change: told limit, calls in progress and calls waiting.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        name: str,
        gradient: Gradient,
        max_waiting: int,
        on_wait: Callable[[float], None] = lambda seconds: None,
        on_change: Callable[[int, int, int], None] = lambda limit, in_flight, waiting: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._gradient = gradient
        self._max_waiting = max_waiting
        self._on_wait = on_wait
        self._on_change = on_change
        self._clock = clock
        self._in_flight = 0
        self._room: list[_Waiter] = []
        self._number = 0
        # Of those who found no place free, by class.
        self._arrivals = tuple(LoadSignal(clock()) for _ in RANK)

    @property
    def in_flight(self) -> int:
        """Calls in progress."""
        return self._in_flight

    @property
    def waiting(self) -> int:
        """Calls in the room."""
        return len(self._room)

    @property
    def free(self) -> bool:
        """A place is free and nobody waits for it."""
        return not self._room and self._in_flight < self._gradient.limit

    @property
    def usual_s(self) -> float:
        """Seconds that a call usually takes once it has a place; 0 while that is not known."""
        return self._gradient.usual_s

    def expected_wait_s(self, priority: Priority) -> float:
        """Seconds until a call that arrives now would have a place, which higher classes take from lower ones.

        As many calls end a second as the limit and the usual time say. A class waits for those before it, and for the
        higher ones that come meanwhile: as in a queue with priorities without preemption (Cobham 1954), its wait grows
        by 1 / (1 - the share of the places that they take).
        """
        if self.free:
            return 0.0
        rank = RANK[priority]
        now = self._clock()
        higher = sum(signal.arrivals_per_s(now) for signal in self._arrivals[:rank]) * self._each_s
        return self._turn_s(sum(waiter.rank <= rank for waiter in self._room)) / max(_LEAST_SHARE, 1 - higher)

    async def enter(self, priority: Priority, left_s: float) -> Place:
        """Takes a place, which `leave` gives back.

        Args:
            left_s: seconds until the deadline.

        Raises:
            Overloaded: the room is full of calls that go before this one, or there would be no answer in time.
            DeadlineExceeded: there was none in time.
        """
        began = self._clock()
        if self.free:
            self._in_flight += 1
        else:
            await self._wait(priority, left_s)
        self._on_wait(self._clock() - began)
        self._changed()
        return Place(self._gradient, lambda: self._in_flight)

    def leave(self) -> None:
        """Gives a place back, to the next in the room."""
        self._in_flight -= 1
        self._admit()
        self._changed()

    def bound(self, least: int, most: int) -> None:
        """Other bounds of the limit. Nobody who has a place loses it."""
        self._gradient.bound(least, most)
        self._admit()
        self._changed()

    def enter_if_free(self) -> bool:
        """Takes a place, which `leave` gives back, if one is free and nobody waits for it."""
        if not self.free:
            return False
        self._in_flight += 1
        return True

    async def _wait(self, priority: Priority, left_s: float) -> None:
        """Returns with a place taken."""
        now = self._clock()
        self._arrivals[RANK[priority]].arrived(now)
        expected = self.expected_wait_s(priority)
        if self._too_long(expected, left_s):
            raise self._overloaded(f"would wait {expected:.1f} s for a place and could not end in time", expected)
        future = asyncio.get_running_loop().create_future()
        waiter = _Waiter(RANK[priority], self._number, now + left_s, future)
        self._number += 1
        self._make_room(waiter)
        insort(self._room, waiter)
        self._turn_away_behind(waiter)
        try:
            async with asyncio.timeout(left_s):
                await waiter.place
        except BaseException as error:
            self._leave(waiter)
            if isinstance(error, TimeoutError):
                self._on_wait(left_s)  # in vain: else the load would look best when nobody is served
                raise DeadlineExceeded(f"The deadline passed while {self._name} had no place for the call.") from None
            raise

    def _make_room(self, waiter: _Waiter) -> None:
        if len(self._room) < self._max_waiting:
            return
        last = self._room[-1] if self._room else waiter
        if last < waiter or last is waiter:
            raise self._overloaded("came when as many were waiting as may", self._gradient.usual_s)
        self._room.pop()
        last.place.set_exception(self._overloaded("made room for one that goes first", self._gradient.usual_s))

    def _turn_away_behind(self, newcomer: _Waiter) -> None:
        """Those whom the newcomer has passed, if that took the time that they had left."""
        index, now = self._room.index(newcomer) + 1, self._clock()
        while index < len(self._room):
            waiter = self._room[index]
            wait = self._turn_s(index)
            if not self._too_long(wait, waiter.deadline - now):
                index += 1
                continue
            del self._room[index]
            if not waiter.place.done():
                waiter.place.set_exception(self._overloaded("gave its time to those who go first", wait))

    def _too_long(self, wait_s: float, left_s: float) -> bool:
        """A call that waits so long would not be answered in the time that is left; of unknown times none is."""
        return self.usual_s > 0 and _MARGIN * (wait_s + self.usual_s) > left_s

    @property
    def _each_s(self) -> float:
        """Seconds between the ends of two calls while all places are taken."""
        return self._gradient.usual_s / self._gradient.limit

    def _turn_s(self, before: int) -> float:
        """Seconds until the one with so many before it in the room has a place, if nobody passes it."""
        return (before + 1) * self._each_s

    def _leave(self, waiter: _Waiter) -> None:
        """Out of the room; a place that was given in the same moment goes to the next."""
        if waiter in self._room:
            self._room.remove(waiter)
        elif waiter.place.done() and not waiter.place.cancelled() and waiter.place.exception() is None:
            self._in_flight -= 1
        self._admit()
        self._changed()

    def _admit(self) -> None:
        while self._room and self._in_flight < self._gradient.limit:
            waiter = self._room.pop(0)
            if waiter.place.done():
                continue
            if self._too_long(0.0, waiter.deadline - self._clock()):
                # It waited longer than was reckoned, and would only take the place from one that can end in time.
                waiter.place.set_exception(self._overloaded("could not end in time any more", self._each_s))
                continue
            waiter.place.set_result(None)
            self._in_flight += 1

    def _changed(self) -> None:
        self._on_change(self._gradient.limit, self._in_flight, len(self._room))

    def _overloaded(self, why: str, retry_after_s: float) -> Overloaded:
        return Overloaded(f"A call of {self._name} {why}.", retry_after_s=max(1.0, retry_after_s))
