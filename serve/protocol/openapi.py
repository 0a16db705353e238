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
    409: _error("It contradicts what is stored."),
    413: _error("Too many bytes."),
    415: _error("A content type or format that is not read."),
    429: _error("Too busy; `Retry-After` says when to return."),
    503: _error("A model is not available now."),
    504: _error("The deadline passed."),
    507: _error("The store is full."),
}


def json_response(description: str, errors: dict[int | str, dict[str, Any]]) -> dict[int | str, dict[str, Any]]:
    """A JSON object on success, beside the errors."""
    return {
        200: {"description": description, "content": {"application/json": {"schema": {"type": "object"}}}},
        **errors,
    }


def json_body(kind: type[BaseModel]) -> dict[str, Any]:
    """A JSON body."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": _schema(kind)}}}}


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
