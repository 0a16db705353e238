"""One model or provider as the guard sees it: everything that is known of it, and one attempt at it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from types import TracebackType

from serve.calls import Usage
from serve.context import RequestContext
from serve.errors import ArgusError, Cancelled, DeadlineExceeded, RateLimited, Unavailable
from serve.resilience.breaker import Breaker
from serve.resilience.concurrency import Concurrency, Place
from serve.resilience.failures import failure_class
from serve.resilience.gradient import Gradient
from serve.resilience.hedge import Allowance, Times
from serve.resilience.purse import Stake
from serve.resilience.rates import Rate, Rates
from serve.resilience.recorder import BreakerState, Recorder
from serve.resilience.retry_budget import RetryBudget
from serve.resilience.settings import Settings

# Failures that are the target's, and those that say that it has no room.
_ITS_OWN = frozenset({"unavailable", "other"})
# Times measured before an attempt is given up early, and the shortest that it then has.
_MEASURED, _LEAST_S = 30, 0.02
# Who is given up early is never seen to be slow: each such time-out stretches the time of the next attempts, a probe's
# far more, and each success shrinks it. A target that has become slower for good is thus believed in the end.
_STRETCH, _STRETCH_OF_PROBE, _SHRINK, _MOST_STRETCH = 1.02, 2.0, 0.995, 64.0
# A time-out of a target whose times are not known yet counts against it from here.
_FAIR_S = 1.0
# How often a call looks again whether a resting target is back, while others probe it; and how many calls queue for a
# provider's rate.
_POLL_S = 0.05
_MOST_PACED = 256
# States in which a breaker lets nothing pass; after a moment's more than its pause it does.
_SHUT = frozenset({"open", "resting"})
_AFTER_S = 0.01


class AttemptFailed(Exception):
    """An attempt was made and failed; what refused to make one raises its own error."""

    def __init__(self, error: ArgusError) -> None:
        super().__init__(str(error))
        self.error = error
        self.code = error.code


class Passage:
    """The right to one attempt; a `with` block gives back what it holds.

    Attributes:
        ticket: the breaker's; None where there is no breaker, where it is passed by, and once it has been handed in.
        place: None where calls are not limited, and for a hedge.
    """

    __slots__ = ("_leave", "place", "stake", "ticket")

    def __init__(self, stake: Stake, ticket: int | None, place: Place | None, leave: Callable[[Passage], None]) -> None:
        self.stake = stake
        self.ticket = ticket
        self.place = place
        self._leave = leave

    def __enter__(self) -> Passage:
        return self

    def __exit__(self, *failure: object) -> None:
        self.stake.end(0.0)
        self._leave(self)


class Attempt:
    """One attempt, which is made in its `with` block: its outcome, time and cost, and what they say of the target.

    Attributes:
        usage: what it used, once that is known.
        answered_s: seconds until its answer, or its first event.

    Raises:
        AttemptFailed: the block raised an `ArgusError`, or ran out of time.
    """

    __slots__ = ("_passage", "_target", "_timeout_s", "answered_s", "began", "usage")

    def __init__(self, target: Target, passage: Passage, timeout_s: float, began: float) -> None:
        self._target = target
        self._passage = passage
        self._timeout_s = timeout_s
        self.began = began
        self.usage: Usage | None = None
        self.answered_s: float | None = None

    def __enter__(self) -> Attempt:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        target, passage = self._target, self._passage
        if error is None:
            target.succeeded(self, passage)
            return
        if isinstance(error, ArgusError | TimeoutError):
            raise AttemptFailed(target.failed(self, passage, error, self._timeout_s)) from error
        if isinstance(error, Exception):  # a defect of ours; the target is not to blame, but its caller must see it
            target.ended(self, passage, "error", 0.0)
        else:
            target.ended(self, passage, "cancelled", None)


class Target:
    """See the module's text; the guard puts the stages in order.

    Args:
        on_wait: told how long a call waited for a place, and how long calls usually take, in seconds.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        settings: Settings,
        rates: Rates,
        recorder: Recorder,
        on_wait: Callable[[float, float], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = settings.name
        self.settings = settings
        self.times = Times(settings.hedge.quantile if settings.hedge else 0.95)
        self._hedges = Allowance(settings.hedge.max_extra if settings.hedge else 0.0)
        self._retries = RetryBudget(settings.retries.budget, settings.retry_floor_per_s)
        self._rates = rates
        self._recorder = recorder
        self._clock = clock
        self._breaker = Breaker(settings.breaker) if settings.breaker else None
        self._told: BreakerState = "closed"
        self._looking: asyncio.TimerHandle | None = None
        self._stretch = 1.0
        self._pace = asyncio.Lock()
        self._paced = 0
        self._room: Concurrency | None = None
        if settings.concurrency is not None:
            self._room = Concurrency(
                self.name,
                Gradient(*settings.concurrency),
                settings.max_waiting,
                lambda seconds: self._waited(seconds, on_wait),
                lambda limit, busy, waiting: recorder.concurrency(self.name, limit, busy, waiting),
                clock,
            )

    def bound(self, least: int, most: int) -> None:
        """Other bounds of the calls in progress, where there are any."""
        if self._room is not None:
            self._room.bound(least, most)

    @property
    def well(self) -> bool:
        """Its breaker is closed: it may be asked more than is needed."""
        return self._breaker is None or self._breaker.state(self._clock()) == "closed"

    @property
    def in_flight(self) -> int:
        """Calls in progress, where they are limited."""
        return self._room.in_flight if self._room else 0

    @property
    def waiting(self) -> int:
        """Calls that wait for a place or for their turn at a rate."""
        return self._paced + (self._room.waiting if self._room else 0)

    def called(self) -> None:
        """A call began."""
        self._retries.called(self._clock())
        self._hedges.called()

    def may_retry(self) -> bool:
        """Takes a retry from the budget, if there is one."""
        return self._retries.take(self._clock())

    def late_s(self) -> float | None:
        """Seconds after which a call is to be hedged; None where none is."""
        rules = self.settings.hedge
        return self.times.late_s() if rules is not None and self.times.count >= rules.min_samples else None

    def may_hedge(self) -> bool:
        """A call more would do no harm now, and the share of hedges allows it."""
        return self.well and (self._room is None or self._room.free) and self._hedges.take()

    def attempt_s(self, left_s: float, fallback: bool) -> float:
        """Seconds that an attempt may last: less than what is left where another way waits and times are known."""
        longest = min(left_s, self.settings.attempt_timeout_s)
        if not fallback or self.times.count < _MEASURED:
            return longest
        return min(longest, max(_LEAST_S, self._stretch * self.settings.patience * self.times.late_s()))

    async def passage(self, stake: Stake, context: RequestContext, tokens: int, fallback: bool) -> Passage:
        """Past the target's rates, its places and its breaker.

        Raises:
            ArgusError: one of them refuses. With `fallback`, neither a rate nor a rest is waited for.
        """
        if fallback and self._breaker is not None and self._breaker.state(self._clock()) in _SHUT:
            raise self._breaker_refuses(self._breaker)  # before the queue: there is another way to go
        await self._take_rates(context, tokens, fallback)
        place = None if self._room is None else await self._enter(self._room, context)
        try:
            ticket = await self._ticket(context, fallback)
        except BaseException:
            if self._room is not None:
                self._room.leave()
            raise
        return Passage(stake, ticket, place, self._leave)

    async def second_passage(self, stake: Stake, tokens: int) -> Passage | None:
        """The same for a hedge, which waits for nothing: None when anything stands against it."""
        if not self.well or (self._room is not None and not self._room.enter_if_free()):
            return None
        taken = False
        try:
            taken = await self._rates.take(*self._rates_of(tokens)) <= 0
        finally:
            if not taken and self._room is not None:
                self._room.leave()
        if not taken:
            return None
        return Passage(stake, self._breaker.admit(self._clock()) if self._breaker else None, None, self._leave)

    def attempt(self, passage: Passage, timeout_s: float) -> Attempt:
        """An attempt that begins now."""
        return Attempt(self, passage, timeout_s, self._clock())

    def succeeded(self, attempt: Attempt, passage: Passage) -> None:
        """For `Attempt`."""
        now = self._clock()
        seconds = now - attempt.began
        whole = attempt.answered_s is None  # a stream's time is its reader's as well
        if whole:
            self.times.add(seconds)
            self._stretch = max(1.0, self._stretch * _SHRINK)
        if passage.ticket is not None and self._breaker is not None:
            self._breaker.succeeded(passage.ticket, attempt.answered_s or seconds, now)
            passage.ticket = None
        if passage.place is not None and whole:
            passage.place.succeeded(seconds)
        self.ended(attempt, passage, "ok", None if attempt.usage is None else attempt.usage.usd)

    def failed(
        self, attempt: Attempt, passage: Passage, error: ArgusError | TimeoutError, timeout_s: float
    ) -> ArgusError:
        """For `Attempt`: the error as one of ours."""
        failure = error if isinstance(error, ArgusError) else self._too_late(timeout_s)
        outcome = failure_class(failure)
        self._blame(passage, failure, timeout_s)
        unsure = outcome == "timeout" or attempt.answered_s is not None
        usd = None if attempt.usage is None else attempt.usage.usd
        self.ended(attempt, passage, outcome, usd if unsure else 0.0)
        return failure

    def ended(self, attempt: Attempt, passage: Passage, outcome: str, usd: float | None) -> None:
        """For `Attempt`: it is over, at that cost."""
        passage.stake.end(usd)
        self._recorder.attempted(self.name, outcome, self._clock() - attempt.began)
        self._hand_in(passage)

    async def settle_tokens(self, charged: int, used: int) -> None:
        """Puts the tokens that were used in the place of those that were taken from the rate."""
        most = self.settings.per_minute[1]
        if most is not None:
            await self._rates.adjust(Rate(f"target/{self.name}/tokens", most, used - charged))

    def _blame(self, passage: Passage, error: ArgusError, timeout_s: float) -> None:
        kind = failure_class(error)
        # Who had less time than most calls take has shown nothing.
        hung = kind == "timeout" and timeout_s >= (self.times.late_s() if self.times.count >= _MEASURED else _FAIR_S)
        if hung:
            self._stretch = min(_MOST_STRETCH, self._stretch * (_STRETCH if self.well else _STRETCH_OF_PROBE))
        if passage.place is not None and (hung or kind == "rate_limited"):
            passage.place.dropped()
        if passage.ticket is None or self._breaker is None or isinstance(error, Cancelled):
            return
        ticket, passage.ticket, now = passage.ticket, None, self._clock()
        if kind == "rate_limited":
            self._breaker.rate_limited(ticket, error.retry_after_s, now)
        elif hung or kind in _ITS_OWN:
            self._breaker.failed(ticket, now)
        elif kind == "timeout":
            self._breaker.abandoned(ticket)
        else:  # it answered, if with a refusal
            self._breaker.succeeded(ticket, 0.0, now)

    def _leave(self, passage: Passage) -> None:
        self._hand_in(passage)
        if self._room is not None:
            self._room.leave()

    def _hand_in(self, passage: Passage) -> None:
        """A ticket that no outcome has used is given back."""
        if passage.ticket is not None and self._breaker is not None:
            self._breaker.abandoned(passage.ticket)
            passage.ticket = None
        if self._breaker is not None:
            self._tell_state(self._breaker)

    def _tell_state(self, breaker: Breaker) -> None:
        """Says what has changed; the end of a pause as well, which no call may come to see."""
        now = self._clock()
        state = breaker.state(now)
        if state != self._told:
            self._told = state
            self._recorder.breaker(self.name, state)
        if state in _SHUT and self._looking is None:
            loop = asyncio.get_running_loop()
            self._looking = loop.call_later(breaker.wait_s(now) + _AFTER_S, self._look_again, breaker)

    def _look_again(self, breaker: Breaker) -> None:
        self._looking = None
        self._tell_state(breaker)

    async def _enter(self, room: Concurrency, context: RequestContext) -> Place:
        try:
            return await room.enter(context.priority, context.remaining_s())
        except ArgusError:
            self._recorder.refused(self.name, "concurrency")
            raise

    async def _ticket(self, context: RequestContext, fallback: bool) -> int | None:
        """Past the breaker. A rest is waited for where there is no other way to go."""
        breaker = self._breaker
        if breaker is None:
            return None
        while (ticket := breaker.admit(self._clock())) is None:
            if not fallback and self.settings.breaker_needs_fallback:
                return None
            pause = max(_POLL_S, breaker.wait_s(self._clock()))
            if fallback or not breaker.resting or pause >= context.left_s():
                raise self._breaker_refuses(breaker)
            await asyncio.sleep(pause)
        return ticket

    def _breaker_refuses(self, breaker: Breaker) -> ArgusError:
        self._recorder.refused(self.name, "breaker")
        wait = max(_POLL_S, breaker.wait_s(self._clock()))
        if breaker.resting:
            return RateLimited(
                f"{self.name} asked for a rest, which is not over.", code="provider_rate_limited", retry_after_s=wait
            )
        return Unavailable(
            f"{self.name} has failed too often and is left alone for now.", code="breaker_open", retry_after_s=wait
        )

    async def _take_rates(self, context: RequestContext, tokens: int, fallback: bool) -> None:
        """In the order of arrival, so that a large call is not passed by small ones for ever."""
        rates = self._rates_of(tokens)
        if not rates:
            return
        if fallback or self._paced >= _MOST_PACED:
            self._refuse_rate(await self._rates.take(*rates))
            return
        self._paced += 1
        try:
            async with asyncio.timeout(context.remaining_s()), self._pace:
                while (wait := await self._rates.take(*rates)) > 0:
                    if wait >= context.left_s():
                        self._refuse_rate(wait)
                    await asyncio.sleep(wait)
        except TimeoutError:
            self._recorder.refused(self.name, "provider_limit")
            raise DeadlineExceeded(f"The deadline passed before {self.name}'s rate allowed the call.") from None
        finally:
            self._paced -= 1

    def _refuse_rate(self, wait: float) -> None:
        if wait > 0:
            self._recorder.refused(self.name, "provider_limit")
            raise RateLimited(
                f"The rate of calls or tokens of {self.name} is used up.",
                code="provider_rate_limited",
                retry_after_s=wait,
            )

    def _rates_of(self, tokens: int) -> tuple[Rate, ...]:
        calls, most_tokens = self.settings.per_minute
        rates = []
        if calls is not None:
            rates.append(Rate(f"target/{self.name}/calls", calls, 1))
        if most_tokens is not None:
            rates.append(Rate(f"target/{self.name}/tokens", most_tokens, max(1, tokens)))
        return tuple(rates)

    def _waited(self, seconds: float, on_wait: Callable[[float, float], None]) -> None:
        self._recorder.waited(self.name, seconds)
        on_wait(seconds, self._room.usual_s if self._room else 0.0)

    def _too_late(self, timeout_s: float) -> DeadlineExceeded:
        return DeadlineExceeded(f"{self.name} did not answer within {timeout_s:.3g} s.")
