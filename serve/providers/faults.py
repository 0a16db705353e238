"""What goes wrong with a provider, as our errors. No message holds a key, or anything that a client must not see."""

from __future__ import annotations

import email.utils
import math
from collections.abc import Mapping

from serve.errors import (
    ArgusError,
    ContentRefused,
    ContextTooLong,
    Forbidden,
    InvalidRequest,
    NotFound,
    RateLimited,
    Unavailable,
)

# A provider's error text is shown up to here.
_MOST_CHARS = 300
# No provider's word makes us wait longer than this.
_MOST_WAIT_S = 3600.0
# Codes and types under which providers refuse content and lengths; see each provider's module for its source.
_REFUSALS = frozenset({"content_filter", "content_policy_violation", "invalid_prompt", "moderation_blocked"})
_TOO_LONG = frozenset({"context_length_exceeded", "string_above_max_length", "request_too_large"})
_TOO_LONG_WORDS = (
    "maximum context length",  # OpenAI and vLLM
    "prompt is too long",  # Anthropic
    "exceed context limit",  # Anthropic: input length and max_tokens exceed context limit
    "exceeds the maximum number of tokens",  # Gemini
)


class Secret:
    """A key that shows itself only when asked: neither repr, str nor a log line of its holder tells it."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The key."""
        return self._value

    def hide_in(self, text: str) -> str:
        """The text with the key blotted out, whole or in part: providers repeat the first and last characters."""
        value = self._value
        if len(value) < 8:
            return text.replace(value, "***") if value else text
        for piece in (value, value[:-4], value[4:], value[:8], value[-8:]):
            text = text.replace(piece, "***")
        return text

    def __repr__(self) -> str:
        return "Secret('***')"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a secret does not travel")


def retry_after_s(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds after which a provider wants to be asked again, if it says so.

    `retry-after-ms` (OpenAI) goes before `Retry-After`, which is seconds or an HTTP date (RFC 9110, section 10.2.3).

    Args:
        headers: of the response, looked up without regard to case.
        now: Unix time in seconds.
    """
    lower = {name.lower(): value for name, value in headers.items()}
    if (milliseconds := _number(lower.get("retry-after-ms"))) is not None:
        return _bounded(milliseconds / 1000)
    given = lower.get("retry-after")
    if (seconds := _number(given)) is not None:
        return _bounded(seconds)
    if given is None:
        return None
    try:
        return _bounded(email.utils.parsedate_to_datetime(given).timestamp() - now)
    except (ValueError, TypeError, OverflowError):
        return None


def duration_s(text: object) -> float | None:
    """Seconds of a protobuf Duration in JSON, such as `34.5s`, which Gemini's RetryInfo holds."""
    seconds = _number(text[:-1]) if isinstance(text, str) and text.endswith("s") else None
    return None if seconds is None else _bounded(seconds)


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text is not None else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _bounded(seconds: float) -> float:
    return min(_MOST_WAIT_S, max(0.0, seconds))


def error_of(
    provider: str,
    status: int,
    message: str,
    *,
    code: str | None = None,
    retry_after: float | None = None,
) -> ArgusError:
    """The error for a provider's error answer.

    Args:
        provider: its name in the cluster file.
        status: HTTP status.
        message: the provider's words, from which its key has been taken.
        code: the provider's machine code, if it gives one.
    """
    said = " ".join(message.split())[:_MOST_CHARS]
    lower = said.lower()
    if status in (401, 403):
        return Forbidden(f"{provider} does not take our key.", code="provider_refused_key")
    if code in _REFUSALS:
        return ContentRefused(f"{provider} refused the content: {said}")
    if code in _TOO_LONG or (status in (400, 413, 422) and any(words in lower for words in _TOO_LONG_WORDS)):
        return ContextTooLong(f"{provider}: the prompt is too long: {said}")
    if status == 429:
        if code == "insufficient_quota":  # OpenAI: the account's money, which no waiting brings back
            return Unavailable(f"{provider}: the account's quota is used up.", code="provider_quota")
        return RateLimited(f"{provider} limits our rate.", code="provider_rate_limited", retry_after_s=retry_after)
    if status == 404:
        return NotFound(f"{provider} does not know what was asked for: {said}", code="provider_not_found")
    if status in (408, 409) or status >= 500:
        return Unavailable(f"{provider} failed with status {status}.", retry_after_s=retry_after)
    if 400 <= status < 500:
        return InvalidRequest(f"{provider} refused the request: {said}", code="provider_refused_request")
    return Unavailable(f"{provider} answered with status {status}.")


def lost(provider: str) -> Unavailable:
    """The connection could not be made, or was lost."""
    return Unavailable(f"{provider} cannot be reached.")


def unreadable(provider: str) -> Unavailable:
    """What came is no answer of this API."""
    return Unavailable(f"{provider} sent something that cannot be read.")


def refused(provider: str, why: str) -> ContentRefused:
    """The provider's policy refused the prompt or stopped the answer."""
    return ContentRefused(f"{provider} refused the content: {' '.join(why.split())[:_MOST_CHARS]}")
