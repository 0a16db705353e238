"""`GrpcSkin`: the RPCs of the Open Inference Protocol and of grpc.health.v1, called as Ray Serve calls them."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2
from tritonclient import grpc as triton
from tritonclient.grpc import service_pb2 as pb

from serve.context import RequestContext
from serve.errors import DeadlineExceeded, InvalidMedia, Overloaded, Unavailable
from serve.protocol import grpc_server
from serve.protocol.oip_grpc import MOST_WATCHERS, GrpcSkin
from tests.unit.fakes import DIMENSION, KEYS, Site, cluster, png

PNG = png()


class Context:
    """Ray Serve's gRPC context, as far as we use it."""

    def __init__(self, **metadata: str) -> None:
        self.metadata = [(name.replace("_", "-"), value) for name, value in metadata.items()]
        self.code: grpc.StatusCode | None = None
        self.details: str | None = None
        self.trailers: dict[str, str] = {}

    def invocation_metadata(self) -> list[tuple[str, str]]:
        return self.metadata

    def set_code(self, code: grpc.StatusCode) -> None:
        self.code = code

    def set_details(self, details: str) -> None:
        self.details = details

    def set_trailing_metadata(self, metadata: list[tuple[str, str]]) -> None:
        # https://grpc.io/docs/guides/metadata/: lower-case keys, printable ASCII values.
        for key, value in metadata:
            assert key == key.lower()
            assert value.isascii()
            assert value.isprintable()
        self.trailers = dict(metadata)


def skin_of(site: Site) -> GrpcSkin:
    skin = GrpcSkin()
    skin.set_up_grpc(site.services, site.inference)
    return skin


@pytest.fixture
def skin(site: Site) -> GrpcSkin:
    return skin_of(site)


def inference(model: str = "clip.classify", request_id: str = "", **inputs: list[bytes]) -> Any:
    message = pb.ModelInferRequest(model_name=model, id=request_id)
    for name, values in (inputs or {"IMAGE": [PNG], "LABELS": [b"cat", b"dog"]}).items():
        made = triton.InferInput(name, [len(values)], "BYTES")
        made.set_data_from_numpy(np.array(values, np.object_))
        message.inputs.append(made._get_tensor())
        message.raw_input_contents.append(made._get_content())
    return message


async def failed(skin: GrpcSkin, request: Any, context: Context | None = None) -> Context:
    """The context after a refused inference, which answers an empty message."""
    context = context or Context()
    assert await skin.ModelInfer(request, context) == pb.ModelInferResponse()
    assert context.code is not None
    assert context.details
    return context


async def test_an_answer(skin: GrpcSkin, site: Site) -> None:
    context = Context()
    reply = await skin.ModelInfer(inference(request_id="r-1"), context)
    assert (context.code, context.details, context.trailers) == (None, None, {})
    assert (reply.model_name, reply.model_version, reply.id) == ("clip.classify", "1", "r-1")
    result = triton.InferResult(reply)
    assert result.as_numpy("PROBABILITIES").shape == (1, 2)
    [record] = site.recorder.requests
    assert (record.protocol, record.route, record.outcome, record.status) == ("grpc", "ModelInfer", "ok", 0)
    assert record.request_id == "r-1"


async def test_the_same_as_over_http(skin: GrpcSkin, client: Any) -> None:
    result = triton.InferResult(await skin.ModelInfer(inference(), Context()))
    fields = {"labels": ["cat", "dog"], "image": base64.b64encode(PNG).decode()}
    native = (await client.post("/v1/classify", json=fields)).json()["results"][0]["scores"]
    assert {score["label"]: score["logit"] for score in native} == pytest.approx(
        dict(zip(["cat", "dog"], result.as_numpy("LOGITS")[0].tolist(), strict=True)), rel=1e-6
    )


@pytest.mark.parametrize(
    ("request_message", "code", "trailers"),
    [
        (
            inference(IMAGE=[PNG]),
            grpc.StatusCode.INVALID_ARGUMENT,
            {"argus-code": "missing_input", "argus-param": "LABELS"},
        ),
        (
            inference(IMAGE=[PNG, b"junk"], LABELS=[b"a"]),
            grpc.StatusCode.INVALID_ARGUMENT,
            {"argus-code": "not_an_image", "argus-param": "IMAGE[1]"},
        ),
        (
            inference(IMAGE=[PNG], LABELS=[b"a"], **{"M\u00e4sk": [b"x"]}),
            grpc.StatusCode.INVALID_ARGUMENT,
            {"argus-code": "unknown_input", "argus-param": "M?sk"},
        ),
        (
            inference("nope"),
            grpc.StatusCode.NOT_FOUND,
            {"argus-code": "model_not_found", "argus-param": "model_name"},
        ),
        (
            inference(IMAGE=[b"x" * 70_000], LABELS=[b"a"]),
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            {"argus-code": "payload_too_large", "argus-param": "inputs"},
        ),
    ],
)
async def test_code_details_and_trailers(
    skin: GrpcSkin, site: Site, request_message: Any, code: grpc.StatusCode, trailers: dict[str, str]
) -> None:
    context = await failed(skin, request_message, Context(x_request_id="id-7"))
    assert context.code is code
    assert context.trailers == {**trailers, "argus-request-id": "id-7"}
    [record] = site.recorder.requests
    assert (record.outcome, record.status, record.request_id) == (trailers["argus-code"], code.value[0], "id-7")


