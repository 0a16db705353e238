"""Chat as tensors: whole over `infer`, token by token over `infer_stream`, with the checks of the OpenAI route."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2 as pb

from deployments.generation.messages import ChatEvent, ImagePart
from serve.errors import ModelFailed
from serve.protocol.oip_grpc import GrpcSkin
from tests.unit.fakes import FakeGenerator, Site, cluster, png
from tests.unit.test_oip_grpc import Context as FakeContext

MODELS = {"llava": {"kind": "llava", "checkpoint": "llava-hf/llava-1.5-7b-hf", "max_images": 2}}
URI = "data:image/png;base64," + base64.b64encode(png()).decode()
SHOWN = {"type": "image_url", "image_url": {"url": URI}}


@pytest.fixture(scope="module")
def built() -> Site:
    return Site(cluster(models=MODELS))


@pytest.fixture
def site(built: Site) -> Site:
    built.reset()
    return built


@pytest.fixture
def skin(site: Site) -> GrpcSkin:
    skin = GrpcSkin()
    skin.set_up_grpc(site.services, site.inference)
    return skin


def request(parameters: dict[str, Any] | None = None, name: str = "llava.chat", **inputs: list[bytes]) -> Any:
    message = pb.ModelInferRequest(model_name=name, id="r1")
    for tensor, values in inputs.items():
        made = triton.InferInput(tensor, [len(values)], "BYTES")
        made.set_data_from_numpy(np.array(values, np.object_))
        message.inputs.append(made._get_tensor())
        message.raw_input_contents.append(made._get_content())
    for key, value in (parameters or {}).items():
        kind = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}[type(value)]
        setattr(message.parameters[key], kind, value)
    return message


def outputs(message: Any) -> dict[str, Any]:
    result = triton.InferResult(message)
    return {output.name: result.as_numpy(output.name).tolist() for output in message.outputs}


async def streamed(skin: GrpcSkin, *messages: Any) -> list[Any]:
    async def sent() -> Any:
        for message in messages:
            yield message

    return [answer async for answer in skin.ModelStreamInfer(sent(), FakeContext())]


async def test_an_answer_at_once(skin: GrpcSkin, site: Site) -> None:
    asked = request({"max_tokens": 3, "temperature": "0", "n": 2}, TEXT=[b"What is it?"], IMAGE=[png(), png("blue")])
    answer = outputs(await skin.ModelInfer(asked, FakeContext()))
    assert answer == {
        "TEXT": [b"What is it?"] * 2,
        "FINISH_REASON": [b"length"] * 2,
        "INDEX": [0, 1],
        "PROMPT_TOKENS": [7],
        "COMPLETION_TOKENS": [6],
        "CACHED_TOKENS": [3],
    }
    assert len(site.llava.requests[0].messages[0].parts) == 3
    assert site.llava.requests[0].sampling.temperature == 0


async def test_an_answer_that_its_deadline_cut_has_openais_word_for_it(
    skin: GrpcSkin, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = [ChatEvent(0, "half", (1,), finish_reason="cut", prompt_tokens=7)]
    monkeypatch.setattr(FakeGenerator, "events", lambda self, request: cut)
    asked = request({}, TEXT=[b"Hm?"])
    assert outputs(await skin.ModelInfer(asked, FakeContext()))["FINISH_REASON"] == [b"length"]
    (piece,) = await streamed(skin, asked)
    assert outputs(piece.infer_response)["FINISH_REASON"] == [b"length"]


async def test_log_probabilities_and_detail_as_over_http(skin: GrpcSkin, site: Site) -> None:
    wanted = {"logprobs": True, "top_logprobs": 1, "detail": "low"}
    answer = outputs(await skin.ModelInfer(request(wanted, TEXT=[b"Hm?"], IMAGE=[png()]), FakeContext()))
    content = json.loads(answer["LOGPROBS"][0])
    assert [one["token"] for one in content] == ["Hm?", "(1 media)"]
    assert content[0] | {"top_logprobs": []} == {
        "token": "Hm?",
        "logprob": -0.5,
        "bytes": list(b"Hm?"),
        "top_logprobs": [],
    }
    assert [one["token"] for one in content[0]["top_logprobs"]] == ["Hm?"]
    assert [part.detail for part in site.llava.requests[0].messages[0].parts if isinstance(part, ImagePart)] == ["low"]
    pieces = await streamed(skin, request({"logprobs": True}, TEXT=[b"one two"]))
    told = [json.loads(outputs(piece.infer_response)["LOGPROBS"][0]) for piece in pieces]
    assert [one["token"] for piece in told for one in piece] == ["one", "two", "(0 media)"]


@pytest.mark.parametrize(
    ("parameters", "param"),
    [
        ({"logprobs": 1}, "logprobs"),
        ({"detail": "huge"}, "detail"),
        ({"n": True}, "n"),
        ({"triton_enable_empty_final_response": "yes"}, "triton_enable_empty_final_response"),
        ({"triton_enable_empty_final_response": 1}, "triton_enable_empty_final_response"),
    ],
)
async def test_parameters_of_a_wrong_kind_are_named(skin: GrpcSkin, parameters: dict[str, Any], param: str) -> None:
    answers = await streamed(skin, request(parameters, TEXT=[b"x"], IMAGE=[png()]))
    assert f"'{param}'" in answers[0].error_message


@pytest.mark.parametrize(
    ("given", "stop"),
    [
        ("[END]", ("[END]",)),
        ("[", ("[",)),
        ("[/INST]", ("[/INST]",)),
        ("[1]", ("[1]",)),
        ("Human:", ("Human:",)),
        ('["[END]"]', ("[END]",)),
        (' ["a", "b"]', ("a", "b")),
    ],
)
async def test_a_stop_text_may_begin_with_a_bracket(
    skin: GrpcSkin, site: Site, given: str, stop: tuple[str, ...]
) -> None:
    await skin.ModelInfer(request({"stop": given}, TEXT=[b"Hm?"]), FakeContext())
    assert site.llava.requests[0].sampling.stop == stop


async def test_a_conversation_as_json(skin: GrpcSkin, site: Site) -> None:
    said = [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [{"type": "image_url", "image_url": {"url": URI}}, {"type": "text", "text": "Hm?"}],
        },
    ]
    asked = request(
        {"stop": '["a", "b"]', "response_format": '{"type": "json_object"}'}, MESSAGES=[json.dumps(said).encode()]
    )
    assert outputs(await skin.ModelInfer(asked, FakeContext()))["TEXT"] == [b"Hm? (1 media)"]
    sampling = site.llava.requests[0].sampling
    assert sampling.stop == ("a", "b")
    assert sampling.constraint is not None


async def test_tokens_as_they_come(skin: GrpcSkin) -> None:
    answers = await streamed(skin, request(TEXT=[b"one two"]), request(TEXT=[b"three"]))
    pieces = [outputs(answer.infer_response) for answer in answers]
    assert [piece["TEXT"][0] for piece in pieces] == [b"one", b" two", b" (0 media)", b"three", b" (0 media)"]
    assert [piece["FINISH_REASON"][0] for piece in pieces] == [b"", b"", b"stop", b"", b"stop"]
    assert [piece["COMPLETION_TOKENS"][0] for piece in pieces] == [1, 2, 3, 1, 2]
    last = [answer.infer_response.parameters["triton_final_response"].bool_param for answer in answers]
    assert last == [False, False, True, False, True]
    assert {answer.infer_response.id for answer in answers} == {"r1"}


async def test_a_failed_request_does_not_end_the_stream(skin: GrpcSkin, site: Site) -> None:
    site.llava.script = [(1, ModelFailed("broken"))]
    answers = await streamed(
        skin, request(TEXT=[b"one two"]), request(TEXT=[b"x"], IMAGE=[b"no image"]), request(TEXT=[b"y"])
    )
    assert [answer.error_message for answer in answers][:2] == ["", "broken"]
    assert "not an image" in answers[2].error_message
    assert answers[2].infer_response.id == "r1"
    assert [outputs(answer.infer_response)["TEXT"] for answer in answers[3:]] == [[b"y"], [b" (0 media)"]]


async def test_metadata(skin: GrpcSkin) -> None:
    spec = await skin.ModelMetadata(pb.ModelMetadataRequest(name="llava.chat"), FakeContext())
    assert [tensor.name for tensor in spec.inputs] == ["MESSAGES", "TEXT", "IMAGE", "VIDEO"]
    assert [tensor.name for tensor in spec.outputs][:2] == ["TEXT", "FINISH_REASON"]


@pytest.mark.parametrize(
    ("message", "param"),
    [
        (request(), "MESSAGES"),
        (request(TEXT=[b"a", b"b"]), "TEXT"),
        (request(TEXT=[b"a"], MESSAGES=[b"[]"]), "TEXT"),
        (request(MESSAGES=[b"{"]), "MESSAGES"),
        (request(MESSAGES=[b'[{"role": "robot"}]']), "MESSAGES[0].role"),
        (request({"temperature": "warm"}, TEXT=[b"a"]), "temperature"),
        (request({"temperature": 3.0}, TEXT=[b"a"]), "temperature"),
        (request({"colour": "red"}, TEXT=[b"a"]), "colour"),
        (request(TEXT=[b"a"], IMAGE=[png()] * 3), "IMAGE[2]"),
        (request(TEXT=[b"a"], VIDEO=[png()]), "VIDEO[0]"),
        (request(TEXT=[b"a"], SOUND=[b"x"]), "SOUND"),
        (request(TEXT=[b"\xff"]), "TEXT"),
    ],
)
async def test_what_is_refused(skin: GrpcSkin, site: Site, message: Any, param: str) -> None:
    context = FakeContext()
    await skin.ModelInfer(message, context)
    assert context.trailers["argus-param"] == param
    assert site.llava.requests == []
