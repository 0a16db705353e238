"""The URL fetcher against real local servers and hostile name servers."""

from __future__ import annotations

import asyncio
import ipaddress

import pytest

from serve.errors import ArgusError, Forbidden
from serve.media.fetch import FetchPolicy, MediaFetcher, is_public_address
from tests.support.fetch_server import answer, code_of, fetcher, names, serving


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


def test_metadata_services_are_not_public() -> None:
    for address in ("169.254.169.254", "fd00:ec2::254", "100.100.100.200", "192.0.0.192", "168.63.129.16"):
        assert not is_public_address(address)
        mapped = ipaddress.ip_address(address)
        if mapped.version == 4:
            assert not is_public_address(f"::ffff:{address}")
            assert not is_public_address(str(ipaddress.IPv6Address(int(mapped) | 0x64FF9B << 96)))
