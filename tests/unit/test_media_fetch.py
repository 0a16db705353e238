"""The URL fetcher against real local servers and hostile name servers."""

from __future__ import annotations

import asyncio
import datetime
import gzip
import ipaddress
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from serve.errors import ArgusError, DeadlineExceeded, Forbidden
from serve.media.fetch import FetchPolicy, MediaFetcher, Resolver, is_public_address, resolve

Handler = Callable[[str, dict[str, str], asyncio.StreamWriter], Awaitable[None]]
MAX_BYTES = 10_000


@asynccontextmanager
async def serving(handler: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A server on 127.0.0.1 that hands path, lower-case headers and the open socket to `handler`; yields its port."""
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
            await handler(head[0].split(" ")[1], headers, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def answer(body: bytes = b"", status: int = 200, **headers: str) -> Handler:
    fields = {"Content-Type": "image/png", "Content-Length": str(len(body))} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }

    async def handler(path: str, request: dict[str, str], writer: asyncio.StreamWriter) -> None:
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value)
        writer.write(f"HTTP/1.1 {status} X\r\n{head}\r\n".encode() + body)
        await writer.drain()

    return handler


def names(**table: str | list[str]) -> Resolver:
    """A resolver with fixed answers; keyword `a_example` answers for a.example. Everything else does not exist."""

    async def resolver(host: str, port: int) -> list[str]:
        found = table.get(host.replace(".", "_"))
        if found is None:
            raise OSError("no such host")
        return [found] if isinstance(found, str) else found

    return resolver


@asynccontextmanager
async def fetcher(
    *allow_hosts: str, resolver: Resolver = resolve, tls: ssl.SSLContext | None = None, **policy: float
) -> AsyncIterator[MediaFetcher]:
    limits = {"max_bytes": MAX_BYTES, "timeout_s": 20.0} | policy
    made = MediaFetcher(FetchPolicy(allow_hosts=allow_hosts, **limits), resolver=resolver, ssl_context=tls)  # type: ignore[arg-type]
    try:
        yield made
    finally:
        await made.aclose()


async def code_of(awaitable: Awaitable[object]) -> str:
    with pytest.raises(ArgusError) as caught:
        await awaitable
    assert 400 <= caught.value.status < 500 or isinstance(caught.value, DeadlineExceeded)
    return caught.value.code


async def test_fetches_bytes_and_type_with_modest_headers() -> None:
    seen: dict[str, str] = {}

    async def handler(path: str, headers: dict[str, str], writer: asyncio.StreamWriter) -> None:
        seen.update(headers, path=path)
        await answer(b"pixels", Set_Cookie="a=b")(path, headers, writer)

    async with serving(handler) as port, fetcher(f"127.0.0.1:{port}") as fetch:
        for _ in range(2):
            media = await fetch.fetch(f"http://127.0.0.1:{port}/a%20b?c=d#e")
            assert (media.data, media.declared_type) == (b"pixels", "image/png")
            assert seen["path"] == "/a%20b?c=d"
            assert seen["host"] == f"127.0.0.1:{port}"
            assert seen["accept-encoding"] == "identity"
            assert "cookie" not in seen


async def test_off() -> None:
    made = MediaFetcher(FetchPolicy(enabled=False))
    with pytest.raises(Forbidden) as caught:
        await made.fetch("https://example.com/")
    assert caught.value.code == "url_fetch_disabled"


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.com/a",
        "file:///etc/passwd",
        "gopher://127.0.0.1/",
        "//example.com/",
        "http:///a",
        "http:example.com",
        "https://user@example.com/",
        "https://user:secret@example.com/",
        "https://127.0.0.1\\@example.com/",
        "https://example.com:22/",
        "https://example.com:0/",
        "https://example.com:x/",
        "https://⑯⑨.254.169.254/",
        "https://exa\x00mple.com/",
        "https://example.com/" + "a" * 9000,
    ],
)
async def test_refused_without_network(url: str) -> None:
    async def no_resolver(host: str, port: int) -> list[str]:
        raise AssertionError(f"resolved {host}")

    async with fetcher(resolver=no_resolver) as fetch:
        assert await code_of(fetch.fetch(url)) == "url_not_allowed"


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "2130706433",
        "0177.0.0.1",
        "0x7f.0.0.1",
        "0x7f000001",
        "127.1",
        "127.0.0.1.",
        "0.0.0.0",
        "0",
        "localhost",
        "LOCALHOST.",
        "169.254.169.254",
        "2852039166",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:a9fe:a9fe]",
        "[::127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[64:ff9b::a9fe:a9fe]",
        "[2002:7f00:1::]",
        "[fd00:ec2::254]",
        "10.0.0.1",
        "100.64.0.1",
        "168.63.129.16",
    ],
)
async def test_odd_spellings_meet_the_address_check(host: str) -> None:
    """Through the system's resolver, which is what reads octal, hexadecimal and short forms."""
    async with fetcher() as fetch:
        assert await code_of(fetch.fetch(f"http://{host}/latest/meta-data")) == "url_not_allowed"


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("1.1.1.1", True),
        ("2606:4700::1111", True),
        ("::ffff:1.1.1.1", True),
        ("64:ff9b::101:101", True),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("127.8.8.8", False),
        ("169.254.1.1", False),
        ("100.64.0.1", False),
        ("100.127.255.255", False),
        ("192.0.0.192", False),
        ("192.0.2.1", False),
        ("192.88.99.1", False),
        ("198.18.0.1", False),
        ("203.0.113.1", False),
        ("224.0.0.1", False),
        ("240.0.0.1", False),
        ("255.255.255.255", False),
        ("0.1.2.3", False),
        ("168.63.129.16", False),
        ("::", False),
        ("::1", False),
        ("::1.1.1.1", False),
        ("::ffff:10.0.0.1", False),
        ("64:ff9b::a00:1", False),
        ("64:ff9b:1::101:101", False),
        ("fe80::1", False),
        ("fe80::1%eth0", False),
        ("fec0::1", False),
        ("fc00::1", False),
        ("fd00:ec2::254", False),
        ("ff02::1", False),
        ("ff0e::1", False),
        ("2001:db8::1", False),
        ("2001:0:101:101::", False),
        ("2002:101:101::", False),
        ("3fff::1", False),
        ("5f00::1", False),
        ("not an address", False),
    ],
)
def test_is_public_address(address: str, public: bool) -> None:
    assert is_public_address(address) is public


