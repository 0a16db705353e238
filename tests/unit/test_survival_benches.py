"""How the benchmarks of rolling updates and of security judge what they saw."""

from __future__ import annotations

import httpx
import pytest

from benchmarks.rolling_update.run import Update, misses
from benchmarks.rolling_update.traffic import Sample, Traffic
from benchmarks.security.case import Case, answered, try_it
from benchmarks.security.routes import http_routes
from benchmarks.security.run import GROUPS
from benchmarks.security.sink import Sink
from tests.unit.fakes import Site

UPDATE = Update("code", lambda site: None, frozenset({"telling"}), lambda site: True)
BEFORE = {"telling": {1, 2}, "router": {3, 4}}
GOOD = Traffic([Sample("http", 0.0, 0.5), Sample("long", 0.1, 5.1), Sample("http", 0.2, 0.7)])


def test_an_update_as_it_should_be_misses_nothing() -> None:
    assert misses(UPDATE, GOOD, BEFORE, {"telling": {5, 6}, "router": {3, 4}}, arrived=True) == []


@pytest.mark.parametrize(
    ("after", "arrived", "told"),
    [
        ({"telling": {2, 5}, "router": {3, 4}}, True, "1 old replicas of telling still run"),
        ({"telling": {5, 6}, "router": {3, 7}}, True, "replicas of router were replaced"),
        ({"telling": {5, 6}, "router": {3, 4}}, False, "old answers after the update"),
    ],
)
def test_what_is_not_as_it_should_be_is_told(after: dict[str, set[int]], arrived: bool, told: str) -> None:
    (found,) = misses(UPDATE, GOOD, BEFORE, after, arrived=arrived)
    assert told in found


def test_a_request_that_failed_or_was_never_answered_is_a_miss() -> None:
    traffic = Traffic([Sample("http", 0.0, 0.5, error="RuntimeError: 503"), Sample("grpc", 0.1), *GOOD.samples])
    (found,) = misses(UPDATE, traffic, BEFORE, {"telling": {5, 6}, "router": {3, 4}}, arrived=True)
    assert found.startswith("code: 2 requests failed: grpc: no answer; http: RuntimeError: 503")


def test_long_requests_are_no_stall() -> None:
    assert GOOD.stall_s() == pytest.approx(0.2)
    assert GOOD.latencies() == pytest.approx([0.5, 0.5])


def test_an_answer_is_judged_by_status_code_and_content() -> None:
    refused = httpx.Response(400, json={"error": {"code": "url_not_allowed", "message": "no"}})
    assert answered(refused, codes=("url_not_allowed",)).ok
    assert answered(refused).text == "400 url_not_allowed"
    assert not answered(refused, codes=("other",)).ok
    assert not answered(refused, without="message").ok
    assert not answered(httpx.Response(500)).ok
    assert not answered(httpx.Response(200, json={})).ok
    assert answered(httpx.Response(413, json={"error": "words", "code": "payload_too_large"}), (413,)).text.endswith(
        "large"
    )


def test_an_attempt_that_breaks_is_a_failed_one() -> None:
    got = try_it(Case("group", "attempt", "expected", lambda: 1 / 0))  # type: ignore[arg-type,return-value]
    assert not got.ok
    assert got.text == "ZeroDivisionError: division by zero"


def test_groups_are_named_and_secrets_come_last() -> None:
    assert list(GROUPS)[-1] == "secrets"
    assert len(GROUPS) == 9


async def test_every_route_of_the_api_is_in_the_drill() -> None:
    async with Site().client() as client:
        documented = (await client.get("/openapi.json")).json()["paths"]
    found = {(route.method.lower(), route.path) for route in http_routes()}
    assert {(method, path) for path, methods in documented.items() for method in methods} - found == set()
    assert ("websocket", "/v1/scenes/{name}/stream") in found


def test_a_sink_keeps_what_it_is_sent() -> None:
    with Sink() as sink:
        answer = httpx.post(f"{sink.url}/a?b", content=b"body", headers={"X-C": "d"}, trust_env=False)
    assert answer.status_code == 200
    (request,) = sink.requests
    assert (request.method, request.path, request.body, request.headers["x-c"]) == ("POST", "/a?b", b"body", "d")
