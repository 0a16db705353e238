"""What a job can be: a service's work, in parts that can be kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from deployments.jobs.types import Progress
from serve.context import RequestContext
from serve.media.source import MediaBytes


@dataclass(frozen=True, slots=True)
class JobInput:
    """A request that has been checked.

    Attributes:
        fields: what JSON can hold.
        media: files, fetched and checked, so that what is named by URL cannot change until the job runs.
        makes, insists: see `deployments.jobs.types.NewJob`; of no meaning to a job that runs.
    """

    fields: Mapping[str, Any]
    media: tuple[bytes, ...] = ()
    makes: str | None = None
    insists: bool = False


class Report(Protocol):
    """Is told of progress, and given each finished part of the result to keep."""

    async def __call__(self, progress: Progress, key: str | None = None, value: Any = None) -> None:
        """Returns when the part is on disk.

        Args:
            key: of the part, the same in every run over the same input; None when there is none to keep.
            value: the part, as JSON can hold it.
        """
        ...


class Operation(Protocol):
    """One kind of job."""

    async def admit(
        self, fields: Mapping[str, Any], files: Sequence[tuple[str, MediaBytes]], context: RequestContext
    ) -> JobInput:
        """Checks a request as its own route would.

        Args:
            fields: the body of the route, which may name media.
            files: files beside it, by the names of their fields.

        Raises:
            ArgusError: what is wrong with it.
        """
        ...

    async def run(
        self, given: JobInput, context: RequestContext, report: Report, done: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The body that the route would answer with, without its `request_id`. Cancelling it ends all work below.

        Args:
            done: parts that an earlier run kept, which are not worked out again.

        Raises:
            ArgusError: it failed.
        """
        ...
