"""The Open Inference Protocol v2, free of any transport: tensors in, tensors out.

Source: https://github.com/kserve/open-inference-protocol (REST and gRPC specifications). `oip_http` and `oip_grpc` turn
wire messages into `InferRequest` and back.

Each function of a model is a model of its own here: `clip.classify`, `clip.image_embedding`, `clip.text_embedding`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from tritonclient.utils import triton_to_np_dtype

from deployments.messages import PixelValues, RawImage
from serve.context import RequestContext
from serve.dataplane import CLASSIFY, EMBED, DataPlane
from serve.errors import ArgusError, InvalidRequest, ModelFailed, NotFound
from serve.media.admit import MediaSource, Reference
from serve.media.source import MediaBytes

VERSION = "1"
SERVER_NAME = "argus"
_MAX_ELEMENTS = 1 << 31
_MAX_RANK = 16


@dataclass(frozen=True, slots=True)
class Tensor:
    """A named tensor: BYTES data is a list of `bytes` (or `str` from JSON) in row-major order, all else an array."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: Sequence[bytes | str] | npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A request for one inference.

    Attributes:
        outputs: names asked for; empty means all.
    """

    model: str
    version: str
    id: str
    inputs: Mapping[str, Tensor]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class InferResponse:
    """Output tensors, in the order asked for."""

    model: str
    id: str
    outputs: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Metadata of a tensor; -1 is any length."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Metadata of a model."""

    name: str
    platform: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def check_shape(name: str, shape: Sequence[int], count: int) -> tuple[int, ...]:
    """The shape, if it is one that an array of `count` elements can have.

    Raises:
        InvalidRequest: `invalid_shape`.
    """
    if len(shape) > _MAX_RANK or any(not 0 <= side <= _MAX_ELEMENTS for side in shape):
        raise InvalidRequest(
            f"A shape has at most {_MAX_RANK} sides from 0 to {_MAX_ELEMENTS}.", code="invalid_shape", param=name
        )
    elements = math.prod(shape)
    if elements != count:
        raise InvalidRequest(
            f"Shape {list(shape)} holds {elements} elements, the data {count}.", code="invalid_shape", param=name
        )
    return tuple(shape)


def shaped(name: str, flat: npt.NDArray[Any], shape: Sequence[int]) -> npt.NDArray[Any]:
    """`flat` in the given shape.

    Raises:
        InvalidRequest: `invalid_shape`.
    """
    try:
        return flat.reshape(check_shape(name, shape, flat.size))
    except ValueError:  # sides that multiply beyond what numpy indexes, beside one of 0
        raise InvalidRequest("No array has this shape.", code="invalid_shape", param=name) from None


def array_from_bytes(name: str, datatype: str, shape: Sequence[int], raw: bytes) -> npt.NDArray[Any]:
    """A tensor of a fixed-size type from its little-endian bytes, without a copy.

    Raises:
        InvalidRequest: an unknown type, or a length that does not fit the shape.
    """
    dtype = numeric_dtype(name, datatype)
    if len(raw) % dtype.itemsize:
        raise InvalidRequest(
            f"{len(raw)} bytes are no whole number of {datatype}.", code="invalid_tensor_data", param=name
        )
    return shaped(name, np.frombuffer(raw, dtype), shape)


def numeric_dtype(name: str, datatype: str) -> np.dtype[Any]:
    """numpy's type for an OIP datatype other than BYTES.

    Raises:
        InvalidRequest: `unknown_datatype`.
    """
    kind = triton_to_np_dtype(datatype)
    if kind is None or datatype in ("BYTES", "BF16"):
        raise InvalidRequest(f"Datatype {datatype[:20]!r} is not accepted.", code="unknown_datatype", param=name)
    dtype: np.dtype[Any] = np.dtype(kind).newbyteorder("<")
    return dtype


def bytes_elements(name: str, raw: bytes) -> list[bytes]:
    """Elements of a BYTES tensor: each a little-endian uint32 length and that many bytes.

    Raises:
        InvalidRequest: the lengths do not add up.
    """
    elements, at = [], 0
    while at < len(raw):
        start = at + 4
        length = int.from_bytes(raw[at:start], "little")
        at = start + length
        if start > len(raw) or at > len(raw):
            raise InvalidRequest("The BYTES data ends within an element.", code="invalid_tensor_data", param=name)
        elements.append(raw[start:at])
    return elements


