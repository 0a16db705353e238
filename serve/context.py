"""What is known of a request once it has passed the edge."""

from __future__ import annotations

import math
import re
import secrets
import time
from dataclasses import dataclass

from deployments.messages import Call
from serve import tracing
from serve.config.cluster import Limits
from serve.config.overload import Priority
from serve.errors import DeadlineExceeded, InvalidRequest

_REQUEST_ID = re.compile(r"[!-~](?:[ -~]{0,198}[!-~])?")


@dataclass(frozen=True, slots=True)
class RequestContext:
    """Travels with a request through the data plane.

    Attributes:
        request_id: the client's `X-Request-ID`, or ours.
        client: name of the API key, `anonymous` without keys.
        deadline: on `time.monotonic()`, in seconds.
        priority: its class: who goes first when there is more than can be done.
    """

    request_id: str
    client: str
    deadline: float
    priority: Priority = "normal"

    def left_s(self) -> float:
        """Seconds left, 0 when the deadline has passed."""
        return max(0.0, self.deadline - time.monotonic())

    def remaining_s(self) -> float:
        """Seconds left.

        Raises:
            DeadlineExceeded: none are left.
        """
        left = self.left_s()
        if left <= 0:
            raise DeadlineExceeded("The deadline passed.")
        return left

    def call(self) -> Call:
        """What is sent along to a model."""
        return Call(self.request_id, self.remaining_s(), tracing.traceparent())


def request_id_from(given: str | None) -> str:
    """The client's id if it is printable ASCII of a bearable length, else a fresh one."""
    if given is not None and _REQUEST_ID.fullmatch(given):
        return given
    return secrets.token_hex(16)


def deadline_from(timeout_s: float | None, limits: Limits, now: float) -> float:
    """Absolute deadline: the client's wish, at most the configured maximum, else the default.

    Raises:
        DeadlineExceeded: the client's time had passed before the request arrived.
    """
    if timeout_s is None:
        return now + limits.default_timeout_s
    if timeout_s <= 0:
        raise DeadlineExceeded("The deadline had passed when the request arrived.")
    return now + min(timeout_s, limits.max_timeout_s)


def parse_timeout_ms(text: str, name: str) -> float:
    """Seconds from a header that states milliseconds.

    Raises:
        InvalidRequest: not a number above 0.
    """
    try:
        milliseconds = float(text)
    except ValueError:
        milliseconds = math.nan
    if not 0 < milliseconds < math.inf:
        raise InvalidRequest(f"{name} is {text[:40]!r}; it must be a number of milliseconds above 0.", param=name)
    return milliseconds / 1e3
