"""`NAME.render`: a scene's pictures as tensors, over HTTP and gRPC."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import numpy as np
import pytest
from tritonclient.grpc import InferInput, service_pb2
from tritonclient.http import InferenceServerClient, InferRequestedOutput
from tritonclient.http import InferInput as HttpInput

from serve.context import RequestContext
from serve.errors import InvalidRequest, ModelFailed
from serve.protocol.oip_messages import from_message, to_message
from serve.protocol.tensors import InferRequest, Tensor
from tests.unit.scene_site import SceneSite

POSES = np.stack([np.eye(4), np.eye(4)])
POSES[:, 2, 3] = (4.0, 5.0)
K = np.array([[[30.0, 0, 20], [0, 30, 15], [0, 0, 1]]])


@pytest.fixture
def site(scene_site: SceneSite) -> SceneSite:
    scene_site.scenes.put_scene("room", b"a room")
    return scene_site


@pytest.fixture
async def client(site: SceneSite) -> AsyncIterator[httpx.AsyncClient]:
    async with site.client() as opened:
        yield opened


def tensors(**changed: Any) -> list[dict[str, Any]]:
    """Inputs as JSON; a change of None takes one out."""
    given = {
        "SCENE": ("BYTES", [1], ["room"]),
        "WORLD_TO_CAMERA": ("FP64", [2, 4, 4], POSES.ravel().tolist()),
        "INTRINSICS": ("FP32", [1, 3, 3], K.ravel().tolist()),
        "WIDTH": ("INT32", [1], [40]),
        "HEIGHT": ("INT32", [1], [30]),
        **changed,
    }
    return [
        {"name": name, "datatype": one[0], "shape": one[1], "data": one[2]}
        for name, one in given.items()
        if one is not None
    ]


async def infer(client: httpx.AsyncClient, parameters: dict[str, Any] | None = None, **changed: Any) -> httpx.Response:
    body = {"inputs": tensors(**changed), "parameters": parameters or {}}
    return await client.post("/v2/models/splat.render/infer", json=body)


async def test_metadata(client: httpx.AsyncClient) -> None:
    spec = (await client.get("/v2/models/splat.render")).json()
    assert [one["name"] for one in spec["outputs"]] == ["RGB", "DEPTH", "ALPHA"]
    assert {one["name"]: one["shape"] for one in spec["inputs"]}["WORLD_TO_CAMERA"] == [-1, 4, 4]
    assert (await client.get("/v2/models/splat.render/ready")).json() == {"ready": True}
    assert (await client.get("/v2/models/nerf.render/ready")).json() == {"ready": True}


async def test_pictures_as_json(client: httpx.AsyncClient, site: SceneSite) -> None:
    answer = await infer(client)
    assert answer.status_code == 200, answer.text
    outputs = {one["name"]: one for one in answer.json()["outputs"]}
    assert {name: (one["datatype"], one["shape"]) for name, one in outputs.items()} == {
        "RGB": ("UINT8", [2, 30, 40, 3]),
        "DEPTH": ("FP32", [2, 30, 40]),
        "ALPHA": ("UINT8", [2, 30, 40]),
    }
    [request] = site.splat.requests
    assert (request.encoding, request.outputs) == ("raw", ("rgb", "depth", "alpha"))
    for camera, pose in zip(request.cameras, POSES, strict=True):
        np.testing.assert_array_equal(camera.world_to_camera, pose)
        np.testing.assert_allclose(camera.intrinsics, K[0])


async def test_how_it_is_drawn(client: httpx.AsyncClient, site: SceneSite) -> None:
    how = {"background": "#ff0000", "sh_degree": 2, "antialiased": True, "radius_clip": 1, "effort": 0.5, "version": 1}
    assert (await infer(client, how, TIME=("FP32", [1], [1.5]))).status_code == 200
    [request] = site.splat.requests
    options = request.options
    assert (options.background, options.sh_degree, options.antialiased, options.radius_clip) == ((1, 0, 0), 2, True, 1)
    assert (request.effort, request.time_s) == (0.5, 1.5)


def grpc_request(inputs: list[tuple[str, Any, str]], outputs: tuple[str, ...] = ()) -> Any:
    """The message that tritonclient sends."""
    message = service_pb2.ModelInferRequest(model_name="splat.render", id="7")
    for name, array, datatype in inputs:
        given = InferInput(name, list(array.shape), datatype)
        given.set_data_from_numpy(array)
        message.inputs.append(given._get_tensor())
        message.raw_input_contents.append(given._get_content())
    for name in outputs:
        message.outputs.add(name=name)
    return message


def inputs() -> list[tuple[str, Any, str]]:
    return [
        ("SCENE", np.array([b"room"], object), "BYTES"),
        ("WORLD_TO_CAMERA", POSES, "FP64"),
        ("INTRINSICS", K.astype(np.float32), "FP32"),
        ("WIDTH", np.array([40], np.int32), "INT32"),
        ("HEIGHT", np.array([30], np.int32), "INT32"),
    ]


async def test_grpc_and_binary_http_say_the_same(client: httpx.AsyncClient, site: SceneSite) -> None:
    context = RequestContext("id", "anonymous", time.monotonic() + 10)
    message = grpc_request(inputs(), ("DEPTH", "RGB"))
    reply = to_message(await site.inference.infer(from_message(message, site.services.limits), context))
    assert [one.name for one in reply.outputs] == ["DEPTH", "RGB"]
    by_grpc = np.frombuffer(reply.raw_output_contents[1], np.uint8).reshape(2, 30, 40, 3)
    assert site.splat.requests[0].outputs == ("rgb", "depth")  # alpha was not asked for

    given = []
    for name, array, datatype in inputs():
        one = HttpInput(name, list(array.shape), datatype)
        one.set_data_from_numpy(array)
        given.append(one)
    wanted = [InferRequestedOutput("RGB", binary_data=True)]
    body, header_length = InferenceServerClient.generate_request_body(given, outputs=wanted)
    headers = {"Inference-Header-Content-Length": str(header_length)}
    answer = await client.post("/v2/models/splat.render/infer", content=body, headers=headers)
    length = int(answer.headers["Inference-Header-Content-Length"])
    result = InferenceServerClient.parse_response_body(answer.content, header_length=length)
    np.testing.assert_array_equal(result.as_numpy("RGB"), by_grpc)
    assert len(np.unique(by_grpc[0])) <= 3 and not np.array_equal(by_grpc[0], by_grpc[1])


WRONG: list[tuple[dict[str, Any], dict[str, Any], str, str]] = [
    ({"SCENE": None}, {}, "SCENE", "missing_input"),
    ({"SCENE": ("BYTES", [2], ["room", "hall"])}, {}, "SCENE", "invalid_shape"),
    ({"SCENE": ("INT32", [1], [1])}, {}, "SCENE", "wrong_datatype"),
    ({"SCENE": ("BYTES", [1], ["../x"])}, {}, "SCENE", "invalid_scene_name"),
    ({"WORLD_TO_CAMERA": ("FP64", [1, 3, 3], K.ravel().tolist())}, {}, "WORLD_TO_CAMERA", "invalid_shape"),
    ({"WORLD_TO_CAMERA": ("FP64", [0, 4, 4], [])}, {}, "WORLD_TO_CAMERA", "no_input"),
    (
        {"WORLD_TO_CAMERA": ("FP64", [1, 4, 4], (2 * np.eye(4)).ravel().tolist())},
        {},
        "WORLD_TO_CAMERA[0]",
        "invalid_camera",
    ),
    ({"INTRINSICS": ("FP64", [1, 3, 3], [0.0] * 9)}, {}, "INTRINSICS[0]", "invalid_camera"),
    ({"INTRINSICS": ("FP64", [3, 3, 3], np.tile(K, (3, 1, 1)).ravel().tolist())}, {}, "INTRINSICS", "invalid_shape"),
    ({"WIDTH": ("INT32", [1], [0])}, {}, "WIDTH", "invalid_tensor_data"),
    ({"WIDTH": ("FP32", [1], [40.0])}, {}, "WIDTH", "invalid_shape"),
    ({"WIDTH": ("INT32", [1], [1000])}, {}, "WIDTH", "too_many_pixels"),
    ({"WIDTH": ("INT32", [1], [250])}, {}, "WORLD_TO_CAMERA", "too_many_pixels"),  # two views of 7,500 pixels
    (
        {"WORLD_TO_CAMERA": ("FP64", [5, 4, 4], np.tile(np.eye(4), (5, 1, 1)).ravel().tolist())},
        {},
        "WORLD_TO_CAMERA",
        "too_many_inputs",
    ),
    ({"TIME": ("INT32", [1], [1])}, {}, "TIME", "invalid_shape"),
    ({"COLOUR": ("INT32", [1], [1])}, {}, "COLOUR", "unknown_input"),
    ({}, {"sh_degree": 4}, "sh_degree", "invalid_parameter"),
    ({}, {"sh_degree": True}, "sh_degree", "invalid_parameter"),
    ({}, {"version": 0}, "version", "invalid_parameter"),
    ({}, {"effort": 2}, "effort", "invalid_parameter"),
    ({}, {"effort": "all"}, "effort", "invalid_parameter"),
    ({}, {"background": "blue"}, "background", "invalid_parameter"),
    ({}, {"colour": 1}, "colour", "unknown_parameter"),
]


@pytest.mark.parametrize(("changed", "parameters", "param", "code"), WRONG)
async def test_what_is_wrong_is_blamed_on_its_tensor(
    client: httpx.AsyncClient,
    site: SceneSite,
    changed: dict[str, Any],
    parameters: dict[str, Any],
    param: str,
    code: str,
) -> None:
    answer = await infer(client, parameters, **changed)
    assert answer.status_code == 400, answer.text
    body = answer.json()
    assert (body["param"], body["code"]) == (param, code)
    assert isinstance(body["error"], str)
    assert site.splat.requests == []


async def test_a_view_that_fails_fails_the_request(client: httpx.AsyncClient, site: SceneSite) -> None:
    site.splat.failing = {1: ModelFailed("out of memory")}
    answer = await infer(client)
    assert (answer.status_code, answer.json()["param"]) == (500, "WORLD_TO_CAMERA[1]")


async def test_scenes_that_are_not_there_or_of_another_kind(client: httpx.AsyncClient, site: SceneSite) -> None:
    missing = await infer(client, SCENE=("BYTES", [1], ["hall"]))
    assert (missing.status_code, missing.json()["code"]) == (404, "scene_not_found")
    site.scenes.put_scene("field", b"a field", "nerf")
    other = await infer(client, SCENE=("BYTES", [1], ["field"]))
    assert (other.status_code, other.json()["code"]) == (400, "task_not_supported")


async def test_infinite_numbers_do_not_pass_as_bytes(site: SceneSite) -> None:
    given = {
        "SCENE": Tensor("SCENE", "BYTES", (1,), [b"room"]),
        "WORLD_TO_CAMERA": Tensor("WORLD_TO_CAMERA", "FP64", (1, 4, 4), np.full((1, 4, 4), np.nan)),
        "INTRINSICS": Tensor("INTRINSICS", "FP64", (1, 3, 3), K),
        "WIDTH": Tensor("WIDTH", "INT32", (1,), np.array([4], "<i4")),
        "HEIGHT": Tensor("HEIGHT", "INT32", (1,), np.array([4], "<i4")),
    }
    context = RequestContext("id", "anonymous", time.monotonic() + 10)
    with pytest.raises(InvalidRequest) as refused:
        await site.inference.infer(InferRequest("splat.render", "", "", given), context)
    assert refused.value.code == "invalid_camera"
