"""JSON bodies say what they mean: no text stands for a number or a yes there. In forms and queries all is text.

What the routes take is read from the OpenAPI document, so that a new route is held to it too.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.unit.fakes import Site, png

PNG = png()
BASE64 = base64.b64encode(PNG).decode()
# How the values of a type look as text.
AS_TEXT = {"integer": "1", "number": "1", "boolean": "true"}
# Fields whose values must be more than of the right type.
GIVEN = {"where": {"all": True}, "edits": [{"op": "crop", "where": {"all": True}}]}


def types_of(schema: dict[str, Any]) -> set[str]:
    """The JSON types that a field may have."""
    branches = schema.get("anyOf") or schema.get("oneOf") or [schema]
    kinds: set[str] = set()
    for branch in branches:
        named = branch.get("type", [])
        kinds |= {named} if isinstance(named, str) else set(named)
    return kinds - {"null"}


def filler(schema: dict[str, Any]) -> Any:
    """A value of the right type, for fields that must be there."""
    branch = (schema.get("anyOf") or schema.get("oneOf") or [schema])[0]
    if "const" in branch or "enum" in branch:
        return branch.get("const", *branch.get("enum", ())[:1])
    match branch.get("type"):
        case "object":
            return {name: filler(branch["properties"][name]) for name in branch.get("required", ())}
        case "array":
            return [filler(branch["items"]) for _ in range(branch.get("minItems", 1))]
        case "integer" | "number":
            return 1
        case _:
            return "x"


def wrong_fields(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any], str]]:
    """Method, path, a body, and its field that is text where it must not be."""
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            content = operation.get("requestBody", {}).get("content", {})
            if "application/json" not in content:
                continue
            schema = content["application/json"]["schema"]
            required = {
                name: GIVEN.get(name) or filler(schema["properties"][name]) for name in schema.get("required", ())
            }
            for name, field in schema["properties"].items():
                kinds = types_of(field)
                if kinds and kinds <= set(AS_TEXT):
                    yield method, path, required | {name: AS_TEXT[min(kinds)]}, name


async def test_no_text_for_a_number_or_a_yes(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    cases = list(wrong_fields(document))
    taken = []
    for method, path, body, name in cases:
        answer = await client.request(method, path.replace("{task}", "caption"), json=body)
        error = answer.json()["error"] if answer.status_code == 400 else {}
        if (error.get("code"), error.get("param")) != ("invalid_field", name):
            taken.append((method, path, name, answer.status_code, answer.text[:200]))
    assert not taken
    assert {"/v1/classify", "/v1/chat/completions", "/v1/scenes/{name}/render", "/v1/jobs", "/v1/sessions"} <= {
        path for _, path, _, _ in cases
    }


NESTED: list[tuple[str, str, dict[str, Any], str]] = [
    ("POST", "/v1/classify", {"labels": ["cat", 1], "image": BASE64}, "labels[1]"),
    ("POST", "/v1/classify", {"labels": ["cat", "dog"], "top_k": 1.0, "image": BASE64}, "top_k"),
    ("POST", "/v1/classify", {"labels": ["cat", "dog"], "top_k": True, "image": BASE64}, "top_k"),
    ("POST", "/v1/classify", {"labels": ["cat", "dog"], "multi_label": 1, "image": BASE64}, "multi_label"),
    (
        "POST",
        "/v1/vision",
        {"image": BASE64, "tasks": [{"task": "ocr", "region": [0, "1", 2, 3]}]},
        "tasks[0].region[1]",
    ),
    ("POST", "/v1/indexes/shoes/search", {"vector": ["1", 0]}, "vector[0]"),
    ("POST", "/v1/indexes/shoes/items", {"items": [{"id": 7, "text": "a"}]}, "items[0].id"),
    ("POST", "/v1/scenes/table/render", {"camera": {"orbit": {"radius": "2"}}}, "camera.orbit.radius"),
    (
        "POST",
        "/v1/scenes/table/render",
        {"camera": {"look_at": {"eye": [0, "0", 1], "target": [0, 0, 0]}}},
        "camera.look_at.eye[1]",
    ),
    ("POST", "/v1/scenes/table/render", {"background": ["0", 0, 0]}, "background[0]"),
    (
        "POST",
        "/v1/scenes/table/edits",
        {"edits": [{"op": "scale", "where": {"all": True}, "factor": "2"}]},
        "edits[0].factor",
    ),
    ("POST", "/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}], "n": "2"}, "n"),
    (
        "POST",
        "/v1/jobs",
        {"operation": "classify", "request": {"labels": ["a", "b"], "image": BASE64, "top_k": "1"}},
        "request.top_k",
    ),
]


@pytest.mark.parametrize(("method", "path", "body", "param"), NESTED)
async def test_what_is_wrong_is_named(
    client: httpx.AsyncClient, method: str, path: str, body: dict[str, Any], param: str
) -> None:
    answer = await client.request(method, path, json=body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("invalid_field", param)


async def test_tensors_in_json(client: httpx.AsyncClient) -> None:
    tensor = {"name": "TEXT", "datatype": "BYTES", "shape": ["1"], "data": ["cat"]}
    answer = await client.post("/v2/models/clip.text_embedding/infer", json={"inputs": [tensor]})
    assert (answer.status_code, answer.json()["param"]) == (400, "inputs[0].shape[0]")


@pytest.mark.parametrize("body", [{"k": 2, "vector": [1, 0, 0, 0]}, {"k": 2, "vector": [1.0, 0.5, 0, 0]}])
async def test_whole_numbers_are_numbers(client: httpx.AsyncClient, body: dict[str, Any]) -> None:
    assert (await client.put("/v1/indexes/shoes", json={})).status_code == 200
    assert (await client.post("/v1/indexes/shoes/search", json=body)).status_code == 200


async def test_forms_and_queries_are_text(client: httpx.AsyncClient, site: Site) -> None:
    fields = {"labels": "cat, dog", "top_k": "1", "multi_label": "yes"}
    form = await client.post("/v1/classify", files={"image": PNG}, data=fields)
    headers = {"content-type": "image/png"}
    raw = await client.post("/v1/classify", content=PNG, params=fields, headers=headers)
    listed = await client.post(
        "/v1/classify", content=PNG, params=fields | {"labels": json.dumps(["cat", "dog"])}, headers=headers
    )
    for answer in (form, raw, listed):
        assert answer.status_code == 200, answer.text
        assert [len(result["scores"]) for result in answer.json()["results"]] == [1]
    assert {(request.labels, request.multi_label) for request in site.model.requests("classify")} == {
        (("cat", "dog"), True)
    }
