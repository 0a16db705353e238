"""What a request's tensors and parameters say: texts, images, and values of the right type."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np

from deployments.messages import PixelValues, RawImage
from serve.errors import InvalidRequest
from serve.media.admit import MediaSource, Reference
from serve.media.source import MediaBytes
from serve.protocol.tensors import InferRequest, Tensor

EMPTY_FINAL: Final = "triton_enable_empty_final_response"
"""Of a stream: its last response is to hold no outputs. Where there is but one response, it changes nothing."""

# Of inputs, outputs and requests: how MLServer's clients would have a tensor coded, which here its datatype says.
_CONTENT_TYPE: Final = "content_type"
# Of every function: clients of Triton and MLServer send them. `priority` and `content_type` change nothing: models here
# have no levels of the one and no codecs for the other.
_COMMON: Final = ("timeout", "priority", "binary_data_output", _CONTENT_TYPE, EMPTY_FINAL)

Parameters = Mapping[str, Any]


def check_names(request: InferRequest, inputs: tuple[str, ...], parameters: tuple[str, ...]) -> None:
    """Refuses what the function does not take.

    Raises:
        InvalidRequest: `unknown_input`, `unknown_parameter`.
    """
    for name in request.inputs:
        if name not in inputs:
            message = f"Input {name[:80]!r} is not known; {request.model} takes {', '.join(inputs)}."
            raise InvalidRequest(message, code="unknown_input", param=name[:80])
    for name in request.parameters:
        if name not in (*parameters, *_COMMON):
            message = f"Parameter {name[:80]!r} is not known; {request.model} takes {', '.join(parameters)}."
            raise InvalidRequest(message, code="unknown_parameter", param=name[:80])


def parameter(request: InferRequest, name: str, kind: type[Any], default: Any) -> Any:
    """A parameter of the given type.

    Raises:
        InvalidRequest: `invalid_parameter`.
    """
    value = request.parameters.get(name, default)
    if not isinstance(value, kind):
        raise InvalidRequest(f"Parameter {name!r} must be a {kind.__name__}.", code="invalid_parameter", param=name)
    return value


def whole(request: InferRequest, name: str) -> int:
    """A parameter that is a whole number from 0; 0 when it is left out.

    Raises:
        InvalidRequest: `invalid_parameter`.
    """
    value = request.parameters.get(name, 0)
    if type(value) is not int or value < 0:
        message = f"Parameter {name!r} must be a whole number from 0."
        raise InvalidRequest(message, code="invalid_parameter", param=name)
    return value


def wanted_classes(outputs: Iterable[tuple[str, Parameters]]) -> dict[str, int]:
    """How many of its best classes an output is wanted as, by the outputs that have the parameter `classification`.

    Raises:
        InvalidRequest: `duplicate_output`; `invalid_parameter`; `unknown_parameter`, such as those of shared memory.
    """
    seen: set[str] = set()
    classes: dict[str, int] = {}
    for name, parameters in outputs:
        if name in seen:
            raise InvalidRequest(f"Output {name[:80]!r} stands twice.", code="duplicate_output", param=name[:80])
        seen.add(name)
        for parameter, value in parameters.items():
            if parameter == "classification":
                if type(value) is not int or value < 1:
                    raise _invalid_output(name, parameter, "a whole number from 1")
                classes[name] = value
            elif parameter == _CONTENT_TYPE:
                continue
            elif parameter != "binary_data":
                known = "classification and binary_data"
                message = f"Output {name[:80]!r}: parameter {parameter[:80]!r} is not known; there are {known}."
                raise InvalidRequest(message, code="unknown_parameter", param=parameter[:80])
            elif not isinstance(value, bool):
                raise _invalid_output(name, parameter, "true or false")
    return classes


def _invalid_output(name: str, parameter: str, wanted: str) -> InvalidRequest:
    message = f"Output {name[:80]!r}: parameter {parameter!r} must be {wanted}."
    return InvalidRequest(message, code="invalid_parameter", param=parameter)


def refuse_shared_memory(name: str, parameters: Parameters) -> None:
    """Of an input: regions of memory that client and server share.

    Raises:
        InvalidRequest: `unknown_parameter`.
    """
    for parameter in parameters:
        if parameter.startswith("shared_memory_"):
            message = f"Input {name[:80]!r}: shared memory is not offered; send the data itself."
            raise InvalidRequest(message, code="unknown_parameter", param=parameter[:80])


def texts(request: InferRequest, name: str) -> list[str]:
    """A BYTES input's texts.

    Raises:
        InvalidRequest: it is missing, of another type, or not UTF-8.
    """
    tensor = required(request, name)
    if tensor.datatype != "BYTES":
        raise InvalidRequest(f"{name} must be BYTES, not {tensor.datatype[:20]}.", code="wrong_datatype", param=name)
    try:
        return [item if isinstance(item, str) else bytes(item).decode() for item in tensor.data]
    except UnicodeDecodeError:
        raise InvalidRequest(f"{name} holds text that is not UTF-8.", code="invalid_text", param=name) from None


def required(request: InferRequest, name: str) -> Tensor:
    """An input.

    Raises:
        InvalidRequest: `missing_input`.
    """
    if name not in request.inputs:
        raise InvalidRequest(f"Input {name} is required.", code="missing_input", param=name)
    return request.inputs[name]


def images(request: InferRequest) -> tuple[list[MediaSource], list[str]]:
    """Images from IMAGE (files) or PIXELS (decoded), and the names of where they stood.

    Raises:
        InvalidRequest: both or none of them, or tensors that hold no images.
    """
    if ("IMAGE" in request.inputs) == ("PIXELS" in request.inputs):
        raise InvalidRequest("Send either IMAGE or PIXELS.", code="missing_input", param="IMAGE")
    if "IMAGE" in request.inputs:
        tensor = request.inputs["IMAGE"]
        if tensor.datatype != "BYTES":
            raise InvalidRequest(
                f"IMAGE must be BYTES (files), not {tensor.datatype[:20]}; decoded images go into PIXELS.",
                code="wrong_datatype",
                param="IMAGE",
            )
        sources: list[MediaSource] = [
            Reference(item) if isinstance(item, str) else MediaBytes(bytes(item), None) for item in tensor.data
        ]
        return sources, [f"IMAGE[{i}]" for i in range(len(sources))]
    pixels = _pixels(request.inputs["PIXELS"])
    return pixels, [f"PIXELS[{i}]" for i in range(len(pixels))]


def _pixels(tensor: Tensor) -> list[MediaSource]:
    data = np.asarray(tensor.data)
    if tensor.datatype == "UINT8" and data.ndim in (3, 4) and data.shape[-1] == 3:
        images = data[np.newaxis] if data.ndim == 3 else data
        return [RawImage(np.ascontiguousarray(image)) for image in images]
    if tensor.datatype == "FP32" and data.ndim in (3, 4) and data.shape[-3] == 3:
        images = data[np.newaxis] if data.ndim == 3 else data
        if not np.isfinite(images).all():
            raise InvalidRequest("PIXELS holds values that are not finite.", code="invalid_tensor_data", param="PIXELS")
        return [PixelValues(np.ascontiguousarray(image, np.float32)) for image in images]
    raise InvalidRequest(
        f"PIXELS has type {tensor.datatype[:20]} and shape {list(tensor.shape)}; it must be "
        "UINT8 [n, height, width, 3] or, already normalised, FP32 [n, 3, side, side].",
        code="invalid_shape",
        param="PIXELS",
    )


def files(request: InferRequest, name: str) -> list[MediaBytes | Reference]:
    """A BYTES input's media files; strings from JSON are base64, data URIs or URLs.

    Raises:
        InvalidRequest: it is missing, or of another type.
    """
    tensor = required(request, name)
    if tensor.datatype != "BYTES":
        raise InvalidRequest(
            f"{name} must be BYTES (files), not {tensor.datatype[:20]}.", code="wrong_datatype", param=name
        )
    return [Reference(item) if isinstance(item, str) else MediaBytes(bytes(item), None) for item in tensor.data]
