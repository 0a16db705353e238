"""Validators of what callers hand to the vector store. Each returns the value in the form that is stored."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sized
from typing import Any, Final

import numpy as np

from deployments.vector_filter import Filter, check_scalar, check_text
from deployments.vector_types import MAX_K, Float32s, IndexSpec, Metadata
from serve.errors import InvalidRequest, PayloadTooLarge

MAX_ID_BYTES: Final = 512
MAX_METADATA_BYTES: Final = 16 * 1024
MAX_KEY_CHARACTERS: Final = 128

# Squares and sums of 8192 components below this stay finite in float32, so no score can be infinite or NaN.
MAX_MAGNITUDE: Final = 1e15


def check_id(value: Any, *, param: str) -> str:
    """An item id: 1 to 512 bytes of UTF-8 without control characters.

    Raises:
        InvalidRequest: anything else.
    """
    if not isinstance(value, str) or not value or check_text(value, param=param) > MAX_ID_BYTES:
        raise InvalidRequest(f"an id is text of 1 to {MAX_ID_BYTES} bytes", code="invalid_id", param=param)
    if any(ord(c) < 0x20 or 0x7F <= ord(c) <= 0x9F for c in value):
        raise InvalidRequest("an id may not hold control characters", code="invalid_id", param=param)
    return value


def check_count(values: Sized, limit: int, *, param: str) -> None:
    """Bounds a batch.

    Raises:
        PayloadTooLarge: more than `limit` values.
    """
    if len(values) > limit:
        raise PayloadTooLarge(f"{len(values)} given, at most {limit} allowed", code="batch_too_large", param=param)


def check_filter(value: Any) -> Filter | None:
    """A parsed filter or None.

    Raises:
        InvalidRequest: something else, such as the filter's JSON form.
    """
    if value is not None and not isinstance(value, Filter):
        raise InvalidRequest("the filter must have been parsed with parse_filter", param="filter")
    return value


def check_k(k: Any) -> int:
    """A number of hits, 1 to 1000.

    Raises:
        InvalidRequest: anything else.
    """
    if type(k) is not int or not 1 <= k <= MAX_K:
        raise InvalidRequest(f"k must be an integer from 1 to {MAX_K}", param="k")
    return k


def check_vector(value: Any, spec: IndexSpec, *, param: str) -> Float32s:
    """One vector as (spec.dimension,) float32, contiguous.

    Raises:
        InvalidRequest: another shape, not numbers, NaN or infinite, too large, or zero where the metric is cosine.
    """
    vector = _as_float32(value, param)
    if vector.shape != (spec.dimension,):
        raise InvalidRequest(
            f"the vector's shape is {vector.shape}, index {spec.name!r} needs ({spec.dimension},)",
            code="dimension_mismatch",
            param=param,
        )
    _check_values(vector[None, :], spec, lambda _: param)
    return vector


def check_queries(value: Any, spec: IndexSpec, limit: int) -> Float32s:
    """Queries as (q, spec.dimension) float32, contiguous; a single vector counts as one query.

    Raises:
        InvalidRequest: another shape, no query, not numbers, NaN or infinite, too large, or zero under cosine.
        PayloadTooLarge: more than `limit` queries.
    """
    queries = np.atleast_2d(_as_float32(value, "queries"))
    if queries.ndim != 2 or queries.shape[1] != spec.dimension or not len(queries):
        raise InvalidRequest(
            f"the queries' shape is {queries.shape}, index {spec.name!r} needs (q, {spec.dimension})",
            code="dimension_mismatch",
            param="queries",
        )
    check_count(queries, limit, param="queries")
    _check_values(queries, spec, lambda i: f"queries[{i}]")
    return queries


def encode_metadata(metadata: Any, *, param: str) -> str:
    """Metadata as compact JSON.

    Raises:
        InvalidRequest: not a mapping of text to scalars and lists of scalars, or a key that is empty, longer than
            128 characters or starts with `$` (a filter could not name it).
        PayloadTooLarge: more than 16 KiB of JSON.
    """
    if not isinstance(metadata, dict):
        raise InvalidRequest("metadata must be a JSON object", param=param)
    for key, value in metadata.items():
        if not isinstance(key, str) or not 0 < len(key) <= MAX_KEY_CHARACTERS or key.startswith("$"):
            raise InvalidRequest(
                f"a metadata key is text of 1 to {MAX_KEY_CHARACTERS} characters that does not start with '$'",
                param=param,
            )
        check_text(key, param=param)
        for element in value if isinstance(value, list) else (value,):
            check_scalar(element, param=f"{param}.{key}")
    text = json.dumps(metadata, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    if len(text.encode()) > MAX_METADATA_BYTES:
        raise PayloadTooLarge(
            f"metadata may take {MAX_METADATA_BYTES} bytes as JSON", code="metadata_too_large", param=param
        )
    return text


def decode_metadata(text: str) -> Metadata:
    """The inverse of `encode_metadata`."""
    decoded: Metadata = json.loads(text)
    return decoded


def check_ids(ids: Iterable[Any], limit: int) -> list[str]:
    """A bounded list of item ids.

    Raises:
        InvalidRequest: an id that no item could have, or a single text instead of a list.
        PayloadTooLarge: more than `limit` ids.
    """
    if isinstance(ids, str):
        raise InvalidRequest("ids must be a list", param="ids")
    listed = list(ids)
    check_count(listed, limit, param="ids")
    return [check_id(value, param=f"ids[{i}]") for i, value in enumerate(listed)]


def _as_float32(value: Any, param: str) -> Float32s:
    try:
        given = np.asarray(value)
    except ValueError:
        raise InvalidRequest("rows differ in length", code="dimension_mismatch", param=param) from None
    if given.dtype.kind not in "fiu":
        raise InvalidRequest("a vector holds real numbers only", code="invalid_vector", param=param)
    with np.errstate(over="ignore"):  # What overflows becomes infinite, and is refused as such.
        return np.array(given, dtype=np.float32, order="C")  # A copy: the caller may reuse its array meanwhile.


def _check_values(matrix: Float32s, spec: IndexSpec, param_of: Any) -> None:
    def refuse(bad: Any, message: str) -> None:
        if bad.any():
            raise InvalidRequest(message, code="invalid_vector", param=param_of(int(np.argmax(bad))))

    refuse(~np.isfinite(matrix).all(axis=1), "a vector may not hold NaN or infinity")
    refuse((np.abs(matrix) > MAX_MAGNITUDE).any(axis=1), f"components must lie within ±{MAX_MAGNITUDE:g}")
    if spec.metric == "cosine":
        refuse(~matrix.any(axis=1), "a zero vector has no direction, which cosine needs")