async def test_one_internal_address_among_public_ones_refuses_all_and_is_not_named() -> None:
    async with fetcher(resolver=names(a_example=["93.184.216.34", "10.11.12.13"])) as fetch:
        with pytest.raises(ArgusError) as caught:
            await fetch.fetch("https://a.example/")
    assert caught.value.code == "url_not_allowed"
    assert "10.11" not in caught.value.message


async def test_rebinding_gains_nothing() -> None:
    """A name server that answers with a public address first finds that it is asked once and that address is used."""
    answers = iter([["192.0.2.1"], ["127.0.0.1"]])
    asked: list[str] = []

    async def resolver(host: str, port: int) -> list[str]:
        asked.append(host)
        return next(answers)

    async def handler(path: str, headers: dict[str, str], writer: asyncio.StreamWriter) -> None:
        raise AssertionError("the rebound address was reached")

    async with serving(handler) as port:
        # Exempt, so that the documentation address 192.0.2.1 may stand for a public one that does not answer.
        async with fetcher("a.example", resolver=resolver, connect_timeout_s=0.2) as fetch:
            assert await code_of(fetch.fetch(f"http://a.example:{port}/")) in ("url_timeout", "url_unreachable")
        assert asked == ["a.example"]


async def test_each_fetch_checks_anew() -> None:
    answers = iter([["127.0.0.1"], ["127.0.0.1"]])

    async def resolver(host: str, port: int) -> list[str]:
        return next(answers)

    async with serving(answer(b"x")) as port, fetcher(f"a.example:{port}", resolver=resolver) as fetch:
        await fetch.fetch(f"http://a.example:{port}/")
        await fetch.fetch(f"http://a.example:{port}/")
        assert next(answers, None) is None


async def test_second_address_is_tried() -> None:
    async with serving(answer(b"x")) as port:
        resolver = names(a_example=["127.0.0.2", "127.0.0.1"])  # the server listens on 127.0.0.1 only
        async with fetcher(f"a.example:{port}", resolver=resolver) as fetch:
            assert (await fetch.fetch(f"http://a.example:{port}/")).data == b"x"


