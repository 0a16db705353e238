"""What a workload implements: how one request is sent and checked. When it is sent is not its business.

A workload's file defines one subclass:

    class Classification(OpenLoopUser):
        def prepare(self) -> None:
            self.pictures = ...

        def send(self, due: Due) -> Answer:
            body = self.accept(self.http.post("/v1/classify", json=...))
            return Answer("classify", path=body["model"])

It runs by `argus load`, and by `locust -f FILE --host URL`.
"""

from __future__ import annotations

from functools import cached_property
from itertools import cycle
from typing import TYPE_CHECKING, Any, ClassVar

import gevent

from benchmarks.loadtest.locust_api import FastHttpSession, FastHttpUser, task
from benchmarks.loadtest.request import Answer, Due, Failed

if TYPE_CHECKING:
    from collections.abc import Iterator

    import grpc

__all__ = ["Answer", "Due", "Failed", "OpenLoopUser"]


# Kind of a request of which nothing else is known.
UNKNOWN = "request"
# HAProxy, in front of a cluster, lets one HTTP/2 connection have as many streams (h2_fe_max_concurrent_streams).
_CALLS_A_CONNECTION = 100


class _Silent:
    """Locust's event of a request, for a session whose requests are booked by the engine."""

    def fire(self, **_event: Any) -> None:
        """Nothing: the engine knows when the request should have been sent, the session does not."""


class OpenLoopUser(FastHttpUser):
    """Sends requests for the engine, which calls `send` at each one's intended time whatever the others do.

    One instance a process sends all of them, many at a time, each in a greenlet of its own. Those that Locust counts as
    users stand for one scheduled request a second each, so that its web interface shows the schedule; they do nothing.

    Attributes:
        http: keep-alive client of the target. Its requests are not booked as Locust's own.
        grpc_target: `host:port` of the target's gRPC server; empty when the run has none. With an `https` host its
            connections have TLS as well.
        truth: whether it knows which answers are right and which requests escalate, not their form alone; `prepare` may
            set it.
        key: API key; sent with every HTTP request as `X-API-Key`.
        max_in_flight: requests of this process that may be in progress.
    """

    abstract = True
    grpc_target: ClassVar[str] = ""
    key: ClassVar[str | None] = None
    truth: bool = True
    max_in_flight: ClassVar[int] = 2000
    network_timeout = 120.0
    connection_timeout = 10.0

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        # Only a file that defines a user needs the engine, and the engine needs this module first.
        from benchmarks.loadtest.hooks import register

        register()

    def prepare(self) -> None:
        """Is called once a process, before the clock starts: builds indexes and pictures."""

    def kind(self, due: Due) -> str:
        """Kind under which a request is booked that failed; a workload with several overrides it."""
        return UNKNOWN

    def send(self, due: Due) -> Answer:
        """Sends one request and checks its answer; blocks its greenlet only.

        Raises:
            Failed: it was refused, or the answer is wrong. Any other exception is a failure under its class's name.
        """
        raise NotImplementedError

    @cached_property
    def http(self) -> FastHttpSession:
        """See the class.

        Its library (geventhttpclient) sends a GET or PUT again when the server closes the connection without an answer,
        as it may a kept one that it tired of; a POST it never does. Requests that are measured should be POSTs.
        """
        return FastHttpSession(
            base_url=self.host,
            request_event=_Silent(),
            user=None,
            concurrency=self.max_in_flight,
            network_timeout=self.network_timeout,
            connection_timeout=self.connection_timeout,
            max_redirects=0,
            max_retries=0,
            insecure=False,
            headers={"X-API-Key": self.key} if self.key else None,
        )

    @property
    def grpc(self) -> Any:
        """Stub of the Open Inference Protocol (`GRPCInferenceServiceStub`); each use takes the next connection in turn.

        Raises:
            Failed: the run has no gRPC target.
        """
        return next(self._stubs)

    @cached_property
    def _stubs(self) -> Iterator[Any]:
        """A stub for every `_CALLS_A_CONNECTION` requests that may be in progress, round and round.

        A stub connects at its first call.
        """
        if not self.grpc_target:
            raise Failed("no_grpc_target", "the workload sends over gRPC; give --grpc HOST:PORT")
        import grpc.experimental.gevent as grpc_gevent
        from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

        grpc_gevent.init_gevent()
        count = -(-self.max_in_flight // _CALLS_A_CONNECTION)
        return cycle([GRPCInferenceServiceStub(self._channel()) for _ in range(count)])

    def _channel(self) -> grpc.Channel:
        import grpc

        # Channels of one target share their connections unless each has a pool of its own.
        options = [
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
            ("grpc.use_local_subchannel_pool", 1),
        ]
        if (self.host or "").startswith("https://"):
            return grpc.secure_channel(self.grpc_target, grpc.ssl_channel_credentials(), options=options)
        return grpc.insecure_channel(self.grpc_target, options=options)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """The API key, for a gRPC call."""
        return (("x-api-key", self.key),) if self.key else ()

    def accept(self, response: Any) -> Any:
        """The JSON of a successful response.

        Raises:
            Failed: the server's own code, `http_STATUS` where it gave none, or the connection's error.
        """
        if response.status_code == 0:
            raise Failed(type(response.error).__name__, str(response.error))
        if response.status_code >= 400:
            raise Failed(*_refusal(response))
        try:
            return response.json()
        except ValueError:
            raise Failed("not_json", f"the answer is not JSON: {response.content[:80]!r}") from None

    @task
    def stay(self) -> None:
        """What the users do that Locust counts."""
        gevent.sleep(3600)


def _refusal(response: Any) -> tuple[str, str]:
    """Code and message of an error, as Argus and the Open Inference Protocol write it."""
    status = f"http_{response.status_code}"
    try:
        body = response.json()
    except ValueError:
        return status, f"HTTP {response.status_code}"
    error = body.get("error") if isinstance(body, dict) else None
    if isinstance(error, dict):
        return str(error.get("code") or status), str(error.get("message") or status)
    return str(body.get("code") or status) if isinstance(body, dict) else status, str(error or status)
