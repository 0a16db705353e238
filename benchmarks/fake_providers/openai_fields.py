"""The body of `POST /v1/chat/completions` as published, as far as a vision router uses it; all else is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Fields(BaseModel):
    """Unknown keys are refused; nothing is converted."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Text(Fields):
    """A text part."""

    type: Literal["text"]
    text: str


class ImageUrl(Fields):
    """Where an image is."""

    url: str = Field(pattern=r"^(https?://|data:)")
    detail: Literal["auto", "low", "high"] = "auto"


class Image(Fields):
    """An image part."""

    type: Literal["image_url"]
    image_url: ImageUrl


class _Message(Fields):
    content: Any
    name: str | None = None

    def texts(self) -> list[str]:
        """All texts in it."""
        if isinstance(self.content, str):
            return [self.content]
        return [part.text for part in self.content if isinstance(part, Text)]

    def images(self) -> list[ImageUrl]:
        """All images in it."""
        if isinstance(self.content, str):
            return []
        return [part.image_url for part in self.content if isinstance(part, Image)]


class System(_Message):
    """Instructions."""

    role: Literal["system", "developer"]
    content: str | list[Text]


class User(_Message):
    """What the user says."""

    role: Literal["user"]
    content: str | Annotated[list[Annotated[Text | Image, Field(discriminator="type")]], Field(min_length=1)]


class Assistant(_Message):
    """An earlier answer."""

    role: Literal["assistant"]
    content: str | list[Text]


class Plain(Fields):
    """No constraint."""

    type: Literal["text"]


class JsonObject(Fields):
    """Any JSON object."""

    type: Literal["json_object"]


class Named(Fields):
    """A named schema."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None
    description: str | None = None


class JsonSchema(Fields):
    """JSON that fits a schema."""

    type: Literal["json_schema"]
    json_schema: Named


class StreamOptions(Fields):
    """Details of a stream."""

    include_usage: bool = False


class ChatBody(Fields):
    """The request."""

    model: str
    messages: list[Annotated[System | User | Assistant, Field(discriminator="role")]] = Field(min_length=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    n: int | None = Field(None, ge=1, le=128)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: str | Annotated[list[str], Field(max_length=4)] | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    response_format: Annotated[Plain | JsonObject | JsonSchema, Field(discriminator="type")] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None

    @model_validator(mode="after")
    def _consistent(self) -> ChatBody:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("'logprobs' must be true when 'top_logprobs' is set.")
        if self.stream_options is not None and not self.stream:
            raise ValueError("The 'stream_options' parameter is only allowed when 'stream' is enabled.")
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise ValueError("Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported.")
        return self


def strict_problem(schema: Mapping[str, Any], where: str = "()") -> str | None:
    """Why a schema is not one of structured outputs, or None.

    See https://platform.openai.com/docs/guides/structured-outputs#supported-schemas: the root is an object; every
    object forbids further properties and requires all that it has.
    """
    if where == "()" and schema.get("type") != "object":
        return "schema must be a JSON Schema of 'type: \"object\"'."
    if schema.get("type") == "object":
        if schema.get("additionalProperties") is not False:
            return f"In context={where}, 'additionalProperties' is required to be supplied and to be false."
        if set(schema.get("required", ())) != set(schema.get("properties", {})):
            return f"In context={where}, 'required' is required to be supplied and to include every key in properties."
    below = [(f"{where}.{name}", part) for name, part in schema.get("properties", {}).items()]
    if isinstance(schema.get("items"), dict):
        below.append((f"{where}.items", schema["items"]))
    below += [(f"{where}.anyOf.{i}", part) for i, part in enumerate(schema.get("anyOf", ()))]
    return next((problem for name, part in below if (problem := strict_problem(part, name))), None)
