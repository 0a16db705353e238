"""OIP v2 messages of gRPC, and ours: what a ModelInferRequest asks, and a ModelInferResponse of what we answer."""

from __future__ import annotations

from typing import Any

import numpy as np
from tritonclient.grpc import service_pb2 as pb

from serve.config.cluster import Limits
from serve.errors import InvalidRequest, PayloadTooLarge
from serve.protocol.oip_inputs import refuse_shared_memory, wanted_classes
from serve.protocol.tensors import (
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

# Where a tensor's values stand when they are not in raw_input_contents.
_CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}


def from_message(message: Any, limits: Limits) -> InferRequest:
    """A ModelInferRequest as ours.

    Raises:
        InvalidRequest: tensors that do not add up.
        PayloadTooLarge: more bytes than a body may have.
    """
    if message.ByteSize() > limits.max_body_bytes:
        raise PayloadTooLarge(f"The message is larger than {limits.max_body_bytes} bytes.", param="inputs")
    for tensor in message.inputs:
        refuse_shared_memory(tensor.name, tensor.parameters)
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        raise InvalidRequest(
            f"There are {len(raw)} raw_input_contents for {len(message.inputs)} inputs.",
            code="invalid_tensor_data",
            param="raw_input_contents",
        )
    inputs: dict[str, Tensor] = {}
    for i, tensor in enumerate(message.inputs):
        if tensor.name in inputs:
            name = tensor.name[:80]
            raise InvalidRequest(f"Input {name!r} stands twice.", code="duplicate_input", param=name)
        inputs[tensor.name] = _tensor(tensor, raw[i] if raw else None)
    return InferRequest(
        message.model_name,
        message.model_version,
        message.id,
        inputs,
        _parameters(message.parameters),
        tuple(output.name for output in message.outputs),
        wanted_classes((output.name, _parameters(output.parameters)) for output in message.outputs),
    )


def _parameters(given: Any) -> dict[str, Any]:
    chosen = {name: value.WhichOneof("parameter_choice") for name, value in given.items()}
    return {name: getattr(given[name], choice) if choice else None for name, choice in chosen.items()}


def _tensor(tensor: Any, raw: bytes | None) -> Tensor:
    name, datatype, shape = tensor.name, tensor.datatype, tuple(tensor.shape)
    if datatype == "BYTES":
        elements = bytes_elements(name, raw) if raw is not None else list(tensor.contents.bytes_contents)
        return Tensor(name, datatype, check_shape(name, shape, len(elements)), elements)
    if raw is not None:
        return Tensor(name, datatype, shape, array_from_bytes(name, datatype, shape, raw))
    if datatype not in _CONTENTS:
        raise InvalidRequest(
            f"{datatype[:20]!r} data must stand in raw_input_contents.", code="unknown_datatype", param=name[:80]
        )
    values = getattr(tensor.contents, _CONTENTS[datatype])
    try:
        array = np.asarray(values, numeric_dtype(name, datatype))
    except (OverflowError, ValueError) as error:
        raise InvalidRequest(f"The data is not {datatype}: {error}.", code="invalid_tensor_data", param=name) from None
    return Tensor(name, datatype, shape, shaped(name, array, shape))


def to_message(answer: InferResponse) -> Any:
    """Our response as a ModelInferResponse, data in raw_output_contents."""
    message = pb.ModelInferResponse(model_name=answer.model, model_version=VERSION, id=answer.id)
    for tensor in answer.outputs:
        message.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        message.raw_output_contents.append(raw_bytes(tensor))
    return message
