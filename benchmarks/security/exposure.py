"""What listens where, and what it tells those who have no key: HAProxy's pages, Ray's servers, the metrics."""

from __future__ import annotations

import json
import pickle
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import httpx
import psutil

from benchmarks.security.case import Case, Got
from benchmarks.security.site import Site

GROUP = "exposure"
_LOOPBACK = ("127.0.0.1", "::1")
# Seconds for a port to answer in; one that speaks something else may keep silent for so long.
_ANSWER_S = 3.0
# Paths of Ray's dashboard, of its agents, of its job API, and of what debuggers like.
_RAYS = (
    "/",
    "/api/version",
    "/api/jobs/",
    "/api/serve/applications/",
    "/nodes?view=summary",
    "/logs",
    "/api/v0/actors",
)
_OF_RAY = ("ray", "job", "node", "actor")
# Ray's own services: what lives, and the store from which functions are taken and run.
_GCS = (
    "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo",
    "/ray.rpc.InternalKVGcsService/InternalKVKeys",
    "/ray.rpc.ActorInfoGcsService/GetAllActorInfo",
    "/ray.rpc.JobInfoGcsService/GetAllJobInfo",
)

# Calls between replicas and between workers carry pickles: whoever may make one, runs code as this user.
_UNPICKLING = (
    "/ray.serve.ASGIService/HandleRequest",
    "/ray.serve.ASGIService/HandleRequestWithRejection",
    "/ray.rpc.CoreWorkerService/PushTask",
)


def cases(site: Site) -> Iterator[Case]:
    """The attempts."""
    yield Case(GROUP, "ports beyond loopback", "HTTP and gRPC at most, as server.host says", partial(_beyond, site))
    yield Case(GROUP, "metrics and HAProxy's pages from elsewhere", "they listen on loopback", partial(_pages, site))
    yield Case(GROUP, "Ray's dashboard, job API and agents, from this machine", "no answer", partial(_dashboard, site))
    for method in _GCS:
        yield Case(GROUP, f"{method} without Ray's token", "UNAUTHENTICATED", partial(_gcs, site, method))
    expected = "UNAUTHENTICATED on every port that speaks it; nothing is unpickled"
    for method in _UNPICKLING:
        yield Case(GROUP, f"code for {method} without Ray's token", expected, partial(_pickled, site, method))
    yield Case(GROUP, "files of the cluster, as another user", "no rights", partial(_files, site))


def _listening(site: Site) -> dict[int, set[str]]:
    """Ports of the cluster's processes, with the addresses that they are bound to."""
    pids, found = site.pids(), dict[int, set[str]]()
    for one in psutil.net_connections("tcp"):
        if one.status == psutil.CONN_LISTEN and one.pid in pids and one.laddr:
            found.setdefault(one.laddr.port, set()).add(one.laddr.ip.removeprefix("::ffff:"))
    return found


def _beyond(site: Site) -> Got:
    open_ports = sorted(port for port, hosts in _listening(site).items() if hosts - set(_LOOPBACK))
    allowed = {site.port, int(site.grpc.rpartition(":")[2])}
    return Got(", ".join(map(str, open_ports)) or "none", set(open_ports) <= allowed)


def _pages(site: Site) -> Got:
    found = _listening(site)
    known = {int(site.metrics.split(":")[2].split("/")[0])} & found.keys()
    told = _told(sorted(set(found) - known), ("/metrics", "/stats"))
    pages = known | {
        port for port, path, text in told if text.startswith("200") or (path == "/stats" and "HAProxy" in text)
    }
    far = [port for port in pages if found[port] - set(_LOOPBACK)]
    text = f"{len(pages)} ports with metrics or statistics, {len(far)} beyond loopback"
    return Got(text, bool(known) and not far)


def _dashboard(site: Site) -> Got:
    own = {site.port, int(site.grpc.rpartition(":")[2])}
    told = [
        f"{port}{path}: {text[:60]}"
        for port, path, text in _told(sorted(set(_listening(site)) - own), _RAYS)
        # Metrics are on loopback without a key, and answer every path.
        if text.startswith("2") and "# HELP" not in text and any(word in text.lower() for word in _OF_RAY)
    ]
    return Got("; ".join(told) or "none answers", not told)


def _told(ports: Sequence[int], paths: Sequence[str]) -> list[tuple[int, str, str]]:
    """What each port says to each path; of ports that do not speak HTTP nothing."""
    with ThreadPoolExecutor(32) as pool:
        speaking = [
            port for port, text in zip(ports, pool.map(lambda port: _get(port, "/"), ports), strict=True) if text
        ]
        asked = [(port, path) for port in speaking for path in paths]
        return [(*one, text) for one, text in zip(asked, pool.map(lambda one: _get(*one), asked), strict=True)]


def _get(port: int, path: str) -> str:
    """Status and body; empty where no HTTP is spoken."""
    try:
        answer = httpx.get(f"http://127.0.0.1:{port}{path}", timeout=_ANSWER_S, trust_env=False)
    except (httpx.HTTPError, UnicodeError):
        return ""
    return f"{answer.status_code} {answer.text}"


def _gcs(site: Site, method: str) -> Got:
    address = json.loads((site.run_dir / "instance.json").read_text())["ray_address"]
    with grpc.insecure_channel(address) as channel:
        call = channel.unary_unary(method, request_serializer=None, response_deserializer=None)
        try:
            answer = call(b"", timeout=10)
        except grpc.RpcError as error:
            return Got(error.code().name, error.code().name == "UNAUTHENTICATED")
    return Got(f"OK, {len(answer)} bytes", False)


class _Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self._path), "w")


def _pickled(site: Site, method: str) -> Got:
    marker = site.run_dir / "unpickled"
    field = pickle.dumps(_Touch(marker))
    message = b"\x0a" + _length(len(field)) + field  # field 1 of the request: bytes

    def attempt(port: int) -> str:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.unary_unary(method, request_serializer=None, response_deserializer=None)
            try:
                call(message, timeout=_ANSWER_S)
            except grpc.RpcError as error:
                return str(error.code().name)
        return "OK"

    with ThreadPoolExecutor(32) as pool:
        told = Counter(pool.map(attempt, _listening(site)))
    ran = marker.exists()
    marker.unlink(missing_ok=True)
    shown = ", ".join(f"{name} {count}" for name, count in sorted(told.items()))
    good = bool(told["UNAUTHENTICATED"]) and not ran and not told["OK"] and not told["INTERNAL"] and not told["UNKNOWN"]
    return Got(shown + (", and the code ran" if ran else ""), good)


def _length(count: int) -> bytes:
    """A protobuf varint."""
    coded = b""
    while count > 0x7F:
        coded += bytes([count & 0x7F | 0x80])
        count >>= 7
    return coded + bytes([count])


def _files(site: Site) -> Got:
    folder = site.run_dir
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (folder.parent, folder, folder / "token")}
    shown = ", ".join(f"{name} {mode:o}" for name, mode in modes.items())
    return Got(shown, not any(mode & 0o077 for mode in modes.values()))
