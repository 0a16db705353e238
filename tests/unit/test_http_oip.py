"""The Open Inference Protocol over HTTP: JSON and binary tensors in both directions, images as files and as pixels."""

from __future__ import annotations

import base64
import gzip
import json
import zlib
from typing import Any

import httpx
import numpy as np
import pytest
from tritonclient.utils import serialize_byte_tensor

from deployments.messages import EncodedImage, PixelValues, RawImage
from tests.unit.fakes import DIMENSION, MAX_BODY, Site, numbers, png

PNG, OTHER = png("red"), png("blue")
CLASSIFY = "/v2/models/clip.classify/infer"
EMBED_IMAGES = "/v2/models/clip.image_embedding/infer"
EMBED_TEXTS = "/v2/models/clip.text_embedding/infer"
LENGTH = "inference-header-content-length"


def tensor(name: str, data: list[Any], datatype: str = "BYTES", shape: list[int] | None = None) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": [len(data)] if shape is None else shape, "data": data}


IMAGE = tensor("IMAGE", [base64.b64encode(PNG).decode()])
LABELS = tensor("LABELS", ["cat", "dog"])
OUTPUTS = ("PROBABILITIES", "LOGITS")


def request(*inputs: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"inputs": list(inputs) or [IMAGE, LABELS], **fields}


def binary(header: dict[str, Any], *tails: bytes) -> dict[str, Any]:
    """A request whose tensors without data stand behind the header, in order."""
    encoded = json.dumps(header).encode()
    return {"content": encoded + b"".join(tails), "headers": {LENGTH: str(len(encoded))}}


def described(name: str, shape: list[int], size: int, datatype: str = "BYTES") -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": size}}


def elements(*values: bytes) -> bytes:
    """BYTES as tritonclient writes them."""
    return serialize_byte_tensor(np.array(values, np.object_)).item()


def arrays(response: httpx.Response) -> dict[str, np.ndarray[Any, Any]]:
    """Output tensors of either form."""
    assert response.status_code == 200, response.text
    length = response.headers.get(LENGTH)
    header = json.loads(response.content if length is None else response.content[: int(length)])
    tail = b"" if length is None else response.content[int(length) :]
    found = {}
    for output in header["outputs"]:
        assert output["datatype"] == "FP32"
        size = output.get("parameters", {}).get("binary_data_size")
        if size is None:
            flat = np.asarray(output["data"], np.float32)
        else:
            flat, tail = np.frombuffer(tail[:size], "<f4"), tail[size:]
        found[output["name"]] = flat.reshape(output["shape"])
    assert tail == b""
    return found


def same(first: httpx.Response, second: httpx.Response) -> bool:
    left, right = arrays(first), arrays(second)
    return left.keys() == right.keys() and all(np.array_equal(left[name], right[name]) for name in left)


async def infer(client: httpx.AsyncClient, path: str = CLASSIFY, **options: Any) -> httpx.Response:
    return await client.post(path, **(options or {"json": request()}))


async def test_an_answer(client: httpx.AsyncClient) -> None:
    response = await infer(client, json=request(id="r-1"))
    header = response.json()
    assert (header["model_name"], header["model_version"], header["id"]) == ("clip.classify", "1", "r-1")
    assert [output["name"] for output in header["outputs"]] == ["PROBABILITIES", "LOGITS"]
    found = arrays(response)
    assert found["PROBABILITIES"].shape == found["LOGITS"].shape == (1, 2)
    assert found["PROBABILITIES"].sum() == pytest.approx(1)


async def test_the_same_as_the_native_answer(client: httpx.AsyncClient) -> None:
    found = arrays(await infer(client))
    native = (await client.post("/v1/classify", json={"labels": ["cat", "dog"], "image": IMAGE["data"][0]})).json()
    scores = {score["label"]: score for score in native["results"][0]["scores"]}
    for i, label in enumerate(["cat", "dog"]):
        assert found["PROBABILITIES"][0, i] == pytest.approx(scores[label]["probability"], rel=1e-6)
        assert found["LOGITS"][0, i] == pytest.approx(scores[label]["logit"], rel=1e-6)


async def test_binary_in(client: httpx.AsyncClient) -> None:
    image, labels = elements(PNG), elements(b"cat", b"dog")
    header = request(described("IMAGE", [1], len(image)), described("LABELS", [2], len(labels)))
    assert same(await infer(client, **binary(header, image, labels)), await infer(client))
    mixed = request(LABELS, described("IMAGE", [1], len(image)))
    assert same(await infer(client, **binary(mixed, image)), await infer(client))


