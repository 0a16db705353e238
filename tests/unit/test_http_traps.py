"""Hostile or odd HTTP requests, and errors that must name what the client wrote and nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
from pydantic import ValidationError

from serve.dataplane import MOST_TEMPLATES
from serve.errors import InvalidRequest
from serve.protocol.bodies import MOST_KEYS, Fields, json_object
from serve.protocol.chat_bodies import ChatFields
from serve.protocol.indexes import ItemsFields, SearchFields
from serve.protocol.native import ClassifyFields
from serve.protocol.oip_http import InferFields
from tests.unit.fakes import Site, cluster
from tests.unit.test_http_edge import error_of as edge_error_of
from tests.unit.test_http_oip import LABELS, LENGTH, binary, described, infer, request, tensor
from tests.unit.test_http_oip_errors import error_of as oip_error_of
from tests.unit.test_http_skins import BASE64, DATA_URI, PATH, PNG, body_of, error_of

ONE = {"labels": ["a", "b"], "image": BASE64}


@pytest.fixture
def site() -> Site:
    return Site()


@pytest.fixture
async def client(site: Site) -> AsyncIterator[httpx.AsyncClient]:
    async with site.client() as made:
        yield made


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        (PATH, {**ONE, "templates": 5}, "templates"),
        (PATH, {**ONE, "templates": ["a {}", 5]}, "templates[1]"),
        ("/v1/embeddings", {"input": 5}, "input"),
        ("/v1/embeddings", {"input": ["a", 5]}, "input[1]"),
        ("/v1/embeddings", {"input": ["a", {"type": "text"}]}, "input[1].text"),
        ("/v1/embeddings", {"input": ["a", {"type": "audio", "text": "x"}]}, "input[1].type"),
        ("/v1/embeddings", {"input": [{"type": "image_url", "image_url": {"uri": "x"}}]}, "input[0].image_url"),
        ("/v1/indexes/x/search", {"text": "x", "filter": 5}, "filter"),
    ],
)
async def test_a_field_of_a_union_is_named_as_the_client_wrote_it(
    client: httpx.AsyncClient, path: str, fields: dict[str, Any], param: str
) -> None:
    error = error_of(await client.post(path, json=fields), 400)
    assert error["param"].startswith(param)
    for internal in ("str", "list[", "dict[", "union"):
        assert internal not in error["param"]
        assert f".{internal}" not in error["message"]


@pytest.mark.parametrize("form", [False, True])
async def test_a_single_data_uri_in_images_is_not_split(client: httpx.AsyncClient, form: bool) -> None:
    if form:
        files = {"labels": (None, "a,b"), "images": (None, DATA_URI)}
        response = await client.post(PATH, files=files)
    else:
        response = await client.post(PATH, json={"labels": ["a", "b"], "images": DATA_URI})
    assert body_of(response)["results"] == body_of(await client.post(PATH, json=ONE))["results"]


def multipart(field: bytes, value: bytes, charset: str) -> dict[str, Any]:
    body = (
        b'--x\r\nContent-Disposition: form-data; name="' + field + b'"\r\n\r\n' + value + b"\r\n"
        b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
        + PNG
        + b"\r\n--x--\r\n"
    )
    return {"content": body, "headers": {"content-type": f"multipart/form-data; boundary=x; charset={charset}"}}


@pytest.mark.parametrize(("charset", "value"), [("unicode_escape", b"\\ud800,b"), ("utf-7", b"+2AA-,b")])
async def test_the_client_does_not_choose_the_decoder_of_a_form(
    client: httpx.AsyncClient, charset: str, value: bytes
) -> None:
    """Such a charset would make lone surrogates, which can be neither tokenised nor answered; fields are UTF-8."""
    response = await client.post(PATH, **multipart(b"labels", value, charset))
    assert response.status_code == 200
    assert {score["label"] for score in body_of(response)["results"][0]["scores"]} == {value.decode()[:-2], "b"}


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/v1/indexes/a", {"GET", "PUT", "DELETE"}),
        ("PUT", "/v1/indexes/a/items/b", {"GET", "DELETE"}),
    ],
)
async def test_allow_lists_every_method(client: httpx.AsyncClient, method: str, path: str, allowed: set[str]) -> None:
    """RFC 9110 section 10.2.1."""
    response = await client.request(method, path)
    edge_error_of(response, 405)
    assert {name.strip() for name in response.headers["allow"].split(",")} >= allowed


async def test_a_key_outside_ascii_can_be_used() -> None:
    """hash_key takes it, HTTP carries it as UTF-8; ASGI hands the header over as Latin-1."""
    from serve.auth import hash_key

    key = "ключ-от-всех-дверей"
    config = cluster(auth={"keys": [{"name": "alice", "sha256": hash_key(key)}]})
    async with Site(config).client() as client:
        response = await client.get("/v1/models", headers=[(b"x-api-key", key.encode())])
        assert response.status_code == 200


async def test_files_of_items_are_documented(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    content = document["paths"]["/v1/indexes/{name}/items"]["post"]["requestBody"]["content"]
    assert {"application/json", "multipart/form-data", "image/png"} <= set(content)


@pytest.mark.parametrize(
    ("shape", "data"),
    [
        ([1] * 65, [1]),
        ([0, 2**62, 2**62], []),
        ([0, 2**63], []),
        ([0, 2**40, 2**40], []),
    ],
)
async def test_a_shape_that_no_array_can_have(client: httpx.AsyncClient, shape: list[int], data: list[int]) -> None:
    body = {"content": orjson.dumps(request(tensor("PIXELS", data, "FP32", shape), LABELS))}
    assert oip_error_of(await infer(client, **body), 400) == ("invalid_shape", "PIXELS")
    raw = np.asarray(data, "<f4").tobytes()
    body = binary(request(described("PIXELS", shape, len(raw), "FP32"), LABELS), raw)
    assert oip_error_of(await infer(client, **body), 400) == ("invalid_shape", "PIXELS")


@pytest.mark.parametrize(
    "bad",
    [
        tensor("PIXELS", [1, 2], "FP32", [1] * 10_000),
        tensor("PIXELS", ["x" * 50_000], "FP32"),
        tensor("X" * 50_000, ["x"]),
        tensor("PIXELS", [1], "FP32", [7] * 10_000),
    ],
)
async def test_an_error_does_not_repeat_the_request(client: httpx.AsyncClient, bad: dict[str, Any]) -> None:
    response = await infer(client, json=request(bad, LABELS))
    assert response.status_code == 400
    assert len(response.content) < 2000


async def test_an_unknown_field_is_not_repeated_whole(client: httpx.AsyncClient) -> None:
    response = await client.post(PATH, json={**ONE, "x" * 50_000: 1})
    assert response.status_code == 400
    assert len(response.content) < 2000


async def test_a_header_length_of_many_digits(client: httpx.AsyncClient) -> None:
    response = await infer(client, content=b"{}", headers={LENGTH: "9" * 5000})
    assert oip_error_of(response, 400)[0] == "invalid_header_length"


@pytest.mark.parametrize("value", [1.7, 300.0, "7", None, True])
async def test_integers_are_not_made_from_other_things(client: httpx.AsyncClient, value: Any) -> None:
    """1.7 must not become pixel 1."""
    body = request(tensor("PIXELS", [value] * 48, "UINT8", [4, 4, 3]), LABELS)
    assert oip_error_of(await infer(client, json=body), 400) == ("invalid_tensor_data", "PIXELS")


@pytest.mark.parametrize("value", ["1.5", None])
async def test_numbers_are_not_made_from_texts(client: httpx.AsyncClient, value: Any) -> None:
    body = request(tensor("PIXELS", [value] * 48, "FP32", [3, 4, 4]), LABELS)
    assert oip_error_of(await infer(client, json=body), 400) == ("invalid_tensor_data", "PIXELS")


@pytest.mark.timeout(20)
async def test_the_product_of_a_long_shape_is_not_computed() -> None:
    """A body of 8 MB full of sides: quadratic in the big integer, minutes on the router's loop."""
    async with Site(cluster(limits={"max_body_bytes": 16 * 2**20})).client() as client:
        body = orjson.dumps(request(tensor("LABELS", ["a"], shape=[2**62] * 400_000)))
        assert (await infer(client, content=body)).status_code == 400


