"""Media by URL once the address is allowed: redirects, sizes, slowness, proxies and TLS."""

from __future__ import annotations

import asyncio
import datetime
import gzip
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from serve.errors import ArgusError, DeadlineExceeded
from tests.support.fetch_server import MAX_BYTES, answer, code_of, fetcher, names, serving


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