async def test_binary_out(client: httpx.AsyncClient) -> None:
    plain = await infer(client)
    everything = await infer(client, json=request(parameters={"binary_data_output": True}))
    assert everything.headers["content-type"] == "application/octet-stream"
    assert same(everything, plain)
    outputs = [{"name": "LOGITS", "parameters": {"binary_data": True}}, {"name": "PROBABILITIES"}]
    some = await infer(client, json=request(outputs=outputs))
    header = json.loads(some.content[: int(some.headers[LENGTH])])
    assert [("data" in output) for output in header["outputs"]] == [False, True]
    assert same(some, plain)


async def test_outputs_as_asked(client: httpx.AsyncClient) -> None:
    response = await infer(client, json=request(outputs=[{"name": "LOGITS"}]))
    assert list(arrays(response)) == ["LOGITS"]
    off = {"name": "LOGITS", "parameters": {"binary_data": False}}
    response = await infer(client, json=request(outputs=[off], parameters={"binary_data_output": True}))
    assert LENGTH not in response.headers


async def test_the_best_classes_as_json(client: httpx.AsyncClient) -> None:
    whole = arrays(await infer(client))["LOGITS"][0]
    asked = {"name": "LOGITS", "parameters": {"classification": 1}}
    [output] = (await infer(client, json=request(outputs=[asked]))).json()["outputs"]
    best = int(whole.argmax())
    [element] = output.pop("data")
    assert output == {"name": "LOGITS", "datatype": "BYTES", "shape": [1, 1]}
    score, index, label = element.split(":")
    assert (np.float32(score), index, label) == (whole[best], str(best), ["cat", "dog"][best])


async def test_a_batch_in_order(client: httpx.AsyncClient, site: Site) -> None:
    images = tensor("IMAGE", [base64.b64encode(image).decode() for image in (OTHER, PNG)])
    found = arrays(await infer(client, json=request(images, LABELS)))
    assert found["LOGITS"].shape == (2, 2)
    assert np.array_equal(found["LOGITS"][1:], arrays(await infer(client))["LOGITS"])
    assert site.model.requests("classify")[0].images == (EncodedImage(OTHER), EncodedImage(PNG))


@pytest.mark.parametrize("data", [[["cat"], ["dog"]], [[["cat", "dog"]]]])
async def test_nested_data(client: httpx.AsyncClient, data: list[Any]) -> None:
    assert same(await infer(client, json=request(IMAGE, tensor("LABELS", data, shape=[2]))), await infer(client))


async def test_parameters_and_templates(client: httpx.AsyncClient, site: Site) -> None:
    await infer(client, json=request(parameters={"template_set": "plain", "multi_label": True, "priority": 1}))
    await infer(client, json=request(IMAGE, LABELS, tensor("TEMPLATES", ["a {}", "the {}"])))
    first, second = site.model.requests("classify")
    assert (first.templates, first.multi_label) == (("{}",), True)
    assert (second.templates, second.multi_label) == (("a {}", "the {}"), False)


NULLS: dict[str, dict[str, Any]] = {
    "id": request(id=None),
    "parameters": request(parameters=None),
    "outputs": request(outputs=None),
    "an input's parameters": request(IMAGE | {"parameters": None}, LABELS),
    "an output's parameters": request(outputs=[{"name": name, "parameters": None} for name in OUTPUTS]),
}


@pytest.mark.parametrize("name", NULLS)
async def test_null_is_as_good_as_nothing_where_nothing_is_needed(client: httpx.AsyncClient, name: str) -> None:
    answer = await infer(client, json=NULLS[name])
    assert same(answer, await infer(client))
    assert "id" not in answer.json()


async def test_outputs_may_be_described_as_their_metadata_is(client: httpx.AsyncClient) -> None:
    asked = [{"name": name, "datatype": "FP32", "shape": [-1, -1]} for name in OUTPUTS]
    assert same(await infer(client, json=request(outputs=asked)), await infer(client))


async def test_codecs_of_other_servers_change_nothing(client: httpx.AsyncClient) -> None:
    coded = {"parameters": {"content_type": "np"}}
    asked = request(IMAGE | coded, LABELS | coded, outputs=[{"name": name, **coded} for name in OUTPUTS], **coded)
    assert same(await infer(client, json=asked), await infer(client))
    embedded = await infer(client, EMBED_TEXTS, json=request(tensor("TEXT", ["cat"]), **coded))
    assert same(embedded, await infer(client, EMBED_TEXTS, json=request(tensor("TEXT", ["cat"]))))


async def test_fields_that_a_server_need_not_know_are_ignored(client: httpx.AsyncClient) -> None:
    assert same(await infer(client, json=request(something="else")), await infer(client))


