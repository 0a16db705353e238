"""Who asks, under which id, and how long they wait."""

from __future__ import annotations

import hashlib
import math
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.auth import ANONYMOUS, Authenticator, hash_key
from serve.config.cluster import ApiKey, Auth, Limits
from serve.context import RequestContext, deadline_from, parse_timeout_ms, request_id_from
from serve.errors import DeadlineExceeded, InvalidRequest, Unauthenticated

LIMITS = Limits(default_timeout_s=20, max_timeout_s=60)


@pytest.mark.parametrize(
    "given_id", ["a", "x" * 200, "a b", "a;b", '"', "<script>", "0af7651916cd43dd-8448:eb211c80/319c_9b.a+b=c@d"]
)
def test_a_harmless_request_id_is_kept(given_id: str) -> None:
    assert request_id_from(given_id) == given_id


@pytest.mark.parametrize("given_id", [None, "", "x" * 201, "a\r\nSet-Cookie: b", "a\n", "é", "\x00"])
def test_any_other_is_replaced_by_a_fresh_one(given_id: str | None) -> None:
    first, second = request_id_from(given_id), request_id_from(given_id)
    assert first != second
    assert first != given_id
    assert request_id_from(first) == first


@given(st.text(max_size=140))
def test_a_request_id_is_always_safe_in_a_header(text: str) -> None:
    request_id = request_id_from(text)
    assert request_id.isascii()
    assert request_id.isprintable()
    assert request_id == request_id.strip()
    assert 1 <= len(request_id) <= 200


@pytest.mark.parametrize(
    ("timeout_s", "expected"),
    [(None, 120.0), (5.0, 105.0), (60.0, 160.0), (61.0, 160.0), (1e-9, 100.0), (1e300, 160.0)],
)
def test_deadline(timeout_s: float | None, expected: float) -> None:
    assert deadline_from(timeout_s, LIMITS, 100.0) == pytest.approx(expected)


@pytest.mark.parametrize("timeout_s", [0.0, -1.0, -math.inf])
def test_a_deadline_that_had_passed_is_refused(timeout_s: float) -> None:
    with pytest.raises(DeadlineExceeded):
        deadline_from(timeout_s, LIMITS, 100.0)


@pytest.mark.parametrize(
    ("text", "seconds"), [("1", 0.001), ("1500", 1.5), ("0.5", 0.0005), ("1e3", 1.0), (" 20 ", 0.02)]
)
def test_timeout_in_milliseconds(text: str, seconds: float) -> None:
    assert parse_timeout_ms(text, "x-timeout") == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "soon", "0", "-0", "-5", "nan", "inf", "-inf", "1e999", "10s", "1,5", "0x10", "1 2"]
)
def test_what_is_no_timeout(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_timeout_ms(text, "x-timeout")
    assert caught.value.param == "x-timeout"
    assert repr(text) in caught.value.message


def test_a_long_timeout_header_is_not_repeated_whole() -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_timeout_ms("x" * 10_000, "x-timeout")
    assert len(caught.value.message) < 200


def test_what_is_left_goes_along_with_the_call() -> None:
    context = RequestContext("id-1", "alice", time.monotonic() + 1000)
    call = context.call()
    assert call.request_id == "id-1"
    assert 0 < call.timeout_s <= 1000
    assert 0 < context.remaining_s() <= 1000


def test_nothing_is_sent_after_the_deadline() -> None:
    context = RequestContext("id-1", "alice", time.monotonic() - 1)
    for attempt in (context.remaining_s, context.call):
        with pytest.raises(DeadlineExceeded):
            attempt()


def authenticator(*keys: tuple[str, str]) -> Authenticator:
    return Authenticator(Auth(keys=tuple(ApiKey(name=name, sha256=hash_key(key)) for name, key in keys)))


TWO = authenticator(("alice", "key-a"), ("bob", "key-b"))


@pytest.mark.parametrize(
    ("authorization", "api_key", "name"),
    [
        ("Bearer key-a", None, "alice"),
        ("Bearer key-b", None, "bob"),
        ("bearer key-b", None, "bob"),
        ("BEARER   key-a  ", None, "alice"),
        (None, "key-a", "alice"),
        (None, "key-b", "bob"),
        ("Bearer key-a", "key-b", "bob"),  # the key's own header decides
        ("Basic abc", "key-a", "alice"),
    ],
)
def test_known_keys(authorization: str | None, api_key: str | None, name: str) -> None:
    assert TWO.client(authorization, api_key) == name


@pytest.mark.parametrize(
    ("authorization", "api_key", "code"),
    [
        (None, None, "unauthenticated"),
        ("", None, "unauthenticated"),
        ("Bearer", None, "unauthenticated"),
        ("Bearer   ", None, "unauthenticated"),
        ("Basic key-a", None, "unauthenticated"),
        ("key-a", None, "unauthenticated"),
        ("Bearerkey-a", None, "unauthenticated"),
        ("Bearer key-c", None, "invalid_api_key"),
        ("Bearer key-a x", None, "invalid_api_key"),
        ("Bearer KEY-A", None, "invalid_api_key"),
        (None, "key-a ", "invalid_api_key"),
        (None, "nope", "invalid_api_key"),
        ("Bearer key-a", "nope", "invalid_api_key"),
        (None, "ключ", "invalid_api_key"),
        (None, "\xff\xfe", "invalid_api_key"),
        (None, "\udcff", "invalid_api_key"),
        (None, hash_key("key-a"), "invalid_api_key"),  # what the file holds opens nothing
    ],
)
def test_other_keys_are_refused(authorization: str | None, api_key: str | None, code: str) -> None:
    with pytest.raises(Unauthenticated) as caught:
        TWO.client(authorization, api_key)
    assert caught.value.code == code
    assert "key-" not in caught.value.message


@pytest.mark.parametrize("sent", [(None, None), ("Bearer anything", None), ("Basic x", "y"), (None, "")])
def test_without_configured_keys_everybody_is_anonymous(sent: tuple[Any, Any]) -> None:
    assert authenticator().client(*sent) == ANONYMOUS


def test_keys_are_replaced_while_it_runs() -> None:
    changing = authenticator(("alice", "key-a"))
    changing.replace(Auth(keys=(ApiKey(name="bob", sha256=hash_key("key-b")),)))
    assert changing.client(None, "key-b") == "bob"
    with pytest.raises(Unauthenticated):
        changing.client(None, "key-a")


def test_hash_key_is_sha256_in_hexadecimal() -> None:
    assert hash_key("key-a") == hashlib.sha256(b"key-a").hexdigest()
