"""Florence-2 in a real cluster: every protocol says the same, and what plain transformers says."""

from __future__ import annotations

import base64
import io
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from PIL import Image
from tritonclient.utils import InferenceServerException

from benchmarks.perception_client import vision
from demo import florence2_cases
from demo.scenes import Difficulty, render, sample_scene
from serve.config.load import DEMO_CHECKPOINTS
from tests.e2e.cluster import KEY, Cluster
from tests.e2e.conftest import encode

pytestmark = pytest.mark.cluster

DEMO = DEMO_CHECKPOINTS / "florence2"
LEVELS: tuple[Difficulty, ...] = ("easy", "medium")
# Objects found with their names at an IoU above 0.5; captions that name every object; words read exactly.
FLOORS = {"<OD>": 0.75, "<CAPTION>": 0.8, "<OCR>": 0.75}
SCENES = [encode(render(sample_scene(i, split="test", difficulty="medium"), 224), "PNG") for i in range(4)]


@pytest.fixture
def florence2(cluster: Cluster) -> Cluster:
    """The session's cluster, where the demo's checkpoint is `florence2`."""
    return cluster


def see(cluster: Cluster, path: str, image: bytes, **fields: Any) -> dict[str, Any]:
    with cluster.client() as client:
        response = client.post(path, json={"image": base64.b64encode(image).decode(), **fields})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def plain(image: bytes, task: str) -> dict[str, Any]:
    """What transformers alone answers, parsed by the published processor."""
    from transformers import AutoProcessor, Florence2ForConditionalGeneration

    model = Florence2ForConditionalGeneration.from_pretrained(DEMO, dtype=torch.float32).eval()
    processor: Any = AutoProcessor.from_pretrained(DEMO, backend="pil")
    with Image.open(io.BytesIO(image)) as opened:
        picture = opened.convert("RGB")
    inputs = processor(text=task, images=picture, return_tensors="pt")
    with torch.inference_mode():
        ids = model.generate(**inputs, num_beams=3, do_sample=False)
    text = processor.batch_decode(ids, skip_special_tokens=False)[0]
    parsed: dict[str, Any] = processor.post_process_generation(text, task=task, image_size=picture.size)
    return parsed


def test_answers_equal_plain_transformers(florence2: Cluster) -> None:
    for image in SCENES[:2]:
        caption = see(florence2, "/v1/vision/caption", image)["results"][0]["text"]
        assert caption == plain(image, "<CAPTION>")["<CAPTION>"] and caption
        boxes = see(florence2, "/v1/vision/object-detection", image)["results"][0]["boxes"]
        expected = plain(image, "<OD>")["<OD>"]
        assert [found["label"] for found in boxes] == expected["labels"] != []
        assert [[int(edge) for edge in found["box"]] for found in boxes] == expected["bboxes"]


def test_single_requests_at_once_get_what_they_get_alone(florence2: Cluster) -> None:
    asked = [(image, task) for image in SCENES for task in ("caption", "object-detection", "ocr", "region-proposal")]
    alone = [see(florence2, f"/v1/vision/{task}", image)["results"] for image, task in asked]
    with ThreadPoolExecutor(len(asked)) as pool:
        together = list(pool.map(lambda one: see(florence2, f"/v1/vision/{one[1]}", one[0])["results"], asked))
    assert together == alone


def test_several_tasks_answer_as_each_does(florence2: Cluster) -> None:
    tasks = ["caption", "object-detection", "dense-region-caption"]
    together = see(florence2, "/v1/vision", SCENES[0], tasks=[{"task": task} for task in tasks])
    for task, answer in zip(tasks, together["results"][0]["answers"], strict=True):
        [alone] = see(florence2, f"/v1/vision/{task}", SCENES[0])["results"]
        assert {"index": 0, "size": {"width": 224, "height": 224}, **answer} == {"task": task, **alone}


