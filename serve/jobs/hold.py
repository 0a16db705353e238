"""A job in the hands of a worker: its signs of life, its finished parts, and how it ends.

The store may be away for a while, as when its replica is replaced: what must be stored waits for it.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Any, Final, Literal

import orjson

from deployments.jobs.types import Claim, Progress
from serve.context import RequestContext
from serve.errors import ArgusError, DeadlineExceeded, PayloadTooLarge
from serve.jobs.failures import stored
from serve.request_log import log
from serve.stores import StoreClient

# Least seconds between signs of life, when there is news.
_GAP_S: Final = 0.2
# Seconds in which the store answers one call, when it is there.
_STORE_S: Final = 10.0
# Seconds for giving a job back; after that its lease ends it.
_FAREWELL_S: Final = 5.0

Stop = Literal["cancelled", "lost"]


class Hold:
    """See the module's text.

    Args:
        claim: what the store gave.
        lease_s: seconds that a sign of life lasts.
        max_bytes: largest part, and largest result.
    """

    def __init__(self, store: StoreClient, claim: Claim, lease_s: float, max_bytes: int) -> None:
        self._store = store
        self._job_id, self._token = claim.job.id, claim.token
        self._lease_s = lease_s
        self._max_bytes = max_bytes
        self._progress = claim.job.progress
        self._news = asyncio.Event()

    async def report(self, progress: Progress, key: str | None = None, value: Any = None) -> None:
        """See `serve.jobs.operation.Report`.

        Raises:
            ArgusError: the part could not be stored; the attempt is over.
        """
        self._progress = progress
        if key is None:
            self._news.set()
        else:
            await self._persist("checkpoint", self._lease_s, key, self._json(value), progress)

    async def watch(self, beat_s: float) -> Stop:
        """Sends signs of life, one each `beat_s` seconds, until the job is to end, or is no longer ours."""
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), beat_s)
            self._news.clear()
            try:
                if await self._call("beat", self._lease_s, self._progress):
                    return "cancelled"
            except ArgusError as error:
                if not _may_pass(error):
                    return "lost"
            await asyncio.sleep(_GAP_S)

    async def finish(self, result: Any) -> None:
        """The job has succeeded.

        Raises:
            ArgusError: its result could not be stored.
        """
        await self._persist("finish", self._json(result))

    async def fail(self, error: ArgusError, retry_after_s: float | None) -> None:
        """The attempt has failed; see `deployments.jobs.rules.after_failure`."""
        await self._part("fail", stored(error), retry_after_s)

    async def give_back(self) -> None:
        """The attempt ends without a verdict on it: another worker may go on, unless the job is to end."""
        await self._part("release")

    async def _part(self, method: str, *args: Any) -> None:
        """The store's last word from us; without it, it takes the job back when the lease passes."""
        try:
            await self._call(method, *args, within_s=_FAREWELL_S)
        except ArgusError as error:
            if _may_pass(error):
                log.warning("a job was not given back", extra={"request_id": self._job_id, "error": error.message})

    async def _persist(self, method: str, *args: Any) -> None:
        """Waits for a store that is away, for as long as the lease."""
        until = time.monotonic() + max(self._lease_s, _STORE_S)
        while True:
            try:
                await self._call(method, *args)
                return
            except ArgusError as error:
                if not _may_pass(error) or time.monotonic() >= until:
                    raise
            await asyncio.sleep(_GAP_S)

    async def _call(self, method: str, *args: Any, within_s: float = _STORE_S) -> Any:
        context = RequestContext(self._job_id, "", time.monotonic() + within_s)
        return await self._store.call(method, context, self._job_id, self._token, *args)

    def _json(self, value: Any) -> bytes:
        data = orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
        if len(data) > self._max_bytes:
            raise PayloadTooLarge(
                f"The result, or a part of it, has {len(data):,} bytes; at most {self._max_bytes:,} are kept.",
                code="result_too_large",
            )
        return data


def _may_pass(error: ArgusError) -> bool:
    """Whether the store is away or busy, rather than telling us something."""
    return error.retryable or isinstance(error, DeadlineExceeded)