@pytest.mark.parametrize(
    ("model", "kind", "value", "trailers"),
    [
        ("clip.classify", "string_param", "2", ("invalid_parameter", "classification")),
        ("clip.classify", "bool_param", True, ("invalid_parameter", "classification")),
        ("clip.classify", "double_param", 2.0, ("invalid_parameter", "classification")),
        ("clip.classify", "int64_param", 0, ("invalid_parameter", "classification")),
        ("clip.image_embedding", "int64_param", 2, ("invalid_parameter", "classification")),
    ],
)
async def test_classes_that_cannot_be_had(
    skin: GrpcSkin, model: str, kind: str, value: Any, trailers: tuple[str, str]
) -> None:
    message = inference(model)
    setattr(message.outputs.add(name="LOGITS").parameters["classification"], kind, value)
    context = await failed(skin, message)
    assert context.code is grpc.StatusCode.INVALID_ARGUMENT
    assert (context.trailers["argus-code"], context.trailers["argus-param"]) == trailers


@pytest.mark.parametrize(("kind", "value"), [("string_param", "high"), ("int64_param", -1), ("double_param", 1.0)])
async def test_a_priority_that_is_none(skin: GrpcSkin, kind: str, value: Any) -> None:
    message = inference()
    setattr(message.parameters["priority"], kind, value)
    context = await failed(skin, message)
    assert (context.trailers["argus-code"], context.trailers["argus-param"]) == ("invalid_parameter", "priority")


@pytest.mark.parametrize(
    ("raised", "code", "retry_after"),
    [
        (Overloaded("Full.", retry_after_s=7.4), grpc.StatusCode.RESOURCE_EXHAUSTED, "7"),
        (Unavailable("Loading."), grpc.StatusCode.UNAVAILABLE, None),
        (DeadlineExceeded("Late."), grpc.StatusCode.DEADLINE_EXCEEDED, None),
    ],
)
async def test_what_the_model_says_is_passed_on(
    skin: GrpcSkin, site: Site, raised: Any, code: grpc.StatusCode, retry_after: str | None
) -> None:
    site.model.raises = raised
    context = await failed(skin, inference())
    assert (context.code, context.details) == (code, raised.message)
    assert context.trailers.get("retry-after") == retry_after


async def test_an_exception_is_said_without_its_text(skin: GrpcSkin, site: Site) -> None:
    site.model.raises = RuntimeError("password=hunter2")
    context = await failed(skin, inference())
    assert context.code is grpc.StatusCode.INTERNAL
    assert "hunter2" not in f"{context.details}{context.trailers}"
    assert context.trailers["argus-code"] == "internal"


async def test_request_ids(skin: GrpcSkin, site: Site) -> None:
    await skin.ModelInfer(inference(request_id="m-1"), Context(x_request_id="id-7"))
    await skin.ModelInfer(inference(request_id="m-1"), Context(request_id="ray-1"))
    await skin.ModelInfer(inference(), Context(x_request_id="not h\u00e4rmless"))
    first, second, third = (record.request_id for record in site.recorder.requests)
    assert (first, second) == ("id-7", "m-1")
    assert third not in ("", "not h\u00e4rmless")


async def test_the_grpc_deadline_holds(skin: GrpcSkin, site: Site) -> None:
    token = grpc_server.time_remaining.set(-1.0)
    context = await failed(skin, inference())
    assert context.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert site.model.calls == []
    grpc_server.time_remaining.reset(token)
    grpc_server.time_remaining.set(7.0)
    await skin.ModelInfer(inference(), Context())
    [(_, arguments)] = site.model.calls
    assert 0 < arguments[1].timeout_s <= 7


async def test_without_a_grpc_deadline_the_default_holds(skin: GrpcSkin, site: Site) -> None:
    grpc_server.time_remaining.set(None)
    await skin.ModelInfer(inference(), Context())
    [(_, arguments)] = site.model.calls
    assert 20 < arguments[1].timeout_s <= site.config.limits.default_timeout_s