class InferenceService:
    """OIP v2 over the data plane."""

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane
        self._functions: dict[str, tuple[str, Callable[[str, InferRequest, RequestContext], Any]]] = {}
        for card in plane.models():
            if CLASSIFY in card.tasks:
                self._functions[f"{card.name}.classify"] = (card.name, self._classify)
            if EMBED in card.tasks:
                self._functions[f"{card.name}.image_embedding"] = (card.name, self._embed_images)
                self._functions[f"{card.name}.text_embedding"] = (card.name, self._embed_texts)

    def names(self) -> list[str]:
        """Every model name."""
        return list(self._functions)

    async def server_ready(self, context: RequestContext) -> bool:
        """Whether every model answers."""
        try:
            await self._plane.ready(context)
        except ArgusError:
            return False
        return True

    async def model_ready(self, name: str, version: str, context: RequestContext) -> bool:
        """Whether the model answers.

        Raises:
            NotFound: there is no such model or version.
        """
        model, _ = self._find(name, version)
        try:
            await self._plane.info(model, context)
        except ArgusError:
            return False
        return True

    async def metadata(self, name: str, version: str, context: RequestContext) -> ModelSpec:
        """Inputs and outputs of a model. IMAGE and PIXELS are alternatives; TEMPLATES may be left out.

        Raises:
            NotFound: there is no such model or version.
        """
        model, function = self._find(name, version)
        image = (TensorSpec("IMAGE", "BYTES", (-1,)), TensorSpec("PIXELS", "UINT8", (-1, -1, -1, 3)))
        if function == self._classify:
            texts = (TensorSpec("LABELS", "BYTES", (-1,)), TensorSpec("TEMPLATES", "BYTES", (-1,)))
            scores = (TensorSpec("PROBABILITIES", "FP32", (-1, -1)), TensorSpec("LOGITS", "FP32", (-1, -1)))
            return ModelSpec(name, "argus", image + texts, scores)
        info = await self._plane.info(model, context)
        vectors = (TensorSpec("EMBEDDING", "FP32", (-1, info.dimension)),)
        inputs = image if function == self._embed_images else (TensorSpec("TEXT", "BYTES", (-1,)),)
        return ModelSpec(name, "argus", inputs, vectors)

    async def infer(self, request: InferRequest, context: RequestContext) -> InferResponse:
        """Runs one inference.

        Raises:
            ArgusError: what is wrong; tensors have no place for an item's error, so one bad item fails the request.
        """
        model, function = self._find(request.model, request.version)
        outputs: dict[str, Tensor] = await function(model, request, context)
        for name in request.outputs:
            if name not in outputs:
                known = ", ".join(outputs)
                message = f"Output {name[:80]!r} does not exist; there are {known}."
                raise InvalidRequest(message, code="unknown_output", param="outputs")
        chosen = tuple(outputs[name] for name in request.outputs) or tuple(outputs.values())
        return InferResponse(request.model, request.id, chosen)

    def _find(self, name: str, version: str) -> tuple[str, Callable[[str, InferRequest, RequestContext], Any]]:
        if name not in self._functions:
            raise NotFound(
                f"Model {name[:80]!r} does not exist; there are {', '.join(self._functions)}.",
                code="model_not_found",
                param="model_name",
            )
        if version not in ("", VERSION):
            raise NotFound(
                f"Model {name!r} has only version {VERSION}.", code="version_not_found", param="model_version"
            )
        return self._functions[name]

    async def _classify(self, model: str, request: InferRequest, context: RequestContext) -> dict[str, Tensor]:
        _check_names(request, ("IMAGE", "PIXELS", "LABELS", "TEMPLATES"), ("template_set", "multi_label"))
        images, params = _images(request)
        templates: Sequence[str] | str = _parameter(request, "template_set", str, "default")
        if "TEMPLATES" in request.inputs:
            templates = _texts(request, "TEMPLATES")
        names = {
            "labels": "LABELS",
            "templates": "TEMPLATES" if "TEMPLATES" in request.inputs else "template_set",
            "images": "IMAGE" if "IMAGE" in request.inputs else "PIXELS",
        }
        with _blaming(names):
            answer = await self._plane.classify(
                images,
                _texts(request, "LABELS"),
                context,
                model=model,
                templates=templates,
                multi_label=_parameter(request, "multi_label", bool, False),
                params=params,
            )
        scores = _all_good(answer.images)
        return {
            "PROBABILITIES": _float_tensor("PROBABILITIES", [one.probabilities for one in scores]),
            "LOGITS": _float_tensor("LOGITS", [one.logits for one in scores]),
        }

    async def _embed_images(self, model: str, request: InferRequest, context: RequestContext) -> dict[str, Tensor]:
        _check_names(request, ("IMAGE", "PIXELS"), ("normalize",))
        images, params = _images(request)
        return await self._embed(images, params, model, request, context)

    async def _embed_texts(self, model: str, request: InferRequest, context: RequestContext) -> dict[str, Tensor]:
        _check_names(request, ("TEXT",), ("normalize",))
        texts = _texts(request, "TEXT")
        return await self._embed(texts, [f"TEXT[{i}]" for i in range(len(texts))], model, request, context)

    async def _embed(
        self,
        inputs: Sequence[MediaSource | str],
        params: list[str],
        model: str,
        request: InferRequest,
        context: RequestContext,
    ) -> dict[str, Tensor]:
        normalize = _parameter(request, "normalize", bool, True)
        with _blaming({"input": next(iter(request.inputs))}):
            answer = await self._plane.embed(inputs, context, model=model, normalize=normalize, params=params)
        return {"EMBEDDING": _float_tensor("EMBEDDING", _all_good(answer.result.vectors))}


