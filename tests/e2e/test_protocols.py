"""Real clients against a real cluster: what works, what is refused, and that both look the same on every protocol."""

from __future__ import annotations

import asyncio
import io
import struct
import zlib
from typing import Any

import grpc
import httpx
import numpy as np
import numpy.typing as npt
import openai
import psutil
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.grpc.aio as triton_aio
import tritonclient.http as triton_http
import tritonclient.http.aio as triton_http_aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from PIL import Image

from tests.e2e.cluster import KEY, Cluster
from tests.support.waiting import until

pytestmark = pytest.mark.cluster


def key() -> dict[str, str]:
    """Fresh each time: tritonclient writes its own headers into the dictionary it is given."""
    return {"x-api-key": KEY}


def classify_inputs(module: Any, image: bytes, labels: list[str]) -> list[Any]:
    first = module.InferInput("IMAGE", [1], "BYTES")
    first.set_data_from_numpy(np.array([image], dtype=object))
    second = module.InferInput("LABELS", [len(labels)], "BYTES")
    second.set_data_from_numpy(np.array([label.encode() for label in labels], dtype=object))
    return [first, second]


def test_a_generated_scene_is_recognised(cluster: Cluster, scene_png: bytes) -> None:
    labels = "a red star,a red circle,a blue star,a green square"
    with cluster.client() as client:
        answer = client.post("/v1/classify", files={"image": scene_png}, data={"labels": labels}).json()
    assert answer["results"][0]["label"] == "a red star"
    assert answer["results"][0]["scores"][0]["probability"] > 0.9


def test_request_id_is_honoured_and_returned_once(cluster: Cluster, scene_png: bytes) -> None:
    with cluster.client() as client:
        given = client.get("/v1/models", headers={"X-Request-ID": "my-id-1"})
        made = client.get("/v1/models")
        failed = client.post("/v1/classify", json={}, headers={"X-Request-ID": "my-id-2"})
    assert given.headers.get_list("x-request-id") == ["my-id-1"]
    assert len(made.headers["x-request-id"]) >= 16
    assert failed.json()["error"]["request_id"] == failed.headers["x-request-id"] == "my-id-2"


def test_keys_are_demanded_everywhere_but_at_the_probes(cluster: Cluster, scene_png: bytes) -> None:
    with httpx.Client(base_url=cluster.http, timeout=30) as client:
        assert client.get("/v1/healthz").status_code == client.get("/v2/health/ready").status_code == 200
        refused = client.get("/v1/models")
        assert refused.status_code == 401 and refused.json()["error"]["code"] == "unauthenticated"
        wrong = client.get("/v1/models", headers={"Authorization": "Bearer nope"})
        assert wrong.json()["error"]["code"] == "invalid_api_key"
        assert client.get("/v1/models", headers={"Authorization": f"Bearer {KEY}"}).status_code == 200
    with triton_grpc.InferenceServerClient(cluster.grpc) as triton:
        assert triton.is_server_ready()
        with pytest.raises(Exception, match="UNAUTHENTICATED"):
            triton.infer("clip.classify", classify_inputs(triton_grpc, scene_png, ["a", "b"]))


def test_triton_metadata_and_readiness(cluster: Cluster) -> None:
    with triton_grpc.InferenceServerClient(cluster.grpc) as rpc, _http(cluster) as http:
        for client, options in ((rpc, {"headers": key()}), (http, {"headers": key()})):
            assert client.is_server_live() and client.is_server_ready()
            assert client.is_model_ready("clip.classify", **options)
            assert client.is_model_ready("clip.classify", "1", **options)
        described = http.get_model_metadata("clip.image_embedding", headers=key())
        assert described["outputs"] == [{"name": "EMBEDDING", "datatype": "FP32", "shape": [-1, 128]}]
        message = rpc.get_model_metadata("clip.image_embedding", headers=key())
        assert [(t.name, t.datatype, list(t.shape)) for t in message.outputs] == [("EMBEDDING", "FP32", [-1, 128])]
        assert http.get_server_metadata(headers=key())["name"] == rpc.get_server_metadata(headers=key()).name


