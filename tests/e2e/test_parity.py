"""What is served equals plain transformers on the same weights, in float32, over every protocol."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openai
import pytest
import torch
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from PIL import Image
from transformers import AutoProcessor, CLIPModel

from serve.config.load import DEMO_CHECKPOINTS
from tests.e2e.cluster import KEY, Cluster
from tests.e2e.conftest import encode

pytestmark = pytest.mark.cluster

LABELS = ["a red star", "a blue circle", "an astronaut in orange", "a cat"]
PROMPTS = [f"a photo of a {label}." for label in LABELS]


class Reference:
    """Plain transformers."""

    def __init__(self, checkpoint: Path) -> None:
        self._model = CLIPModel.from_pretrained(checkpoint, dtype=torch.float32).eval()
        self._processor: Any = AutoProcessor.from_pretrained(checkpoint, backend="pil")

    def __call__(self, pixels: npt.NDArray[np.uint8], texts: list[str]) -> dict[str, npt.NDArray[np.float32]]:
        inputs = self._processor(text=texts, images=Image.fromarray(pixels), return_tensors="pt", padding=True)
        with torch.inference_mode():
            out = self._model(**inputs)
        return {
            "image": out.image_embeds[0].numpy(),
            "text": out.text_embeds.numpy(),
            "logits": out.logits_per_image[0].numpy(),
            "probabilities": out.logits_per_image[0].softmax(-1).numpy(),
            "pixel_values": inputs["pixel_values"].numpy(),
        }


@pytest.fixture(scope="module", params=["clip", "vit"])
def served(request: pytest.FixtureRequest, vit_b32: Path) -> tuple[str, Reference]:
    path = vit_b32 if request.param == "vit" else DEMO_CHECKPOINTS / "clip"
    return request.param, Reference(path)


@pytest.fixture(scope="module", params=["photo", "landscape", "portrait"])
def pixels(request: pytest.FixtureRequest, photo: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    crop = {"photo": photo, "landscape": photo[40:301, :], "portrait": photo[:, 99:352]}[request.param]
    return np.ascontiguousarray(crop)


def test_classification(cluster: Cluster, served: tuple[str, Reference], pixels: npt.NDArray[np.uint8]) -> None:
    model, reference = served
    expected = reference(pixels, PROMPTS)
    fields = {"labels": ",".join(LABELS), "model": model}
    with cluster.client() as client:
        answer = client.post("/v1/classify", files={"image": encode(pixels, "PNG")}, data=fields).json()
    scores = {score["label"]: score for score in answer["results"][0]["scores"]}
    assert answer["temperature"] == 1.0
    np.testing.assert_allclose([scores[x]["probability"] for x in LABELS], expected["probabilities"], atol=1e-5)
    np.testing.assert_allclose([scores[x]["logit"] for x in LABELS], expected["logits"], atol=1e-4)


def test_jpeg_pixels_are_those_of_a_full_decode(
    cluster: Cluster, served: tuple[str, Reference], photo_jpeg: bytes
) -> None:
    import io

    model, reference = served
    decoded = np.asarray(Image.open(io.BytesIO(photo_jpeg)).convert("RGB"))
    with cluster.client() as client:
        answer = client.post(
            "/v1/embeddings", params={"model": model}, content=photo_jpeg, headers={"Content-Type": "image/jpeg"}
        ).json()
    np.testing.assert_allclose(answer["data"][0]["embedding"], reference(decoded, ["x"])["image"], atol=1e-5)


def test_openai_client(cluster: Cluster, served: tuple[str, Reference], pixels: npt.NDArray[np.uint8]) -> None:
    import base64

    model, reference = served
    expected = reference(pixels, PROMPTS)
    client = openai.OpenAI(base_url=f"{cluster.http}/v1", api_key=KEY, max_retries=0)
    texts = client.embeddings.create(model=model, input=PROMPTS)
    np.testing.assert_allclose([row.embedding for row in texts.data], expected["text"], atol=1e-5)
    assert texts.usage.prompt_tokens > 0
    uri = "data:image/png;base64," + base64.b64encode(encode(pixels, "PNG")).decode()
    part = {"type": "image_url", "image_url": {"url": uri}}
    mixed = client.embeddings.create(model=model, input=[part, PROMPTS[0]])  # type: ignore[list-item]
    np.testing.assert_allclose(mixed.data[0].embedding, expected["image"], atol=1e-5)
    np.testing.assert_allclose(mixed.data[1].embedding, expected["text"][0], atol=1e-5)
    assert {"clip", "vit"} <= {m.id for m in client.models.list()}


@pytest.mark.parametrize("transport", ["http", "grpc"])
@pytest.mark.parametrize("kind", ["file", "pixels", "values"])
def test_open_inference_protocol(
    cluster: Cluster, served: tuple[str, Reference], pixels: npt.NDArray[np.uint8], transport: str, kind: str
) -> None:
    model, reference = served
    expected = reference(pixels, PROMPTS)
    module: Any = triton_grpc if transport == "grpc" else triton_http
    client = module.InferenceServerClient(cluster.grpc if transport == "grpc" else cluster.http.removeprefix("http://"))
    tensor, datatype, name = {
        "file": (np.array([encode(pixels, "PNG")], dtype=object), "BYTES", "IMAGE"),
        "pixels": (pixels[np.newaxis], "UINT8", "PIXELS"),
        "values": (expected["pixel_values"], "FP32", "PIXELS"),
    }[kind]
    image = module.InferInput(name, list(tensor.shape), datatype)
    image.set_data_from_numpy(tensor)
    labels = module.InferInput("LABELS", [len(LABELS)], "BYTES")
    labels.set_data_from_numpy(np.array([label.encode() for label in LABELS], dtype=object))
    headers = {"x-api-key": KEY}
    scores = client.infer(f"{model}.classify", [image, labels], headers=headers)
    np.testing.assert_allclose(scores.as_numpy("PROBABILITIES")[0], expected["probabilities"], atol=1e-5)
    vector = client.infer(f"{model}.image_embedding", [image], headers=headers)
    np.testing.assert_allclose(vector.as_numpy("EMBEDDING")[0], expected["image"], atol=1e-5)
    texts = module.InferInput("TEXT", [len(PROMPTS)], "BYTES")
    texts.set_data_from_numpy(np.array([prompt.encode() for prompt in PROMPTS], dtype=object))
    rows = client.infer(f"{model}.text_embedding", [texts], headers=headers)
    np.testing.assert_allclose(rows.as_numpy("EMBEDDING"), expected["text"], atol=1e-5)
    client.close()


def test_template_ensemble_is_the_normalised_mean(
    cluster: Cluster, served: tuple[str, Reference], pixels: npt.NDArray[np.uint8]
) -> None:
    model, reference = served
    templates = ["a photo of a {}.", "the {} in an image", "{}"]
    features = np.stack([reference(pixels, [t.replace("{}", label) for label in LABELS])["text"] for t in templates])
    mean = features.mean(axis=0)
    mean /= np.linalg.norm(mean, axis=-1, keepdims=True)
    single = reference(pixels, PROMPTS)
    scale = single["logits"][0] / float(single["image"] @ single["text"][0])
    body = {"labels": LABELS, "model": model, "templates": templates, "image": _base64(pixels)}
    with cluster.client() as client:
        answer = client.post("/v1/classify", json=body).json()
    logits = {score["label"]: score["logit"] for score in answer["results"][0]["scores"]}
    np.testing.assert_allclose([logits[x] for x in LABELS], scale * (mean @ single["image"]), atol=1e-3)


def _base64(pixels: npt.NDArray[np.uint8]) -> str:
    import base64

    return base64.b64encode(encode(pixels, "PNG")).decode()
