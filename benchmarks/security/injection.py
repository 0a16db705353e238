"""Line breaks, colours and headers in what a client may choose: ids, names, labels, traces; and what becomes of them in
answers and logs."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from functools import partial
from typing import Final

from tritonclient.grpc import service_pb2

from benchmarks.security.case import Case, Got, answered
from benchmarks.security.routes import Rpc, call
from benchmarks.security.site import Site

GROUP = "injection"
_MARK: Final = "argus-drill-mark"
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0b-\x1f\x7f]")
# Seconds within which a replica has written its lines.
_WRITTEN_S: Final = 3.0
_OTHERS: Final = 20
_INFER: Final = Rpc("/inference.GRPCInferenceService/ModelInfer", streams_in=False, streams_out=False)


def cases(site: Site) -> Iterator[Case]:
    """The attempts."""
    for name, value in (
        ("a line break, folded", b"a\r\n b"),
        ("a line feed alone", b"a\nX-Injected: yes"),
        ("a carriage return alone", b"a\rX-Injected: yes"),
        ("a NUL", b"a\0b"),
        ("a colour", b"\x1b[31m" + _MARK.encode()),
        ("bytes beyond ASCII", b"\xff\xfe\xc3"),
        ("5,000 characters", b"a" * 5000),
    ):
        yield Case(GROUP, f"X-Request-ID with {name}", "refused, or another id", partial(_request_id, site, value))
    yield Case(GROUP, "line breaks and colours in labels", "JSON escapes them", partial(_labels, site))
    yield Case(GROUP, "line breaks and colours in a model's name", "JSON escapes them", partial(_model, site))
    yield Case(
        GROUP, "line breaks and colours in an id over gRPC", "another id; one line in the log", partial(_grpc_id, site)
    )
    for name, parent in (
        ("that is none", "00-xyz"),
        ("of zeros", f"00-{'0' * 32}-{'0' * 16}-01"),
        ("of version ff", f"ff-{'1' * 32}-{'1' * 16}-01"),
        ("of 8,000 characters", "00-" + "1" * 8000),
    ):
        yield Case(GROUP, f"a traceparent {name}", "no error, no trace", partial(_trace, site, parent))
    yield Case(GROUP, "a tracestate of 12,000 characters", "no error", partial(_tracestate, site))
    yield Case(
        GROUP,
        "two Content-Lengths, and one beside chunks",
        "4xx; others get their own answers",
        partial(_smuggling, site),
    )
    yield Case(GROUP, "X-Forwarded-For and -User, X-Real-IP", "the key alone says who asks", partial(_forwarded, site))
    yield Case(GROUP, "another Host", "it stands in no answer", partial(_host, site))
    yield Case(GROUP, "the log, after all of these", "whole JSON lines without control characters", partial(_log, site))


def _request_id(site: Site, value: bytes) -> Got:
    head = (
        f"GET /v1/models HTTP/1.1\r\nHost: a\r\nX-API-Key: {site.key}\r\nConnection: close\r\nX-Request-ID: ".encode()
    )
    answer = site.send(head + value + b"\r\n\r\n")
    status = answer.partition(b"\r\n")[0].decode("latin-1")
    headers = answer.partition(b"\r\n\r\n")[0].lower()
    came_back = b"x-injected" in headers or b"\x1b" in answer or (value in answer and value != b"")
    return Got(status or "closed without an answer", not came_back and not status.startswith("HTTP/1.1 5"))


def _labels(site: Site) -> Got:
    labels = ["a\r\nX-Injected: yes", f"\x1b[31m{_MARK}", "b"]
    answer = site.ask("POST", "/v1/classify", json={"image": "QUJD", "labels": labels})
    raw = _CONTROL.search(answer.content) is not None or "x-injected" in answer.headers
    return Got(answered(answer).text + (", raw" if raw else ""), answer.status_code == 400 and not raw)


def _model(site: Site) -> Got:
    body = {"image": "QUJD", "labels": ["a", "b"], "model": f"x\r\n\x1b[31m{_MARK}"}
    answer = site.ask("POST", "/v1/classify", json=body)
    return Got(answered(answer).text, answer.status_code in (400, 404) and _CONTROL.search(answer.content) is None)


def _grpc_id(site: Site) -> Got:
    message = service_pb2.ModelInferRequest(model_name=f"x\r\n\x1b[31m{_MARK}", id=f"a\r\n\x1b[31m{_MARK}")
    status, _ = call(site.grpc, _INFER, message.SerializeToString(), [("x-api-key", site.key)])
    return Got(status, status == "NOT_FOUND")


def _trace(site: Site, value: str) -> Got:
    answer = site.ask("GET", "/v1/models", headers={"traceparent": value})
    traced = answer.headers.get("x-argus-trace-id")
    return Got(f"{answer.status_code}, {'a trace' if traced else 'no trace'}", answer.status_code == 200 and not traced)


def _tracestate(site: Site) -> Got:
    state = ",".join(f"a{n}=b" for n in range(2000))
    headers = {"traceparent": f"00-{'1' * 32}-{'1' * 16}-00", "tracestate": state[:12_000]}
    return answered(site.ask("GET", "/v1/models", headers=headers), (200,))


def _smuggling(site: Site) -> Got:
    """Two lengths, on which HAProxy and a router might not agree: what one takes for the body of a request, the other
    would take for a request of its own, and give its answer to whoever comes next on that connection."""
    hidden = f"GET /v1/healthz HTTP/1.1\r\nHost: a\r\nX-Request-ID: {_MARK}\r\n\r\n"
    body, told = f"0\r\n\r\n{hidden}", []
    for lengths in (
        f"Content-Length: 0\r\nContent-Length: {len(body)}",
        f"Content-Length: {len(body)}\r\nTransfer-Encoding: chunked",
        f"Content-Length: {len(body)}\r\nTransfer-Encoding: \x0bchunked",
        "Transfer-Encoding: xchunked, identity",
    ):
        head = f"POST /v1/classify HTTP/1.1\r\nHost: a\r\nX-API-Key: {site.key}\r\n{lengths}\r\n\r\n"
        told.append(site.send(f"{head}{body}".encode()).partition(b"\r\n")[0].decode("latin-1") or "nothing")
    others = [site.ask("GET", "/v1/models", key=site.other_key) for _ in range(_OTHERS)]
    astray = [one for one in others if one.status_code != 200 or one.headers["x-request-id"] == _MARK]
    text = f"{' / '.join(dict.fromkeys(told))}; {len(astray)} of {_OTHERS} answers to another client are not its own"
    return Got(text, all(one.startswith("HTTP/1.1 4") for one in told) and not astray)


def _forwarded(site: Site) -> Got:
    headers = {"X-Forwarded-For": "127.0.0.1", "X-Real-IP": "127.0.0.1", "X-Forwarded-User": "tester", "Via": "1.1 a"}
    return answered(site.ask("GET", "/v1/models", key=None, headers=headers), (401,))


def _host(site: Site) -> Got:
    answer = site.ask("GET", "/openapi.json", headers={"Host": "evil.example"})
    told = "evil.example" in answer.text or "evil.example" in repr(answer.headers.raw)
    return Got(f"{answer.status_code}", answer.status_code == 200 and not told)


def _log(site: Site) -> Got:
    time.sleep(_WRITTEN_S)
    lines, requests, wrong = 0, 0, []
    for path in sorted((site.run_dir / "ray").glob("session_2*/logs/serve/*.log")):
        for line in path.read_bytes().split(b"\n")[:-1]:  # what stands after the last one is being written
            lines += 1
            if _CONTROL.search(line):
                wrong.append(f"{path.name}: control characters")
            if path.name.startswith("requests_"):
                requests += 1
                try:
                    json.loads(line)
                except ValueError:
                    wrong.append(f"{path.name}: no JSON: {line[:60]!r}")
    told = [f"{lines:,} lines, {requests:,} of them requests", *sorted(set(wrong))[:3]]
    return Got("; ".join(told), bool(requests) and not wrong)
