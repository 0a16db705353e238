"""OIP v2 over gRPC, and grpc.health.v1: messages in, messages out.

Ray Serve calls the methods of the ingress deployment by the names of the RPCs, so `GrpcSkin` is a base class of the
router. A failed call returns an empty message with code, details and trailers set: raising would lose the trailers,
in which the error's stable code (`argus-code`) and field (`argus-param`) travel.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Any, Final, Protocol, TypeVar

import grpc
from grpc_health.v1 import health_pb2
from tritonclient.grpc import service_pb2 as pb

from serve import tracing
from serve.auth import ANONYMOUS
from serve.config.overload import Priority
from serve.context import RequestContext, deadline_from, request_id_from
from serve.errors import (
    ArgusError,
    Cancelled,
    Fault,
    NotFound,
    Overloaded,
    Unsupported,
)
from serve.metrics import RequestRecord
from serve.protocol import grpc_server
from serve.protocol.interleave import Interleaved
from serve.protocol.oip import InferenceService
from serve.protocol.oip_messages import from_message, to_message
from serve.protocol.tensors import SERVER_NAME, VERSION
from serve.request_log import log
from serve.resilience.admission import PRIORITY_HEADER, model_lane
from serve.services import Services
from serve.tracing import requests

Reply = TypeVar("Reply")

# Seconds between two looks at the models' health for a `Watch`.
_WATCH_PERIOD_S = 5.0
MOST_WATCHERS: Final = 64
"""Of the health of one router replica, at once."""

# Details and trailers travel in one header block, of which clients accept 8 KiB by default.
_MAX_DETAILS = 1000
_MAX_TRAILER = 200
_CODES = {code.value[0]: code for code in grpc.StatusCode}


class GrpcContext(Protocol):
    """The part of Ray Serve's gRPC context that we use."""

    def invocation_metadata(self) -> list[tuple[str, str]]: ...

    def set_code(self, code: grpc.StatusCode) -> None: ...

    def set_details(self, details: str) -> None: ...

    def set_trailing_metadata(self, metadata: list[tuple[str, str]]) -> None: ...


