"""Request bodies: read within the limit, and turned into fields and images whatever their content type.

An image may come as a raw body (`image/*`, fields in the query), as a multipart file (fields beside it), or named in a
JSON body (URL, data URI, base64). The routes see one `Submission` for all three. Routes about a video or a document
take one the same way (`video/*`, file field `video`; `application/pdf` or `image/*`, file field `document`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal, TypeVar

import orjson
from pydantic import BaseModel, BeforeValidator, ConfigDict, GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection, Request

from serve.errors import InvalidRequest, UnsupportedMedia
from serve.media.admit import MediaSource, Reference
from serve.media.source import MediaBytes
from serve.protocol.body_stream import read_body
from serve.protocol.forms import read_form
from serve.validation import fields_at, most_telling, real_path

MOST_KEYS: Final = 50_000
"""Of all objects in a JSON body together; to say of so many that they are not known takes a router 0.3 s."""

Medium = Literal["image", "video", "document"]
# File fields of a multipart body.
_FILE_FIELDS: dict[Medium, tuple[str, ...]] = {
    "image": ("image", "images", "image[]", "images[]", "file", "files"),
    "video": ("video", "file"),
    "document": ("document", "file"),
}
# Starts of the content types of a raw body.
_RAW_TYPES: dict[Medium, tuple[str, ...]] = {
    "image": ("image/",),
    "video": ("video/", "image/"),
    "document": ("application/pdf", "image/"),
}
_RAW_NAMES: dict[Medium, str] = {"image": "image/*", "video": "video/*", "document": "application/pdf or image/*"}

Body = TypeVar("Body", bound="Fields")


def _fail_fast(schema: Any) -> None:
    """Sets what `pydantic.FailFast` does, on every list within a schema."""
    left = [schema]
    while left:
        part = left.pop()
        if isinstance(part, dict):
            if part.get("type") in ("list", "tuple", "set", "frozenset"):
                part["fail_fast"] = True
            left += part.values()
        elif isinstance(part, list):
            left += part


class Fields(BaseModel):
    """Base of every request body: unknown fields are refused by name."""

    model_config = ConfigDict(extra="forbid")

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """A list is given up at its first wrong element: to tell of each of a hundred thousand takes a router ten
        seconds."""
        schema = handler(source)
        _fail_fast(schema)
        return schema


def _split(value: Any) -> Any:
    """Lists from forms and queries: repeated fields, a JSON array, or values with commas between them."""
    if isinstance(value, str):
        if value.lstrip().startswith("["):
            try:
                return orjson.loads(value)
            except orjson.JSONDecodeError:
                return value
        return [part.strip() for part in value.split(",")]
    return value


def listed(value: Any) -> Any:
    """Like `_split` without the commas: a data URI holds one, and so may a sentence."""
    return [value] if isinstance(value, str) and not value.lstrip().startswith("[") else _split(value)


def _tupled(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


TextList = Annotated[list[str], BeforeValidator(_split)]
UncutList = Annotated[list[str], BeforeValidator(listed)]
ImageList = UncutList
NumberList = Annotated[list[float], BeforeValidator(_split)]
# For lists of objects: in forms and queries one JSON array.
AS_LIST = BeforeValidator(listed)
# For tuples, which JSON does not have.
AS_TUPLE = BeforeValidator(_tupled)


@dataclass(frozen=True, slots=True)
class Submission:
    """What a client sent.

    Attributes:
        fields: everything but the image files.
        text: whether the fields came as text, in a form or a query, and not as JSON.
        images: image files, with the request field each came from.
        videos: video files, likewise, where the route takes those.
        documents: PDFs and images, likewise.
    """

    fields: dict[str, Any]
    text: bool
    images: list[tuple[str, MediaSource]] = field(default_factory=list)
    videos: list[tuple[str, MediaSource]] = field(default_factory=list)
    documents: list[tuple[str, MediaSource]] = field(default_factory=list)

    def checked(self, kind: type[Body]) -> Body:
        """The fields as a checked `kind`; see `validate`."""
        return validate(self.fields, kind, text=self.text)


async def read_submission(request: Request, limit: int, medium: Medium = "image") -> Submission:
    """Fields and media of a request.

    Args:
        medium: what the route takes.

    Raises:
        UnsupportedMedia: a content type that is none of JSON, multipart/form-data, image/* (or that of `medium`).
        InvalidRequest: a body that does not parse.
        PayloadTooLarge: see `read_body`.
    """
    body = await read_body(request, limit)
    content_type = request.headers.get("content-type", "")
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "application/json" or kind.endswith("+json"):
        return Submission(json_object(body), text=False)
    if kind == "multipart/form-data":
        return await _multipart(request.headers, body, medium)
    # GIF and WebP are images by name; of a route that takes videos, they are animations.
    if kind.startswith(_RAW_TYPES[medium]) or kind == "application/octet-stream":
        return _submission(
            medium, _collected(request.query_params.multi_items()), [("body", MediaBytes(body, content_type))]
        )
    raise UnsupportedMedia(
        f"Content type {kind or 'none'!r} is not accepted; send application/json, multipart/form-data or "
        f"{_RAW_NAMES[medium]}.",
        param="content-type",
    )


async def read_json(request: Request, limit: int, kind: type[Body], *, required: bool = True) -> Body:
    """A JSON body as a checked `kind`.

    Args:
        required: without it, no body at all is an empty object: nothing has to be said.

    Raises:
        InvalidRequest: not JSON, or a field that is missing, unknown or wrong.
        PayloadTooLarge: see `read_body`.
    """
    body = await read_body(request, limit)
    return validate({} if not (body or required) else json_object(body), kind)


def read_query(request: HTTPConnection, kind: type[Body]) -> Body:
    """The fields of the query as a checked `kind`.

    Raises:
        InvalidRequest: see `validate`.
    """
    return validate(dict(request.query_params), kind, text=True)


def validate(fields: Mapping[str, Any], kind: type[Body], *, text: bool = False) -> Body:
    """Checks fields; the first wrong one is named.

    Args:
        text: they come from a form or a query, where all is text that is to be parsed. In JSON no text stands for a
            number or a yes, and no number for a yes.

    Raises:
        InvalidRequest: codes `missing_field`, `unknown_field`, `invalid_field`.
    """
    try:
        return kind.model_validate(fields, strict=not text)
    except ValidationError as error:
        first = most_telling(kind, error.errors(include_url=False))
        is_unknown = first["type"] == "extra_forbidden"
        path = real_path(kind, first["loc"], unknown_key=is_unknown)
        param = "".join(f"[{part}]" if isinstance(part, int) else f".{part[:80]}" for part in path).lstrip(".")
        if first["type"].startswith("union_tag"):  # of several kinds of object, told apart by one field
            param += "." + first["ctx"]["discriminator"].strip("'")
        if first["type"] == "missing":
            raise InvalidRequest(f"Field {param!r} is required.", code="missing_field", param=param) from None
        if is_unknown:
            known = ", ".join(fields_at(kind, first["loc"][:-1]))
            message = f"Field {param!r} is not known here; known fields are {known}."
            raise InvalidRequest(message, code="unknown_field", param=param) from None
        message = f"Field {param or 'body'!r}: {first['msg'].removeprefix('Value error, ')}."
        raise InvalidRequest(message, code="invalid_field", param=param or "body") from None


def references(image: str | None, images: list[str] | None) -> list[tuple[str, MediaSource]]:
    """Images named in a JSON body or a form field."""
    named: list[tuple[str, MediaSource]] = [] if image is None else [("image", Reference(image))]
    return named + [(f"images[{i}]", Reference(text)) for i, text in enumerate(images or ())]


def json_object(body: bytes) -> dict[str, Any]:
    """A JSON object.

    Raises:
        InvalidRequest: `invalid_json`.
    """
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"The body is not JSON: {error}.", code="invalid_json", param="body") from None
    if not isinstance(data, dict):
        raise InvalidRequest("The body must be a JSON object.", code="invalid_json", param="body")
    check_keys(body, data)
    return data


def check_keys(body: bytes | memoryview, data: object) -> None:
    """Bounds the keys of a JSON body, each of which becomes an error of its own where none of them is known.

    Raises:
        InvalidRequest: `too_many_keys`.
    """
    if bytes(body).count(b":") <= MOST_KEYS:
        return
    count, left = 0, [data]
    while left and count <= MOST_KEYS:
        part = left.pop()
        if isinstance(part, dict):
            count += len(part)
            left += part.values()
        elif isinstance(part, list):
            left += part
    if count > MOST_KEYS:
        message = f"The body has more than {MOST_KEYS:,} keys."
        raise InvalidRequest(message, code="too_many_keys", param="body")


async def _multipart(headers: Headers, body: bytes, medium: Medium) -> Submission:
    texts: list[tuple[str, str]] = []
    files: list[tuple[str, MediaSource]] = []
    for name, value in await read_form(headers, body):
        if isinstance(value, str):
            texts.append((name, value))
            continue
        if name not in _FILE_FIELDS[medium]:
            message = f"File field {name[:80]!r} is not known; send files as {medium!r}."
            raise InvalidRequest(message, code="unknown_field", param=name[:80])
        files.append((_file_param(name, len(files), medium), value))
    return _submission(medium, _collected(texts), files)


def _submission(medium: Medium, fields: dict[str, Any], files: list[tuple[str, MediaSource]]) -> Submission:
    submission = Submission(fields, text=True)
    {"image": submission.images, "video": submission.videos, "document": submission.documents}[medium].extend(files)
    return submission


def _file_param(name: str, position: int, medium: Medium) -> str:
    return medium if position == 0 and name in (medium, "file") else f"{medium}s[{position}]"


def _collected(items: list[tuple[str, str]]) -> dict[str, Any]:
    """Repeated fields become lists."""
    fields: dict[str, Any] = {}
    for name, value in ((name.removesuffix("[]"), value) for name, value in items):
        if name not in fields:
            fields[name] = value
        elif isinstance(fields[name], list):
            fields[name].append(value)
        else:
            fields[name] = [fields[name], value]
    return fields
