"""Servers of the Open Inference Protocol v2 with one model, over HTTP and over gRPC.

HTTP follows https://github.com/kserve/open-inference-protocol and Triton's binary tensor extension, which tritonclient
uses; gRPC uses tritonclient's own stubs. The model takes IMAGE (BYTES) and TEXT (BYTES), and gives TEXT (BYTES), or
PROBABILITIES (FP32) when the server was given some.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import grpc
import numpy as np
import orjson
from aiohttp import web
from PIL import Image, UnidentifiedImageError
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc
from tritonclient.utils import deserialize_bytes_tensor

from benchmarks.fake_providers.server import KEY, Answer, FakeServer, Fault, Received, Refusal

_LENGTH = "Inference-Header-Content-Length"
_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    404: grpc.StatusCode.NOT_FOUND,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
}


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a request's tensors hold."""

    texts: list[str]
    images: int
    parameters: Mapping[str, Any]
    outputs: Sequence[str]


class FakeOip(FakeServer):
    """The HTTP server; see the module's text and `FakeServer`.

    Args:
        model: its name; others are not found.
        probabilities: one row for each image: the model classifies.
        needs_key: requests must carry the key as a bearer token.
    """

    def __init__(
        self,
        answer: Answer = "A cat on a mat.",
        *,
        model: str = "vlm",
        probabilities: Sequence[float] | None = None,
        needs_key: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(answer, **options)
        self.model = model
        self.probabilities = probabilities
        self.needs_key = needs_key

    def routes(self, app: web.Application) -> None:
        """See `FakeServer.routes`."""
        app.router.add_post("/v2/models/{model}/infer", self.model_call(self._infer))

    def error(self, status: int, message: str) -> Any:
        """See `FakeServer.error`."""
        return {"error": message}

    def refuse(self, message: str, status: int = 400) -> Refusal:
        """An error answer."""
        return Refusal(status, self.error(status, message))

    def output(self, asked: _Asked, mode: str | None) -> tuple[str, str, list[int], bytes]:
        """Name, datatype, shape and bytes of the answer."""
        if not asked.images and not asked.texts:
            raise self.refuse("expected an input")
        if self.probabilities is not None:
            rows = np.tile(np.asarray(self.probabilities, "<f4"), (asked.images, 1))
            if mode == "invalid_output":
                rows = rows[:, :-1]
            return "PROBABILITIES", "FP32", list(rows.shape), rows.tobytes()
        text = "This is not JSON {" if mode == "invalid_output" else self.text_for(asked)
        data = text.encode()
        return "TEXT", "BYTES", [1], len(data).to_bytes(4, "little") + data

    def read(
        self,
        tensors: Mapping[str, tuple[str, Sequence[int], bytes]],
        parameters: Mapping[str, Any],
        outputs: Sequence[str],
    ) -> _Asked:
        """The request's tensors, checked."""
        texts: list[str] = []
        images = 0
        for name, (datatype, shape, raw) in tensors.items():
            if name not in ("TEXT", "IMAGE"):
                raise self.refuse(f"unexpected inference input '{name}' for model '{self.model}'")
            if datatype != "BYTES":
                raise self.refuse(f"inference input '{name}' data-type is '{datatype}', but model expects 'BYTES'")
            elements = list(deserialize_bytes_tensor(raw))
            if len(elements) != int(np.prod(shape)):
                raise self.refuse(f"inference input '{name}' has {len(elements)} elements, shape {list(shape)}")
            if name == "TEXT":
                texts = [element.decode() for element in elements]
                continue
            images = len(elements)
            for element in elements:
                try:
                    Image.open(io.BytesIO(element)).load()
                except (UnidentifiedImageError, OSError):
                    raise self.refuse("IMAGE cannot be decoded") from None
        wanted = "TEXT" if self.probabilities is None else "PROBABILITIES"
        if any(name != wanted for name in outputs):
            raise self.refuse(f"unexpected inference output '{outputs[0]}' for model '{self.model}'")
        return _Asked(texts, images, parameters, outputs)

    async def _infer(self, request: web.Request, body: Any, fault: Fault | None) -> web.StreamResponse:
        mode = None if fault is None else fault.mode
        if self.needs_key and request.headers.get("Authorization") != f"Bearer {KEY}":
            raise self.refuse(f"unauthorised {request.headers.get('Authorization')}", 401)
        if request.match_info["model"] != self.model:
            raise self.refuse(f"Request for unknown model: '{request.match_info['model']}' is not found", 404)
        if mode in ("refuse", "refuse_answer", "too_long"):
            raise self.refuse("the request was refused")
        data = await request.read()
        length = int(request.headers.get(_LENGTH, len(data)))
        head, rest = orjson.loads(data[:length]), data[length:]
        tensors = {}
        for tensor in head["inputs"]:
            size = tensor["parameters"]["binary_data_size"]
            tensors[tensor["name"]] = (tensor["datatype"], tensor["shape"], rest[:size])
            rest = rest[size:]
        outputs = [output["name"] for output in head.get("outputs", ())]
        name, datatype, shape, raw = self.output(self.read(tensors, head.get("parameters", {}), outputs), mode)
        output = {"name": name, "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": len(raw)}}
        answer = orjson.dumps({"model_name": self.model, "model_version": "1", "outputs": [output]})
        if mode == "cut":
            return await self.send(request, {"outputs": [output]}, fault)
        headers = {_LENGTH: str(len(answer)), "Content-Type": "application/octet-stream"}
        return web.Response(body=answer + raw, headers=headers)


