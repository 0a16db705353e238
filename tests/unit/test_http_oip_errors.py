"""The Open Inference Protocol over HTTP: what is refused, in the protocol's own shape of error."""

from __future__ import annotations

import base64
import gzip
import json
import zlib
from typing import Any

import httpx
import numpy as np
import pytest

from serve.errors import InvalidMedia, Unavailable
from tests.unit.fakes import MAX_BODY, Site, png
from tests.unit.test_http_oip import (
    CLASSIFY,
    EMBED_IMAGES,
    EMBED_TEXTS,
    IMAGE,
    LABELS,
    LENGTH,
    PNG,
    binary,
    described,
    elements,
    infer,
    request,
    tensor,
)


def error_of(response: httpx.Response, status: int) -> tuple[str, str | None]:
    """Code and field, from a body whose `error` is a text."""
    assert response.status_code == status, response.text
    body = response.json()
    assert set(body) == {"error", "code", "message", "param", "type", "request_id"}
    assert isinstance(body["error"], str)
    assert body["error"] == body["message"]
    return body["code"], body["param"]


def wanted(**parameters: Any) -> dict[str, Any]:
    """A request for one output with these parameters."""
    return request(outputs=[{"name": "LOGITS", "parameters": parameters}])


INPUTS: dict[str, tuple[dict[str, Any], str, str]] = {
    "no inputs": (request() | {"inputs": []}, "invalid_field", "inputs"),
    "no shape": (request({"name": "IMAGE", "datatype": "BYTES"}), "missing_field", "inputs[0].shape"),
    "misspelt key": (request(IMAGE | {"dtype": "BYTES"}), "unknown_field", "inputs[0].dtype"),
    "inputs that are none": (request() | {"inputs": None}, "invalid_field", "inputs"),
    "a name that is none": (request(IMAGE | {"name": None}, LABELS), "invalid_field", "inputs[0].name"),
    "parameters of another type": (request(parameters=[]), "invalid_field", "parameters"),
    "no data": (request(IMAGE | {"data": None}, LABELS), "missing_field", "IMAGE"),
    "missing input": (request(IMAGE), "missing_input", "LABELS"),
    "no image": (request(LABELS), "missing_input", "IMAGE"),
    "image twice over": (
        request(IMAGE, tensor("PIXELS", [0] * 48, "UINT8", [4, 4, 3]), LABELS),
        "missing_input",
        "IMAGE",
    ),
    "unknown input": (request(IMAGE, LABELS, tensor("MASK", ["x"])), "unknown_input", "MASK"),
    "duplicate input": (request(IMAGE, LABELS, LABELS), "duplicate_input", "LABELS"),
    "unknown output": (request(outputs=[{"name": "BOXES"}]), "unknown_output", "outputs"),
    "unknown parameter": (request(parameters={"temperature": 1}), "unknown_parameter", "temperature"),
    "parameter of another type": (request(parameters={"multi_label": "yes"}), "invalid_parameter", "multi_label"),
    "timeout of another type": (request(parameters={"timeout": "soon"}), "invalid_parameter", "timeout"),
    "negative timeout": (request(parameters={"timeout": -1}), "invalid_parameter", "timeout"),
    "priority of another type": (request(parameters={"priority": "high"}), "invalid_parameter", "priority"),
    "negative priority": (request(parameters={"priority": -1}), "invalid_parameter", "priority"),
    "half a priority": (request(parameters={"priority": 0.5}), "invalid_parameter", "priority"),
    "priority yes": (request(parameters={"priority": True}), "invalid_parameter", "priority"),
    "binary outputs of another type": (
        request(parameters={"binary_data_output": "yes"}),
        "invalid_parameter",
        "binary_data_output",
    ),
    "empty final response of another type": (
        request(parameters={"triton_enable_empty_final_response": "yes"}),
        "invalid_parameter",
        "triton_enable_empty_final_response",
    ),
    "binary data of another type": (wanted(binary_data=1), "invalid_parameter", "binary_data"),
    "classes of another type": (wanted(classification="2"), "invalid_parameter", "classification"),
    "half a class": (wanted(classification=1.5), "invalid_parameter", "classification"),
    "classes yes": (wanted(classification=True), "invalid_parameter", "classification"),
    "no classes": (wanted(classification=0), "invalid_parameter", "classification"),
    "minus one class": (wanted(classification=-1), "invalid_parameter", "classification"),
    "shared memory": (wanted(shared_memory_region="r"), "unknown_parameter", "shared_memory_region"),
    "bytes of shared memory": (wanted(shared_memory_byte_size=8), "unknown_parameter", "shared_memory_byte_size"),
    "shared memory of an input": (
        request(IMAGE, LABELS | {"parameters": {"shared_memory_region": "r"}}),
        "unknown_parameter",
        "shared_memory_region",
    ),
    "an output twice": (request(outputs=[{"name": "LOGITS"}, {"name": "LOGITS"}]), "duplicate_output", "LOGITS"),
    "classes of an unknown output": (
        request(outputs=[{"name": "BOXES", "parameters": {"classification": 1}}]),
        "unknown_output",
        "outputs",
    ),
    "template set of another type": (request(parameters={"template_set": 1}), "invalid_parameter", "template_set"),
    "unknown datatype": (request(tensor("PIXELS", [1], "INT128"), LABELS), "unknown_datatype", "PIXELS"),
    "labels of another type": (request(IMAGE, tensor("LABELS", [1], "INT32")), "wrong_datatype", "LABELS"),
    "image of another type": (request(tensor("IMAGE", [1], "UINT8"), LABELS), "wrong_datatype", "IMAGE"),
    "numbers in BYTES": (request(IMAGE, tensor("LABELS", ["a", 5])), "invalid_tensor_data", "LABELS"),
    "shape too large": (request(IMAGE, tensor("LABELS", ["a", "b"], shape=[3])), "invalid_shape", "LABELS"),
    "shape too small": (request(IMAGE, tensor("LABELS", ["a", "b"], shape=[1])), "invalid_shape", "LABELS"),
    "negative shape": (request(IMAGE, tensor("LABELS", ["a"], shape=[-1])), "invalid_shape", "LABELS"),
    "two negatives": (request(IMAGE, tensor("LABELS", ["a"], shape=[-1, -1])), "invalid_shape", "LABELS"),
    "enormous shape": (request(IMAGE, tensor("LABELS", ["a"], shape=[2**40, 2**40])), "invalid_shape", "LABELS"),
    "not base64": (request(tensor("IMAGE", ["?"]), LABELS), "invalid_base64", "IMAGE[0]"),
    "not an image": (
        request(tensor("IMAGE", [IMAGE["data"][0], base64.b64encode(b"junk").decode()]), LABELS),
        "not_an_image",
        "IMAGE[1]",
    ),
    "pixel out of range": (
        request(tensor("PIXELS", [300] * 48, "UINT8", [4, 4, 3]), LABELS),
        "invalid_tensor_data",
        "PIXELS",
    ),
    "pixel that is none": (
        request(tensor("PIXELS", [{}] * 48, "UINT8", [4, 4, 3]), LABELS),
        "invalid_tensor_data",
        "PIXELS",
    ),
    "pixels of another type": (
        request(tensor("PIXELS", [1] * 48, "INT32", [4, 4, 3]), LABELS),
        "invalid_shape",
        "PIXELS",
    ),
    "uint8, channels first": (
        request(tensor("PIXELS", [1] * 48, "UINT8", [3, 4, 4]), LABELS),
        "invalid_shape",
        "PIXELS",
    ),
    "fp32, channels last": (request(tensor("PIXELS", [1] * 48, "FP32", [4, 4, 3]), LABELS), "invalid_shape", "PIXELS"),
    "flat pixels": (request(tensor("PIXELS", [1] * 48, "UINT8", [48]), LABELS), "invalid_shape", "PIXELS"),
    "small pixels": (request(tensor("PIXELS", [1] * 27, "UINT8", [3, 3, 3]), LABELS), "image_too_small", "PIXELS[0]"),
    "too long": (
        request(tensor("PIXELS", [0] * (513 * 4 * 3), "UINT8", [513, 4, 3]), LABELS),
        "image_too_large",
        "PIXELS[0]",
    ),
}


