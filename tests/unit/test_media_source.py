"""Data URIs and base64: what is read, what is refused, and that size is checked before decoding."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.errors import ArgusError, InvalidMedia, InvalidRequest, PayloadTooLarge
from serve.media.source import MediaBytes, classify_source, parse_base64, parse_data_uri

LIMIT = 1000
BYTES = bytes(range(256))
TEXT = base64.b64encode(BYTES).decode()


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("data:image/png;base64,AAAA", "data_uri"),
        ("  DATA:;base64,", "data_uri"),
        ("https://example.com/a.png", "url"),
        ("HTTP://example.com", "url"),
        ("file:///etc/passwd", "url"),
        ("gopher:x", "url"),
        (TEXT, "base64"),
        ("", "base64"),
        ("A" * 5000 + ":", "base64"),
    ],
)
def test_classify_source(text: str, kind: str) -> None:
    assert classify_source(text) == kind


@pytest.mark.parametrize(
    ("head", "declared"),
    [
        ("data:image/png;base64", "image/png"),
        ("data:;base64", None),
        ("DATA:image/PNG;charset=x;BASE64", "image/PNG;charset=x"),
        (" data:image/png; base64 ", "image/png"),
    ],
)
def test_data_uri(head: str, declared: str | None) -> None:
    assert parse_data_uri(f"{head},{TEXT}", LIMIT) == MediaBytes(BYTES, declared)


def test_data_uri_undoes_percent_encoding() -> None:
    text = TEXT.replace("+", "%2B").replace("/", "%2f").replace("=", "%3D")
    assert parse_data_uri(f"data:image/png;base64,{text}", LIMIT).data == BYTES


@pytest.mark.parametrize(
    "text",
    ["data:image/png;base64", "data:image/png,AAAA", "data:base64,AAAA", "image/png;base64,AAAA", "data:" + "a" * 2000],
)
def test_data_uri_refused(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_data_uri(text, LIMIT)
    assert caught.value.code == "invalid_data_uri"


def test_white_space_is_dropped() -> None:
    wrapped = base64.encodebytes(BYTES).decode().replace("\n", "\r\n\t ")
    assert parse_base64(wrapped, LIMIT).data == BYTES


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("AAA", "padding"),
        ("AAAA=", "padding"),
        ("AA=A", "padding"),
        ("AA==AAAA", "padding"),
        ("!!!!", "base64"),
        ("-_-_", "standard alphabet"),
        ("ÄÄÄÄ", "ASCII"),
    ],
)
def test_base64_is_strict(text: str, hint: str) -> None:
    for parse in (lambda: parse_base64(text, LIMIT), lambda: parse_data_uri(f"data:;base64,{text}", LIMIT)):
        with pytest.raises(InvalidMedia, match=hint) as caught:
            parse()
        assert caught.value.code == "invalid_base64"


@pytest.mark.parametrize("extra", [-1, 0, 1, 2, 3])
def test_size_limit_is_exact(extra: int) -> None:
    data = b"x" * (LIMIT + extra)
    text = base64.b64encode(data).decode()
    if extra <= 0:
        assert parse_base64(text, LIMIT).data == data
    else:
        with pytest.raises(PayloadTooLarge, match=f"{LIMIT:,}"):
            parse_base64(text, LIMIT)


def test_size_is_checked_before_decoding() -> None:
    with pytest.raises(PayloadTooLarge):
        parse_base64("!" * 10_000, LIMIT)


@given(st.text(max_size=300) | st.text("ABab01+/=-_ \n%:;,", max_size=60).map("data:image/png;base64,".__add__))
def test_only_argus_errors_escape(text: str) -> None:
    classify_source(text)
    for parse in (parse_base64, parse_data_uri):
        try:
            assert len(parse(text, LIMIT).data) <= LIMIT
        except ArgusError as error:
            assert error.status in (400, 413)


@given(st.binary(max_size=LIMIT))
def test_round_trip(data: bytes) -> None:
    text = base64.b64encode(data).decode()
    assert parse_base64(text, LIMIT).data == data
    assert parse_data_uri(f"data:image/gif;base64,{text}", LIMIT) == MediaBytes(data, "image/gif")
