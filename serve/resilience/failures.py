"""What kind of failure an error is, for fallback chains and breakers: a pure mapping."""

from __future__ import annotations

from typing import Literal

from serve.errors import (
    ArgusError,
    BudgetExceeded,
    ContentRefused,
    ContextTooLong,
    DeadlineExceeded,
    InvalidOutput,
    InvalidRequest,
    ModelFailed,
    Overloaded,
    Unavailable,
)

FailureClass = Literal[
    "rate_limited",
    "unavailable",
    "timeout",
    "refused",
    "context_too_long",
    "invalid_output",
    "over_budget",
    "invalid_request",
    "other",
]

# First match wins: subclasses stand before their bases.
_CLASSES: tuple[tuple[type[ArgusError], FailureClass], ...] = (
    (BudgetExceeded, "over_budget"),
    (Overloaded, "rate_limited"),
    (Unavailable, "unavailable"),
    (DeadlineExceeded, "timeout"),
    (ContentRefused, "refused"),
    (ContextTooLong, "context_too_long"),
    (InvalidRequest, "invalid_request"),
    (InvalidOutput, "invalid_output"),
    (ModelFailed, "unavailable"),
)


def failure_class(error: ArgusError) -> FailureClass:
    """See the module's text."""
    if error.code == ContextTooLong.default_code:  # engines say it in their own words
        return "context_too_long"
    return next((kind for error_type, kind in _CLASSES if isinstance(error, error_type)), "other")
