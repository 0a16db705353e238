"""Keys: needed on every route and every RPC, whoever adds the next one; wrong ones refused."""

from __future__ import annotations

import base64
import hmac
import re
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import Final
from unittest.mock import patch

import websockets.sync.client
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from benchmarks.security.case import Case, Got, answered
from benchmarks.security.routes import HttpRoute, Rpc, call, http_routes, reflects, rpcs
from benchmarks.security.site import WRONG, Site
from serve.auth import Authenticator, hash_key
from serve.config.cluster import ApiKey, Auth
from serve.errors import Unauthenticated

GROUP = "keys"
_TIMEOUT_S: Final = 60.0

# What anybody may ask: probes, the API's description and page, and the viewer's static files.
OPEN_ROUTES = re.compile(r"/v1/(healthz|readyz)|/v2/health/(live|ready)|/openapi\.json|/docs(-assets/.*)?|/viewer/.*")
# Likewise; the last two are Ray Serve's, and tell the application's name.
OPEN_RPCS = re.compile(
    r"/inference\.GRPCInferenceService/Server(Live|Ready)|/grpc\.health\.v1\.Health/.*"
    r"|/grpc\.reflection\.v1alpha\.ServerReflection/.*|/ray\.serve\.RayServeAPIService/(Healthz|ListApplications)"
)


def cases(site: Site) -> Iterator[Case]:
    """The attempts; one for each route, method and RPC of the cluster."""
    for route in http_routes():
        if OPEN_ROUTES.fullmatch(route.path) is None:
            yield Case(
                GROUP, f"{route.method} {route.path} without a key, with wrong ones", "401", partial(_ask, site, route)
            )
    yield Case(GROUP, "the key's hash, of another case, in the query or a cookie", "401", partial(_elsewhere, site))
    yield Case(
        GROUP, "a path that does not exist, without a key", "401: not even that is told", partial(_unknown, site)
    )
    yield Case(GROUP, "paths of Ray Serve itself", "nothing but the application's name", partial(_rays_own, site))
    for rpc in rpcs(site.grpc):
        if OPEN_RPCS.fullmatch(rpc.path) is None:
            expected = "UNAUTHENTICATED, or UNIMPLEMENTED where we offer no such RPC"
            yield Case(GROUP, f"{rpc.path} without a key, with wrong ones", expected, partial(_call, site, rpc))
    yield Case(GROUP, "every open RPC", "nothing but health, names and the protocol", partial(_open_rpcs, site))
    yield Case(GROUP, "comparing a key", "every known key, each in constant time", _compared)


def _ask(site: Site, route: HttpRoute) -> Got:
    if route.method == "websocket":
        return _socket(site, route)
    wrong: tuple[dict[str, str], ...] = (
        {},
        {"X-API-Key": WRONG},
        {"Authorization": f"Bearer {WRONG}"},
        {"Authorization": "Basic " + base64.b64encode(f"a:{site.key}".encode()).decode()},
    )
    got = [answered(site.ask(route.method, route.filled(), key=None, headers=headers), (401,)) for headers in wrong]
    return Got(" / ".join(dict.fromkeys(one.text for one in got)), all(one.ok for one in got))


def _socket(site: Site, route: HttpRoute) -> Got:
    wrong = "argus.key." + base64.urlsafe_b64encode(WRONG.encode()).decode().rstrip("=")
    offers = ([Subprotocol("argus")], [Subprotocol("argus"), Subprotocol(wrong)])
    told = []
    for offered in offers:
        address = site.http.replace("http", "ws", 1) + route.filled()
        with websockets.sync.client.connect(
            address, subprotocols=offered, open_timeout=_TIMEOUT_S, proxy=None
        ) as socket:
            try:
                socket.recv(timeout=_TIMEOUT_S)
                socket.recv(timeout=_TIMEOUT_S)
                told.append("open")
            except ConnectionClosed as closed:
                told.append(f"closed with {closed.rcvd.code if closed.rcvd else 'nothing'}")
    return Got(" / ".join(dict.fromkeys(told)), set(told) == {"closed with 4401"})


def _elsewhere(site: Site) -> Got:
    attempts = (
        {"headers": {"X-API-Key": hash_key(site.key)}},
        {"headers": {"X-API-Key": site.key.upper()}},
        {"headers": {"X-API-Key": site.key[:-1]}},
        {"headers": {"Cookie": f"api_key={site.key}"}},
        {"params": {"api_key": site.key, "X-API-Key": site.key}},
    )
    statuses = [site.ask("GET", "/v1/models", key=None, **attempt).status_code for attempt in attempts]
    return Got(str(statuses), statuses == [401] * 5)


def _unknown(site: Site) -> Got:
    return answered(site.ask("GET", "/v1/no-such-route", key=None), (401,))


def _rays_own(site: Site) -> Got:
    bodies = [site.ask("GET", path, key=None) for path in ("/-/healthz", "/-/routes")]
    told = " ".join(answer.text.strip() for answer in bodies)
    return Got(told[:80], told.replace(" ", "") in ('success{"/":"argus"}',))


def _call(site: Site, rpc: Rpc) -> Got:
    offers: tuple[list[tuple[str, str]], ...] = (
        [],
        [("x-api-key", WRONG)],
        [("authorization", f"Bearer {WRONG}")],
        [("x-api-key", hash_key(site.key))],
    )
    got = [call(site.grpc, rpc, b"", metadata) for metadata in offers]
    if rpc.streams_in:  # a stream goes on after one of its messages failed, so the refusal is a message
        refused = [status == "OK" and b"API key" in answer for status, answer in got]
        return Got("a message that refuses" if all(refused) else str(got)[:80], all(refused))
    names = {status for status, _ in got}
    return Got(" / ".join(sorted(names)), len(names) == 1 and names <= {"UNAUTHENTICATED", "UNIMPLEMENTED"})


def _open_rpcs(site: Site) -> Got:
    found = [rpc for rpc in rpcs(site.grpc) if OPEN_RPCS.fullmatch(rpc.path)]
    told = [call(site.grpc, rpc, b"", [])[1] for rpc in found if "Reflection" not in rpc.path]
    reflects(site.grpc)
    longest = max(len(answer) for answer in told)
    return Got(f"{len(found)} RPCs, answers of at most {longest} bytes", longest <= 16)


def _compared() -> Got:
    names = ("a", "b", "c")
    known = Authenticator(Auth(keys=tuple(ApiKey(name=name, sha256=hash_key(name)) for name in names)))
    counts = []
    with patch.object(hmac, "compare_digest", wraps=hmac.compare_digest) as compare:
        for key in (*names, "d"):
            before = compare.call_count
            with suppress(Unauthenticated):
                known.client(None, key)
            counts.append(compare.call_count - before)
    return Got(f"{counts} comparisons", counts == [len(names)] * 4)
