"""What Ray Serve's gRPC server is told to serve, by import path in `grpc_options.grpc_servicer_functions`.

Imported in every process that handles our gRPC messages: router replicas and Ray's proxy.
"""

from __future__ import annotations

import contextvars
import importlib
import inspect
import sys
from typing import Any

from grpc_health.v1 import health_pb2_grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

SERVICER_FUNCTIONS = ("serve.protocol.grpc_server.add_inference", "serve.protocol.grpc_server.add_health")

# Ray's proxy pickles requests, and protobuf names tritonclient's module by its file, which is nowhere importable.
sys.modules.setdefault("grpc_service_pb2", service_pb2)

# Seconds that the client's gRPC deadline leaves; Ray's own context object does not carry it.
time_remaining: contextvars.ContextVar[float | None] = contextvars.ContextVar("time_remaining", default=None)


def bound_messages(most_bytes: int) -> None:
    """gRPC servers that this process starts from now on refuse larger messages before they are read.

    Ray Serve's let 2 GiB in (2.60, `DEFAULT_GRPC_SERVER_OPTIONS`), and a message is whole in memory before anybody
    looks at its sender's key. One that is too large by up to a quarter is still read, and refused in our own words.
    """
    grpc_util: Any = importlib.import_module("ray.serve._private.grpc_util")
    key = "grpc.max_receive_message_length"
    others = [option for option in grpc_util.DEFAULT_GRPC_SERVER_OPTIONS if option[0] != key]
    grpc_util.DEFAULT_GRPC_SERVER_OPTIONS = [*others, (key, most_bytes + most_bytes // 4)]


def add_inference(servicer: Any, server: Any) -> None:
    """Adds `inference.GRPCInferenceService`, with the messages that tritonclient ships."""
    _expose_deadline(server)
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)


def add_health(servicer: Any, server: Any) -> None:
    """Adds `grpc.health.v1.Health` (https://github.com/grpc/grpc/blob/master/doc/health-checking.md)."""
    _expose_deadline(server)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)


def _expose_deadline(server: Any) -> None:
    """Wraps the server's handler factory so that each call knows its deadline; the call runs in the same task."""
    make_handler = getattr(server, "service_handler_factory", None)
    if make_handler is None or getattr(server, "_argus_deadline", False):
        return
    server._argus_deadline = True

    def factory(*args: Any, **kwargs: Any) -> Any:
        handler = make_handler(*args, **kwargs)
        if inspect.isasyncgenfunction(handler):

            async def stream(request: Any, context: Any) -> Any:
                time_remaining.set(context.time_remaining())
                async for response in handler(request, context):
                    yield response

            return stream

        async def unary(request: Any, context: Any) -> Any:
            time_remaining.set(context.time_remaining())
            return await handler(request, context)

        return unary

    server.service_handler_factory = factory