@pytest.mark.timeout(20)
async def test_flattening_is_linear() -> None:
    """One deep branch beside many leaves: each level was a pass over all leaves."""
    async with Site(cluster(limits={"max_body_bytes": 16 * 2**20})).client() as client:
        deep = b"[" * 900 + b"0" + b"]" * 900
        data = b"[" + b"0," * 2_000_000 + deep + b"]"
        body = b'{"inputs":[{"name":"PIXELS","datatype":"UINT8","shape":[3],"data":' + data + b"}]}"
        assert (await infer(client, content=body)).status_code == 400


async def test_ragged_data_is_refused(client: httpx.AsyncClient) -> None:
    """Nested data states a shape; it must be the one beside it."""
    body = request(tensor("PIXELS", [[1, 2, 3]] * 16, "UINT8", [4, 4, 3]), LABELS)
    assert (await infer(client, json=body)).status_code == 200
    ragged = request(tensor("PIXELS", [[1, 2]] * 23 + [[1], 1], "UINT8", [4, 4, 3]), LABELS)
    assert oip_error_of(await infer(client, json=ragged), 400)[0] in ("invalid_shape", "invalid_tensor_data")


async def test_bytes_behind_a_compressed_body_are_refused(client: httpx.AsyncClient) -> None:
    import gzip

    content = gzip.compress(orjson.dumps(request())) + b"junk"
    response = await infer(client, content=content, headers={"content-encoding": "gzip"})
    assert oip_error_of(response, 400)[0] == "invalid_content_encoding"


