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
from typing import TYPE_CHECKING, Any, ClassVar

import gevent

from benchmarks.loadtest.locust_api import FastHttpSession, FastHttpUser, task
from benchmarks.loadtest.request import Answer, Due, Failed

if TYPE_CHECKING:
    import grpc

__all__ = ["Answer", "Due", "Failed", "OpenLoopUser"]


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
        grpc_target: `host:port` of the target's gRPC server; empty when the run has none.
        key: API key; sent with every HTTP request as `X-API-Key`.
        max_in_flight: requests of this process that may be in progress.
    """

    abstract = True
    grpc_target: ClassVar[str] = ""
    key: ClassVar[str | None] = None
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
        return "request"

    def send(self, due: Due) -> Answer:
        """Sends one request and checks its answer; blocks its greenlet only.

        Raises:
            Failed: it was refused, or the answer is wrong. Any other exception is a failure under its class's name.
        """
        raise NotImplementedError

    @cached_property
    def http(self) -> FastHttpSession:
        """See the class."""
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

    @cached_property
    def channel(self) -> grpc.Channel:
        """gRPC channel to the target; made at the first use.

        Raises:
            Failed: the run has no gRPC target.
        """
        if not self.grpc_target:
            raise Failed("no_grpc_target", "the workload sends over gRPC; give --grpc HOST:PORT")
        import grpc
        import grpc.experimental.gevent as grpc_gevent

        grpc_gevent.init_gevent()
        unbounded = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        return grpc.insecure_channel(self.grpc_target, options=unbounded)

    @cached_property
    def grpc(self) -> Any:
        """Stub of the Open Inference Protocol (`GRPCInferenceServiceStub`) on `channel`."""
        from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

        return GRPCInferenceServiceStub(self.channel)

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
