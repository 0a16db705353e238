"""What a request's tensors and parameters say: texts, images, and values of the right type."""

from __future__ import annotations

from typing import Any

import numpy as np

from deployments.messages import PixelValues, RawImage
from serve.errors import InvalidRequest
from serve.media.admit import MediaSource, Reference
from serve.media.source import MediaBytes
from serve.protocol.tensors import InferRequest, Tensor


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
        if name not in (*parameters, "timeout", "priority", "binary_data_output"):
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
