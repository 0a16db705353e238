"""Fetch media from a URL that a client named, without becoming its way into our network (SSRF, CWE-918).

The address is checked where the socket is opened: httpcore lets its user supply the network backend, ours resolves the
host, checks every address it got and connects to one of those. Nothing resolves a second time, so a name server that
changes its answer (DNS rebinding) gains nothing; and since httpcore still knows the host by its name, the Host header,
SNI and certificate check need no special care. One URL parser serves checks and connection, so they cannot disagree
about what the host is.

Why not a library: those we found (2026) check first and let the client resolve again, depend on one public resolver, or
leave redirects, sizes, encodings and slow answers to the caller. Why httpcore and not httpx: httpx has no public way to
set the network backend, and adds proxies from the environment, cookies and content decoding, none of which may happen.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

import httpcore
import httpx

from serve.errors import DeadlineExceeded, Forbidden, InvalidRequest, PayloadTooLarge
from serve.media.source import MediaBytes

Resolver = Callable[[str, int], Awaitable[list[str]]]
"""Host name and port to numeric addresses; raises OSError when the name does not resolve."""

_DEFAULT_PORTS = {"http": 80, "https": 443}
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MAX_URL_CHARS = 8192
_MAX_CONNECTIONS = 64
_USER_AGENT = b"argus-media-fetch/1.0"

_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052: what DNS64 answers on IPv6-only clusters
_IPV6_GLOBAL = ipaddress.ip_network("2000::/3")  # RFC 4291 section 2.4: all that has been given out as global unicast
# Not for us although, depending on Python's patch version, `is_global` may say otherwise.
_REFUSED = [
    ipaddress.ip_network(network)
    for network in (
        "100.64.0.0/10",  # carrier-grade NAT, RFC 6598; Alibaba's metadata service
        "168.63.129.16/32",  # Azure's host agent: public number, reachable only from inside a virtual machine
        "192.0.0.0/24",  # protocol assignments, RFC 6890; Oracle's metadata service
        "192.88.99.0/24",  # 6to4 relays, RFC 7526
        "198.18.0.0/15",  # benchmarks, RFC 2544
        "240.0.0.0/4",  # reserved, RFC 1112
        "2001::/23",  # protocol assignments, RFC 2928, with Teredo: an IPv4 address in disguise
        "2001:db8::/32",  # documentation, RFC 3849
        "2002::/16",  # 6to4, RFC 3056: an IPv4 address in disguise
        "3fff::/20",  # documentation, RFC 9637
    )
]


@dataclass(frozen=True, slots=True)
class FetchPolicy:
    """What may be fetched, and what one fetch may cost."""

    enabled: bool = True
    """False refuses every URL; clients then send the bytes."""
    max_bytes: int = 20 * 1024 * 1024
    """Size of the body."""
    timeout_s: float = 10.0
    """Seconds for the whole fetch: resolution, all redirects and the last byte."""
    connect_timeout_s: float = 3.0
    """Seconds for one TCP connection or TLS handshake."""
    max_redirects: int = 3
    """Hops after the first request; each is checked as the first was."""
    allowed_ports: tuple[int, ...] = (80, 443)
    """Ports of hosts that are not in `allow_hosts`."""
    allow_hosts: tuple[str, ...] = ()
    """Exact `host` (any port) or `host:port`, lower case, exempt from the address and port rules: internal stores."""

    def exempts(self, host: str, port: int) -> bool:
        return host in self.allow_hosts or f"{host}:{port}" in self.allow_hosts


def is_public_address(address: str) -> bool:
    """Whether a numeric address is globally routable unicast, so that a stranger may name it.

    IPv4-mapped (RFC 4291 section 2.5.5.2) and NAT64 (RFC 6052) addresses are judged by the IPv4 address inside; 6to4,
    Teredo and IPv4-compatible ones are refused whatever is inside, since no server is reached that way any more.
    """
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or (ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF) if ip in _NAT64 else None)
        if inner is None and ip not in _IPV6_GLOBAL:
            return False
        ip = inner or ip
    return ip.is_global and not ip.is_multicast and not any(ip in network for network in _REFUSED)


async def resolve(host: str, port: int) -> list[str]:
    """The system's answer. It also reads `2130706433`, `0177.0.0.1` and `0x7f.1`, so those meet the address check."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class _CheckedNetwork(httpcore.AsyncNetworkBackend):
    """Opens sockets only to addresses that passed the check, in the order in which the resolver gave them."""

    def __init__(self, policy: FetchPolicy, resolver: Resolver) -> None:
        self._policy = policy
        self._resolver = resolver
        self._network = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 (the signature is httpcore's)
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            addresses = await self._resolver(host, port)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError("the name does not resolve") from error
        # One internal address among public ones is an attack or a mistake; picking the public one would hide it.
        if not self._policy.exempts(host, port) and not all(map(is_public_address, addresses)):
            raise _not_allowed(f"{host!r} is not a public host")
        failure: Exception = httpcore.ConnectError("the name has no address")
        for address in addresses:
            try:
                return await self._network.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    async def sleep(self, seconds: float) -> None:
        await self._network.sleep(seconds)


class MediaFetcher:
    """Fetches within one policy; safe for concurrent use in one event loop. Close it with `aclose`.

    Args:
        policy: what is allowed.
        resolver: replaces the system's name resolution.
        ssl_context: replaces the default, which verifies against certifi's roots.
    """

    def __init__(
        self, policy: FetchPolicy, *, resolver: Resolver = resolve, ssl_context: ssl.SSLContext | None = None
    ) -> None:
        self._policy = policy
        # No connection is kept: each fetch is checked anew, and what a hostile server sends after its answer can
        # never be taken for the answer to another tenant's request.
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=ssl_context,
            max_connections=_MAX_CONNECTIONS,
            max_keepalive_connections=0,
            network_backend=_CheckedNetwork(policy, resolver),
        )

    async def aclose(self) -> None:
        await self._pool.aclose()

    async def fetch(self, url: str, deadline_s: float | None = None) -> MediaBytes:
        """The body behind `url` and the media type its server declares.

        Args:
            url: http or https, without user name; redirects are followed.
            deadline_s: seconds that the request has left; the policy's `timeout_s` applies when it is shorter.

        Raises:
            Forbidden: `url_fetch_disabled`.
            InvalidRequest: `url_not_allowed` (scheme, port, host, address, redirect), `url_unreachable`,
                `url_bad_status` (anything but 200), `url_bad_response` (a content encoding), `url_timeout` (the
                policy's, or the connection's).
            PayloadTooLarge: `url_too_large`.
            DeadlineExceeded: `url_timeout` (the request's own deadline).
        """
        policy = self._policy
        if not policy.enabled:
            raise Forbidden("this server does not fetch URLs; send the data itself", code="url_fetch_disabled")
        own_deadline = deadline_s is not None and deadline_s < policy.timeout_s
        limit_s = deadline_s if deadline_s is not None and own_deadline else policy.timeout_s
        try:
            async with asyncio.timeout(limit_s):
                return await self._follow(url)
        except TimeoutError:
            kind = DeadlineExceeded if own_deadline else InvalidRequest
            raise kind(f"the URL gave no complete answer within {limit_s:g} s", code="url_timeout") from None

    async def _follow(self, url: str) -> MediaBytes:
        target = _parse(url)
        for _ in range(self._policy.max_redirects + 1):
            outcome = await self._get(target)
            if isinstance(outcome, MediaBytes):
                return outcome
            if target.scheme == "https" and outcome.scheme != "https":
                raise _not_allowed("a redirect leads from https to http")
            target = outcome
        raise _not_allowed(f"more than {self._policy.max_redirects} redirects")

    async def _get(self, url: httpx.URL) -> MediaBytes | httpx.URL:
        """One request: the body, or where a redirect leads."""
        host, port = _host(url), _DEFAULT_PORTS[url.scheme] if url.port is None else url.port
        if port not in self._policy.allowed_ports and not self._policy.exempts(host, port):
            raise _not_allowed(f"port {port} is not one of {', '.join(map(str, self._policy.allowed_ports))}")
        netloc = f"[{host}]" if ":" in host else host
        headers = [
            (b"Host", (netloc if url.port is None else f"{netloc}:{url.port}").encode("ascii")),
            (b"User-Agent", _USER_AGENT),
            (b"Accept", b"*/*"),
            (b"Accept-Encoding", b"identity"),
        ]
        try:
            async with self._pool.stream(
                "GET",
                httpcore.URL(scheme=url.scheme, host=host, port=url.port, target=url.raw_path),
                headers=headers,
                extensions={"timeout": {"connect": self._policy.connect_timeout_s}},
            ) as response:
                return await self._read(url, response)
        except httpcore.TimeoutException as error:
            raise InvalidRequest(f"{host!r} does not accept connections in time", code="url_timeout") from error
        except (httpcore.NetworkError, httpcore.ProtocolError, OSError) as error:
            raise InvalidRequest(f"{host!r} cannot be reached over {url.scheme}", code="url_unreachable") from error

    async def _read(self, url: httpx.URL, response: httpcore.Response) -> MediaBytes | httpx.URL:
        headers = {name.lower(): value.decode("latin-1") for name, value in response.headers}
        location = headers.get(b"location")
        if response.status in _REDIRECTS and location is not None:
            return _parse(location, base=url)
        if response.status != 200:
            raise InvalidRequest(f"{_host(url)!r} answered {response.status}, not 200", code="url_bad_status")
        # Asked not to encode; a body that is encoded all the same may be a decompression bomb.
        encoding = headers.get(b"content-encoding", "identity").strip().lower()
        if encoding not in ("", "identity"):
            raise InvalidRequest(f"the answer has the content encoding {encoding[:32]!r}", code="url_bad_response")
        declared_length = headers.get(b"content-length", "")
        if declared_length.isdigit() and int(declared_length) > self._policy.max_bytes:
            raise self._too_large()
        body = bytearray()
        async for chunk in response.aiter_stream():
            body += chunk
            if len(body) > self._policy.max_bytes:
                raise self._too_large()
        return MediaBytes(bytes(body), headers.get(b"content-type"))

    def _too_large(self) -> PayloadTooLarge:
        return PayloadTooLarge(
            f"the URL's content exceeds the limit of {self._policy.max_bytes:,} bytes", code="url_too_large"
        )


def _parse(url: str, base: httpx.URL | None = None) -> httpx.URL:
    """The absolute URL, with what can be refused without the network refused."""
    if len(url) > _MAX_URL_CHARS:
        raise _not_allowed(f"the URL has {len(url):,} characters; the limit is {_MAX_URL_CHARS:,}")
    try:
        parsed = base.join(url) if base is not None else httpx.URL(url.strip())
    except (httpx.InvalidURL, ValueError) as error:
        raise _not_allowed("it is not a valid URL") from error
    if parsed.scheme not in _DEFAULT_PORTS:
        raise _not_allowed(f"the scheme {parsed.scheme[:32]!r} is not http or https")
    if parsed.userinfo:
        raise _not_allowed("it contains a user name or password")
    if not _host(parsed):
        raise _not_allowed("it has no host")
    return parsed


def _host(url: httpx.URL) -> str:
    """ASCII host (IDNA, lower case); without the root's trailing dot, which certificates and `allow_hosts` lack."""
    return url.raw_host.decode("ascii").removesuffix(".")


def _not_allowed(why: str) -> InvalidRequest:
    return InvalidRequest(f"the URL may not be fetched: {why}", code="url_not_allowed")