@pytest.mark.parametrize("name", INPUTS)
async def test_what_is_wrong_is_named(client: httpx.AsyncClient, name: str) -> None:
    body, code, param = INPUTS[name]
    assert error_of(await infer(client, json=body), 400) == (code, param)


async def test_infinite_pixels(client: httpx.AsyncClient) -> None:
    for value in (np.inf, -np.inf, np.nan):
        raw = np.full(48, value, "<f4").tobytes()
        body = binary(request(described("PIXELS", [3, 4, 4], len(raw), "FP32"), LABELS), raw)
        assert error_of(await infer(client, **body), 400) == ("invalid_tensor_data", "PIXELS")


@pytest.mark.parametrize(
    ("path", "status", "code", "param"),
    [
        ("/v2/models/nope/infer", 404, "model_not_found", "model_name"),
        ("/v2/models/clip/infer", 404, "model_not_found", "model_name"),
        ("/v2/models/clip.classify/versions/2/infer", 404, "version_not_found", "model_version"),
    ],
)
async def test_a_model_that_is_none(client: httpx.AsyncClient, path: str, status: int, code: str, param: str) -> None:
    assert error_of(await infer(client, path, json=request()), status) == (code, param)
    described_at = path.removesuffix("/infer")
    for suffix in ("", "/ready"):
        assert error_of(await client.get(described_at + suffix), status) == (code, param)