async def test_the_request_s_own_timeout_holds_where_it_is_sooner(skin: GrpcSkin, site: Site) -> None:
    grpc_server.time_remaining.set(7.0)
    for timeout_us in (2_000_000, 60_000_000, 0):
        message = inference()
        message.parameters["timeout"].int64_param = timeout_us
        await skin.ModelInfer(message, Context())
    left = [arguments[1].timeout_s for _, arguments in site.model.calls]
    assert 0 < left[0] <= 2 < max(left[1:]) <= 7


async def test_keys_by_metadata() -> None:
    site = Site(cluster(keys=True))
    skin = skin_of(site)
    for metadata in ({}, {"authorization": "Bearer nope"}, {"x_api_key": "nope"}):
        context = await failed(skin, inference(), Context(**metadata))
        assert context.code is grpc.StatusCode.UNAUTHENTICATED
    assert site.model.calls == []
    for metadata in ({"authorization": f"Bearer {KEYS['bob']}"}, {"x_api_key": KEYS["bob"]}):
        context = Context(**metadata)
        await skin.ModelInfer(inference(), context)
        assert context.code is None
        assert site.recorder.requests[-1].client == "bob"
    # Probes need no key.
    context = Context()
    assert (await skin.ServerLive(pb.ServerLiveRequest(), context)).live
    assert (await skin.ServerReady(pb.ServerReadyRequest(), context)).ready
    serving = await skin.Check(health_pb2.HealthCheckRequest(), context)
    assert serving.status == health_pb2.HealthCheckResponse.SERVING
    assert context.code is None
    for rpc, request in (("ServerMetadata", pb.ServerMetadataRequest()), ("ModelReady", pb.ModelReadyRequest())):
        context = Context()
        await getattr(skin, rpc)(request, context)
        assert context.code is grpc.StatusCode.UNAUTHENTICATED


def someone() -> RequestContext:
    return RequestContext("r-1", "anonymous", time.monotonic() + 60)


async def test_admission_is_shared_with_http() -> None:
    site = Site(slots=1)
    skin = skin_of(site)
    with site.services.admission.enter(someone(), "/v1/chat"):
        context = await failed(skin, inference())
        assert context.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert context.trailers["retry-after"] == "1"
        context = Context()
        assert (await skin.ServerReady(pb.ServerReadyRequest(), context)).ready
    site.model.reset()
    site.model.gate.clear()
    running = asyncio.create_task(skin.ModelInfer(inference(), Context()))
    await site.model.entered.wait()
    async with site.client() as client:
        assert (await client.get("/v1/models")).status_code == 429
        site.model.gate.set()
        assert triton.InferResult(await running).as_numpy("LOGITS").shape == (1, 2)
        assert (await client.get("/v1/models")).status_code == 200


async def test_a_cancelled_call_gives_its_place_back() -> None:
    site = Site(slots=1)
    skin = skin_of(site)
    site.model.gate.clear()
    running = asyncio.create_task(skin.ModelInfer(inference(), Context()))
    await site.model.entered.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (site.recorder.requests[-1].outcome, site.recorder.requests[-1].fault) == ("cancelled", "gone")
    with site.services.admission.enter(someone(), "/v1/chat"):
        pass


async def messages(*requests: Any) -> AsyncIterator[Any]:
    for request in requests:
        yield request


async def test_a_stream_goes_on_after_a_bad_message(skin: GrpcSkin, site: Site) -> None:
    site.model.failing[png("blue")] = InvalidMedia("The pixels end early.")
    requests = [
        inference(request_id="1"),
        inference("nope", request_id="2"),
        inference(request_id="3", IMAGE=[png("blue")], LABELS=[b"a"]),
        inference(request_id="4"),
    ]
    context = Context()
    replies = [reply async for reply in skin.ModelStreamInfer(messages(*requests), context)]
    replies.sort(key=lambda reply: reply.infer_response.id)  # requests with ids are answered side by side
    assert [reply.infer_response.id for reply in replies] == ["1", "2", "3", "4"]
    assert [bool(reply.error_message) for reply in replies] == [False, True, True, False]
    assert "'nope'" in replies[1].error_message
    assert replies[2].error_message == "The pixels end early."
    assert context.code is None, "the call itself did not fail"
    first, last = triton.InferResult(replies[0].infer_response), triton.InferResult(replies[3].infer_response)
    assert np.array_equal(first.as_numpy("LOGITS"), last.as_numpy("LOGITS"))
    outcomes = sorted(record.outcome for record in site.recorder.requests)
    assert outcomes == ["invalid_image", "model_not_found", "ok", "ok"]


