"""Whether another attempt is worth it."""

from __future__ import annotations

import pytest

from serve.errors import DeadlineExceeded, InvalidRequest, ModelFailed, Overloaded, Unavailable
from serve.resilience.retry import ATTEMPTS, pause_before_retry


@pytest.mark.parametrize("error", [InvalidRequest("x"), ModelFailed("x"), DeadlineExceeded("x"), Overloaded("x")])
def test_what_was_there_is_not_asked_again(error: Exception) -> None:
    assert pause_before_retry(error, 1, 100.0, 0.5) is None  # type: ignore[arg-type]


def test_pauses_grow_and_keep_what_the_server_asked_for() -> None:
    gone = Unavailable("x", retry_after_s=1.0)
    pauses = [pause_before_retry(gone, attempt, 100.0, 0.5) for attempt in range(1, ATTEMPTS)]
    assert pauses == pytest.approx([1.05, 1.1, 1.2])
    assert pause_before_retry(gone, ATTEMPTS, 100.0, 0.5) is None


def test_no_attempt_that_would_start_after_the_deadline() -> None:
    gone = Unavailable("x", retry_after_s=1.0)
    assert pause_before_retry(gone, 1, 1.01, 0.5) is None
    assert pause_before_retry(gone, 1, 1.06, 0.5) is not None
