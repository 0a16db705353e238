"""Every route and every RPC that there is, from the application and the server themselves."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, cast

import grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute

from serve.config.load import load_profile
from serve.metrics import RequestRecord
from serve.protocol import http
from serve.protocol.oip import InferenceService
from serve.resilience.admission import build_admission
from serve.resilience.build import build_guard
from serve.resilience.cache_key import CacheKeys, identities_of
from serve.resilience.recorder import Silent
from serve.routed_calls import RoutedCalls
from serve.services import build_services

_TIMEOUT_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class HttpRoute:
    """One method of one path; `websocket` stands for a method."""

    method: str
    path: str

    def filled(self) -> str:
        """The path with something in the place of its parameters."""
        return "/".join("x" if part.startswith("{") else part for part in self.path.split("/"))


@dataclass(frozen=True, slots=True)
class Rpc:
    """One method of the gRPC server."""

    path: str
    streams_in: bool
    streams_out: bool


class _Nobody:
    """Takes what there is to record, and forgets it."""

    def record(self, request: RequestRecord) -> None: ...

    def in_flight(self, count: int) -> None: ...

    def viewing(self, count: int) -> None: ...


def http_routes() -> list[HttpRoute]:
    """Those of the application of profile `demo`, documented or not: routes are the same whatever the file says."""
    cluster = load_profile("demo").model_copy(update={"support": None})  # it asks for its store's handle
    recorder = _Nobody()
    admission = build_admission(cluster, recorder.in_flight)
    guard = build_guard(cluster, Silent(), admission.waited)
    calls = RoutedCalls({}, {}, guard, CacheKeys(identities_of(cluster)))
    fetcher: Any = None  # nothing is fetched: nothing is asked
    services = build_services(cluster, {}, calls, fetcher, admission, guard.tenants, recorder, "0")
    inference = InferenceService(services.plane, services.chat, services.cascades, services.vision, services.scenes)
    return list(_flat(http.unguarded(services, inference).routes))


def _flat(routes: list[BaseRoute]) -> Iterator[HttpRoute]:
    for route in routes:
        if isinstance(route, WebSocketRoute):
            yield HttpRoute("websocket", _documented(route.path))
        elif isinstance(route, Mount):
            yield HttpRoute("GET", f"{route.path}/{{path}}")
        elif isinstance(route, Route):
            for method in sorted(route.methods or ()):
                yield HttpRoute(method, _documented(route.path))
        else:
            raise TypeError(f"{type(route).__name__} is a kind of route that the drill does not know")


def _documented(path: str) -> str:
    """As the API's description has it: parameters without what they are converted by."""
    return re.sub(r":\w+\}", "}", path)


def rpcs(target: str) -> list[Rpc]:
    """Every method of every service, as the server's reflection tells them without a key."""
    found = []
    with grpc.insecure_channel(target) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        for service in sorted(database.get_services()):
            file = database.FindFileContainingSymbol(service)
            name = service.rpartition(".")[2]
            (described,) = (one for one in file.service if one.name == name)
            found += [Rpc(f"/{service}/{m.name}", m.client_streaming, m.server_streaming) for m in described.method]
    return found


def call(target: str, rpc: Rpc, message: bytes, metadata: list[tuple[str, str]], **options: Any) -> tuple[str, bytes]:
    """Calls a method with one message; the name of the status, and the first answer's bytes."""
    with grpc.insecure_channel(target, options=options.get("channel", ())) as channel:
        kind = ("stream" if rpc.streams_in else "unary") + "_" + ("stream" if rpc.streams_out else "unary")
        method = getattr(channel, kind)(rpc.path, request_serializer=None, response_deserializer=None)
        given: Any = iter([message]) if rpc.streams_in else message
        try:
            answer = method(given, metadata=metadata, timeout=_TIMEOUT_S)
            first = cast("bytes", next(iter(answer), b"") if rpc.streams_out else answer)
            if rpc.streams_out:
                answer.cancel()
        except grpc.RpcError as error:
            return error.code().name, b""
        return "OK", first


def reflects(target: str) -> bool:
    """Whether the server answers its reflection."""
    with grpc.insecure_channel(target) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        return any(stub.ServerReflectionInfo(iter([request]), timeout=_TIMEOUT_S))
