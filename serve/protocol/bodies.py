"""Request bodies: read within the limit, and turned into fields and images whatever their content type.

An image may come as a raw body (`image/*`, fields in the query), as a multipart file (fields beside it), or named in a
JSON body (URL, data URI, base64). The routes see one `Submission` for all three. Routes about a video or a document
take one the same way (`video/*`, file field `video`; `application/pdf` or `image/*`, file field `document`).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from typing import Annotated, Any, Final, Literal, TypeVar

import orjson
from pydantic import BaseModel, BeforeValidator, ConfigDict, GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, HTTPConnection, Request

from serve.context import RequestContext
from serve.errors import Cancelled, InvalidRequest, PayloadTooLarge, RequestTooSlow, UnsupportedMedia
from serve.media.admit import MediaSource, Reference
from serve.media.source import MediaBytes
from serve.protocol.content_coding import coding_of, decoded
from serve.protocol.upload_room import HeldRoom
from serve.validation import fields_at, most_telling, real_path

_MAX_FIELDS = 4096
# Bytes of a form that are parsed at once.
_PIECE = 1024 * 1024
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


def context_of(request: Request) -> RequestContext:
    """The context that the edge attached."""
    context: RequestContext = request.scope["state"]["context"]
    return context


async def read_body(request: Request, limit: int, *, upload: bool = False) -> bytes:
    """The whole body, within the request's deadline: whoever sends a byte now and then must not hold a place for ever.
    One that came compressed is inflated.

    Args:
        upload: it takes room in the memory for uploads; a compressed one as much as it may inflate to, as well.

    Raises:
        Overloaded: `uploads_full`.
        PayloadTooLarge: more than `limit` bytes, by its own statement or in fact, as they came or inflated.
        UnsupportedEncoding: a content coding that is not read.
        InvalidRequest: `invalid_content_encoding`.
        DeadlineExceeded: the deadline has passed already.
        RequestTooSlow: it was not all there by the deadline.
        Cancelled: the client left in the middle.
    """
    coding = coding_of(request.headers)
    whole = BytesIO()  # which gives its own memory away, where joined chunks would take as much again
    async for chunk in _chunks(request, limit, upload=upload):
        whole.write(chunk)
    body = whole.getvalue()
    if coding is None:
        return body
    if upload:
        _room_of(request).grow_to(len(body) + limit)
    return await decoded(body, coding, limit)


def _room_of(request: Request) -> HeldRoom:
    """What the edge lets the request take of the memory for uploads."""
    room: HeldRoom = request.scope["state"]["upload_room"]
    return room


async def _chunks(request: Request, limit: int, *, upload: bool) -> AsyncGenerator[bytes, None]:
    """The body as it comes; see `read_body`."""
    stated = parse_length(request.headers.get("content-length"))
    if stated is not None and stated > limit:
        raise _too_large(limit)
    room = _room_of(request) if upload else None
    if room is not None:
        room.grow_to(stated or 0)
    size, context = 0, context_of(request)
    context.remaining_s()  # raises when nothing is left of the request's time: then it is not the body that was slow
    stream = aiter(request.stream())
    try:
        while True:
            # Around each wait alone: between two of them runs whoever reads, who must not be interrupted.
            async with asyncio.timeout(context.left_s()):
                chunk = await anext(stream, None)
            if chunk is None:
                return
            size += len(chunk)
            if size > limit:
                raise _too_large(limit)
            if room is not None:
                room.grow_to(size)
            yield chunk
    except TimeoutError:
        raise RequestTooSlow(f"Only {size} bytes of the body came before the deadline.", param="body") from None
    except ClientDisconnect:
        raise Cancelled("The client left while sending the body.") from None


def parse_length(text: str | None) -> int | None:
    """A header that states a number of bytes; None when it does not."""
    return int(text) if text is not None and re.fullmatch(r"[0-9]{1,15}", text) else None


def _too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"The body is larger than {limit} bytes.", param="body")


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


class _InMemoryParser(MultiPartParser):
    # The body is in memory already and bounded; Starlette would write parts above 1 MB to disk.
    spool_max_size = 1 << 40


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


async def read_form(headers: Headers, body: bytes) -> list[tuple[str, str | MediaBytes]]:
    """The parts of a multipart body in order, by the names of their fields: texts, and files as bytes.

    Raises:
        InvalidRequest: `invalid_multipart`.
    """

    async def whole() -> AsyncIterator[bytes]:
        yield body

    return await _parts(headers, whole(), len(body))


async def read_upload_form(request: Request, limit: int) -> list[tuple[str, str | MediaBytes]]:
    """The parts of a request's multipart body, which is taken apart as it comes: a large one is in memory once. It
    takes room in the memory for uploads.

    Raises:
        ArgusError: see `read_body` and `read_form`.
    """
    if coding_of(request.headers) is None:
        return await _parts(request.headers, _chunks(request, limit, upload=True), limit)
    return await read_form(request.headers, await read_body(request, limit, upload=True))


async def _parts(headers: Headers, body: AsyncIterator[bytes], most: int) -> list[tuple[str, str | MediaBytes]]:
    """See `read_form`.

    Args:
        most: bytes that may be in it.
    """

    async def stream() -> AsyncIterator[bytes]:
        # In pieces that take the parser a millisecond or two, with room for others in between.
        async for chunk in body:
            for start in range(0, len(chunk), _PIECE):
                yield chunk[start : start + _PIECE]
                await asyncio.sleep(0)

    # RFC 7578, section 5.1.2: fields are UTF-8. A charset that the client names would choose our decoder.
    _, options = parse_options_header(headers["content-type"])
    if b"boundary" not in options:
        raise InvalidRequest("The multipart body has no boundary.", code="invalid_multipart", param="content-type")
    utf8 = Headers(raw=[(b"content-type", b"multipart/form-data; boundary=" + options[b"boundary"])])
    parser = _InMemoryParser(
        utf8,
        stream(),  # type: ignore[arg-type]
        max_files=_MAX_FIELDS,
        max_fields=_MAX_FIELDS,
        max_part_size=max(1, most),
    )
    try:
        form: FormData = await parser.parse()
    except (MultiPartException, KeyError, ValueError, UnicodeDecodeError, LookupError) as error:
        message = getattr(error, "message", None) or str(error)
        raise InvalidRequest(f"The multipart body does not parse: {message}.", code="invalid_multipart") from None
    parts = [
        (name, await _file(value) if isinstance(value, UploadFile) else value) for name, value in form.multi_items()
    ]
    await form.close()
    return parts


async def _file(part: UploadFile) -> MediaBytes:
    data = await part.read()
    await part.close()  # at once: it holds the bytes a second time
    return MediaBytes(data, part.content_type, part.filename)


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
