"""The OpenAI shape: `/v1/embeddings` and `/v1/models`."""

from __future__ import annotations

import base64
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from serve.errors import InvalidRequest
from tests.unit.fakes import DIMENSION, Site, cluster, png

PNG = png()
BASE64 = base64.b64encode(PNG).decode()
DATA_URI = f"data:image/png;base64,{BASE64}"
PATH = "/v1/embeddings"


async def embed(client: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    response = await client.post(PATH, json=fields)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def refused(client: httpx.AsyncClient, status: int, **fields: Any) -> tuple[str, str | None]:
    response = await client.post(PATH, json=fields)
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error["message"]
    return error["code"], error["param"]


def vectors_of(answer: dict[str, Any]) -> list[Any]:
    return [item["embedding"] for item in answer["data"]]


async def test_an_answer(client: httpx.AsyncClient) -> None:
    answer = await embed(client, input="a red hat", model="clip", user="u-1")
    assert (answer["object"], answer["model"]) == ("list", "clip")
    assert answer["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
    [item] = answer["data"]
    assert (item["object"], item["index"]) == ("embedding", 0)
    assert len(item["embedding"]) == DIMENSION
    assert np.linalg.norm(item["embedding"]) == pytest.approx(1, abs=1e-6)


async def test_a_list_in_order(client: httpx.AsyncClient) -> None:
    alone = [vectors_of(await embed(client, input=text))[0] for text in ("cat", "dog", "cat")]
    answer = await embed(client, input=["cat", "dog", "cat"])
    assert vectors_of(answer) == alone
    assert [item["index"] for item in answer["data"]] == [0, 1, 2]
    assert alone[0] == alone[2] != alone[1]


async def test_base64_is_the_same_floats(client: httpx.AsyncClient) -> None:
    floats = vectors_of(await embed(client, input=["cat", "dog"], encoding_format="float"))
    coded = vectors_of(await embed(client, input=["cat", "dog"], encoding_format="base64"))
    for numbers, text in zip(floats, coded, strict=True):
        assert np.array_equal(np.frombuffer(base64.b64decode(text), "<f4"), np.asarray(numbers, np.float32))


async def test_no_encoding_is_the_usual_one(client: httpx.AsyncClient) -> None:
    assert await embed(client, input="cat", encoding_format=None) == await embed(client, input="cat")


PARTS: dict[str, dict[str, Any]] = {
    "image field": {"json": {"image": BASE64}},
    "images field": {"json": {"images": [DATA_URI]}},
    "image_url part": {"json": {"input": [{"type": "image_url", "image_url": {"url": DATA_URI}}]}},
    "with detail": {"json": {"input": [{"type": "image_url", "image_url": {"url": DATA_URI, "detail": "low"}}]}},
    "with original detail": {
        "json": {"input": [{"type": "image_url", "image_url": {"url": DATA_URI, "detail": "original"}}]}
    },
    "with no detail": {"json": {"input": [{"type": "image_url", "image_url": {"url": DATA_URI, "detail": None}}]}},
    "input_image part": {"json": {"input": [{"type": "input_image", "image_url": DATA_URI}]}},
    "input_image part with detail": {
        "json": {"input": [{"type": "input_image", "image_url": DATA_URI, "detail": "auto"}]}
    },
    "file": {"files": {"image": ("x.png", PNG, "image/png")}},
    "raw": {"content": PNG, "headers": {"content-type": "image/png"}, "params": {"model": "clip"}},
}


@pytest.mark.parametrize("name", PARTS)
async def test_an_image_whatever_the_shape(client: httpx.AsyncClient, site: Site, name: str) -> None:
    response = await client.post(PATH, **PARTS[name])
    assert response.status_code == 200, response.text
    assert vectors_of(response.json()) == vectors_of(await embed(client, image=DATA_URI))
    assert response.json()["usage"]["total_tokens"] == 0


async def test_texts_and_images_mixed(client: httpx.AsyncClient) -> None:
    parts = [
        "cat",
        {"type": "image_url", "image_url": {"url": DATA_URI}},
        {"type": "text", "text": "dog"},
        {"type": "input_text", "text": "cat"},
    ]
    vectors = vectors_of(await embed(client, input=parts))
    assert vectors[0] == vectors[3] == vectors_of(await embed(client, input="cat"))[0]
    assert vectors[1] == vectors_of(await embed(client, image=BASE64))[0]
    assert vectors[2] == vectors_of(await embed(client, input="dog"))[0]


async def test_length_kept_when_asked(client: httpx.AsyncClient) -> None:
    [unit] = vectors_of(await embed(client, input="cat"))
    [raw] = vectors_of(await embed(client, input="cat", normalize=False))
    assert np.linalg.norm(raw) != pytest.approx(1, abs=1e-3)
    assert np.asarray(raw) / np.linalg.norm(raw) == pytest.approx(unit, abs=1e-6)


async def test_dimensions(client: httpx.AsyncClient) -> None:
    assert await embed(client, input="cat", dimensions=DIMENSION) == await embed(client, input="cat")
    assert await refused(client, 400, input="cat", dimensions=DIMENSION - 1) == ("unsupported", "dimensions")
    assert await refused(client, 400, input="cat", dimensions=0) == ("invalid_field", "dimensions")


@pytest.mark.parametrize(
    ("fields", "status", "code", "param"),
    [
        ({}, 400, "missing_field", "input"),
        ({"input": None}, 400, "missing_field", "input"),
        ({"input": []}, 400, "missing_field", "input"),
        ({"input": ""}, 400, "empty_text", "input"),
        ({"input": ["cat", " "]}, 400, "empty_text", "input[1]"),
        ({"input": ["cat", {"type": "text", "text": ""}]}, 400, "empty_text", "input[1].text"),
        ({"input": "x" * 61}, 400, "text_too_long", "input"),
        ({"input": ["x"] * 7}, 400, "too_many_inputs", "input"),
        ({"input": [{"type": "image_url", "image_url": "?"}]}, 400, "invalid_base64", "input[0].image_url"),
        (
            {"input": ["x", {"type": "image_url", "image_url": "http://a/"}]},
            403,
            "url_not_allowed",
            "input[1].image_url",
        ),
        (
            {"input": [{"type": "input_image", "image_url": DATA_URI, "detail": "huge"}]},
            400,
            "invalid_field",
            "input[0].detail",
        ),
        ({"image": "?"}, 400, "invalid_base64", "image"),
        ({"input": "x", "images": ["?"]}, 400, "invalid_base64", "images[0]"),
        ({"input": "x", "model": "nope"}, 404, "model_not_found", "model"),
        ({"input": "x", "model": "judge"}, 400, "task_not_supported", "model"),
        ({"input": "x", "encoding_format": "int8"}, 400, "invalid_field", "encoding_format"),
        ({"input": "x", "modell": "clip"}, 400, "unknown_field", "modell"),
        ({"input": "x", "user": 5}, 400, "invalid_field", "user"),
    ],
)
async def test_what_is_wrong_is_named(
    client: httpx.AsyncClient, fields: dict[str, Any], status: int, code: str, param: str
) -> None:
    assert await refused(client, status, **fields) == (code, param)


async def test_one_failed_input_fails_the_request(client: httpx.AsyncClient, site: Site) -> None:
    site.model.failing[b"text:dog"] = InvalidRequest("Too many tokens.", code="text_too_long")
    assert await refused(client, 400, input=["cat", "dog"]) == ("text_too_long", "input[1]")
    site.model.failing[b"text:dog"] = ValueError("odd")
    assert await refused(client, 500, input=["cat", "dog"]) == ("model_failed", "input[1]")


async def test_models(client: httpx.AsyncClient) -> None:
    body = (await client.get("/v1/models")).json()
    assert body["object"] == "list"
    assert [model["id"] for model in body["data"]] == ["clip", "judge"]
    assert all(model["object"] == "model" and isinstance(model["created"], int) for model in body["data"])
    clip, judge = body["data"]
    assert (clip["checkpoint"], clip["revision"]) == ("openai/clip-vit-large-patch14", "abc")
    assert (clip["tasks"], judge["tasks"]) == (["classify", "embed"], ["classify"])


async def test_one_model(client: httpx.AsyncClient) -> None:
    body = (await client.get("/v1/models/clip")).json()
    assert (body["id"], body["dimension"], body["image_size"], body["device"]) == ("clip", DIMENSION, 224, "cpu")
    assert body["load_seconds"] == 1.235


@pytest.mark.parametrize("name", ["nope", "index", "x" * 500])
async def test_a_model_that_is_none(client: httpx.AsyncClient, name: str) -> None:
    response = await client.get(f"/v1/models/{name}")
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (404, "model_not_found", "model")
    assert "clip, judge" in error["message"]
    assert len(error["message"]) < 300


async def test_a_cluster_that_cannot_embed() -> None:
    custom = {"kind": "custom", "implementation": "a:B", "tasks": ["classify"]}
    async with Site(cluster(models={"judge": custom})).client() as client:
        assert await refused(client, 404, input="x") == ("model_not_found", "model")


async def test_the_document_names_the_models_and_what_follows_from_an_index(client: httpx.AsyncClient) -> None:
    paths = (await client.get("/openapi.json")).json()["paths"]

    def values(path: str) -> list[str]:
        (found,) = [one["schema"]["enum"] for one in paths[path]["get"]["parameters"] if one["in"] == "path"]
        return found

    assert values("/v1/models/{name}") == ["clip", "judge"]
    assert "clip.classify" in values("/v2/models/{model}/ready")
    links = paths["/v1/indexes/{name}"]["put"]["responses"]["200"]["links"].values()
    operations = {one["operationId"] for path in paths.values() for one in path.values() if "operationId" in one}
    assert {link["operationId"] for link in links} <= operations
    assert len(links) == 5


@pytest.mark.parametrize("given", [[9906, 1917], [[9906], [1917, 0]]])
async def test_token_ids_are_refused_in_plain_words(client: httpx.AsyncClient, site: Site, given: Any) -> None:
    """LangChain sends them, made with OpenAI's tokenizer, unless it is told otherwise."""
    asking = openai.AsyncOpenAI(base_url="http://argus/v1", api_key="none", http_client=client, max_retries=0)
    with pytest.raises(openai.BadRequestError) as caught:
        await asking.embeddings.create(model="clip", input=given)
    assert (caught.value.code, caught.value.param) == ("invalid_field", "input")
    for words in ("token ids are not accepted", "send texts", "check_embedding_ctx_length=False"):
        assert words in caught.value.message
    assert site.model.calls == []