@contextmanager
def _blaming(names: Mapping[str, str]) -> Iterator[None]:
    """The data plane names its own arguments in errors; the client sent tensors."""
    try:
        yield
    except ArgusError as error:
        head, bracket, rest = (error.param or "").partition("[")
        if head not in names:
            raise
        raise error.at(f"{names[head]}{bracket}{rest}") from error.__cause__


def _check_names(request: InferRequest, inputs: tuple[str, ...], parameters: tuple[str, ...]) -> None:
    for name in request.inputs:
        if name not in inputs:
            message = f"Input {name[:80]!r} is not known; {request.model} takes {', '.join(inputs)}."
            raise InvalidRequest(message, code="unknown_input", param=name[:80])
    for name in request.parameters:
        if name not in (*parameters, "timeout", "priority", "binary_data_output"):
            message = f"Parameter {name[:80]!r} is not known; {request.model} takes {', '.join(parameters)}."
            raise InvalidRequest(message, code="unknown_parameter", param=name[:80])


def _parameter(request: InferRequest, name: str, kind: type[Any], default: Any) -> Any:
    value = request.parameters.get(name, default)
    if not isinstance(value, kind):
        raise InvalidRequest(f"Parameter {name!r} must be a {kind.__name__}.", code="invalid_parameter", param=name)
    return value


def _texts(request: InferRequest, name: str) -> list[str]:
    tensor = _required(request, name)
    if tensor.datatype != "BYTES":
        raise InvalidRequest(f"{name} must be BYTES, not {tensor.datatype[:20]}.", code="wrong_datatype", param=name)
    try:
        return [item if isinstance(item, str) else bytes(item).decode() for item in tensor.data]
    except UnicodeDecodeError:
        raise InvalidRequest(f"{name} holds text that is not UTF-8.", code="invalid_text", param=name) from None


def _required(request: InferRequest, name: str) -> Tensor:
    if name not in request.inputs:
        raise InvalidRequest(f"Input {name} is required.", code="missing_input", param=name)
    return request.inputs[name]


def _images(request: InferRequest) -> tuple[list[MediaSource], list[str]]:
    """Images and the names of where they stood."""
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


def _all_good(results: tuple[Any, ...]) -> list[Any]:
    for result in results:
        if isinstance(result, ArgusError):
            raise result
        if isinstance(result, Exception):
            raise ModelFailed(str(result))
    return list(results)


def _float_tensor(name: str, rows: list[npt.NDArray[np.float32]]) -> Tensor:
    data = np.stack(rows).astype("<f4", copy=False)
    return Tensor(name, "FP32", data.shape, data)
