"""What the Open Inference Protocol v2 moves: tensors, requests and responses, and their bytes.

Source: https://github.com/kserve/open-inference-protocol (REST and gRPC specifications).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from tritonclient.utils import triton_to_np_dtype

from serve.errors import InvalidRequest

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
        classes: of outputs that are wanted as their best classes, how many of these; see `class_tensor`.
    """

    model: str
    version: str
    id: str
    inputs: Mapping[str, Tensor]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    classes: Mapping[str, int] = field(default_factory=dict)


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


def raw_bytes(tensor: Tensor) -> bytes:
    """A tensor's values as the protocol's binary form: little-endian, BYTES elements behind their uint32 lengths."""
    if tensor.datatype != "BYTES":
        return np.asarray(tensor.data).tobytes()
    elements = (item.encode() if isinstance(item, str) else bytes(item) for item in tensor.data)
    return b"".join(len(item).to_bytes(4, "little") + item for item in elements)


def text_tensor(name: str, texts: Sequence[str]) -> Tensor:
    """A BYTES tensor of texts."""
    return Tensor(name, "BYTES", (len(texts),), list(texts))


def int_tensor(name: str, values: Sequence[int]) -> Tensor:
    """An INT32 tensor."""
    return Tensor(name, "INT32", (len(values),), np.asarray(values, "<i4"))


def float_tensor(name: str, rows: Sequence[npt.NDArray[np.float32]]) -> Tensor:
    """An FP32 tensor of equally long rows."""
    data = np.stack(rows).astype("<f4", copy=False)
    return Tensor(name, "FP32", data.shape, data)


def class_tensor(scores: Tensor, count: int, labels: Sequence[str]) -> Tensor:
    """The best classes of each row, as `score:index:label`, best first and of equal ones the first; all of them where
    there are fewer than `count`.

    Source: https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_classification.md

    Args:
        scores: FP32 (rows, classes).
        labels: of the classes.

    Returns:
        BYTES (rows, least of `count` and classes). Scores have as many digits as tell them from their neighbours.
    """
    rows = np.asarray(scores.data)
    best = np.argsort(-rows, axis=1, kind="stable")[:, :count]
    texts = [
        f"{np.format_float_positional(row[index], trim='-')}:{index}:{labels[index]}"
        for row, indices in zip(rows, best.tolist(), strict=True)
        for index in indices
    ]
    return Tensor(scores.name, "BYTES", best.shape, texts)