class FakeOipGrpc(FakeOip):
    """The gRPC server; `base_url` has the scheme that the cluster file wants."""

    _server: grpc.aio.Server

    async def __aenter__(self) -> Self:
        self._server = grpc.aio.server()
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(_Servicer(self), self._server)
        self.host = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.stop(0)

    async def infer(self, message: Any, context: Any) -> Any:
        """`ModelInfer`."""
        self.calls += 1
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        metadata = dict(context.invocation_metadata())
        self.requests.append(Received("GRPC", message.model_name, metadata, message))
        fault = self._next_fault()
        try:
            return await self._answer(message, metadata, fault)
        except Refusal as refusal:
            await context.abort(_CODES.get(refusal.status, grpc.StatusCode.UNKNOWN), refusal.body["error"])
        except asyncio.CancelledError:
            self.gone += 1
            raise
        finally:
            self.in_flight -= 1

    async def _answer(self, message: Any, metadata: Mapping[str, str], fault: Fault | None) -> Any:
        mode = None if fault is None else fault.mode
        await asyncio.sleep(self.latency_s + (fault.delay_s if fault is not None and mode == "slow" else 0))
        if mode == "hang":
            await asyncio.sleep(3600)
        if fault is not None and (fault.status is not None or mode in ("reset", "cut", "unavailable")):
            raise self.refuse("the server fails", fault.status or 503)
        if mode in ("refuse", "refuse_answer", "too_long"):
            raise self.refuse("the request was refused")
        if self.needs_key and metadata.get("authorization") != f"Bearer {KEY}":
            raise self.refuse(f"unauthorised {metadata.get('authorization')}", 401)
        if message.model_name != self.model:
            raise self.refuse(f"Request for unknown model: '{message.model_name}' is not found", 404)
        tensors = {
            tensor.name: (tensor.datatype, tensor.shape, raw)
            for tensor, raw in zip(message.inputs, message.raw_input_contents, strict=True)
        }
        outputs = [output.name for output in message.outputs]
        name, datatype, shape, raw = self.output(self.read(tensors, dict(message.parameters), outputs), mode)
        if mode == "malformed":
            raw = b"\xff\xff\xff\x7f"
        output = pb.ModelInferResponse.InferOutputTensor(name=name, datatype=datatype, shape=shape)
        return pb.ModelInferResponse(
            model_name=self.model, model_version="1", outputs=[output], raw_output_contents=[raw]
        )


class _Servicer(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    def __init__(self, server: FakeOipGrpc) -> None:
        self._fake = server

    async def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        return await self._fake.infer(request, context)