async def test_too_many_items_are_items(client: httpx.AsyncClient) -> None:
    await client.put("/v1/indexes/shoes", json={})
    items = [{"id": str(i), "text": "x"} for i in range(7)]
    error = error_of(await client.post("/v1/indexes/shoes/items", json={"items": items}), 400)
    assert (error["code"], error["param"]) == ("too_many_inputs", "items")


IMAGE = tensor("IMAGE", [BASE64])


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        (request(IMAGE, tensor("LABELS", ["a", "a"])), "duplicate_label", "LABELS"),
        (request(IMAGE, tensor("LABELS", ["a", ""])), "empty_text", "LABELS[1]"),
        (request(IMAGE, tensor("LABELS", [])), "no_labels", "LABELS"),
        (request(tensor("PIXELS", [], "UINT8", [0, 4, 4, 3]), LABELS), "no_input", "PIXELS"),
        (request(parameters={"template_set": "x"}), "unknown_template_set", "template_set"),
        (request(IMAGE, LABELS, tensor("TEMPLATES", ["x"])), "invalid_template", "TEMPLATES"),
    ],
)
async def test_errors_name_the_tensor(client: httpx.AsyncClient, body: Any, code: str, param: str) -> None:
    assert oip_error_of(await infer(client, json=body), 400) == (code, param)


async def test_labels_times_templates_are_bounded(client: httpx.AsyncClient, site: Site) -> None:
    """Each bound by itself would let a million texts through."""
    templates = ["{}"] * (MOST_TEMPLATES + 1)
    error = error_of(await client.post(PATH, json={**ONE, "labels": list("abcde"), "templates": templates}), 400)
    assert (error["code"], error["param"]) == ("too_many_templates", "templates")
    assert site.model.requests("classify") == []
    body_of(await client.post(PATH, json={**ONE, "labels": list("abcd"), "templates": templates}))  # 44 of 50


def test_a_body_of_a_million_keys_is_refused_before_each_is_named() -> None:
    for data in ({f"k{n}": 0 for n in range(MOST_KEYS + 1)}, {"items": [{f"k{n}": {}} for n in range(MOST_KEYS)]}):
        with pytest.raises(InvalidRequest) as caught:
            json_object(orjson.dumps(data))
        assert caught.value.code == "too_many_keys"
    many_colons = {"text": ":" * (MOST_KEYS + 1), **{f"k{n}": 0 for n in range(MOST_KEYS - 1)}}
    assert json_object(orjson.dumps(many_colons)) == many_colons


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (ClassifyFields, {"labels": [0] * 1000}),
        (ItemsFields, {"items": [{}] * 1000}),
        (SearchFields, {"vector": [""] * 1000}),
        (InferFields, {"inputs": [{}] * 1000}),
        (ChatFields, {"messages": [{"role": "user", "content": [{"type": "text"}] * 1000}] * 1000}),
    ],
)
def test_a_list_is_given_up_at_its_first_wrong_element(kind: type[Fields], body: Any) -> None:
    """To tell of every one would take seconds, in which a router answers nobody."""
    with pytest.raises(ValidationError) as caught:
        kind.model_validate(body)
    assert caught.value.error_count() <= 5