def test_triton_errors_are_readable(cluster: Cluster, scene_png: bytes) -> None:
    broken = classify_inputs(triton_http, scene_png[:200], ["a", "b"])
    with _http(cluster) as http, pytest.raises(Exception) as over_http:
        http.infer("clip.classify", broken, headers=key())
    assert str(over_http.value).startswith("[400] ")
    with triton_grpc.InferenceServerClient(cluster.grpc) as rpc:
        with pytest.raises(Exception) as over_grpc:
            rpc.infer("clip.classify", classify_inputs(triton_grpc, scene_png[:200], ["a", "b"]), headers=key())
        assert "INVALID_ARGUMENT" in str(over_grpc.value)
        with pytest.raises(Exception, match="NOT_FOUND"):
            rpc.infer("nothing", classify_inputs(triton_grpc, scene_png, ["a", "b"]), headers=key())
        with pytest.raises(Exception, match="UNIMPLEMENTED"):
            rpc.get_model_config("clip.classify", headers=key())


def test_grpc_errors_carry_code_and_field_in_trailers(cluster: Cluster, scene_png: bytes) -> None:
    from tritonclient.grpc import service_pb2 as pb
    from tritonclient.grpc import service_pb2_grpc

    request = pb.ModelInferRequest(model_name="clip.classify", id="abc")
    request.inputs.add(name="IMAGE", datatype="BYTES", shape=[1]).contents.bytes_contents.append(b"this is text")
    request.inputs.add(name="LABELS", datatype="BYTES", shape=[1]).contents.bytes_contents.append(b"x")
    with grpc.insecure_channel(cluster.grpc) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelInfer(request, metadata=(("x-api-key", KEY),), timeout=30)
    trailers = dict(caught.value.trailing_metadata())
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (trailers["argus-code"], trailers["argus-param"], trailers["argus-request-id"]) == (
        "not_an_image",
        "IMAGE[0]",
        "abc",
    )


def test_triton_binary_compressed_and_json_transfers_agree(cluster: Cluster, scene_png: bytes) -> None:
    inputs = classify_inputs(triton_http, scene_png, ["a red star", "a blue circle"])
    as_json = [triton_http.InferRequestedOutput(n, binary_data=False) for n in ("PROBABILITIES", "LOGITS")]
    with _http(cluster) as http:
        plain = http.infer("clip.classify", inputs, headers=key())
        zipped = http.infer("clip.classify", inputs, headers=key(), request_compression_algorithm="gzip")
        deflated = http.infer("clip.classify", inputs, headers=key(), request_compression_algorithm="deflate")
        text = http.infer("clip.classify", inputs, headers=key(), outputs=as_json)
    np.testing.assert_allclose(plain.as_numpy("LOGITS"), zipped.as_numpy("LOGITS"), atol=1e-5)
    np.testing.assert_allclose(plain.as_numpy("LOGITS"), deflated.as_numpy("LOGITS"), atol=1e-5)
    np.testing.assert_allclose(plain.as_numpy("LOGITS"), text.as_numpy("LOGITS"), atol=1e-4)


def test_triton_gives_the_best_classes(cluster: Cluster, scene_png: bytes) -> None:
    labels = ["a blue circle", "a red star", "a cat"]
    with _http(cluster) as http, triton_grpc.InferenceServerClient(cluster.grpc) as rpc:
        for client, module in ((http, triton_http), (rpc, triton_grpc)):
            wanted = [module.InferRequestedOutput("PROBABILITIES", class_count=2)]
            answer = client.infer(
                "clip.classify", classify_inputs(module, scene_png, labels), outputs=wanted, headers=key()
            )
            [(best, second)] = answer.as_numpy("PROBABILITIES").tolist()
            assert best.endswith(b":1:a red star") and float(best.partition(b":")[0]) > float(second.partition(b":")[0])


async def test_triton_asyncio_clients(cluster: Cluster, scene_png: bytes) -> None:
    address = cluster.http.removeprefix("http://")
    async with (
        triton_aio.InferenceServerClient(cluster.grpc) as rpc,
        triton_http_aio.InferenceServerClient(address) as http,
    ):
        one = await rpc.infer(
            "clip.classify", classify_inputs(triton_grpc, scene_png, ["a red star", "a cat"]), headers=key()
        )
        two = await http.infer(
            "clip.classify", classify_inputs(triton_http_aio, scene_png, ["a red star", "a cat"]), headers=key()
        )
    np.testing.assert_allclose(one.as_numpy("PROBABILITIES"), two.as_numpy("PROBABILITIES"), atol=1e-5)