def test_a_drawing_over_http(florence2: Cluster) -> None:
    with florence2.client() as client:
        headers = {"accept": "image/png", "content-type": "image/png"}
        response = client.post("/v1/vision/object-detection", content=SCENES[0], headers=headers)
    assert response.headers["content-type"] == "image/png"
    with Image.open(io.BytesIO(response.content)) as drawn:
        assert drawn.size == (640, 640)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_triton_clients(florence2: Cluster, protocol: str) -> None:
    library: Any = triton_http if protocol == "http" else triton_grpc
    address = florence2.http.removeprefix("http://") if protocol == "http" else florence2.grpc
    with library.InferenceServerClient(address) as client:
        headers = {"x-api-key": KEY}
        assert client.is_model_ready("florence2.vision", headers=headers)

        def infer(**arrays: np.ndarray[Any, Any]) -> Any:
            inputs = []
            for name, array in arrays.items():
                datatype = "FP32" if array.dtype == np.float32 else "BYTES"
                given = library.InferInput(name, list(array.shape), datatype)
                given.set_data_from_numpy(array)
                inputs.append(given)
            return client.infer("florence2.vision", inputs, headers=headers)

        images = np.asarray(SCENES[:2], object)
        reply = infer(IMAGE=images, TASK=np.asarray([b"caption"], object))
        captions = [text.decode() for text in reply.as_numpy("TEXT")]
        assert captions == [see(florence2, "/v1/vision/caption", image)["results"][0]["text"] for image in SCENES[:2]]
        region = np.asarray([[10, 20, 120, 130], [0, 0, 0, 0]], np.float32)
        reply = infer(IMAGE=images, TASK=np.asarray([b"region-category", b"<OD>"], object), REGION=region)
        first, second = (json.loads(result) for result in reply.as_numpy("RESULT"))
        assert (first["task"], second["task"]) == ("region-category", "object-detection")
        [alone] = see(florence2, "/v1/vision/region-category", SCENES[0], region=[10, 20, 120, 130])["results"]
        assert first["text"] == alone["text"]
        tasks = ["caption", "object-detection", "phrase-grounding"]
        reply = infer(
            IMAGE=images[:1],
            TASK=np.asarray([task.encode() for task in tasks], object),
            TEXT=np.asarray([b"", b"", b"a star"], object),
        )
        asked = [{"task": task} for task in tasks[:2]] + [{"task": tasks[2], "text": "a star"}]
        [together] = see(florence2, "/v1/vision", SCENES[0], tasks=asked)["results"]
        size = {"size": {"width": 224, "height": 224}}
        assert [json.loads(result) for result in reply.as_numpy("RESULT")] == [
            answer | size for answer in together["answers"]
        ]
        with pytest.raises(InferenceServerException, match="levitation"):
            infer(IMAGE=images, TASK=np.asarray([b"levitation"], object))


def test_a_bad_text_and_a_bad_image_are_errors_in_their_places(florence2: Cluster) -> None:
    tasks = [{"task": "caption"}, {"task": "phrase-grounding", "text": "a star<loc_5>"}]
    images = [base64.b64encode(image).decode() for image in (SCENES[0], SCENES[1][:300])]
    with florence2.client() as client:
        body = client.post("/v1/vision", json={"images": images, "tasks": tasks}).json()
    good, bad = body["results"]
    assert good["answers"][0]["text"]
    assert good["answers"][1]["error"]["param"] == "tasks[1].text"
    assert bad["error"]["code"] == "truncated_image" and bad["error"]["param"] == "images[1]"


def test_a_short_deadline_is_kept_and_leaves_the_model_well(florence2: Cluster) -> None:
    with florence2.client() as client:
        body = {"images": [base64.b64encode(image).decode() for image in SCENES] * 8}
        late = client.post("/v1/vision/more-detailed-caption", json=body, headers={"x-argus-timeout-ms": "150"})
        assert (late.status_code, late.json()["error"]["code"]) == (504, "deadline_exceeded")
    assert see(florence2, "/v1/vision/caption", SCENES[0])["results"][0]["text"]


def test_what_the_demo_checkpoint_knows_is_what_is_served(florence2: Cluster) -> None:
    """Held-out scenes; `argus bench perception` asks about more of them. Each floor is a little below the goal."""
    cases = [case for level in LEVELS for case in florence2_cases.cases_of(level, 6, seed=0)]
    chosen = [case for case in cases if case.task in FLOORS and (case.task != "<OCR>" or case.scene.word is not None)]
    with florence2.client() as client:
        outcomes = florence2_cases.run(chosen, vision(client, "florence2"))
    right = {
        task: float(np.mean([outcome.right for outcome in outcomes if outcome.case.task == task])) for task in FLOORS
    }
    assert {task: share for task, share in right.items() if share < FLOORS[task]} == {}, right


def test_the_model_is_listed_with_its_task(florence2: Cluster) -> None:
    with florence2.client() as client:
        card = client.get("/v1/models/florence2").json()
    assert "vision" in json.dumps(card)
