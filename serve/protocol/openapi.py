"""What the OpenAPI document says of bodies that the routes parse themselves."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message", "param", "type", "request_id"],
            "properties": {
                "code": {"type": "string", "description": "Stable machine code."},
                "message": {"type": "string"},
                "param": {"type": ["string", "null"], "description": "The field that caused it."},
                "type": {"type": "string"},
                "request_id": {"type": "string"},
            },
        }
    },
}


def _error(description: str) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": _ERROR}}}


ERRORS: dict[int | str, dict[str, Any]] = {
    400: _error("The request is wrong; `param` names the field."),
    401: _error("An API key is needed."),
    404: _error("The model, index or item does not exist."),
    405: _error("The method is not allowed here."),
    408: _error("The request came too slowly."),
    409: _error("It contradicts what is stored."),
    413: _error("Too many bytes."),
    415: _error("A content type, content encoding or format that is not read."),
    429: _error("Too busy; `Retry-After` says when to return."),
    503: _error("A model is not available now."),
    504: _error("The deadline passed."),
    507: _error("The store is full."),
}


# Of a file that is given out in parts.
RANGES: dict[int | str, dict[str, Any]] = {
    206: {"description": "The part that Range asks for."},
    416: _error("Range asks for what is not there; `Content-Range` says how much there is."),
}


def json_response(description: str, errors: dict[int | str, dict[str, Any]]) -> dict[int | str, dict[str, Any]]:
    """A JSON object on success, beside the errors."""
    return {
        200: {"description": description, "content": {"application/json": {"schema": {"type": "object"}}}},
        **errors,
    }


def json_body(kind: type[BaseModel], *, required: bool = True) -> dict[str, Any]:
    """A JSON body."""
    return {"requestBody": {"required": required, "content": {"application/json": {"schema": _schema(kind)}}}}


def image_body(kind: type[BaseModel]) -> dict[str, Any]:
    """A body with images: JSON, multipart with files, or a raw image with the fields in the query."""
    schema = _schema(kind)
    properties = dict(schema["properties"])
    properties["image"] = {"type": "string", "format": "binary", "description": "The file; may be repeated."}
    properties.pop("images", None)
    form = {**schema, "properties": properties}
    binary = {"schema": {"type": "string", "format": "binary"}}
    parameters = [
        {
            "name": name,
            "in": "query",
            "required": False,
            "schema": {"type": "string"},
            "description": f"With a raw image body. {field.get('description', '')}".strip(),
        }
        for name, field in schema["properties"].items()
        if name not in ("image", "images")
    ]
    content = {
        "application/json": {"schema": schema},
        "multipart/form-data": {"schema": form},
        **dict.fromkeys(("image/jpeg", "image/png", "image/webp"), binary),
    }
    return {"requestBody": {"required": True, "content": content}, "parameters": parameters}


def video_body(kind: type[BaseModel]) -> dict[str, Any]:
    """A body with a video: JSON, multipart with a file, or a raw video with the fields in the query."""
    return _file_body(kind, "video", ("video/mp4", "video/webm", "video/quicktime"))


def document_body(kind: type[BaseModel]) -> dict[str, Any]:
    """A body with a document: JSON, multipart with a file, or a raw PDF or image with the fields in the query."""
    return _file_body(kind, "document", ("application/pdf", "image/jpeg", "image/png", "image/webp"))


def _file_body(kind: type[BaseModel], medium: str, types: tuple[str, ...]) -> dict[str, Any]:
    schema = _schema(kind)
    file = {"type": "string", "format": "binary", "description": "The file."}
    form = {**schema, "properties": {**schema["properties"], medium: file}}
    binary = {"schema": {"type": "string", "format": "binary"}}
    parameters = [
        {
            "name": name,
            "in": "query",
            "required": False,
            "schema": {"type": "string"},
            "description": f"With a raw {medium} body. {field.get('description', '')}".strip(),
        }
        for name, field in schema["properties"].items()
        if name != medium
    ]
    content = {
        "application/json": {"schema": schema},
        "multipart/form-data": {"schema": form},
        **dict.fromkeys(types, binary),
    }
    return {"requestBody": {"required": True, "content": content}, "parameters": parameters}


def upload_body(kind: type[BaseModel], *types: str) -> dict[str, Any]:
    """A file that is no picture, video or document: multipart as `file`, or raw with the fields in the query."""
    schema = _schema(kind)
    binary = {"type": "string", "format": "binary"}
    form = {**schema, "properties": {**schema["properties"], "file": {**binary, "description": "The file."}}}
    content = {"multipart/form-data": {"schema": form}, **{name: {"schema": binary} for name in types}}
    beside = {"parameters": [{**one, "required": False} for one in query(kind)["parameters"]]}
    return {"requestBody": {"required": True, "content": content}, **beside}


def query(kind: type[BaseModel]) -> dict[str, Any]:
    """Fields in the query."""
    schema = _schema(kind)
    return {
        "parameters": [
            {
                "name": name,
                "in": "query",
                "required": name in schema.get("required", ()),
                "schema": {key: value for key, value in field.items() if key not in ("title", "description")},
                "description": field.get("description", ""),
            }
            for name, field in schema["properties"].items()
        ]
    }


def file_response(
    description: str, types: tuple[str, ...], errors: dict[int | str, dict[str, Any]], *more: str
) -> dict[int | str, dict[str, Any]]:
    """A file on success, of one of several types, beside the errors.

    Args:
        more: types of JSON that may come in its place.
    """
    binary: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}
    content = dict.fromkeys(types, binary) | {name: {"schema": {"type": "object"}} for name in more}
    return {
        200: {"description": description, "content": content},
        304: {"description": "The client has it, as its If-None-Match says."},
        **errors,
    }


def merged(*documents: dict[str, Any]) -> dict[str, Any]:
    """Bodies of several kinds for one route; a content type in two of them keeps the last one's schema."""
    content: dict[str, Any] = {}
    together: dict[str, Any] = {}
    for document in documents:
        content |= document["requestBody"]["content"]
        together |= document
    return {**together, "requestBody": {"required": True, "content": content}}


def _schema(kind: type[BaseModel]) -> dict[str, Any]:
    schema = kind.model_json_schema()
    definitions = schema.pop("$defs", {})
    resolved: dict[str, Any] = _inline(schema, definitions)
    return resolved


def _inline(node: Any, definitions: dict[str, Any]) -> Any:
    """OpenAPI has its own place for shared schemas; ours are small enough to stand where they are used."""
    if isinstance(node, dict):
        if "$ref" in node:
            return _inline(definitions[node["$ref"].rpartition("/")[2]], definitions)
        return {key: _inline(value, definitions) for key, value in node.items()}
    if isinstance(node, list):
        return [_inline(value, definitions) for value in node]
    return node
