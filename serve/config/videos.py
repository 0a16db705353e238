"""The `videos` section of a cluster file: who watches videos, and how longer ones are cut up (`/v1/videos`)."""

from __future__ import annotations

from pydantic import Field, model_validator

from serve.config.model_base import Name, Section


class Videos(Section):
    """Which models watch videos, and in which pieces."""

    reader: Name = Field(description="Model of kind video_reader, which decodes and cuts.")
    backends: tuple[Name, ...] = Field(
        min_length=1,
        max_length=8,
        description="Chat models and providers that take a video, in the order in which they are asked: the next one "
        "when one fails.",
    )
    captioner: Name | None = Field(
        None,
        description="Chat model or provider that takes an image and describes key frames; when it fails, those of "
        "backends and then the summariser do, as far as they take an image. None leaves them bare.",
    )
    summariser: Name | None = Field(
        None,
        description="Chat model or provider that merges what was written about the chunks of a longer video; without "
        "one, sentences are put together in order, and answers decided by a vote.",
    )
    describe_prompt: str = Field("Describe the video.", min_length=1, description="What a description is asked with.")
    chunk_s: float = Field(
        30.0, ge=1, le=3600, description="A longer video is cut into chunks of about this many seconds."
    )
    overlap_s: float = Field(
        1.0, ge=0, description="Seconds that a chunk repeats of the one before, where no new shot begins between them."
    )
    scene_aware: bool = Field(True, description="Chunks begin where a shot begins, if one does near their usual place.")
    max_chunks: int = Field(120, ge=1, le=1000, description="Most chunks of one video.")
    concurrency: int = Field(8, ge=1, le=64, description="Most chunks of one request that are asked about at a time.")
    clip_side: int = Field(448, ge=32, le=1920, description="Longest side of a chunk's pictures, in pixels.")
    clip_fps: float = Field(4.0, gt=0, le=30, description="Most frames a second of a chunk.")
    max_tokens: int = Field(192, ge=1, le=4096, description="Most tokens written about a chunk, and of a summary.")
    merge_tokens: int = Field(
        2048,
        ge=64,
        description="Most tokens of notes in one request to the summariser, by a third of their bytes; more are merged "
        "in groups, and then the groups.",
    )
    moment_s: float = Field(
        4.0, gt=0, le=600, description="Seconds of the video around a moment that a question is asked about."
    )

    @model_validator(mode="after")
    def _overlapping(self) -> Videos:
        if 2 * self.overlap_s > self.chunk_s:
            raise ValueError(
                f"overlap_s is {self.overlap_s:g}, chunk_s is {self.chunk_s:g}; the overlap must be at most half of it"
            )
        return self
