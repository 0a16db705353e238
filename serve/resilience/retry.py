"""When a failed call is worth another attempt: a pure decision, taken in the router only."""

from __future__ import annotations

from serve.errors import ArgusError, Unavailable

# First pause before another attempt, and the longest one, in seconds.
_FIRST_S, _LONGEST_S = 0.1, 2.0
ATTEMPTS = 4


def pause_before_retry(error: ArgusError, attempt: int, left_s: float, jitter: float) -> float | None:
    """Seconds to wait before attempt `attempt + 1`, or None when there should be none.

    Exponential backoff with full jitter (Brooker 2015, "Exponential Backoff And Jitter", AWS Architecture Blog), above
    what the failed side asked for. Only what was not there is tried again: a queue that was full, tried again at once,
    would be fuller, and its client is told when to return.

    Args:
        attempt: the one that failed, from 1.
        left_s: seconds until the request's deadline.
        jitter: uniform in [0, 1).
    """
    if not isinstance(error, Unavailable) or attempt >= ATTEMPTS:
        return None
    pause = (error.retry_after_s or 0.0) + jitter * min(_LONGEST_S, _FIRST_S * 2 ** (attempt - 1))
    return pause if pause < left_s else None
