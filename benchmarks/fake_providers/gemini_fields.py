"""The body of Gemini's `generateContent` as published, as far as a vision router uses it; all else is refused."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel


class _Fields(BaseModel):
    # JSON of protocol buffers has two names for each field, and the SDK uses both.
    model_config = ConfigDict(extra="forbid", strict=True, alias_generator=to_camel, populate_by_name=True)


class _Blob(_Fields):
    mime_type: str = Field(pattern=r"^(image|video)/[a-z0-9.-]+$")
    data: str


class _FileData(_Fields):
    mime_type: str
    file_uri: str


class _VideoMetadata(_Fields):
    fps: float | None = Field(None, gt=0, le=24)


class Part(_Fields):
    """One part of a content."""

    text: str | None = None
    inline_data: _Blob | None = None
    file_data: _FileData | None = None
    video_metadata: _VideoMetadata | None = None

    @model_validator(mode="after")
    def _one(self) -> Part:
        if sum(value is not None for value in (self.text, self.inline_data, self.file_data)) != 1:
            raise ValueError("oneof field 'data' must have one initialized field")
        return self


class Content(_Fields):
    """One turn."""

    role: Literal["user", "model"] = "user"
    parts: list[Part] = Field(min_length=1)


class GenerationConfig(_Fields):
    """How the answer is chosen."""

    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    seed: int | None = Field(None, ge=-(2**31), lt=2**31)
    candidate_count: int | None = Field(None, ge=1, le=8)
    max_output_tokens: int | None = Field(None, ge=1)
    stop_sequences: list[str] | None = Field(None, max_length=5)
    response_mime_type: Literal["text/plain", "application/json"] | None = None
    response_json_schema: dict[str, Any] | None = None
    response_logprobs: bool | None = None
    logprobs: int | None = Field(None, ge=0, le=20)
    media_resolution: Literal["MEDIA_RESOLUTION_LOW", "MEDIA_RESOLUTION_MEDIUM", "MEDIA_RESOLUTION_HIGH"] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> GenerationConfig:
        if self.response_json_schema is not None and self.response_mime_type != "application/json":
            raise ValueError("response_json_schema needs response_mime_type application/json")
        if self.logprobs is not None and not self.response_logprobs:
            raise ValueError("logprobs needs response_logprobs")
        return self


class Body(_Fields):
    """The request."""

    contents: list[Content] = Field(min_length=1)
    system_instruction: Content | None = None
    generation_config: GenerationConfig = GenerationConfig()
