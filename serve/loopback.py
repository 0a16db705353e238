"""Nothing listens beyond loopback unless asked for, Ray Serve's own servers included.

Two of Ray Serve's gRPC servers bind `[::]` whatever its options say (2.60: `_private/grpc_util.py`,
`_private/replica.py`). Each process that starts one imports this module and calls `restrict_grpc_servers`, which does
something only when `argus up` has set `ARGUS_LOOPBACK_ONLY`.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

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
    default_impl.add_grpc_address = lambda server, address: add_ingress(server, _on_loopback(address))
    replica.add_port_to_grpc_server = lambda server, address: add_internal(server, _on_loopback(address))


def _on_loopback(address: str) -> str:
    return address.replace("[::]", "127.0.0.1")


def http_proxy_callback() -> list[Any]:
    """Ray Serve calls this (RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH) before proxies and ingress replicas listen."""
    restrict_grpc_servers()
    return []
