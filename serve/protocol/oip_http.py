"""OIP v2 over HTTP: `/v2/...`, JSON and the binary tensor extension.

The extension (https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md) puts
raw tensors behind the JSON header, whose length stands in `Inference-Header-Content-Length`. Errors are
`{"error": "text", ...}` as the protocol says, not the object of the native API: tritonclient reads a string there.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
import orjson
from fastapi import APIRouter, Request, Response
from pydantic import BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticUseDefault

from serve.context import RequestContext
from serve.errors import InvalidRequest
from serve.protocol import routes
from serve.protocol.bodies import Fields, check_keys, validate
from serve.protocol.body_stream import context_of, parse_length, read_body
from serve.protocol.native import json
from serve.protocol.oip import InferenceService
from serve.protocol.oip_inputs import refuse_shared_memory, wanted_classes
from serve.protocol.openapi import ERRORS, json_body, json_response
from serve.protocol.tensors import (
    SERVER_NAME,
    VERSION,
    InferRequest,
    InferResponse,
    Tensor,
    array_from_bytes,
    bytes_elements,
    check_shape,
    numeric_dtype,
    raw_bytes,
    shaped,
)

_MAX_NESTING = 16
_HEADER_LENGTH = "inference-header-content-length"
EXTENSIONS = ("binary_tensor_data", "classification")


def _given(value: Any) -> Any:
    """Clients with a field for each optional one send null where they have nothing to say."""
    if value is None:
        raise PydanticUseDefault
    return value


Parameters = Annotated[dict[str, Any], BeforeValidator(_given, json_schema_input_type=dict[str, Any] | None)]


class InputFields(Fields):
    """One input tensor; its data stands here or behind the JSON header."""

    name: str
    datatype: str
    shape: list[int]
    parameters: Parameters = Field({}, description="binary_data_size when the data is binary.")
    data: list[Any] | None = None


class OutputFields(Fields):
    """One output asked for."""

    model_config = ConfigDict(extra="ignore")  # clients may describe it as its metadata does

    name: str
    parameters: Parameters = Field(
        {},
        description="binary_data: send it behind the JSON header; classification: of scores of classes, so many of the "
        "best as `score:index:label`.",
    )


class InferFields(Fields):
    """An inference request."""

    model_config = ConfigDict(extra="ignore")  # the protocol lets clients send fields that a server does not know

    id: Annotated[str, BeforeValidator(_given, json_schema_input_type=str | None)] = ""
    inputs: list[InputFields] = Field(min_length=1)
    outputs: Annotated[
        list[OutputFields], BeforeValidator(_given, json_schema_input_type=list[OutputFields] | None)
    ] = Field([])
    parameters: Parameters = Field({})


def build(service: InferenceService, max_body_bytes: int, argus_version: str) -> APIRouter:
    """The routes."""
    router = routes.router("/v2", "open inference protocol")

    @router.get("", summary="Server metadata")
    async def server_metadata() -> Response:
        return json({"name": SERVER_NAME, "version": argus_version, "extensions": list(EXTENSIONS)})

    @router.get("/health/live", summary="Whether the server is alive")
    async def live() -> Response:
        return json({"live": True})

    @router.get("/health/ready", summary="Whether every model answers", responses=ERRORS)
    async def ready(request: Request) -> Response:
        return _ready(await service.server_ready(context_of(request)))

    @router.get("/models/{model}/ready", summary="Whether a model answers", responses=ERRORS)
    @router.get("/models/{model}/versions/{version}/ready", include_in_schema=False)
    async def model_ready(request: Request, model: str, version: str = "") -> Response:
        return _ready(await service.model_ready(model, version, context_of(request)))

    @router.get("/models/{model}", summary="Model metadata", responses=json_response("Its tensors.", ERRORS))
    @router.get("/models/{model}/versions/{version}", include_in_schema=False)
    async def model_metadata(request: Request, model: str, version: str = "") -> Response:
        spec = await service.metadata(model, version, context_of(request))
        return json(
            {
                "name": spec.name,
                "versions": [VERSION],
                "platform": spec.platform,
                "inputs": [{"name": t.name, "datatype": t.datatype, "shape": t.shape} for t in spec.inputs],
                "outputs": [{"name": t.name, "datatype": t.datatype, "shape": t.shape} for t in spec.outputs],
            }
        )

    @router.post(
        "/models/{model}/infer",
        summary="Inference",
        openapi_extra=json_body(InferFields),
        responses=json_response("Output tensors.", ERRORS),
    )
    @router.post("/models/{model}/versions/{version}/infer", include_in_schema=False)
    async def infer(request: Request, model: str, version: str = "") -> Response:
        context: RequestContext = context_of(request)
        body = await read_body(request, max_body_bytes)
        fields, tail = _split(body, request.headers.get(_HEADER_LENGTH))
        answer = await service.infer(_request(fields, tail, model, version), context)
        return _response(answer, _binary_outputs(fields, answer))

    return router


def _ready(ready: bool) -> Response:
    return json({"ready": ready}, 200 if ready else 503)


def _split(body: bytes, header_length: str | None) -> tuple[InferFields, memoryview]:
    length = len(body)
    if header_length is not None:
        stated = parse_length(header_length)
        if stated is None or stated > len(body):
            raise InvalidRequest(
                f"Inference-Header-Content-Length is {header_length[:40]!r}; the body has {len(body)} bytes.",
                code="invalid_header_length",
                param="Inference-Header-Content-Length",
            )
        length = stated
    try:
        data = orjson.loads(memoryview(body)[:length])
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"The request is not JSON: {error}.", code="invalid_json", param="body") from None
    if not isinstance(data, dict):
        raise InvalidRequest("The request must be a JSON object.", code="invalid_json", param="body")
    check_keys(memoryview(body)[:length], data)
    return validate(data, InferFields), memoryview(body)[length:]


def _request(fields: InferFields, tail: memoryview, model: str, version: str) -> InferRequest:
    inputs: dict[str, Tensor] = {}
    for item in fields.inputs:
        size = item.parameters.get("binary_data_size")
        if item.name in inputs:
            raise InvalidRequest(
                f"Input {item.name[:80]!r} stands twice.", code="duplicate_input", param=item.name[:80]
            )
        refuse_shared_memory(item.name, item.parameters)
        if size is None:
            inputs[item.name] = _json_tensor(item)
            continue
        if type(size) is not int or not 0 <= size <= len(tail):
            raise InvalidRequest(
                f"binary_data_size is {size!r}; {len(tail)} bytes are left.",
                code="invalid_tensor_data",
                param=item.name[:80],
            )
        inputs[item.name] = _binary_tensor(item, bytes(tail[:size]))
        tail = tail[size:]
    if len(tail):
        raise InvalidRequest(
            f"{len(tail)} bytes behind the last tensor belong to none.", code="invalid_tensor_data", param="inputs"
        )
    names = tuple(output.name for output in fields.outputs)
    classes = wanted_classes((output.name, output.parameters) for output in fields.outputs)
    return InferRequest(model, version, fields.id, inputs, fields.parameters, names, classes)


def _binary_tensor(item: InputFields, raw: bytes) -> Tensor:
    if item.datatype == "BYTES":
        elements = bytes_elements(item.name, raw)
        return Tensor(item.name, "BYTES", check_shape(item.name, item.shape, len(elements)), elements)
    return Tensor(
        item.name, item.datatype, tuple(item.shape), array_from_bytes(item.name, item.datatype, item.shape, raw)
    )


def _json_tensor(item: InputFields) -> Tensor:
    """JSON data may be nested or flat; BYTES are strings: text, or for an image base64, a data URI or a URL."""
    if item.data is None:
        raise InvalidRequest("The input has no data.", code="missing_field", param=item.name[:80])
    values = _flat(item.data, item.name)
    if item.datatype == "BYTES":
        _check_types(values, (str,), item)
        return Tensor(item.name, "BYTES", check_shape(item.name, item.shape, len(values)), values)
    dtype = numeric_dtype(item.name, item.datatype)
    _check_types(values, {"b": (bool,), "i": (int,), "u": (int,)}.get(dtype.kind, (int, float)), item)
    try:
        array = np.asarray(values, dtype)
    except (ValueError, TypeError, OverflowError) as error:
        message = f"The data is not {item.datatype}: {str(error)[:120]}."
        raise InvalidRequest(message, code="invalid_tensor_data", param=item.name[:80]) from None
    return Tensor(item.name, item.datatype, tuple(item.shape), shaped(item.name, array, item.shape))


def _check_types(values: list[Any], allowed: tuple[type, ...], item: InputFields) -> None:
    """numpy would make numbers of texts and of booleans, and cut fractions off."""
    if not all(type(value) in allowed for value in values):
        wanted = " or ".join(kind.__name__ for kind in allowed)
        message = f"{item.datatype[:20]} data in JSON must be {wanted}."
        raise InvalidRequest(message, code="invalid_tensor_data", param=item.name[:80])


def _flat(data: list[Any], name: str) -> list[Any]:
    """Leaves in row-major order; lists may be nested in any regular way, as Triton allows."""
    level, depth = data, 1
    while level and isinstance(level[0], list):
        depth += 1
        if depth > _MAX_NESTING or len({len(part) if isinstance(part, list) else -1 for part in level}) > 1:
            raise _irregular(name)
        level = [leaf for part in level for leaf in part]
    if any(isinstance(leaf, list) for leaf in level):
        raise _irregular(name)
    return level


def _irregular(name: str) -> InvalidRequest:
    message = f"The nested lists are not regular, or nested deeper than {_MAX_NESTING}."
    return InvalidRequest(message, code="invalid_shape", param=name[:80])


def _binary_outputs(fields: InferFields, answer: InferResponse) -> frozenset[str]:
    everything: Literal[True] | Any = fields.parameters.get("binary_data_output", False)
    asked = {output.name: output.parameters.get("binary_data", everything) for output in fields.outputs}
    return frozenset(tensor.name for tensor in answer.outputs if asked.get(tensor.name, everything) is True)


def _response(answer: InferResponse, binary: frozenset[str]) -> Response:
    outputs: list[dict[str, Any]] = []
    tail: list[bytes] = []
    for tensor in answer.outputs:
        described: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
        if tensor.name in binary:
            tail.append(raw_bytes(tensor))
            described["parameters"] = {"binary_data_size": len(tail[-1])}
        elif tensor.datatype == "BYTES":
            described["data"] = tensor.data
        else:
            described["data"] = np.ascontiguousarray(tensor.data).ravel()
        outputs.append(described)
    header: dict[str, Any] = {"model_name": answer.model, "model_version": VERSION, "outputs": outputs}
    if answer.id:
        header["id"] = answer.id
    if not tail:
        return json(header)
    encoded = orjson.dumps(header, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(
        b"".join([encoded, *tail]),
        media_type="application/octet-stream",
        headers={_HEADER_LENGTH: str(len(encoded))},
    )