async def test_host_header_carries_the_name_without_the_trailing_dot() -> None:
    seen: list[str] = []

    async def handler(path: str, headers: dict[str, str], writer: asyncio.StreamWriter) -> None:
        seen.append(headers["host"])
        await answer(b"x")(path, headers, writer)

    resolver = names(**{"xn--bcher-kva_example": "127.0.0.1"})
    async with serving(handler) as port, fetcher("xn--bcher-kva.example", resolver=resolver) as fetch:
        await fetch.fetch(f"http://Bücher.example.:{port}/")
    assert seen == [f"xn--bcher-kva.example:{port}"]


@pytest.mark.parametrize(
    "location",
    [
        "http://169.254.169.254/latest/meta-data/iam",
        "http://2852039166/",
        "//10.0.0.1/",
        "file:///etc/passwd",
        "http://user@a.example/",
        "http://a.example:22/",
        "http://a.example:x/",
    ],
)
async def test_redirects_are_checked_again(location: str) -> None:
    async with (
        serving(answer(status=302, Location=location)) as port,
        fetcher(f"127.0.0.1:{port}") as fetch,
    ):
        assert await code_of(fetch.fetch(f"http://127.0.0.1:{port}/")) == "url_not_allowed"


async def test_redirects_are_followed_up_to_the_limit() -> None:
    async def countdown(path: str, headers: dict[str, str], writer: asyncio.StreamWriter) -> None:
        left = int(path[1:])
        step = answer(b"end") if left == 0 else answer(status=307, Location=str(left - 1))
        await step(path, headers, writer)

    async with serving(countdown) as port, fetcher(f"127.0.0.1:{port}") as fetch:
        assert (await fetch.fetch(f"http://127.0.0.1:{port}/3")).data == b"end"
        assert await code_of(fetch.fetch(f"http://127.0.0.1:{port}/4")) == "url_not_allowed"


@pytest.mark.parametrize("status", [204, 206, 302, 304, 401, 404, 500])
async def test_other_statuses(status: int) -> None:
    async with serving(answer(status=status)) as port, fetcher(f"127.0.0.1:{port}") as fetch:
        assert await code_of(fetch.fetch(f"http://127.0.0.1:{port}/")) == "url_bad_status"


async def test_content_length_over_the_limit() -> None:
    async with serving(answer(Content_Length=str(MAX_BYTES + 1))) as port, fetcher(f"127.0.0.1:{port}") as fetch:
        assert await code_of(fetch.fetch(f"http://127.0.0.1:{port}/")) == "url_too_large"