async def test_each_function_takes_its_own_inputs(client: httpx.AsyncClient) -> None:
    assert error_of(await infer(client, EMBED_IMAGES, json=request()), 400) == ("unknown_input", "LABELS")
    assert error_of(await infer(client, EMBED_TEXTS, json=request(IMAGE)), 400) == ("unknown_input", "IMAGE")
    classes = request(IMAGE, outputs=[{"name": "EMBEDDING", "parameters": {"classification": 1}}])
    assert error_of(await infer(client, EMBED_IMAGES, json=classes), 400) == ("invalid_parameter", "classification")
    multi = request(IMAGE, parameters={"multi_label": True})
    assert error_of(await infer(client, EMBED_IMAGES, json=multi), 400) == ("unknown_parameter", "multi_label")


@pytest.mark.parametrize(
    ("content", "code", "param"),
    [
        (b"", "invalid_json", "body"),
        (b"{", "invalid_json", "body"),
        (b"[]", "invalid_json", "body"),
        (b'"x"', "invalid_json", "body"),
        (b"{}", "missing_field", "inputs"),
        (b'{"inputs": 5}', "invalid_field", "inputs"),
        (b'{"inputs": [5]}', "invalid_field", "inputs[0]"),
        (b'{"inputs":[' * 2000, "invalid_json", "body"),
    ],
)
async def test_a_body_that_is_none(client: httpx.AsyncClient, content: bytes, code: str, param: str) -> None:
    assert error_of(await infer(client, content=content), 400) == (code, param)


@pytest.mark.parametrize("length", ["-1", "x", "", "1.5", "999999", "²", "+5", "1_0"])
async def test_a_header_length_that_is_wrong(client: httpx.AsyncClient, length: str) -> None:
    body = json.dumps(request()).encode()
    response = await infer(client, content=body, headers=[(LENGTH.encode(), length.encode("latin-1"))])
    assert error_of(response, 400) == ("invalid_header_length", "Inference-Header-Content-Length")


@pytest.mark.parametrize("off", [-10, -1, 1, 5])
async def test_a_header_length_that_cuts_elsewhere(client: httpx.AsyncClient, off: int) -> None:
    image = elements(PNG)
    sent = binary(request(described("IMAGE", [1], len(image)), LABELS), image)
    sent["headers"][LENGTH] = str(int(sent["headers"][LENGTH]) + off)
    assert error_of(await infer(client, **sent), 400)[0] == "invalid_json"


@pytest.mark.parametrize("size", [-1, 10**9, "4", 1.0, True, [1]])
async def test_a_binary_size_that_is_wrong(client: httpx.AsyncClient, size: Any) -> None:
    body = binary(request(described("IMAGE", [1], size), LABELS), elements(PNG))
    assert error_of(await infer(client, **body), 400) == ("invalid_tensor_data", "IMAGE")


async def test_bytes_that_belong_to_no_tensor(client: httpx.AsyncClient) -> None:
    image = elements(PNG)
    body = binary(request(described("IMAGE", [1], len(image)), LABELS), image, b"more")
    assert error_of(await infer(client, **body), 400) == ("invalid_tensor_data", "inputs")