def test_triton_stream_goes_on_after_a_bad_message(cluster: Cluster, scene_png: bytes) -> None:
    import queue

    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with triton_grpc.InferenceServerClient(cluster.grpc) as rpc:
        rpc.start_stream(lambda result, error: answers.put((result, error)), headers=key())
        for data in (scene_png, b"not an image", scene_png):
            rpc.async_stream_infer("clip.classify", classify_inputs(triton_grpc, data, ["a red star", "a cat"]))
        received = [answers.get(timeout=60) for _ in range(3)]
        rpc.stop_stream()
    assert [error is None for _, error in received] == [True, False, True]
    assert received[2][0].as_numpy("PROBABILITIES").shape == (1, 2)


def test_grpc_health_and_reflection(cluster: Cluster) -> None:
    with grpc.insecure_channel(cluster.grpc) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        serving = health_pb2.HealthCheckResponse.SERVING
        assert health.Check(health_pb2.HealthCheckRequest(), timeout=30).status == serving
        watch = health.Watch(health_pb2.HealthCheckRequest(), timeout=30)
        assert next(watch).status == serving
        watch.cancel()
        with pytest.raises(grpc.RpcError) as caught:
            health.Check(health_pb2.HealthCheckRequest(service="other"), timeout=30)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        services = ProtoReflectionDescriptorDatabase(channel).get_services()
    assert {"inference.GRPCInferenceService", "grpc.health.v1.Health"} <= set(services)


def test_a_16_mib_image_passes_at_the_shipped_limits_and_21_mib_do_not(cluster: Cluster) -> None:
    image = noise_png(16 * 1024 * 1024)
    assert 16 * 1024 * 1024 <= len(image) < 17 * 1024 * 1024
    with cluster.client() as client:
        answer = client.post(
            "/v1/embeddings", params={"model": "clip"}, content=image, headers={"Content-Type": "image/png"}
        )
        assert answer.status_code == 200, answer.text
        too_large = client.post("/v1/embeddings", content=b"x" * (21 << 20), headers={"Content-Type": "image/png"})
    assert (too_large.status_code, too_large.json()["error"]["code"]) == (413, "payload_too_large")
    with triton_grpc.InferenceServerClient(cluster.grpc) as rpc:
        inputs = classify_inputs(triton_grpc, image, ["x"])[:1]
        vector = rpc.infer("clip.image_embedding", inputs, headers=key()).as_numpy("EMBEDDING")
        np.testing.assert_allclose(vector[0], answer.json()["data"][0]["embedding"], atol=1e-5)
        with pytest.raises(Exception, match="RESOURCE_EXHAUSTED"):
            rpc.infer("clip.image_embedding", classify_inputs(triton_grpc, b"x" * (21 << 20), ["x"])[:1], headers=key())


@pytest.mark.parametrize(
    ("label", "status", "code"),
    [
        ("overloaded 7", 429, "overloaded"),
        ("unavailable", 503, "unavailable"),
        ("late", 504, "deadline_exceeded"),
        ("bug", 500, "model_failed"),
    ],
)
def test_statuses_of_models_reach_the_client(
    cluster: Cluster, scene_png: bytes, label: str, status: int, code: str
) -> None:
    fields = {"labels": f"{label},x", "model": "scripted"}
    with cluster.client() as client:
        answer = client.post("/v1/classify", files={"image": scene_png}, data=fields)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert status != 429 or answer.headers["retry-after"] == "7"


def test_the_deadline_travels_and_is_kept(cluster: Cluster, scene_png: bytes) -> None:
    slow = {"labels": "sleep 30,x", "model": "scripted"}
    with cluster.client() as client:
        late = client.post("/v1/classify", files={"image": scene_png}, data=slow, headers={"X-Argus-Timeout-Ms": "300"})
        assert (late.status_code, late.json()["error"]["code"]) == (504, "deadline_exceeded")
        told = client.post(
            "/v1/classify",
            files={"image": scene_png},
            data={"labels": "tell,timeout", "model": "scripted"},
            headers={"X-Argus-Timeout-Ms": "5000"},
        ).json()
        left = next(s["probability"] for s in told["results"][0]["scores"] if s["label"] == "timeout")
        assert 0 < left <= 5
        wrong = client.get("/v1/models", headers={"X-Argus-Timeout-Ms": "soon"})
        assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "x-argus-timeout-ms")
    with triton_grpc.InferenceServerClient(cluster.grpc) as rpc:
        inputs = classify_inputs(triton_grpc, scene_png, ["tell", "timeout"])
        probabilities = rpc.infer("scripted.classify", inputs, headers=key(), client_timeout=4).as_numpy(
            "PROBABILITIES"
        )
        assert 0 < probabilities[0, 1] <= 4, "the gRPC deadline is the model's too"