class GrpcSkin:
    """The RPCs. `set_up_grpc` must be called before the first one."""

    def set_up_grpc(self, services: Services, inference: InferenceService) -> None:
        """Attaches what the RPCs need."""
        self._service = inference
        self._watchers = 0
        self._grpc_authenticator = services.authenticator
        self._grpc_limits = services.limits
        self._grpc_admission = services.admission
        self._grpc_tenants = services.tenants
        self._grpc_recorder = services.recorder
        self._argus_version = services.version

    async def ServerLive(self, request: Any, grpc_context: GrpcContext) -> Any:  # noqa: N802
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: Any, grpc_context: GrpcContext) -> Any:  # noqa: N802
        async def answer(context: RequestContext) -> Any:
            return pb.ServerReadyResponse(ready=await self._service.server_ready(context))

        return await self._open("ServerReady", grpc_context, answer, pb.ServerReadyResponse())

    async def ModelReady(self, request: Any, grpc_context: GrpcContext) -> Any:  # noqa: N802
        """Whether a model answers; one that does not exist is not ready.

        The specification leaves that open, and Triton's server says so (TRITONSERVER_ServerModelIsReady, restored by
        https://github.com/triton-inference-server/core/pull/508): its clients ask until the answer is yes, and raise
        whatever error comes.
        """

        async def answer(context: RequestContext) -> Any:
            try:
                ready = await self._service.model_ready(request.name, request.version, context)
            except NotFound:
                ready = False
            return pb.ModelReadyResponse(ready=ready)

        return await self._guarded("ModelReady", grpc_context, answer, pb.ModelReadyResponse())

    async def ServerMetadata(self, request: Any, grpc_context: GrpcContext) -> Any:  # noqa: N802
        async def answer(context: RequestContext) -> Any:
            return pb.ServerMetadataResponse(
                name=SERVER_NAME, version=self._argus_version, extensions=["classification"]
            )

        return await self._guarded("ServerMetadata", grpc_context, answer, pb.ServerMetadataResponse())

    async def ModelMetadata(self, request: Any, grpc_context: GrpcContext) -> Any:  # noqa: N802
        async def answer(context: RequestContext) -> Any:
            spec = await self._service.metadata(request.name, request.version, context)
            kind = pb.ModelMetadataResponse.TensorMetadata
            return pb.ModelMetadataResponse(
                name=spec.name,
                versions=[VERSION],
                platform=spec.platform,
                inputs=[kind(name=t.name, datatype=t.datatype, shape=t.shape) for t in spec.inputs],
                outputs=[kind(name=t.name, datatype=t.datatype, shape=t.shape) for t in spec.outputs],
            )

        return await self._guarded("ModelMetadata", grpc_context, answer, pb.ModelMetadataResponse())

    async def ModelInfer(self, request: Any, grpc_context: GrpcContext) -> Any:  # noqa: N802
        async def answer(context: RequestContext) -> Any:
            return to_message(await self._service.infer(from_message(request, self._grpc_limits), context))

        return await self._guarded(
            "ModelInfer", grpc_context, answer, pb.ModelInferResponse(), request.id, request.model_name
        )

    async def ModelStreamInfer(  # noqa: N802
        self, requests: AsyncIterator[Any], grpc_context: GrpcContext
    ) -> AsyncIterator[Any]:
        """The answers to all requests; a chat answers token by token.

        Requests with ids of their own are answered side by side, a bounded number at once, and each response carries
        its request's id; requests that share an id, or have none, in turn. Every request's last response carries
        Triton's `triton_final_response`; it has no outputs where the request asks for an empty one. A failed request
        becomes an error message, which is its last response, and the stream goes on.
        """

        def answer(request: Any) -> AsyncGenerator[Any, None]:
            return self._stream_answer(request, grpc_context)

        async with aclosing(Interleaved(requests, answer, lambda request: str(request.id)).replies()) as replies:
            async for reply in replies:
                yield reply

    async def _stream_answer(self, request: Any, grpc_context: GrpcContext) -> AsyncGenerator[Any, None]:
        status = _Status(grpc_context)
        async with _Rpc(self, "ModelStreamInfer", status, request.id) as rpc:
            context = rpc.known_caller()
            await self._grpc_tenants.enter(context.client)
            with self._grpc_admission.enter(context, model_lane(request.model_name)):
                inference = from_message(request, self._grpc_limits)
                async with aclosing(self._service.infer_stream(inference, context)) as pieces:
                    async for piece, last in pieces:
                        reply = to_message(piece)
                        reply.parameters["triton_final_response"].bool_param = last
                        yield pb.ModelStreamInferResponse(infer_response=reply)
        if status.details is not None:
            reply = pb.ModelInferResponse(id=request.id)
            reply.parameters["triton_final_response"].bool_param = True
            yield pb.ModelStreamInferResponse(infer_response=reply, error_message=status.details)

    async def Check(self, request: Any, grpc_context: GrpcContext) -> Any:  # noqa: N802
        """grpc.health.v1: the empty service and ours serve when every model answers; NOT_FOUND for any other."""

        async def answer(context: RequestContext) -> Any:
            if request.service not in ("", "inference.GRPCInferenceService"):
                raise NotFound(f"Service {request.service[:80]!r} is not known.", code="service_not_found")
            serving = await self._service.server_ready(context)
            kind = health_pb2.HealthCheckResponse
            return kind(status=kind.SERVING if serving else kind.NOT_SERVING)

        return await self._open("Check", grpc_context, answer, health_pb2.HealthCheckResponse())

    async def Watch(self, request: Any, grpc_context: GrpcContext) -> AsyncIterator[Any]:  # noqa: N802
        """The status now and each time it changes, looked at every few seconds.

        Anybody may watch, so there are bounded places; who finds none is told RESOURCE_EXHAUSTED.
        """
        if self._watchers >= MOST_WATCHERS:
            message = f"{MOST_WATCHERS} watch this router, the most that it holds."
            _report(Overloaded(message, retry_after_s=_WATCH_PERIOD_S), "", grpc_context)
            return
        self._watchers += 1
        last = None
        try:
            while True:
                status = _Status(grpc_context)
                now = await self.Check(request, status)
                if status.details is not None:
                    now = health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)
                if now != last:
                    yield now
                    last = now
                await asyncio.sleep(_WATCH_PERIOD_S)
        finally:
            self._watchers -= 1

    async def _unimplemented(self, request: Any, grpc_context: GrpcContext) -> Any:
        _report(Unsupported("This RPC of Triton's is not part of what Argus serves."), "", grpc_context)
        return pb.ServerLiveResponse()  # Ray serialises whatever is returned; empty, it is any message

    ModelConfig = ModelStatistics = RepositoryIndex = RepositoryModelLoad = RepositoryModelUnload = _unimplemented
    SystemSharedMemoryStatus = SystemSharedMemoryRegister = SystemSharedMemoryUnregister = _unimplemented
    CudaSharedMemoryStatus = CudaSharedMemoryRegister = CudaSharedMemoryUnregister = _unimplemented
    TraceSetting = LogSettings = _unimplemented

    async def _guarded(
        self,
        rpc: str,
        grpc_context: GrpcContext,
        answer: Callable[[RequestContext], Awaitable[Reply]],
        empty: Reply,
        message_id: str = "",
        model: str = "",
    ) -> Reply:
        """Runs an RPC for a known caller that found a free place.

        Args:
            model: whose queue the call may join.
        """
        async with _Rpc(self, rpc, grpc_context, message_id) as call:
            context = call.known_caller()
            await self._grpc_tenants.enter(context.client)
            with self._grpc_admission.enter(context, model_lane(model)):
                return await answer(context)
        return empty

    async def _open(
        self, rpc: str, grpc_context: GrpcContext, answer: Callable[[RequestContext], Awaitable[Reply]], empty: Reply
    ) -> Reply:
        """Runs an RPC for anyone at any time: probes must tell "busy" from "dead"."""
        async with _Rpc(self, rpc, grpc_context, "") as call:
            return await answer(call.anyone())
        return empty


