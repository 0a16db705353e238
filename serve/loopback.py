"""Nothing listens beyond loopback unless asked for, Ray Serve's own servers included.

Two of Ray Serve's gRPC servers bind `[::]` whatever its options say (2.60: `_private/grpc_util.py`,
`_private/replica.py`). Each process that starts one imports this module and calls `restrict_grpc_servers`, which does
something only when `argus up` has set `ARGUS_LOOPBACK_ONLY`.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

from serve.plain_proxy import AnswersAll

ENVIRONMENT = "ARGUS_LOOPBACK_ONLY"
CALLBACK = "serve.loopback.http_proxy_callback"


def restrict_grpc_servers() -> None:
    """Makes Ray Serve's gRPC servers of this process bind 127.0.0.1."""
    if os.environ.get(ENVIRONMENT) != "1":
        return
    default_impl: Any = importlib.import_module("ray.serve._private.default_impl")
    replica: Any = importlib.import_module("ray.serve._private.replica")
    if getattr(replica, "_argus_loopback", False):
        return
    replica._argus_loopback = True
    add_ingress, add_internal = default_impl.add_grpc_address, replica.add_port_to_grpc_server
    ports = _replica_ports()

    def add_if_free(server: Any, address: str) -> None:
        own = _on_loopback(address)
        if int(own.rpartition(":")[2]) in ports:
            refuse_taken(own)
        add_ingress(server, own)

    default_impl.add_grpc_address = add_if_free
    replica.add_port_to_grpc_server = lambda server, address: add_internal(server, _on_loopback(address))


def _replica_ports() -> range:
    """Those of which Ray Serve gives one to each ingress replica for gRPC."""
    constants: Any = importlib.import_module("ray.serve._private.constants")
    return range(constants.RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT, constants.RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT + 1)


def refuse_taken(address: str) -> None:
    """Whether a replica may have this address; Ray Serve tries its next port where not.

    Ray Serve turns SO_REUSEPORT off by an option that gRPC does not understand (2.60: the text "0"), so a second
    cluster on the machine would take the same port without an error, and the kernel would deal each one's requests to
    both.

    Raises:
        RuntimeError: somebody listens there.
    """
    from serve.runtime.ingress import port_is_free  # which imports this module

    host, _, port = address.rpartition(":")
    if not port_is_free(host, int(port)):
        raise RuntimeError(f"{address} is taken.")


def _on_loopback(address: str) -> str:
    return address.replace("[::]", "127.0.0.1")


def http_proxy_callback() -> list[Any]:
    """Ray Serve calls this (RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH) before proxies and ingress replicas listen.

    Returns:
        Middleware for them: none behind HAProxy, which answers for itself.
    """
    restrict_grpc_servers()
    if os.environ.get("RAY_SERVE_ENABLE_HA_PROXY") == "1":
        return []
    middleware: Any = importlib.import_module("starlette.middleware")
    return [middleware.Middleware(AnswersAll)]