async def test_a_client_that_leaves_cancels_the_model(cluster: Cluster, scene_png: bytes) -> None:
    async def ask(labels: str) -> httpx.Response:
        fields = {"labels": labels, "model": "scripted"}
        return await client.post("/v1/classify", files={"image": scene_png}, data=fields)

    async def told() -> tuple[float, float]:
        """How many calls of the model were cancelled until now, and how many are at work."""
        answer = await ask("tell,timeout,asleep")
        assert answer.status_code == 200, answer.text
        scores = {s["label"]: s["probability"] for s in answer.json()["results"][0]["scores"]}
        return scores["tell"], scores["asleep"]

    async def becomes(wanted: tuple[float, float]) -> bool:
        for _ in range(100):
            if await told() == wanted:
                return True
            await asyncio.sleep(0.1)
        return False

    async with httpx.AsyncClient(base_url=cluster.http, headers=cluster.headers, timeout=60) as client:
        before, _ = await told()
        leaving = asyncio.create_task(ask("sleep 60,x"))
        # A client that left before its call arrived would cancel nothing.
        assert await becomes((before, 1)), "the call never reached the model"
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        assert await becomes((before + 1, 0)), "the model went on working for a client that had left"


def test_a_replica_that_dies_is_replaced(cluster: Cluster, scene_png: bytes) -> None:
    with cluster.client() as client:
        # Each try kills a replica, and the next one waits for another.
        died = client.post(
            "/v1/classify",
            files={"image": scene_png},
            data={"labels": "die,x", "model": "scripted"},
            headers={"X-Argus-Timeout-Ms": "240000"},
            timeout=270,
        )
        assert (died.status_code, died.json()["error"]["code"]) == (503, "unavailable")
        fields = {"labels": "a red star,a cat"}
        assert client.post("/v1/classify", files={"image": scene_png}, data=fields).status_code == 200

        def replaced() -> bool:
            told = {"labels": "tell,x", "model": "scripted"}
            answer = client.post("/v1/classify", files={"image": scene_png}, data=told)
            assert answer.status_code in (200, 503, 504), answer.text
            return answer.is_success

        assert until(replaced)


def test_nothing_listens_beyond_loopback(cluster: Cluster) -> None:
    mine = set(cluster.pids())
    listening = [c for c in psutil.net_connections("inet") if c.status == psutil.CONN_LISTEN and c.pid in mine]
    assert len(listening) > 5, "the cluster listens somewhere"
    assert {c.laddr.ip.removeprefix("::ffff:") for c in listening} <= {"127.0.0.1", "::1"}


def test_openai_errors(cluster: Cluster) -> None:
    client = openai.OpenAI(base_url=f"{cluster.http}/v1", api_key=KEY, max_retries=0)
    with pytest.raises(openai.NotFoundError) as unknown:
        client.embeddings.create(model="nothing", input="x")
    assert unknown.value.code == "model_not_found" and unknown.value.param == "model"
    with pytest.raises(openai.BadRequestError) as dimensions:
        client.embeddings.create(model="clip", input="x", dimensions=7)
    assert dimensions.value.param == "dimensions"
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{cluster.http}/v1", api_key="no", max_retries=0).models.list()


def noise_png(size: int) -> bytes:
    """A PNG of at least `size` bytes and hardly more: incompressible pixels, stored uncompressed."""
    side = int((size / 3) ** 0.5) + 1
    pixels: npt.NDArray[np.uint8] = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=0)
    data = buffer.getvalue()
    if len(data) < size:
        chunk = b"tEXt" + b"pad\0" + b"x" * (size - len(data))
        crc = struct.pack(">I", zlib.crc32(chunk))
        data = data[:-12] + struct.pack(">I", len(chunk) - 4) + chunk + crc + data[-12:]
    return data


def _http(cluster: Cluster) -> triton_http.InferenceServerClient:
    return triton_http.InferenceServerClient(cluster.http.removeprefix("http://"), network_timeout=60)
