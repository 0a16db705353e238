"""A circuit breaker: a target that keeps failing, or keeps being slow, is left alone for a while.

A state machine over (calls, now), with no clock and no I/O of its own. The states are Nygard's ("Release It!", 2007);
judging slow calls beside failed ones, over a window of time with a least number of calls, is Resilience4j's rule. A few
failures in a row open it as well (Envoy's `consecutive_5xx`): a target that was well until now is not tried until its
failures outnumber its past.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from serve.config.resilience import Breaker as Rules
from serve.resilience.recorder import BreakerState

_BUCKETS = 10


@dataclass(slots=True)
class _Bucket:
    start: float
    calls: int = 0
    failures: int = 0
    slow: int = 0


class Breaker:
    """One target's breaker.

    Every call that `admit` lets pass ends in exactly one of `succeeded`, `failed`, `rate_limited`, `abandoned`, with
    the ticket that `admit` gave.
    """

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._buckets: deque[_Bucket] = deque()
        self._open_until: float | None = None
        self._probing = 0
        self._successes = 0
        self._period = 0
        self._resting = False
        self._in_a_row = 0

    @property
    def resting(self) -> bool:
        """It opened because of a 429: the target is well, and asked for a pause."""
        return self._resting and self._open_until is not None

    def state(self, now: float) -> BreakerState:
        """What it would do now."""
        if self._open_until is None:
            return "closed"
        if now >= self._open_until:
            return "half_open"
        return "resting" if self._resting else "open"

    def wait_s(self, now: float) -> float:
        """Seconds until it lets a probe pass; 0 when it would now."""
        return max(0.0, (self._open_until or now) - now)

    def admit(self, now: float) -> int | None:
        """A ticket for a call, or None when the call should not be made."""
        state = self.state(now)
        if state in ("open", "resting"):
            return None
        if state == "half_open":
            if self._probing >= self._rules.probes:
                return None
            self._probing += 1
        return self._period

    def succeeded(self, ticket: int, seconds: float, now: float) -> None:
        """An admitted call was answered, if only with a refusal of what it asked for."""
        slow = self._rules.slow_call_s is not None and seconds >= self._rules.slow_call_s
        self._ended(ticket, now, failed=False, slow=slow)

    def failed(self, ticket: int, now: float) -> None:
        """An admitted call failed for a reason that is the target's."""
        self._ended(ticket, now, failed=True, slow=False)

    def rate_limited(self, ticket: int, retry_after_s: float | None, now: float) -> None:
        """An admitted call met a 429: the target is well and wants a rest, of a second when it names none."""
        rest = min(1.0 if retry_after_s is None else retry_after_s, self._rules.max_cool_down_s)
        if ticket == self._period and rest > 0:
            self._open(now, rest)
            self._resting = True
        elif ticket == self._period:
            self._ended(ticket, now, failed=False, slow=False)

    def abandoned(self, ticket: int) -> None:
        """An admitted call was cancelled, or ended for a reason that says nothing of the target."""
        if ticket == self._period and self._open_until is not None:
            self._probing -= 1

    def _ended(self, ticket: int, now: float, *, failed: bool, slow: bool) -> None:
        if ticket != self._period:
            return  # began before the state last changed: news of another time
        if self._open_until is not None:
            self._probed(now, ill=failed or slow)
            return
        bucket = self._bucket(now)
        bucket.calls += 1
        bucket.failures += failed
        bucket.slow += slow
        self._in_a_row = self._in_a_row + 1 if failed else 0
        self._judge(now)

    def _probed(self, now: float, *, ill: bool) -> None:
        self._probing -= 1
        if ill:
            self._open(now, self._rules.open_s)
            return
        self._successes += 1
        if self._successes >= self._rules.probes:
            self._open_until = None
            self._reset()

    def _judge(self, now: float) -> None:
        if self._in_a_row >= self._rules.failures_in_a_row:
            self._open(now, self._rules.open_s)
            return
        calls = sum(bucket.calls for bucket in self._buckets)
        if calls < self._rules.min_calls:
            return
        failures = sum(bucket.failures for bucket in self._buckets)
        slow = sum(bucket.slow for bucket in self._buckets)
        if failures >= self._rules.failure_rate * calls or slow >= self._rules.slow_rate * calls:
            self._open(now, self._rules.open_s)

    def _open(self, now: float, seconds: float) -> None:
        self._open_until = now + seconds
        self._resting = False
        self._reset()

    def _reset(self) -> None:
        self._period += 1
        self._probing = self._successes = self._in_a_row = 0
        self._buckets.clear()

    def _bucket(self, now: float) -> _Bucket:
        """The newest bucket, after those that have left the window are dropped."""
        width = self._rules.window_s / _BUCKETS
        while self._buckets and self._buckets[0].start <= now - self._rules.window_s:
            self._buckets.popleft()
        if not self._buckets or now - self._buckets[-1].start >= width:
            self._buckets.append(_Bucket(now))
        return self._buckets[-1]
