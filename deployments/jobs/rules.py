"""What becomes of a job whose attempt ended without a result: pure functions of what is known and the time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from deployments.jobs.types import Failure

ABANDONED = "job_abandoned"


@dataclass(frozen=True, slots=True)
class Rules:
    """How often, and after how long, a job is tried again.

    Attributes:
        max_attempts: attempts in a row that finish no chunk, after which the job fails.
        first_pause_s: longest pause after the first of them; doubles with each.
        max_pause_s: longest pause, above what the failed side asked for.
        max_asked_s: longest time that the failed side may ask for; a job that would wait longer fails at once.
    """

    max_attempts: int = 5
    first_pause_s: float = 1.0
    max_pause_s: float = 60.0
    max_asked_s: float = 3600.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of it.

    Attributes:
        ready_at: before which a queued job is not begun.
    """

    state: Literal["queued", "failed", "cancelled"]
    ready_at: float
    failure: Failure | None


def after_failure(
    failure: Failure, fruitless: int, now: float, rules: Rules, *, retry_after_s: float | None, jitter: float
) -> Verdict:
    """An attempt failed. Exponential backoff with full jitter, as for calls (serve/resilience/retry.py).

    Args:
        fruitless: attempts in a row that finished no chunk, this one included; 0 when it finished one.
        retry_after_s: seconds that the failed side asked for; None when a further attempt is in vain.
        jitter: uniform in [0, 1).
    """
    if retry_after_s is None or fruitless >= rules.max_attempts or retry_after_s > rules.max_asked_s:
        return Verdict("failed", now, failure)
    backoff = min(rules.max_pause_s, rules.first_pause_s * 2 ** max(0, fruitless - 1))
    return Verdict("queued", now + retry_after_s + jitter * backoff, failure)


def after_lost_lease(cancelling: bool, fruitless: int, now: float, rules: Rules) -> Verdict:
    """Its worker went silent: it died, or the whole application did.

    Args:
        fruitless: see `after_failure`.
    """
    if cancelling:
        return Verdict("cancelled", now, None)
    if fruitless >= rules.max_attempts:
        why = f"The worker died, or lost its connection, in {fruitless} attempts one after the other."
        return Verdict("failed", now, Failure("ModelFailed", ABANDONED, why))
    return Verdict("queued", now, None)
