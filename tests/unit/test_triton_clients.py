"""tritonclient's own clients, over sockets, against the HTTP side and the RPCs: classes, streams, compression."""

from __future__ import annotations

import asyncio
import logging
import queue
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import pytest
import tritonclient.grpc as triton_grpc_sync
import tritonclient.grpc.aio as triton_grpc
import tritonclient.http.aio as triton_http
import uvicorn
from tritonclient.grpc import service_pb2_grpc
from tritonclient.utils import InferenceServerException

from serve.errors import ModelFailed
from serve.protocol.oip_grpc import GrpcSkin
from tests.unit.fakes import Site, cluster, png
from tests.unit.test_http_unread import Server

IMAGES, LABELS = (png("red"), png("blue")), ("cat", "a dog: brown", "owl", "käfer")


class Http:
    """tritonclient over HTTP.

    Args:
        binary: whether outputs come behind the JSON header.
    """

    def __init__(self, port: int, *, binary: bool = True) -> None:
        self.client = triton_http.InferenceServerClient(f"127.0.0.1:{port}")
        self._binary = binary

    def input(self, name: str, values: tuple[bytes, ...]) -> Any:
        made = triton_http.InferInput(name, [len(values)], "BYTES")
        made.set_data_from_numpy(np.array(values, np.object_))
        return made

    def output(self, name: str, classes: int = 0) -> Any:
        return triton_http.InferRequestedOutput(name, self._binary, classes)

    async def infer(self, model: str, inputs: list[Any], **options: Any) -> Any:
        return await self.client.infer(model, inputs, **options)


class Grpc:
    """tritonclient over gRPC."""

    def __init__(self, port: int) -> None:
        self.client = triton_grpc.InferenceServerClient(f"127.0.0.1:{port}")

    def input(self, name: str, values: tuple[bytes, ...]) -> Any:
        made = triton_grpc.InferInput(name, [len(values)], "BYTES")
        made.set_data_from_numpy(np.array(values, np.object_))
        return made

    def output(self, name: str, classes: int = 0) -> Any:
        return triton_grpc.InferRequestedOutput(name, classes)

    async def infer(self, model: str, inputs: list[Any], **options: Any) -> Any:
        return await self.client.infer(model, inputs, **options)


Client = Http | Grpc


@pytest.fixture
async def http_port(site: Site) -> AsyncIterator[int]:
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    server = Server(uvicorn.Config(site.app, port=0, lifespan="off", log_config=None, access_log=False))
    serving = asyncio.create_task(server.serve())
    await server.listening.wait()
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    await serving