@pytest.mark.parametrize("chunked", [True, False])
async def test_body_without_length_over_the_limit(chunked: bool) -> None:
    async def endless(path: str, headers: dict[str, str], writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n" + b"Transfer-Encoding: chunked\r\n" * chunked + b"\r\n")
        while True:
            writer.write(b"400\r\n" + b"x" * 1024 + b"\r\n" if chunked else b"x" * 1024)
            await writer.drain()

    async with serving(endless) as port, fetcher(f"127.0.0.1:{port}") as fetch:
        assert await code_of(fetch.fetch(f"http://127.0.0.1:{port}/")) == "url_too_large"


async def test_exactly_the_limit() -> None:
    async with serving(answer(b"x" * MAX_BYTES)) as port, fetcher(f"127.0.0.1:{port}") as fetch:
        assert len((await fetch.fetch(f"http://127.0.0.1:{port}/")).data) == MAX_BYTES


async def test_content_encoding_is_refused() -> None:
    bomb = gzip.compress(b"\0" * 5_000_000)
    async with serving(answer(bomb, Content_Encoding="gzip")) as port, fetcher(f"127.0.0.1:{port}") as fetch:
        assert await code_of(fetch.fetch(f"http://127.0.0.1:{port}/")) == "url_bad_response"


async def drip(path: str, headers: dict[str, str], writer: asyncio.StreamWriter) -> None:
    """Headers, then a byte now and then for as long as anyone listens: no single read ever waits long."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.01)


async def test_slow_drip_ends_with_the_policy_or_the_deadline() -> None:
    async with serving(drip) as port, fetcher(f"127.0.0.1:{port}", timeout_s=0.2) as fetch:
        url = f"http://127.0.0.1:{port}/"
        with pytest.raises(ArgusError) as caught:
            await fetch.fetch(url, deadline_s=60)
        assert (caught.value.code, caught.value.status) == ("url_timeout", 400)
        with pytest.raises(DeadlineExceeded) as late:
            await fetch.fetch(url, deadline_s=0.1)
        assert late.value.code == "url_timeout"


async def test_slow_resolver_ends_with_the_policy() -> None:
    async def never(host: str, port: int) -> list[str]:
        await asyncio.Event().wait()
        return []

    async with fetcher(resolver=never, timeout_s=0.1) as fetch:
        assert await code_of(fetch.fetch("https://a.example/")) == "url_timeout"


async def test_unreachable() -> None:
    async def gone(path: str, headers: dict[str, str], writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort")
        await writer.drain()

    async def nonsense(path: str, headers: dict[str, str], writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")
        await writer.drain()

    for handler in (gone, nonsense):
        async with serving(handler) as port, fetcher(f"127.0.0.1:{port}") as fetch:
            assert await code_of(fetch.fetch(f"http://127.0.0.1:{port}/")) == "url_unreachable"
    async with fetcher(f"127.0.0.1:{port}", resolver=names(a_example=[])) as fetch:  # nothing listens there any more
        assert await code_of(fetch.fetch(f"http://127.0.0.1:{port}/")) == "url_unreachable"
        assert await code_of(fetch.fetch("http://nowhere.example/")) == "url_unreachable"
        assert await code_of(fetch.fetch("http://a.example/")) == "url_unreachable"
        assert await code_of(fetch.fetch(f"http://{'a' * 300}.example/")) == "url_unreachable"


async def test_proxies_of_the_environment_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with serving(answer(b"direct")) as port, fetcher(f"127.0.0.1:{port}") as fetch:
        assert (await fetch.fetch(f"http://127.0.0.1:{port}/")).data == b"direct"


async def test_cancelling_frees_the_connection() -> None:
    reached = asyncio.Event()

    async def handler(path: str, headers: dict[str, str], writer: asyncio.StreamWriter) -> None:
        reached.set()
        await drip(path, headers, writer)

    async with serving(handler) as port, fetcher(f"127.0.0.1:{port}") as fetch:
        task = asyncio.create_task(fetch.fetch(f"http://127.0.0.1:{port}/"))
        await reached.wait()
        assert len(fetch._pool.connections) == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not fetch._pool.connections


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Server and client contexts around a self-signed certificate for photos.example."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "photos.example")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("photos.example")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path / "server.pem"
    file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + made.public_bytes(serialization.Encoding.PEM)
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(file)
    client = ssl.create_default_context(cadata=made.public_bytes(serialization.Encoding.PEM).decode())
    return server, client


async def test_tls_names_and_verifies_the_host(certificate: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    server, client = certificate
    asked: list[str | None] = []
    server.sni_callback = lambda connection, name, context: asked.append(name)
    resolver = names(photos_example="127.0.0.1", other_example="127.0.0.1")
    async with (
        serving(answer(b"x"), server) as port,
        fetcher("photos.example", "other.example", resolver=resolver, tls=client) as fetch,
    ):
        assert (await fetch.fetch(f"https://photos.example.:{port}/")).data == b"x"
        assert await code_of(fetch.fetch(f"https://other.example:{port}/")) == "url_unreachable"
    assert asked == ["photos.example", "other.example"]


async def test_downgrade_is_refused(certificate: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    server, client = certificate
    async with (
        serving(answer(b"plain")) as plain,
        serving(answer(status=301, Location=f"http://photos.example:{plain}/"), server) as port,
        fetcher("photos.example", resolver=names(photos_example="127.0.0.1"), tls=client) as fetch,
    ):
        assert (await fetch.fetch(f"http://photos.example:{plain}/")).data == b"plain"
        assert await code_of(fetch.fetch(f"https://photos.example:{port}/")) == "url_not_allowed"


def test_metadata_services_are_not_public() -> None:
    for address in ("169.254.169.254", "fd00:ec2::254", "100.100.100.200", "192.0.0.192", "168.63.129.16"):
        assert not is_public_address(address)
        mapped = ipaddress.ip_address(address)
        if mapped.version == 4:
            assert not is_public_address(f"::ffff:{address}")
            assert not is_public_address(str(ipaddress.IPv6Address(int(mapped) | 0x64FF9B << 96)))
