"""A Redis that router replicas share, and that no request depends on.

Every question is asked within a few milliseconds (of money: a second, since what it allows lasts longer than that) or
not at all: after some failures in a row a breaker leaves Redis alone for a while, and whoever asks goes on with what
this replica knows by itself.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from serve.config.resilience import Breaker as Rules
from serve.config.resilience import Redis as RedisSettings
from serve.resilience.breaker import Breaker
from serve.resilience.recorder import Recorder

T = TypeVar("T")

_CONNECTIONS = 32
_PATIENT_S = 1.0
_RULES = Rules(window_s=5, min_calls=3, failure_rate=0.5, open_s=2, probes=1)


class NotShared(Exception):
    """Redis did not answer; what is asked of it is to be answered from memory."""


class SharedStore:
    """See the module's text.

    Args:
        prefix: of every key.
        timeout_s: longest that a question may last.
    """

    def __init__(
        self,
        client: Redis,
        prefix: str,
        timeout_s: float,
        recorder: Recorder,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._prefix = prefix
        self._timeout_s = timeout_s
        self._recorder = recorder
        self._clock = clock
        self._breaker = Breaker(_RULES)

    def patient(self) -> SharedStore:
        """The same store for questions that are worth waiting a second for; its failures are counted apart."""
        return SharedStore(self._client, self._prefix, max(_PATIENT_S, self._timeout_s), self._recorder, self._clock)

    def key(self, *parts: str) -> str:
        """A key of this cluster."""
        return ":".join((self._prefix, *parts))

    def script(self, lua: str) -> Any:
        """A Lua script that is called with `keys` and `args`; Redis runs it as one step."""
        return self._client.register_script(lua)

    async def ask(self, question: Callable[[Redis], Awaitable[T]]) -> T:
        """What Redis answers.

        Raises:
            NotShared: it did not, in time.
        """
        ticket = self._breaker.admit(self._clock())
        if ticket is None:
            raise NotShared
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await question(self._client)
        except (RedisError, OSError, TimeoutError) as error:
            self._breaker.failed(ticket, self._clock())
            self._recorder.shared_store(False)
            raise NotShared from error
        except BaseException:
            self._breaker.abandoned(ticket)
            raise
        self._breaker.succeeded(ticket, 0.0, self._clock())
        self._recorder.shared_store(True)
        return answer

    async def close(self) -> None:
        """Lets connections go."""
        await self._client.aclose(close_connection_pool=True)


def connect(settings: RedisSettings, cluster: str, recorder: Recorder) -> SharedStore:
    """A store over the configured Redis; nothing is sent before the first question."""
    timeout_s = settings.timeout_ms / 1e3
    password = os.environ.get(settings.password_env) if settings.password_env else None
    pool = BlockingConnectionPool.from_url(
        settings.url,
        password=password,
        max_connections=_CONNECTIONS,
        timeout=max(_PATIENT_S, timeout_s),
        socket_timeout=max(_PATIENT_S, timeout_s),
        socket_connect_timeout=max(_PATIENT_S, timeout_s),
        retry=Retry(NoBackoff(), 0),
    )
    return SharedStore(Redis(connection_pool=pool), f"argus:{cluster}", timeout_s, recorder)
