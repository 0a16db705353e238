"""Requests that are too large, too deep or too many, over HTTP and gRPC."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from functools import partial
from typing import Any, Final

from benchmarks.security.bombs import small
from benchmarks.security.case import Case, Got, answered
from benchmarks.security.routes import Rpc, call
from benchmarks.security.site import Site

GROUP = "limits"
MIB: Final = 1 << 20
_CLASSIFY: Final = "/v1/classify"
_INFER: Final = Rpc("/inference.GRPCInferenceService/ModelInfer", streams_in=False, streams_out=False)
_LIVE: Final = Rpc("/inference.GRPCInferenceService/ServerLive", streams_in=False, streams_out=False)
_WIDE: Final = {"channel": (("grpc.max_send_message_length", -1), ("grpc.max_metadata_size", 16 * MIB))}


def cases(site: Site) -> Iterator[Case]:
    """The attempts."""
    too_large = "413 payload_too_large"
    yield Case(GROUP, "JSON nested 100,000 deep", "400", partial(_json, site, b'{"a":' + b"[" * 100_000))
    deep = b'{"labels":' + b"[" * 900 + b"]" * 900 + b"}"
    yield Case(GROUP, "JSON nested 900 deep, where a list of texts belongs", "400", partial(_json, site, deep))
    yield Case(GROUP, "a number of 1,000,000 digits", "400", partial(_json, site, b'{"top_k":' + b"9" * MIB + b"}"))
    yield Case(GROUP, "1,000,000 keys", "400 too_many_keys", partial(_json, site, _keys(1_000_000)))
    yield Case(
        GROUP,
        "a key that stands 200,000 times",
        "400",
        partial(_json, site, b"{" + b'"labels":[],' * 200_000 + b'"a":1}'),
    )
    yield Case(GROUP, "JSON that is no UTF-8", "400", partial(_json, site, b'{"labels":["\xff\xfe","\xed\xa0\x80"]}'))
    yield Case(GROUP, "a body that says it has 1 TiB", too_large, partial(_stated, site))
    yield Case(GROUP, "a body of 21 MiB in chunks", too_large, partial(_chunked, site))
    yield Case(GROUP, "a form of 20,000 fields", "400", partial(_form, site, 20_000, 0))
    yield Case(GROUP, "a form of 5,000 files", "400", partial(_form, site, 0, 5_000))
    yield Case(GROUP, "a form without an end", "400", partial(_endless_form, site))
    yield Case(GROUP, "a part with 100,000 headers", "400", partial(_form_headers, site))
    yield Case(GROUP, "an address of 100,000 characters", "4xx", partial(_long_address, site))
    yield Case(GROUP, "a header of 100,000 characters", "4xx", partial(_long_header, site))
    yield Case(GROUP, "1,000 headers", "4xx, or an answer", partial(_many_headers, site))
    yield Case(GROUP, "10,000 labels", "400", partial(_fields, site, {"labels": [f"l{n}" for n in range(10_000)]}))
    yield Case(GROUP, "a label of 1 MiB", "400", partial(_fields, site, {"labels": ["a" * MIB, "b"]}))
    yield Case(
        GROUP,
        "a template of format fields",
        "400",
        partial(_fields, site, {"labels": ["a"], "templates": ["{0.__class__}"]}),
    )
    yield Case(
        GROUP,
        "1,000 templates for 1,000 labels",
        "400",
        partial(
            _fields, site, {"labels": [f"l{n}" for n in range(1000)], "templates": [f"{n} {{}}" for n in range(1000)]}
        ),
    )
    yield Case(GROUP, "a filter nested 500 deep", "4xx", partial(_filter, site, 500))
    yield Case(
        GROUP,
        "a JSON schema with a pattern that backtracks for ever",
        "4xx, or an answer",
        partial(_schema, site, _PATTERN),
    )
    yield Case(GROUP, "a JSON schema that names itself", "4xx, or an answer", partial(_schema, site, {"$ref": "#"}))
    yield Case(GROUP, "a JSON schema nested 2,000 deep", "4xx, or an answer", partial(_schema, site, _nested(2_000)))
    yield Case(GROUP, "a chat of 5,000 messages", "4xx", partial(_messages, site))
    yield Case(GROUP, "a gRPC message of 21 MiB", "RESOURCE_EXHAUSTED", partial(_message, site, 21 * MIB))
    yield Case(
        GROUP, "a gRPC message of 64 MiB without a key", "RESOURCE_EXHAUSTED", partial(_message, site, 64 * MIB, "")
    )
    yield Case(GROUP, "gRPC metadata of 1 MiB", "refused", partial(_metadata, site))
    yield Case(GROUP, "a gRPC message that is none", "refused", partial(_garbage, site))
    yield Case(GROUP, "a tensor that says it has 2^40 elements", "4xx", partial(_tensor, site))
    yield Case(GROUP, "after all of these", "every model answers", partial(_ready, site))


_PATTERN: Final = {"type": "string", "pattern": "^(a+)+$"}


def _nested(depth: int) -> str:
    return '{"type":"array","items":' * depth + '{"type":"string"}' + "}" * depth


def _keys(count: int) -> bytes:
    return b"{" + b",".join(b'"k%d":0' % n for n in range(count)) + b"}"


def _json(site: Site, body: bytes) -> Got:
    headers = {"Content-Type": "application/json"}
    return answered(site.ask("POST", _CLASSIFY, content=body, headers=headers), (400,))


def _fields(site: Site, fields: dict[str, Any]) -> Got:
    return answered(site.ask("POST", _CLASSIFY, json={"image": _PICTURE, "model": "clip", **fields}), (400,))


_PICTURE: Final = base64.b64encode(small("PNG")).decode()


def _stated(site: Site) -> Got:
    head = f"POST {_CLASSIFY} HTTP/1.1\r\nHost: a\r\nX-API-Key: {site.key}\r\nContent-Type: application/json\r\n"
    answer = site.send(f"{head}Content-Length: {1 << 40}\r\n\r\n{{".encode())
    status = answer.partition(b"\r\n")[0].decode("latin-1")
    return Got(status or "nothing", status.startswith("HTTP/1.1 413"))


def _chunked(site: Site) -> Got:
    def chunks() -> Iterator[bytes]:
        for _ in range(21):
            yield bytes(MIB)

    headers = {"Content-Type": "application/json"}
    return answered(site.ask("POST", _CLASSIFY, content=chunks(), headers=headers), (413,), ("payload_too_large",))


def _multipart(site: Site, body: bytes) -> Got:
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    return answered(site.ask("POST", _CLASSIFY, content=body, headers=headers), (400,))


def _form(site: Site, fields: int, files: int) -> Got:
    text = b'--b\r\nContent-Disposition: form-data; name="labels"\r\n\r\na\r\n'
    file = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\na\r\n'
    return _multipart(site, text * fields + file * files + b"--b--\r\n")


def _endless_form(site: Site) -> Got:
    return _multipart(site, b'--b\r\nContent-Disposition: form-data; name="labels"\r\n\r\n' + b"a" * MIB)


def _form_headers(site: Site) -> Got:
    return _multipart(site, b"--b\r\n" + b"A: b\r\n" * 100_000 + b"\r\na\r\n--b--\r\n")


def _long_address(site: Site) -> Got:
    return answered(site.raw("GET", "/v1/models?" + "a" * 100_000))


def _long_header(site: Site) -> Got:
    return answered(site.raw("GET", "/v1/models", {"X-Long": "a" * 100_000}))


def _many_headers(site: Site) -> Got:
    answer = site.raw("GET", "/v1/models", {f"X-{n}": "a" for n in range(1000)})
    return answered(answer, (200, *range(400, 500)))


def _filter(site: Site, depth: int) -> Got:
    nested: dict[str, Any] = {"a": 1}
    for _ in range(depth):
        nested = {"$not": nested}
    site.ask("PUT", "/v1/indexes/drill", json={"dimension": 2})
    try:
        return answered(site.ask("POST", "/v1/indexes/drill/search", json={"vector": [1, 0], "k": 1, "filter": nested}))
    finally:
        site.ask("DELETE", "/v1/indexes/drill")


def _schema(site: Site, schema: dict[str, Any] | str) -> Got:
    """`schema`: as JSON where it is too deep for the encoder."""
    asked = {"type": "json_schema", "json_schema": {"name": "a", "schema": "SCHEMA"}}
    body = {
        "model": "llava",
        "messages": [{"role": "user", "content": "What colour is the object?"}],
        "response_format": asked,
        "max_tokens": 8,
    }
    text = json.dumps(body).replace('"SCHEMA"', schema if isinstance(schema, str) else json.dumps(schema))
    headers = {"Content-Type": "application/json"}
    answer = site.ask("POST", "/v1/chat/completions", content=text.encode(), headers=headers)
    return answered(answer, (200, *range(400, 500)))


def _messages(site: Site) -> Got:
    messages = [{"role": "user", "content": "What is it?"}] * 5_000
    return answered(site.ask("POST", "/v1/chat/completions", json={"model": "llava", "messages": messages}))


def _message(site: Site, size: int, key: str | None = None) -> Got:
    # Field 7 of ModelInferRequest, raw_input_contents, of that length (protobuf, "Encoding").
    length, coded = size, b""
    while length > 0x7F:
        coded += bytes([length & 0x7F | 0x80])
        length >>= 7
    message = b"\x3a" + coded + bytes([length]) + bytes(size)
    status, _ = call(site.grpc, _INFER, message, [("x-api-key", site.key if key is None else key)], **_WIDE)
    return Got(status, status == "RESOURCE_EXHAUSTED")


def _metadata(site: Site) -> Got:
    status, _ = call(site.grpc, _LIVE, b"", [("x-long", "a" * MIB)], **_WIDE)
    return Got(status, status in ("RESOURCE_EXHAUSTED", "UNAVAILABLE", "INTERNAL", "INVALID_ARGUMENT"))


def _garbage(site: Site) -> Got:
    status, _ = call(site.grpc, _INFER, b"\xff" * 1000, [("x-api-key", site.key)])
    return Got(status, status not in ("OK", "DEADLINE_EXCEEDED"))


def _tensor(site: Site) -> Got:
    tensor = {"name": "PIXELS", "datatype": "UINT8", "shape": [1 << 20, 1 << 10, 1 << 10, 3], "data": [0]}
    return answered(site.ask("POST", "/v2/models/clip.image_embedding/infer", json={"inputs": [tensor]}))


def _ready(site: Site) -> Got:
    return answered(site.readiness(), (200,))
