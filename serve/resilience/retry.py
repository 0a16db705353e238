"""When a failed call is worth another attempt: a pure decision, taken in the router only."""

from __future__ import annotations

from serve.config.resilience import Retries
from serve.errors import ArgusError, Unavailable
from serve.resilience.failures import failure_class

_RULES = Retries()
ATTEMPTS = _RULES.attempts
# What others host is worth asking again also when it was busy, after the time that it named, or did not answer.
_WORTH_ASKING_OTHERS = frozenset({"unavailable", "rate_limited", "timeout"})


def pause_before_retry(
    error: ArgusError, attempt: int, left_s: float, jitter: float, *, rules: Retries = _RULES, ours: bool = True
) -> float | None:
    """Seconds to wait before attempt `attempt + 1`, or None when there should be none.

    Exponential backoff with full jitter (Brooker 2015, "Exponential Backoff And Jitter", AWS Architecture Blog), above
    what the failed side asked for. Of ours, only what was not there is tried again: a queue that was full, tried again
    at once, would be fuller, and its client is told when to return.

    Args:
        attempt: the one that failed, from 1.
        left_s: seconds until the request's deadline.
        jitter: uniform in [0, 1).
        ours: the call went to a deployment of this cluster.
    """
    worth = isinstance(error, Unavailable) if ours else failure_class(error) in _WORTH_ASKING_OTHERS
    if not worth or attempt >= rules.attempts:
        return None
    backoff = min(rules.max_pause_s, rules.first_pause_s * 2 ** (attempt - 1))
    pause = (error.retry_after_s or 0.0) + jitter * backoff
    return pause if pause < left_s else None
