"""A cascade as a model of the Open Inference Protocol, over both transports."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.http
from tritonclient.grpc import service_pb2 as pb

from serve.errors import Unavailable
from serve.protocol.oip_grpc import GrpcSkin
from tests.unit.cascade_site import CascadeSite
from tests.unit.fakes import png
from tests.unit.test_oip_grpc import Context as FakeContext


@pytest.fixture(scope="module")
def built() -> CascadeSite:
    return CascadeSite()


@pytest.fixture
def site(built: CascadeSite) -> CascadeSite:
    built.reset()
    return built


def request(name: str = "moderation.cascade", explain: bool | None = None, **inputs: list[bytes]) -> Any:
    message = pb.ModelInferRequest(model_name=name)
    for tensor, values in inputs.items():
        made = triton.InferInput(tensor, [len(values)], "BYTES")
        made.set_data_from_numpy(np.array(values, np.object_))
        message.inputs.append(made._get_tensor())
        message.raw_input_contents.append(made._get_content())
    if explain is not None:
        message.parameters["explain"].bool_param = explain
    return message


async def infer(site: CascadeSite, message: Any) -> tuple[FakeContext, dict[str, Any]]:
    skin = GrpcSkin()
    skin.set_up_grpc(site.services, site.inference)
    context = FakeContext()
    answer = await skin.ModelInfer(message, context)
    result = triton.InferResult(answer)
    return context, {output.name: result.as_numpy(output.name).tolist() for output in answer.outputs}


async def test_answers_over_grpc(site: CascadeSite) -> None:
    _, outputs = await infer(site, request(IMAGE=[png(), png("blue")]))
    assert outputs["ANSWER"] == [b"safe", b"safe"]
    assert outputs["OUTCOME"] == [b"allow", b"allow"]
    assert outputs["STATE"] == [b"accepted"] * 2
    assert outputs["CONFIDENCE"][0] == pytest.approx(0.9999, abs=1e-3)
    assert json.loads(outputs["TRACE"][0])[0]["step"] == "screen"


async def test_the_trace_can_be_left_out(site: CascadeSite) -> None:
    _, outputs = await infer(site, request(explain=False, IMAGE=[png()]))
    assert "TRACE" not in outputs


async def test_questions(site: CascadeSite) -> None:
    site.chat.says = "a cat"
    _, alone = await infer(site, request("vqa.cascade", TEXT=[b"Who?", b"What?"]))
    assert alone["ANSWER"] == [b"a cat", b"a cat"]
    assert alone["OUTCOME"] == [b"", b""]
    _, shown = await infer(site, request("vqa.cascade", IMAGE=[png(), png("blue")], TEXT=[b"Which?"]))
    assert shown["ANSWER"] == [b"a cat", b"a cat"]
    assert len(site.chat.requests) == 4


@pytest.mark.parametrize(
    ("inputs", "code", "param"),
    [
        ({}, "missing_input", "IMAGE"),
        ({"IMAGE": [png()] * 2, "TEXT": [b"a", b"b", b"c"]}, "invalid_shape", "TEXT"),
        ({"IMAGE": [b"nothing"]}, "not_an_image", "IMAGE[0]"),
        ({"VIDEO": [b"x"]}, "unknown_input", "VIDEO"),
    ],
)
async def test_refused(site: CascadeSite, inputs: dict[str, list[bytes]], code: str, param: str) -> None:
    context, _ = await infer(site, request(**inputs))
    trailers = dict(context.trailers)
    assert (trailers["argus-code"], trailers["argus-param"]) == (code, param)


async def test_a_question_that_is_missing_is_blamed_on_its_tensor(site: CascadeSite) -> None:
    context, _ = await infer(site, request("vqa.cascade", IMAGE=[png()]))
    assert dict(context.trailers)["argus-param"] == "TEXT"


async def test_metadata_and_readiness_over_http(site: CascadeSite) -> None:
    async with site.client() as http:
        spec = (await http.get("/v2/models/moderation.cascade")).json()
        assert [tensor["name"] for tensor in spec["inputs"]] == ["IMAGE", "PIXELS", "TEXT"]
        assert "ANSWER" in [tensor["name"] for tensor in spec["outputs"]]
        assert (await http.get("/v2/models/moderation.cascade/ready")).status_code == 200
        site.screen.raises = Unavailable("gone")
        assert (await http.get("/v2/models/moderation.cascade/ready")).status_code == 503


async def test_a_triton_client_over_http(site: CascadeSite) -> None:
    made = tritonclient.http.InferInput("IMAGE", [1], "BYTES")
    made.set_data_from_numpy(np.array([png()], np.object_))
    body, length = tritonclient.http.InferenceServerClient.generate_request_body([made])
    headers = {"inference-header-content-length": str(length)} if length else {}
    async with site.client() as http:
        answer = await http.post("/v2/models/moderation.cascade/infer", content=bytes(body), headers=headers)
    assert answer.status_code == 200, answer.text
    binary = answer.headers.get("inference-header-content-length")
    parsed = tritonclient.http.InferenceServerClient.parse_response_body(
        answer.content, header_length=None if binary is None else int(binary)
    )
    assert parsed.as_numpy("ANSWER").tolist() == [b"safe"]
