"""Errors of jobs as they are stored, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from deployments.jobs.types import Failure
from serve import errors
from serve.errors import ArgusError, DeadlineExceeded


def stored(error: ArgusError) -> Failure:
    """What is kept of an error."""
    return Failure(type(error).__name__, error.code, error.message, error.param)


def kept(error: ArgusError) -> dict[str, Any]:
    """The same, within a finished part of a job."""
    return asdict(stored(error))


def raise_if_all(failures: Sequence[Mapping[str, Any] | None]) -> None:
    """See `serve.errors.raise_if_all_failed`: of the parts of a job, some of them perhaps from an earlier attempt.

    Args:
        failures: what was kept of each part's error; None where it has none.

    Raises:
        ArgusError: the first one's error.
    """
    first = next(iter(failures), None)
    if first is not None and all(failures):
        raise restored(Failure(**first))


def restored(failure: Failure) -> ArgusError:
    """The error again; one of a class that is no more is an internal one."""
    kind = getattr(errors, failure.kind, None)
    if not (isinstance(kind, type) and issubclass(kind, ArgusError)):
        kind = ArgusError
    return kind(failure.message, code=failure.code, param=failure.param)


def retry_after_s(error: ArgusError, left_s: float) -> float | None:
    """Seconds after which another attempt at the job can succeed, at least; None when none can.

    Args:
        left_s: of the attempt's own time. A model that is late can be asked again, a job that is late is too long.
    """
    if error.retryable or (isinstance(error, DeadlineExceeded) and left_s > 0):
        return error.retry_after_s or 0.0
    return None
