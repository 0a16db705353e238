"""The shipped cascades on the demo models, through real clients: what they answer, and that every protocol agrees."""

from __future__ import annotations

import base64
import json
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http

from demo.scenes import Scene, render, sample_scene
from tests.e2e.cluster import KEY, Cluster
from tests.e2e.conftest import encode
from tests.e2e.test_observability import scrape, total
from tests.support.waiting import until

pytestmark = pytest.mark.cluster
BLOCKED, REVIEWED = {"red", "black"}, {"orange"}


def scene(index: int, difficulty: str = "easy") -> Scene:
    return sample_scene(index, split="test", difficulty=difficulty, seed=0)  # type: ignore[arg-type]


def png(one: Scene) -> bytes:
    return encode(render(one, 224), "PNG")


def expected(colour: str) -> str:
    return "block" if colour in BLOCKED else "review" if colour in REVIEWED else "allow"


def moderate(client: httpx.Client, *images: bytes, **fields: Any) -> dict[str, Any]:
    files = [("image", ("a.png", image, "image/png")) for image in images]
    response = client.post("/v1/moderate", files=files, data=fields)
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


def test_easy_scenes_are_moderated_by_their_colour(cluster: Cluster) -> None:
    scenes = [scene(index) for index in range(12)]
    with cluster.client() as client:
        results = moderate(client, *map(png, scenes))["results"]
    right = sum(
        (result["label"], result["outcome"]) == (one.subject.colour, expected(one.subject.colour))
        for one, result in zip(scenes, results, strict=True)
    )
    assert right >= 10, [(one.subject.colour, r["label"], r["outcome"]) for one, r in zip(scenes, results, strict=True)]


def test_what_clip_is_unsure_of_goes_on_to_llava(cluster: Cluster) -> None:
    """Among hard scenes some are left to the second step, and the trace says why."""
    with cluster.client() as client:
        results = moderate(client, *(png(scene(index, "hard")) for index in range(24)))["results"]
    escalated = [result for result in results if len(result["trace"]) > 1]
    assert 0 < len(escalated) < 24
    for result in escalated:
        screen, analyse = result["trace"]
        assert (screen["step"], screen["result"], analyse["model"]) == ("screen", "went_on", "llava")
        assert screen["confidence"] < screen["threshold"]
    alone = [result for result in results if len(result["trace"]) == 1]
    assert all(result["confidence"] >= result["trace"][0]["threshold"] for result in alone)


def test_every_protocol_gives_the_same_answer(cluster: Cluster) -> None:
    image = png(scene(3, "medium"))
    with cluster.client() as client:
        native = client.post("/v1/cascades/moderation", files={"image": image}).json()["results"][0]
    with openai.OpenAI(base_url=f"{cluster.http}/v1", api_key=KEY, max_retries=0, timeout=120) as asking:
        uri = "data:image/png;base64," + base64.b64encode(image).decode()
        chat = asking.chat.completions.create(
            model="moderation",
            messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": uri}}]}],
        )
    assert chat.choices[0].message.content == native["answer"]
    assert chat.model_extra is not None
    assert [entry["step"] for entry in chat.model_extra["argus"]["trace"]] == [e["step"] for e in native["trace"]]

    grpc_input = triton_grpc.InferInput("IMAGE", [1], "BYTES")
    grpc_input.set_data_from_numpy(np.array([image], object))
    with triton_grpc.InferenceServerClient(cluster.grpc) as grpc_client:
        over_grpc = grpc_client.infer("moderation.cascade", [grpc_input], headers={"x-api-key": KEY})
    http_input = triton_http.InferInput("IMAGE", [1], "BYTES")
    http_input.set_data_from_numpy(np.array([image], object))
    with triton_http.InferenceServerClient(cluster.http.removeprefix("http://")) as http_client:
        over_http = http_client.infer("moderation.cascade", [http_input], headers={"x-api-key": KEY})
    for answer in (over_grpc, over_http):
        assert answer.as_numpy("ANSWER").tolist() == [native["answer"].encode()]
        assert answer.as_numpy("OUTCOME").tolist() == [native["outcome"].encode()]
        trace = json.loads(answer.as_numpy("TRACE")[0])
        assert [entry["step"] for entry in trace] == [entry["step"] for entry in native["trace"]]


def test_a_question_in_one_piece_of_a_stream(cluster: Cluster) -> None:
    one = scene(1)
    uri = "data:image/png;base64," + base64.b64encode(png(one)).decode()
    content: Any = [
        {"type": "image_url", "image_url": {"url": uri}},
        {"type": "text", "text": "What colour is the object?"},
    ]
    with openai.OpenAI(base_url=f"{cluster.http}/v1", api_key=KEY, max_retries=0, timeout=120) as client:
        stream = client.chat.completions.create(
            model="vqa", messages=[{"role": "user", "content": content}], stream=True
        )
        chunks = list(stream)
    said = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert one.subject.colour in said
    (trace,) = [chunk.model_extra["argus"] for chunk in chunks if chunk.model_extra and "argus" in chunk.model_extra]
    assert trace["cascade"] == "vqa"


def test_a_product(cluster: Cluster) -> None:
    one = scene(2)
    with cluster.client() as client:
        assert client.put("/v1/indexes/cascade-shop", json={}).status_code == 200
        for index in range(4):
            added = client.post(
                "/v1/indexes/cascade-shop/items", files={"image": png(scene(index))}, data={"id": str(index)}
            )
            assert added.status_code == 200, added.text
        answer = client.post(
            "/v1/products/analyze", files={"image": png(one)}, data={"index": "cascade-shop", "k": "2"}
        ).json()
        client.delete("/v1/indexes/cascade-shop")
    assert answer["similar"]["hits"][0]["id"] == "2"
    assert set(answer["attributes"]["answer"]) == {"colour", "shape"}
    assert answer["caption"]["answer"]


def test_cascades_are_listed_and_counted(cluster: Cluster) -> None:
    with cluster.client() as client:
        cards = {card["name"]: card for card in client.get("/v1/cascades").json()["data"]}
        before = counted(cluster)
        moderate(client, png(scene(5)))
    assert cards["moderation"]["uses"] == ["clip", "llava"]
    assert until(lambda: counted(cluster) > before), "Ray's agent exports every few seconds"


def counted(cluster: Cluster) -> float:
    """Moderations that have ended."""
    return total(scrape(cluster).get("ray_argus_cascade_requests_total", []), cascade="moderation")


def test_products_are_found_and_described(cluster: Cluster) -> None:
    shown = [scene(index) for index in range(4)]
    with cluster.client() as client:
        assert client.put("/v1/indexes/described-shop", json={}).status_code == 200
        for index, one in enumerate(shown):
            small = encode(render(one, 96), "JPEG", quality=80)  # it travels in the metadata, which are bounded
            uri = "data:image/jpeg;base64," + base64.b64encode(small).decode()
            added = client.post(
                "/v1/indexes/described-shop/items",
                json={"items": [{"id": str(index), "image": uri, "metadata": {"image": uri}}]},
            )
            assert added.status_code == 200, added.text
        wanted = shown[2].subject
        found = client.post(
            "/v1/search/products",
            json={
                "index": "described-shop",
                "text": f"a photo of a {wanted.colour} {wanted.shape}.",
                "k": 3,
                "describe": 1,
            },
        ).json()
        client.delete("/v1/indexes/described-shop")
    first, *others = found["hits"]
    assert first["id"] == "2"
    assert wanted.colour in first["description"]["answer"]
    assert [hit["description"] for hit in others] == [None, None]