class _Rpc:
    """One call, or one message of a stream: who asks, by when, and what became of it.

    An error that leaves the block is reported to the client and goes no further; cancellation goes on.
    """

    def __init__(self, skin: GrpcSkin, rpc: str, grpc_context: GrpcContext, message_id: str) -> None:
        self._skin, self._rpc, self._grpc_context = skin, rpc, grpc_context
        self._started = time.monotonic()
        self._metadata = metadata = dict(grpc_context.invocation_metadata())
        self._request_id = request_id_from(metadata.get("x-request-id") or message_id or metadata.get("request_id"))
        self._client = ANONYMOUS
        self._traced: requests.RequestSpan | None = None
        self._current = tracing.use(None)

    def known_caller(self) -> RequestContext:
        """The context of a caller with a key.

        Raises:
            Unauthenticated: no key, or one that we do not know.
            InvalidRequest: the priority that it asks for does not exist.
            DeadlineExceeded: the deadline has passed.
        """
        metadata, skin = self._metadata, self._skin
        self._traced = requests.begun(self._rpc, self._grpc_context.invocation_metadata())
        if self._traced is not None:
            self._current = tracing.use(self._traced.span)
            self._current.__enter__()
        self._client = skin._grpc_authenticator.client(metadata.get("authorization"), metadata.get("x-api-key"))
        return self.anyone(skin._grpc_admission.priority(self._client, metadata.get(PRIORITY_HEADER)))

    def anyone(self, priority: Priority = "normal") -> RequestContext:
        """The context of whoever calls.

        Raises:
            DeadlineExceeded: the deadline has passed.
        """
        deadline = deadline_from(grpc_server.time_remaining.get(), self._skin._grpc_limits, self._started)
        return RequestContext(self._request_id, self._client, deadline, priority)

    async def __aenter__(self) -> _Rpc:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        fault: Fault = "none"
        outcome, status = "ok", 0
        if isinstance(error, asyncio.CancelledError | GeneratorExit):
            outcome, status, fault = Cancelled.default_code, int(Cancelled.grpc_code), Cancelled.blame
        elif error is not None:
            failure = error if isinstance(error, ArgusError) else self._unexpected(error)
            outcome, status, fault = failure.code, int(failure.grpc_code), failure.fault
            _report(failure, self._request_id, self._grpc_context, self._trailers())
        elif self._traced is not None:
            self._grpc_context.set_trailing_metadata(self._trailers())
        seconds = time.monotonic() - self._started
        record = RequestRecord(
            self._request_id,
            "grpc",
            self._rpc,
            self._client,
            outcome,
            status,
            seconds,
            fault,
            None if self._traced is None else self._traced.trace_id,
        )
        self._skin._grpc_recorder.record(record)
        self._current.__exit__(None, None, None)
        if self._traced is not None:
            self._traced.rpc_ended(record)
        return isinstance(error, Exception)

    def _trailers(self) -> list[tuple[str, str]]:
        return [] if self._traced is None else [(requests.TRACE_ID, self._traced.trace_id)]

    def _unexpected(self, error: BaseException) -> ArgusError:
        log.error("unhandled error", extra={"request_id": self._request_id}, exc_info=error)
        return ArgusError("An internal error occurred; the log has it under this request id.")


class _Status:
    """Stands in for a gRPC context whose call goes on after one of its messages failed."""

    def __init__(self, outer: GrpcContext) -> None:
        self.details: str | None = None
        self._outer = outer

    def invocation_metadata(self) -> list[tuple[str, str]]:
        return self._outer.invocation_metadata()

    def set_code(self, code: grpc.StatusCode) -> None: ...

    def set_details(self, details: str) -> None:
        self.details = details

    def set_trailing_metadata(self, metadata: list[tuple[str, str]]) -> None: ...


def _report(
    error: ArgusError, request_id: str, grpc_context: GrpcContext, more: Sequence[tuple[str, str]] = ()
) -> None:
    grpc_context.set_code(_CODES[int(error.grpc_code)])
    grpc_context.set_details(error.message[:_MAX_DETAILS])
    trailers = [("argus-code", error.code), ("argus-request-id", request_id), *more]
    if error.param is not None:
        trailers.append(("argus-param", error.param))
    if error.retry_after_s is not None:
        trailers.append(("retry-after", str(max(1, round(error.retry_after_s)))))
    grpc_context.set_trailing_metadata([(name, _metadata_value(value)) for name, value in trailers])


def _metadata_value(text: str) -> str:
    """Metadata values are printable ASCII (gRPC over HTTP/2, "Custom-Metadata"), and headers are bounded together."""
    return "".join(char if " " <= char <= "~" else "?" for char in text[:_MAX_TRAILER])