async def test_embeddings(client: httpx.AsyncClient) -> None:
    images = arrays(await infer(client, EMBED_IMAGES, json=request(IMAGE)))["EMBEDDING"]
    texts = arrays(await infer(client, EMBED_TEXTS, json=request(tensor("TEXT", ["cat", "dog"]))))["EMBEDDING"]
    assert (images.shape, texts.shape) == ((1, DIMENSION), (2, DIMENSION))
    native = (await client.post("/v1/embeddings", json={"input": ["cat", "dog"]})).json()["data"]
    assert np.array_equal(texts, np.asarray([item["embedding"] for item in native], np.float32))
    raw = arrays(
        await infer(client, EMBED_TEXTS, json=request(tensor("TEXT", ["cat"]), parameters={"normalize": False}))
    )
    assert not np.allclose(raw["EMBEDDING"][0], texts[0])
    assert np.allclose(raw["EMBEDDING"][0] / np.linalg.norm(raw["EMBEDDING"][0]), texts[0])


PIXELS = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
VALUES = numbers(2 * 3 * 4 * 4, "values").reshape(2, 3, 4, 4)


@pytest.mark.parametrize("as_binary", [False, True])
@pytest.mark.parametrize(("batch", "datatype"), [(PIXELS, "UINT8"), (VALUES, "FP32")])
async def test_pixels_arrive_as_sent(
    client: httpx.AsyncClient, site: Site, batch: np.ndarray[Any, Any], datatype: str, as_binary: bool
) -> None:
    for array in (batch, batch[0]):
        shape = list(array.shape)
        if as_binary:
            header = request(described("PIXELS", shape, array.nbytes, datatype))
            options = binary(header, array.tobytes())
        else:
            options = {"json": request(tensor("PIXELS", array.tolist(), datatype, shape))}
        found = arrays(await infer(client, EMBED_IMAGES, **options))["EMBEDDING"]
        expected = array if array.ndim == 4 else array[np.newaxis]
        assert len(found) == len(expected)
        sent = site.model.requests("embed")[-1].inputs
        for image, pixels in zip(sent, expected, strict=True):
            assert isinstance(image, RawImage if datatype == "UINT8" else PixelValues)
            arrived = image.pixels if isinstance(image, RawImage) else image.values
            assert arrived.dtype == pixels.dtype
            assert np.array_equal(arrived, pixels)


@pytest.mark.parametrize(
    "encode", [gzip.compress, zlib.compress, lambda body: gzip.compress(body, 9)], ids=["gzip", "deflate", "gzip -9"]
)
async def test_compressed_bodies(client: httpx.AsyncClient, encode: Any) -> None:
    name = "deflate" if encode is zlib.compress else "gzip"
    image, labels = elements(PNG), elements(b"cat", b"dog")
    header = json.dumps(request(described("IMAGE", [1], len(image)), described("LABELS", [2], len(labels)))).encode()
    headers = {"content-encoding": name, LENGTH: str(len(header))}
    assert same(await infer(client, content=encode(header + image + labels), headers=headers), await infer(client))


async def test_a_body_that_inflates_to_just_the_limit(client: httpx.AsyncClient) -> None:
    body = json.dumps(request()).encode().ljust(MAX_BODY)
    headers = {"content-encoding": "gzip"}
    assert (await infer(client, content=gzip.compress(body), headers=headers)).status_code == 200
    assert (await infer(client, content=gzip.compress(body + b" "), headers=headers)).status_code == 413


async def test_server_and_models_describe_themselves(client: httpx.AsyncClient) -> None:
    server = (await client.get("/v2")).json()
    assert server == {"name": "argus", "version": "1.2.3", "extensions": ["binary_tensor_data", "classification"]}
    assert (await client.get("/v2/health/live")).json() == {"live": True}
    for version in ("", "/versions/1"):
        spec = (await client.get(f"/v2/models/clip.classify{version}")).json()
        assert (spec["name"], spec["versions"]) == ("clip.classify", ["1"])
        assert [each["name"] for each in spec["inputs"]] == ["IMAGE", "PIXELS", "LABELS", "TEMPLATES"]
        assert [each["name"] for each in spec["outputs"]] == ["PROBABILITIES", "LOGITS"]
        ready = await client.get(f"/v2/models/clip.classify{version}/ready")
        assert (ready.status_code, ready.json()) == (200, {"ready": True})
        assert same(
            await infer(client, f"/v2/models/clip.classify{version}/infer", json=request()), await infer(client)
        )
    for name, inputs in (("image_embedding", ["IMAGE", "PIXELS"]), ("text_embedding", ["TEXT"])):
        spec = (await client.get(f"/v2/models/clip.{name}")).json()
        assert [each["name"] for each in spec["inputs"]] == inputs
        assert spec["outputs"] == [{"name": "EMBEDDING", "datatype": "FP32", "shape": [-1, DIMENSION]}]


async def test_a_model_that_classifies_only(client: httpx.AsyncClient) -> None:
    assert (await client.get("/v2/models/judge.classify")).status_code == 200
    assert (await client.get("/v2/models/judge.text_embedding")).status_code == 404