@pytest.mark.parametrize(
    "raw",
    [
        b"\x01",
        b"\x01\x00\x00",
        b"\x05\x00\x00\x00cat",
        b"\xff\xff\xff\xffcat",
        elements(b"cat") + b"\x00",
        elements(b"cat", b"dog")[:-1],
    ],
)
async def test_bytes_whose_lengths_do_not_add_up(client: httpx.AsyncClient, raw: bytes) -> None:
    body = binary(request(IMAGE, described("LABELS", [2], len(raw))), raw)
    assert error_of(await infer(client, **body), 400) == ("invalid_tensor_data", "LABELS")


async def test_bytes_that_are_no_text(client: httpx.AsyncClient) -> None:
    raw = elements(b"cat", b"\xff\xfe")
    body = binary(request(IMAGE, described("LABELS", [2], len(raw))), raw)
    assert error_of(await infer(client, **body), 400) == ("invalid_text", "LABELS")


@pytest.mark.parametrize(
    ("datatype", "raw", "code"),
    [
        ("UINT8", b"x" * 47, "invalid_shape"),
        ("FP32", b"x" * 47, "invalid_tensor_data"),
        ("FP32", b"x" * 48, "invalid_shape"),
        ("BF16", b"x" * 96, "unknown_datatype"),
    ],
)
async def test_binary_pixels_that_do_not_fit(client: httpx.AsyncClient, datatype: str, raw: bytes, code: str) -> None:
    body = binary(request(described("PIXELS", [4, 4, 3], len(raw), datatype), LABELS), raw)
    assert error_of(await infer(client, **body), 400) == (code, "PIXELS")


BODY = json.dumps(request()).encode()


@pytest.mark.parametrize(
    ("encoding", "content", "status", "code"),
    [
        ("gzip", BODY, 400, "invalid_content_encoding"),
        ("deflate", BODY, 400, "invalid_content_encoding"),
        ("gzip", b"", 400, "invalid_content_encoding"),
        ("gzip", gzip.compress(BODY)[:-9], 400, "invalid_content_encoding"),
        ("deflate", zlib.compress(BODY)[:-5], 400, "invalid_content_encoding"),
        ("gzip", gzip.compress(BODY)[:-8] + b"\x00" * 8, 400, "invalid_content_encoding"),  # another checksum
        ("gzip", gzip.compress(b" " * (60 * MAX_BODY)), 413, "payload_too_large"),
        ("deflate", zlib.compress(b" " * (60 * MAX_BODY)), 413, "payload_too_large"),
        ("br", BODY, 415, "unsupported_content_encoding"),
        ("gzip, gzip", BODY, 415, "unsupported_content_encoding"),
    ],
)
async def test_a_compressed_body_that_is_refused(
    client: httpx.AsyncClient, encoding: str, content: bytes, status: int, code: str
) -> None:
    assert len(content) <= MAX_BODY, "it must be refused for what is in it"
    response = await infer(client, content=content, headers={"content-encoding": encoding})
    assert error_of(response, status)[0] == code


async def test_a_body_over_the_limit(client: httpx.AsyncClient) -> None:
    assert error_of(await infer(client, content=b" " * (MAX_BODY + 1)), 413) == ("payload_too_large", "body")


async def test_one_bad_image_fails_the_request(client: httpx.AsyncClient, site: Site) -> None:
    other = png("blue")
    site.model.failing[other] = InvalidMedia("The pixels end early.", code="truncated_image")
    images = tensor("IMAGE", [base64.b64encode(image).decode() for image in (PNG, other)])
    assert error_of(await infer(client, json=request(images, LABELS)), 400) == ("truncated_image", "IMAGE[1]")
    site.model.failing[other] = ValueError("odd")
    assert error_of(await infer(client, json=request(images, LABELS)), 500) == ("model_failed", "IMAGE[1]")


async def test_a_model_that_is_not_ready(client: httpx.AsyncClient, site: Site) -> None:
    site.model.raises = Unavailable("Loading.", retry_after_s=3)
    ready = await client.get("/v2/models/clip.classify/ready")
    assert (ready.status_code, ready.json()) == (503, {"ready": False})
    response = await infer(client, CLASSIFY, json=request())
    assert error_of(response, 503) == ("unavailable", None)
    assert response.headers["retry-after"] == "3"
