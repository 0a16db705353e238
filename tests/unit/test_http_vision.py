"""`/v1/vision` and OIP's `NAME.vision` over a model that answers from the request alone."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import numpy as np
import pytest
from tritonclient.grpc import InferInput, service_pb2

from deployments.florence2.messages import (
    Answer,
    LabelledBox,
    Polygons,
    Quad,
    SeenImage,
    VisionRequest,
    VisionResult,
    VisionTask,
)
from deployments.florence2.tasks import TASKS
from deployments.messages import ModelInfo
from serve.context import RequestContext
from serve.errors import InvalidMedia, InvalidRequest
from serve.protocol.oip_messages import from_message, to_message
from tests.unit.fakes import Site, cluster, content_of, png
from tests.unit.test_http_skins import body_of, error_of

RED, BLUE = png("red"), png("blue", (20, 10))
DRAWN = png("green")
B64 = {"red": base64.b64encode(RED).decode(), "blue": base64.b64encode(BLUE).decode()}
QUAD = Quad(((0.0, 0.0), (4.0, 0.0), (4.0, 2.0), (0.0, 2.0)), "ARGUS")
OUTLINE = Polygons((((1.0, 1.0), (5.0, 1.0), (5.0, 5.0)),), "a star")


class FakeFlorence2:
    """A `ModelHandle`: says what it was asked. Fails for images in `failing`, refuses texts in `refused`."""

    def __init__(self) -> None:
        self.requests: list[VisionRequest] = []
        self.failing: set[bytes] = set()
        self.refused: set[str] = set()

    async def call(self, method: str, context: RequestContext, *args: Any, **kwargs: Any) -> Any:
        if method == "info":
            return ModelInfo("cpu", 1.0, image_size=192)
        assert method == "vision"
        request: VisionRequest = args[0]
        self.requests.append(request)
        return VisionResult(tuple(self._image(content_of(image), request) for image in request.images))

    def _image(self, content: bytes, request: VisionRequest) -> SeenImage | Exception:
        if content in self.failing:
            return InvalidMedia("It ends early.", code="truncated_image")
        return SeenImage(8, 6, tuple(self._answer(task, request) for task in request.tasks))

    def _answer(self, task: VisionTask, request: VisionRequest) -> Answer | Exception:
        if task.text in self.refused:
            return InvalidRequest("The text holds '<loc_1>'.", code="invalid_field", param="text")
        drawn = DRAWN if request.render else None
        box = task.region or (1.0, 2.0, 3.456, 4.0)
        return {
            "text": Answer(text=f"{task.name} {task.text} {task.region}", annotated=drawn, tokens=5),
            "boxes": Answer(boxes=(LabelledBox(box, task.text or "star"),), annotated=drawn, tokens=7),
            "quads": Answer(quads=(QUAD,), annotated=drawn, tokens=9, finish_reason="length"),
            "polygons": Answer(polygons=(OUTLINE,), annotated=drawn, tokens=9),
            "boxes_or_polygons": Answer(boxes=(LabelledBox(box, "b"),), polygons=(OUTLINE,), annotated=drawn),
        }[TASKS[task.name].answers]


@pytest.fixture(scope="module")
def made() -> tuple[Site, FakeFlorence2]:
    fake = FakeFlorence2()
    models = {
        "clip": {"kind": "clip", "checkpoint": "openai/clip-vit-large-patch14"},
        "florence2": {"kind": "florence2", "checkpoint": "florence-community/Florence-2-base"},
    }
    return Site(cluster(models=models), more={"florence2": fake}), fake


@pytest.fixture
def fake(made: tuple[Site, FakeFlorence2]) -> FakeFlorence2:
    made[1].__init__()  # type: ignore[misc]
    return made[1]


@pytest.fixture
async def client(made: tuple[Site, FakeFlorence2], fake: FakeFlorence2) -> AsyncIterator[httpx.AsyncClient]:
    async with made[0].client() as opened:
        yield opened


async def ask(client: httpx.AsyncClient, task: str, **fields: Any) -> httpx.Response:
    return await client.post(f"/v1/vision/{task}", json={"image": B64["red"]} | fields)


async def test_the_tasks_and_what_they_need(client: httpx.AsyncClient) -> None:
    listed = {task["task"]: task for task in body_of(await client.get("/v1/vision"))["data"]}
    assert set(listed) == set(TASKS) and len(listed) == 15
    assert (listed["caption"]["needs"], listed["phrase-grounding"]["needs"]) == (None, "text")
    assert listed["region-ocr"]["needs"] == "region"
    assert listed["open-vocabulary-detection"]["answers"] == ["boxes", "polygons"]


async def test_a_caption(client: httpx.AsyncClient, fake: FakeFlorence2) -> None:
    body = body_of(await ask(client, "caption"))
    assert {key: body[key] for key in ("object", "task", "model", "usage")} == {
        "object": "vision",
        "task": "caption",
        "model": "florence2",
        "usage": {"completion_tokens": 5},
    }
    assert body["results"] == [
        {
            "index": 0,
            "size": {"width": 8, "height": 6},
            "text": "caption None None",
            "finish_reason": "stop",
        }
    ]
    [request] = fake.requests
    assert (request.beams, request.max_new_tokens, request.render) == (3, 1024, False)


@pytest.mark.parametrize(
    ("task", "fields", "expected"),
    [
        ("object-detection", {}, {"boxes": [{"box": [1.0, 2.0, 3.46, 4.0], "label": "star"}]}),
        ("<OD>", {}, {"boxes": [{"box": [1.0, 2.0, 3.46, 4.0], "label": "star"}]}),
        ("phrase-grounding", {"text": "a hat"}, {"boxes": [{"box": [1.0, 2.0, 3.46, 4.0], "label": "a hat"}]}),
        ("ocr-with-region", {}, {"quads": [{"points": [[0, 0], [4, 0], [4, 2], [0, 2]], "text": "ARGUS"}]}),
        (
            "region-segmentation",
            {"region": [1, 2, 3.5, 4]},
            {"polygons": [{"rings": [[[1, 1], [5, 1], [5, 5]]], "label": "a star"}]},
        ),
        ("region-ocr", {"region": [1, 2, 3.5, 4]}, {"text": "region-ocr None (1.0, 2.0, 3.5, 4.0)"}),
    ],
)
async def test_what_each_kind_of_task_answers(
    client: httpx.AsyncClient, task: str, fields: dict[str, Any], expected: dict[str, Any]
) -> None:
    [result] = body_of(await client.post("/v1/vision/" + task, json={"image": B64["red"], **fields}))["results"]
    del result["index"], result["size"], result["finish_reason"]
    assert result == expected


async def test_an_open_vocabulary_answers_boxes_and_polygons(client: httpx.AsyncClient) -> None:
    [result] = body_of(await ask(client, "open-vocabulary-detection", text="star"))["results"]
    assert len(result["boxes"]) == len(result["polygons"]) == 1


async def test_the_same_request_in_every_form(client: httpx.AsyncClient, fake: FakeFlorence2) -> None:
    path = "/v1/vision/region-ocr"
    options = {"region": "1,2,3.5,4", "mode": "fast", "max_tokens": "50", "render": "true"}
    raw = await client.post(path, params=options, content=RED, headers={"content-type": "image/png"})
    form = await client.post(path, data=options, files={"image": ("a.png", RED, "image/png")})
    typed = {"region": [1, 2, 3.5, 4], "mode": "fast", "max_tokens": 50, "render": True}
    plain = await client.post(path, json={"image": B64["red"], **typed})
    for response in (raw, form, plain):
        body_of(response)
    assert fake.requests[0] == fake.requests[1] == fake.requests[2]
    assert (fake.requests[0].beams, fake.requests[0].max_new_tokens) == (1, 50)


async def test_several_tasks_travel_in_one_request(client: httpx.AsyncClient, fake: FakeFlorence2) -> None:
    tasks = [{"task": "caption"}, {"task": "<OD>"}, {"task": "phrase-grounding", "text": "a hat"}]
    body = body_of(
        await client.post("/v1/vision", json={"images": [B64["red"], B64["blue"]], "tasks": tasks, "render": True})
    )
    assert len(fake.requests) == 1
    assert [result["index"] for result in body["results"]] == [0, 1]
    for result in body["results"]:
        assert [answer["task"] for answer in result["answers"]] == ["caption", "object-detection", "phrase-grounding"]
        assert result["answers"][2]["boxes"][0]["label"] == "a hat"
        assert all(answer["annotated"].startswith("data:image/png;base64,") for answer in result["answers"])
    assert body["usage"] == {"completion_tokens": 2 * (5 + 7 + 7)}
    files = {"image": ("a.png", RED, "image/png")}
    body_of(await client.post("/v1/vision", data={"tasks": json.dumps(tasks)}, files=files))
    assert fake.requests[1].tasks == fake.requests[0].tasks


@pytest.mark.parametrize("region", ["NaN,2,3,4", "inf,2,3,4", "[3, 2, 3, 4]"])
async def test_a_region_in_a_form_that_is_none(client: httpx.AsyncClient, region: str) -> None:
    files = {"image": ("a.png", RED, "image/png")}
    error = error_of(await client.post("/v1/vision/region-ocr", data={"region": region}, files=files), 400)
    assert (error["code"], error["param"]) == ("invalid_field", "region")


async def test_errors_stand_in_their_places(client: httpx.AsyncClient, fake: FakeFlorence2) -> None:
    fake.failing, fake.refused = {BLUE}, {"<loc_1>"}
    tasks = [{"task": "caption"}, {"task": "phrase-grounding", "text": "<loc_1>"}]
    images = ["not an image at all!", B64["blue"], B64["red"]]
    first, second, third = body_of(await client.post("/v1/vision", json={"images": images, "tasks": tasks}))["results"]
    assert first["error"]["param"] == "images[0]" and first["index"] == 0
    assert (second["error"]["code"], second["error"]["param"]) == ("truncated_image", "images[1]")
    good, bad = third["answers"]
    assert good["text"] == "caption None None"
    assert (bad["task"], bad["error"]["param"]) == ("phrase-grounding", "tasks[1].text")
    assert len(fake.requests) == 1


async def test_when_all_fail_the_request_fails(client: httpx.AsyncClient, fake: FakeFlorence2) -> None:
    fake.refused = {"<loc_1>"}
    error = error_of(await ask(client, "phrase-grounding", text="<loc_1>"), 400)
    assert (error["code"], error["param"]) == ("invalid_field", "text")
    fake.failing = {RED}
    error = error_of(await ask(client, "caption"), 400)
    assert (error["code"], error["param"]) == ("truncated_image", "image")


@pytest.mark.parametrize(
    ("task", "fields", "code", "param"),
    [
        ("phrase-grounding", {}, "missing_field", "text"),
        ("phrase-grounding", {"text": " "}, "empty_text", "text"),
        ("phrase-grounding", {"text": "x" * 61}, "text_too_long", "text"),
        ("phrase-grounding", {"text": "a", "region": [1, 2, 3, 4]}, "invalid_field", "region"),
        ("caption", {"text": "a"}, "invalid_field", "text"),
        ("region-ocr", {}, "missing_field", "region"),
        ("region-ocr", {"region": [1, 2, 3]}, "invalid_field", "region"),
        ("region-ocr", {"region": [3, 2, 3, 4]}, "invalid_field", "region"),
        ("region-ocr", {"region": [1, 4, 3, 4]}, "invalid_field", "region"),
        ("region-ocr", {"region": [-1, 2, 3, 4]}, "invalid_field", "region"),
        ("region-ocr", {"region": ["NaN", 2, 3, 4]}, "invalid_field", "region[0]"),
        ("region-ocr", {"region": ["1", 2, 3, 4]}, "invalid_field", "region[0]"),
        ("region-ocr", {"region": "1,2,3,4"}, "invalid_field", "region[0]"),
        ("region-ocr", {"region": [1, 2, "x", 4]}, "invalid_field", "region[2]"),
        ("caption", {"mode": "slow"}, "invalid_field", "mode"),
        ("caption", {"mode": "fast", "beams": 3}, "invalid_field", "beams"),
        ("caption", {"beams": 0}, "invalid_field", "beams"),
        ("caption", {"max_tokens": 0}, "invalid_field", "max_tokens"),
        ("caption", {"image": None}, "missing_field", "image"),
        ("caption", {"colour": "red"}, "unknown_field", "colour"),
        ("caption", {"model": "clip"}, "task_not_supported", "model"),
        ("caption", {"images": [B64["red"]] * 7}, "too_many_inputs", "images"),
    ],
)
async def test_what_is_wrong_is_named(
    client: httpx.AsyncClient, fake: FakeFlorence2, task: str, fields: dict[str, Any], code: str, param: str
) -> None:
    error = error_of(await ask(client, task, **fields), 400)
    assert (error["code"], error["param"]) == (code, param)
    assert not fake.requests


async def test_an_unknown_task_names_those_that_exist(client: httpx.AsyncClient) -> None:
    error = error_of(await ask(client, "levitation"), 404)
    assert (error["code"], error["param"]) == ("task_not_found", "task")
    assert all(name in error["message"] for name in TASKS)
    body = {"image": B64["red"], "tasks": [{"task": "caption"}, {"task": "levitation"}]}
    assert error_of(await client.post("/v1/vision", json=body), 404)["param"] == "tasks[1].task"


async def test_images_times_tasks_are_bounded(client: httpx.AsyncClient, fake: FakeFlorence2) -> None:
    body = {"images": [B64["red"]] * 3, "tasks": [{"task": "caption"}] * 3}
    assert error_of(await client.post("/v1/vision", json=body), 400)["code"] == "too_many_inputs"
    assert error_of(await client.post("/v1/vision", json=body | {"tasks": []}), 400)["param"] == "tasks"
    assert not fake.requests


async def test_the_drawing_alone(client: httpx.AsyncClient, fake: FakeFlorence2) -> None:
    headers = {"accept": "image/png"}
    response = await client.post("/v1/vision/caption", json={"image": B64["red"]}, headers=headers)
    assert (response.status_code, response.headers["content-type"]) == (200, "image/png")
    assert response.content == DRAWN and fake.requests[0].render
    several = await client.post("/v1/vision/caption", json={"images": [B64["red"]] * 2}, headers=headers)
    assert error_of(several, 400)["param"] == "accept"
    browser = {"accept": "text/html,image/png,*/*;q=0.8"}
    body_of(await client.post("/v1/vision/caption", json={"image": B64["red"]}, headers=browser))
    wrong = await client.post("/v1/vision/levitation", json={"image": B64["red"]}, headers=headers)
    assert error_of(wrong, 404)["code"] == "task_not_found"


async def test_a_cluster_without_the_model_says_so() -> None:
    async with Site().client() as client:
        error = error_of(await client.post("/v1/vision/caption", json={"image": B64["red"]}), 404)
    assert (error["code"], error["param"]) == ("model_not_found", "model")


def tensor(name: str, data: list[Any], shape: list[int], datatype: str = "BYTES") -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, "data": data}


async def infer(client: httpx.AsyncClient, *inputs: dict[str, Any], **parameters: Any) -> httpx.Response:
    body = {"inputs": list(inputs), "parameters": parameters}
    return await client.post("/v2/models/florence2.vision/infer", json=body)


async def test_oip_one_task_for_all_images(client: httpx.AsyncClient, fake: FakeFlorence2) -> None:
    both = tensor("IMAGE", [B64["red"], B64["blue"]], [2])
    body = body_of(await infer(client, both, tensor("TASK", ["ocr"], [1]), mode="fast", render=True))
    results = {output["name"]: output["data"] for output in body["outputs"]}
    assert results["TEXT"] == ["ocr None None"] * 2
    first = json.loads(results["RESULT"][0])
    assert (first["task"], first["size"], first["text"]) == ("ocr", {"width": 8, "height": 6}, "ocr None None")
    assert first["annotated"].startswith("data:image/png;base64,")
    [request] = fake.requests
    assert (len(request.images), request.beams) == (2, 1)


async def test_oip_a_task_for_each_image(client: httpx.AsyncClient, fake: FakeFlorence2) -> None:
    body = body_of(
        await infer(
            client,
            tensor("IMAGE", [B64["red"], B64["blue"], B64["red"]], [3]),
            tensor("TASK", ["phrase-grounding", "<REGION_TO_OCR>", "caption"], [3]),
            tensor("TEXT", ["a hat", "", ""], [3]),
            tensor("REGION", [0, 0, 0, 0, 1, 2, 3, 4, 0, 0, 0, 0], [3, 4], "FP32"),
        )
    )
    results = {output["name"]: output["data"] for output in body["outputs"]}
    assert results["TEXT"] == ["a hat", "region-ocr None (1.0, 2.0, 3.0, 4.0)", "caption None None"]
    assert [json.loads(result)["task"] for result in results["RESULT"]] == ["phrase-grounding", "region-ocr", "caption"]
    assert len(fake.requests) == 3


@pytest.mark.parametrize(
    ("inputs", "parameters", "status", "param"),
    [
        ([tensor("TASK", ["levitation"], [1])], {}, 404, "TASK"),
        ([tensor("TASK", ["caption", "levitation"], [2])], {}, 404, "TASK[1]"),
        ([tensor("TASK", ["phrase-grounding"], [1]), tensor("TEXT", ["a hat", " "], [2])], {}, 400, "TEXT[1]"),
        ([tensor("TASK", ["caption", "ocr"], [2]), tensor("TEXT", [""] * 3, [3])], {}, 400, "TASK"),
        ([tensor("TASK", ["caption"] * 7, [7])], {}, 400, "TASK"),
        ([tensor("TASK", [], [0])], {}, 400, "TASK"),
        ([tensor("TASK", ["phrase-grounding"], [1])], {}, 400, "TEXT"),
        ([tensor("TASK", ["region-ocr"], [1]), tensor("REGION", [1, 2, 3], [1, 3], "FP32")], {}, 400, "REGION"),
        ([tensor("TASK", ["region-ocr"], [1]), tensor("REGION", [5, 2, 3, 4], [1, 4], "FP32")], {}, 400, "REGION"),
        ([], {}, 400, "TASK"),
        ([tensor("TASK", ["caption"], [1])], {"mode": "slow"}, 400, "mode"),
        ([tensor("TASK", ["caption"], [1])], {"max_tokens": 0}, 400, "max_tokens"),
        ([tensor("TASK", ["caption"], [1])], {"beams": 3}, 400, "beams"),
    ],
)
async def test_oip_what_is_wrong_is_named(
    client: httpx.AsyncClient, inputs: list[dict[str, Any]], parameters: dict[str, Any], status: int, param: str
) -> None:
    body = body_of(await infer(client, tensor("IMAGE", [B64["red"]], [1]), *inputs, **parameters), status)
    assert body["param"] == param


@pytest.mark.parametrize("images", [0, 2])
async def test_oip_images_and_tasks_that_do_not_pair_are_refused(client: httpx.AsyncClient, images: int) -> None:
    several = tensor("IMAGE", [B64["red"]] * images, [images])
    body = body_of(await infer(client, several, tensor("TASK", ["caption", "ocr", "<OD>"], [3])), 400)
    assert (body["code"], body["param"]) == ("invalid_shape", "IMAGE")


async def test_oip_several_tasks_about_one_image_travel_together(
    client: httpx.AsyncClient, fake: FakeFlorence2
) -> None:
    body = body_of(
        await infer(
            client,
            tensor("IMAGE", [B64["red"]], [1]),
            tensor("TASK", ["caption", "<OD>", "phrase-grounding", "region-ocr"], [4]),
            tensor("TEXT", ["", "", "a hat", ""], [4]),
            tensor("REGION", [0] * 12 + [1, 2, 3, 4], [4, 4], "FP32"),
        )
    )
    results = {output["name"]: output["data"] for output in body["outputs"]}
    assert {tuple(output["shape"]) for output in body["outputs"]} == {(4,)}
    assert results["TEXT"] == ["caption None None", "star", "a hat", "region-ocr None (1.0, 2.0, 3.0, 4.0)"]
    tasks = [json.loads(result)["task"] for result in results["RESULT"]]
    assert tasks == ["caption", "object-detection", "phrase-grounding", "region-ocr"]
    [request] = fake.requests  # so the image is decoded and encoded once
    assert (len(request.images), len(request.tasks)) == (1, 4)


async def test_oip_one_task_with_several_texts_about_one_image(client: httpx.AsyncClient, fake: FakeFlorence2) -> None:
    one = tensor("IMAGE", [B64["red"]], [1])
    phrases = tensor("TEXT", ["a hat", "a star"], [2])
    body = body_of(await infer(client, one, tensor("TASK", ["phrase-grounding"], [1]), phrases))
    results = {output["name"]: output["data"] for output in body["outputs"]}
    assert results["TEXT"] == ["a hat", "a star"]
    assert len(fake.requests) == 1


async def test_oip_a_text_that_the_model_refuses_is_named(client: httpx.AsyncClient, fake: FakeFlorence2) -> None:
    fake.refused = {"<loc_1>"}
    one = tensor("IMAGE", [B64["red"]], [1])
    tasks, written = tensor("TASK", ["caption", "phrase-grounding"], [2]), tensor("TEXT", ["", "<loc_1>"], [2])
    assert body_of(await infer(client, one, tasks, written), 400)["param"] == "TEXT[1]"


async def test_oip_a_bad_image_fails_the_request(client: httpx.AsyncClient, fake: FakeFlorence2) -> None:
    fake.failing = {BLUE}
    both = tensor("IMAGE", [B64["red"], B64["blue"]], [2])
    body = body_of(await infer(client, both, tensor("TASK", ["caption"], [1])), 400)
    assert (body["code"], body["param"]) == ("truncated_image", "IMAGE[1]")


async def test_oip_metadata(client: httpx.AsyncClient) -> None:
    body = body_of(await client.get("/v2/models/florence2.vision"))
    assert [item["name"] for item in body["inputs"]] == ["IMAGE", "PIXELS", "TASK", "TEXT", "REGION"]
    assert [item["name"] for item in body["outputs"]] == ["RESULT", "TEXT"]
    assert body_of(await client.get("/v2/models/florence2.vision/ready")) == {"ready": True}


async def test_oip_over_grpc_messages(made: tuple[Site, FakeFlorence2], fake: FakeFlorence2) -> None:
    """The bytes that tritonclient writes, and the message that it reads."""
    site, _ = made
    message = service_pb2.ModelInferRequest(model_name="florence2.vision")
    region = np.asarray([[1, 2, 3, 4]], np.float32)
    for name, array, datatype in (
        ("IMAGE", np.asarray([RED], object), "BYTES"),
        ("TASK", np.asarray([b"region-ocr"], object), "BYTES"),
        ("REGION", region, "FP32"),
    ):
        given = InferInput(name, list(array.shape), datatype)
        given.set_data_from_numpy(array)
        message.inputs.append(given._get_tensor())
        message.raw_input_contents.append(given._get_content())
    context = RequestContext("id", "anonymous", float("inf"), "normal")
    limits = site.config.limits
    reply = to_message(await site.inference.infer(from_message(message, limits), context))
    assert [output.name for output in reply.outputs] == ["RESULT", "TEXT"]
    assert b"region-ocr None (1.0, 2.0, 3.0, 4.0)" in reply.raw_output_contents[1]
    assert fake.requests[0].images[0].data == RED  # type: ignore[union-attr]


async def test_the_document_lists_the_tasks(client: httpx.AsyncClient) -> None:
    document = body_of(await client.get("/openapi.json"))
    [parameter] = [one for one in document["paths"]["/v1/vision/{task}"]["post"]["parameters"] if one["name"] == "task"]
    assert parameter["schema"]["enum"] == list(TASKS)
    assert {"get", "post"} == set(document["paths"]["/v1/vision"])