@asynccontextmanager
async def grpc_served(site: Site) -> AsyncIterator[int]:
    """The port on which the RPCs are answered."""
    skin = GrpcSkin()
    skin.set_up_grpc(site.services, site.inference)
    server = grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(skin, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield port
    await server.stop(None)


@pytest.fixture
async def grpc_port(site: Site) -> AsyncIterator[int]:
    async with grpc_served(site) as port:
        yield port


@pytest.fixture(params=["HTTP, binary", "HTTP, JSON", "gRPC"])
async def triton(request: pytest.FixtureRequest, http_port: int, grpc_port: int) -> AsyncIterator[Client]:
    made: Client = Grpc(grpc_port) if request.param == "gRPC" else Http(http_port, binary="binary" in request.param)
    yield made
    await made.client.close()


def classify_inputs(triton: Client) -> list[Any]:
    return [triton.input("IMAGE", IMAGES), triton.input("LABELS", tuple(label.encode() for label in LABELS))]


def texts(array: npt.NDArray[Any]) -> list[list[str]]:
    """BYTES of two sides; from JSON, tritonclient gives texts."""
    return [[item if isinstance(item, str) else item.decode() for item in row] for row in array]


@pytest.mark.parametrize("name", ["PROBABILITIES", "LOGITS"])
@pytest.mark.parametrize(("asked", "given"), [(1, 1), (3, 3), (len(LABELS), len(LABELS)), (50, len(LABELS))])
async def test_the_best_classes(triton: Client, name: str, asked: int, given: int) -> None:
    other = "LOGITS" if name == "PROBABILITIES" else "PROBABILITIES"
    outputs = [triton.output(name, asked), triton.output(other)]
    plain = await triton.infer("clip.classify", classify_inputs(triton))
    found = await triton.infer("clip.classify", classify_inputs(triton), outputs=outputs)
    assert np.array_equal(found.as_numpy(other), plain.as_numpy(other)), "the output that is wanted whole is whole"
    scores, rows = plain.as_numpy(name), texts(found.as_numpy(name))
    assert [len(row) for row in rows] == [given] * len(IMAGES)
    for row, of_row in zip(rows, scores, strict=True):
        parts = [element.split(":", 2) for element in row]
        order = np.argsort(-of_row)[:given]
        assert [int(index) for _, index, _ in parts] == order.tolist()
        assert [label for _, _, label in parts] == [LABELS[index] for index in order]
        assert np.array_equal(np.array([score for score, _, _ in parts], np.float32), of_row[order]), "to the last bit"


async def test_classes_of_what_has_none(triton: Client, site: Site) -> None:
    outputs = [triton.output("EMBEDDING", 2)]
    with pytest.raises(InferenceServerException, match=r"clip\.image_embedding has no scores of classes"):
        await triton.infer("clip.image_embedding", [triton.input("IMAGE", IMAGES)], outputs=outputs)
    assert site.model.calls == [], "it is said before anything runs"


async def test_a_negative_number_of_classes(triton: Client) -> None:
    with pytest.raises(InferenceServerException, match="'classification' must be a whole number from 1"):
        await triton.infer("clip.classify", classify_inputs(triton), outputs=[triton.output("LOGITS", -1)])


async def test_a_model_that_is_none_is_not_ready(triton: Client) -> None:
    assert await triton.client.is_model_ready("clip.classify")
    assert not await triton.client.is_model_ready("nope")
    assert not await triton.client.is_model_ready("clip.classify", "2")
    with pytest.raises(InferenceServerException, match="'nope' does not exist"):
        await triton.infer("nope", classify_inputs(triton))


async def test_shared_memory_is_refused_by_name(triton: Client) -> None:
    output = triton.output("LOGITS")
    output.set_shared_memory("region", 64)
    with pytest.raises(InferenceServerException, match=r"parameter 'shared_memory_.*' is not known"):
        await triton.infer("clip.classify", classify_inputs(triton), outputs=[output])
    image, labels = classify_inputs(triton)
    labels.set_shared_memory("region", 64)
    with pytest.raises(InferenceServerException, match="Input 'LABELS': shared memory is not offered"):
        await triton.infer("clip.classify", [image, labels])


async def test_a_priority_changes_nothing(triton: Client) -> None:
    plain = await triton.infer("clip.classify", classify_inputs(triton))
    first = await triton.infer("clip.classify", classify_inputs(triton), priority=7)
    assert np.array_equal(first.as_numpy("LOGITS"), plain.as_numpy("LOGITS"))


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
async def test_compressed_requests(http_port: int, algorithm: str) -> None:
    triton = Http(http_port)
    plain = await triton.infer("clip.classify", classify_inputs(triton))
    packed = await triton.infer(
        "clip.classify",
        classify_inputs(triton),
        request_compression_algorithm=algorithm,
        response_compression_algorithm=algorithm,
    )
    assert np.array_equal(packed.as_numpy("LOGITS"), plain.as_numpy("LOGITS"))
    await triton.client.close()


async def test_the_extensions_are_told(http_port: int, grpc_port: int) -> None:
    over_http, over_grpc = Http(http_port), Grpc(grpc_port)
    assert (await over_http.client.get_server_metadata())["extensions"] == ["binary_tensor_data", "classification"]
    assert list((await over_grpc.client.get_server_metadata()).extensions) == ["classification"]
    await over_http.client.close()
    await over_grpc.client.close()


CHAT_MODEL = {"llava": {"kind": "llava", "checkpoint": "llava-hf/llava-1.5-7b-hf"}}


def streamed(port: int, text: str, **options: Any) -> list[tuple[list[bytes], bool] | str]:
    """What a chat answers over tritonclient's own stream: each response's text and whether it is the final one."""
    given: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client = triton_grpc_sync.InferenceServerClient(f"127.0.0.1:{port}")
    asked = triton_grpc_sync.InferInput("TEXT", [1], "BYTES")
    asked.set_data_from_numpy(np.array([text.encode()], np.object_))
    client.start_stream(lambda result, error: given.put((result, error)))
    client.async_stream_infer("llava.chat", [asked], request_id="r1", **options)
    client.stop_stream()  # waits for the responses
    client.close()
    answers: list[tuple[list[bytes], bool] | str] = []
    while not given.empty():
        result, error = given.get()
        if error is not None:
            answers.append(str(error))
            continue
        message = result.get_response()
        assert (message.id, message.model_name) == ("r1", "llava.chat")
        said = [] if not message.outputs else result.as_numpy("TEXT").tolist()
        answers.append((said, message.parameters["triton_final_response"].bool_param))
    return answers


async def test_the_final_response_is_empty_where_that_is_asked_for() -> None:
    async with grpc_served(Site(cluster(models=CHAT_MODEL))) as port:
        plain = await asyncio.to_thread(streamed, port, "one two")
        asked = await asyncio.to_thread(streamed, port, "one two", enable_empty_final_response=True)
    assert plain == [([b"one"], False), ([b" two"], False), ([b" (0 media)"], True)]
    assert asked == [(said, False) for said, _ in plain] + [([], True)]


async def test_a_failed_request_s_error_is_its_last_response() -> None:
    site = Site(cluster(models=CHAT_MODEL))
    site.llava.script = [(1, ModelFailed("broken"))]
    async with grpc_served(site) as port:
        answers = await asyncio.to_thread(streamed, port, "one two", enable_empty_final_response=True)
    assert answers == [([b"one"], False), "broken"]