async def test_one_response_that_is_followed_by_an_empty_one(skin: GrpcSkin) -> None:
    asked = inference(request_id="1")
    asked.parameters["triton_enable_empty_final_response"].bool_param = True
    replies = [reply.infer_response async for reply in skin.ModelStreamInfer(messages(asked), Context())]
    ends = [(len(reply.outputs), reply.parameters["triton_final_response"].bool_param) for reply in replies]
    assert ends == [(2, False), (0, True)]
    assert [reply.id for reply in replies] == ["1", "1"]
    assert len((await skin.ModelInfer(asked, Context())).outputs) == 2, "without a stream it changes nothing"


async def test_an_empty_stream(skin: GrpcSkin) -> None:
    assert [reply async for reply in skin.ModelStreamInfer(messages(), Context())] == []


STATUS = health_pb2.HealthCheckResponse


@pytest.mark.parametrize("service", ["", "inference.GRPCInferenceService"])
async def test_health_of_what_we_serve(skin: GrpcSkin, site: Site, service: str) -> None:
    request, context = health_pb2.HealthCheckRequest(service=service), Context()
    assert (await skin.Check(request, context)).status == STATUS.SERVING
    site.judge.raises = Unavailable("Loading.")
    assert (await skin.Check(request, context)).status == STATUS.NOT_SERVING
    assert context.code is None


async def test_health_of_another_service(skin: GrpcSkin) -> None:
    request, context = health_pb2.HealthCheckRequest(service="other.Service"), Context()
    assert await skin.Check(request, context) == STATUS()
    assert context.code is grpc.StatusCode.NOT_FOUND
    watching = skin.Watch(request, Context())
    assert (await anext(watching)).status == STATUS.SERVICE_UNKNOWN
    await watching.aclose()


async def test_watching_starts_with_the_present(skin: GrpcSkin, site: Site) -> None:
    site.judge.raises = Unavailable("Loading.")
    watching = skin.Watch(health_pb2.HealthCheckRequest(), Context())
    assert (await anext(watching)).status == STATUS.NOT_SERVING
    await watching.aclose()


async def test_only_so_many_may_watch_at_once(skin: GrpcSkin) -> None:
    watching = [skin.Watch(health_pb2.HealthCheckRequest(), Context()) for _ in range(MOST_WATCHERS)]
    for one in watching:
        await anext(one)
    context = Context()
    refused = [answer async for answer in skin.Watch(health_pb2.HealthCheckRequest(), context)]
    assert refused == [] and context.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    await watching.pop().aclose()
    late = skin.Watch(health_pb2.HealthCheckRequest(), Context())
    assert (await anext(late)).status == STATUS.SERVING
    for one in (late, *watching):
        await one.aclose()


async def test_metadata_and_readiness(skin: GrpcSkin, site: Site) -> None:
    server = await skin.ServerMetadata(pb.ServerMetadataRequest(), Context())
    assert (server.name, server.version) == ("argus", "1.2.3")
    spec = await skin.ModelMetadata(pb.ModelMetadataRequest(name="clip.text_embedding"), Context())
    assert [(t.name, t.datatype, list(t.shape)) for t in spec.outputs] == [("EMBEDDING", "FP32", [-1, DIMENSION])]
    assert list(spec.versions) == ["1"]
    ready = pb.ModelReadyRequest(name="clip.classify")
    assert (await skin.ModelReady(ready, Context())).ready
    site.model.raises = Unavailable("Loading.")
    context = Context()
    assert not (await skin.ModelReady(ready, context)).ready
    assert not (await skin.ServerReady(pb.ServerReadyRequest(), context)).ready
    assert context.code is None
    for request in (pb.ModelMetadataRequest(name="nope"), pb.ModelMetadataRequest(name="clip.classify", version="2")):
        context = Context()
        await skin.ModelMetadata(request, context)
        assert context.code is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(("name", "version"), [("nope", ""), ("clip", ""), ("clip.classify", "2")])
async def test_a_model_that_is_none_is_not_ready(skin: GrpcSkin, site: Site, name: str, version: str) -> None:
    context = Context()
    answer = await skin.ModelReady(pb.ModelReadyRequest(name=name, version=version), context)
    assert not answer.ready
    assert context.code is None
    assert site.recorder.requests[-1].outcome == "ok"


SERVICE = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]


def test_every_rpc_of_the_service_is_there() -> None:
    assert [method.name for method in SERVICE.methods if not callable(getattr(GrpcSkin, method.name, None))] == []


@pytest.mark.parametrize("rpc", ["ModelConfig", "RepositoryIndex", "SystemSharedMemoryRegister", "TraceSetting"])
async def test_rpcs_that_argus_does_not_offer(skin: GrpcSkin, rpc: str) -> None:
    context = Context()
    await getattr(skin, rpc)(None, context)
    assert context.code is grpc.StatusCode.UNIMPLEMENTED
    assert context.trailers["argus-code"] == "unsupported"
