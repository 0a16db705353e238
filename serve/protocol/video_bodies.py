"""What requests about a video say, and how that becomes a `VideoRequest`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator

from deployments.video.messages import Strategy
from serve.errors import NotFound
from serve.protocol.bodies import Fields, validate
from serve.videos.moments import seconds_of
from serve.videos.types import (
    Actions,
    Ask,
    Classify,
    Describe,
    Features,
    Keyframes,
    Operation,
    Summary,
    VideoRequest,
)

# Share of `enter` at which an action is over, where the request does not say.
_LEAVE_SHARE = 0.8


def _worded(text: str) -> str:
    if not text.strip():
        raise ValueError("it has no words")
    return text


Words = Annotated[str, Field(min_length=1, max_length=4000), AfterValidator(_worded)]


def _unstamped(time: Any) -> Any:
    """Seconds of a stamp; whatever else it is stays to be checked."""
    seconds = seconds_of(time) if isinstance(time, str) else None
    return time if seconds is None else seconds


Seconds = Annotated[float, BeforeValidator(_unstamped)]
"""A time of a video: seconds, or a stamp as answers carry them (`MM:SS.mmm`, `H:MM:SS`)."""


class PartFields(Fields):
    """Which part of a video is meant, and who is asked. Times may be stamps too."""

    model: str | None = Field(None, description="Who is asked; the cluster file's choice when left out.")
    start_s: Seconds = Field(
        0.0, ge=0, allow_inf_nan=False, description="Where the part begins, in seconds or as MM:SS.mmm."
    )
    end_s: Seconds | None = Field(
        None, gt=0, allow_inf_nan=False, description="Where it ends; the video's end by default."
    )


class ChunkedFields(PartFields):
    """Something that is done piece by piece."""

    concurrency: int | None = Field(
        None, ge=1, le=64, description="Pieces worked on at a time; never more than the cluster file allows."
    )


class WatchFields(ChunkedFields):
    """What a model that reads videos writes."""

    max_tokens: int | None = Field(None, ge=1, le=4096, description="Most tokens written about a chunk.")
    chunk_s: float | None = Field(None, ge=1, le=3600, description="About how long a chunk of a longer video is.")


class DescribeFields(WatchFields):
    """A description of each part."""

    prompt: Words | None = Field(None, description="An instruction in place of the usual.")


class SummaryFields(WatchFields):
    """A summary of the whole."""

    prompt: Words | None = Field(None, description="An instruction in place of the usual, for each chunk.")


class AskFields(WatchFields):
    """A question."""

    question: Words = Field(description="The question.")
    at_s: Seconds | None = Field(
        None,
        ge=0,
        allow_inf_nan=False,
        description="The moment that it is about, in seconds or as MM:SS.mmm: what is around it is watched. Not beside "
        "`start_s` and `end_s`. Without all three, a time that the question names (`at 0:42`) is that moment.",
    )

    @field_validator("at_s")
    @classmethod
    def _instead_of_a_part(cls, at_s: float | None, info: ValidationInfo) -> float | None:
        if at_s is not None and (info.data.get("start_s") or info.data.get("end_s") is not None):
            raise ValueError("it cannot stand beside start_s or end_s, which say what is watched too")
        return at_s


class KeyframesFields(ChunkedFields):
    """Pictures that stand for the video."""

    strategy: Strategy = Field(
        "keyframe", description="`keyframe`: where it changes most; `scene`: one of each shot; `uniform`: evenly."
    )
    count: int = Field(8, ge=1, le=64, description="Most pictures.")
    threshold: float = Field(
        0.01, ge=0, le=1, description="Of `keyframe`: least mean difference of colour to the picture before."
    )
    min_gap_s: float = Field(1.0, ge=0, le=3600, description="Of `keyframe`: least seconds between two.")
    side: int = Field(512, ge=16, le=2048, description="Longest side of the pictures, in pixels.")
    describe: bool = Field(True, description="Whether they are described, where a captioner is configured.")
    images: bool = Field(False, description="Whether the pictures are sent, as JPEG in data URIs.")


class ClassifyVideoFields(PartFields):
    """Classes of the part as a whole."""

    top_k: int = Field(5, ge=1, le=1000, description="Only the k best classes.")


class FeaturesFields(PartFields):
    """Features of the part as a whole."""

    normalize: bool = Field(False, description="A vector of unit length.")


class ActionsFields(ChunkedFields):
    """Which actions happen when."""

    window_s: float | None = Field(None, ge=0.01, le=600, description="Seconds that the classifier sees at a time.")
    stride_s: float | None = Field(
        None, ge=0.01, le=600, description="Seconds from one window to the next, at most `window_s`."
    )
    enter: float = Field(0.5, gt=0, le=1, description="Probability at which an action begins.")
    leave: float | None = Field(
        None,
        gt=0,
        le=1,
        validate_default=True,
        description="Probability below which it is over, at most `enter`; 0.8 of that when left out.",
    )
    merge_gap_s: float = Field(0.5, ge=0, le=600, description="Actions of one label this close together are one.")
    min_action_s: float = Field(0.5, ge=0, le=600, description="What is shorter is no action.")

    @field_validator("leave")
    @classmethod
    def _below_enter(cls, leave: float | None, info: ValidationInfo) -> float | None:
        enter = info.data.get("enter")
        if enter is None:  # it is what is wrong
            return leave
        if leave is not None and leave > enter:
            raise ValueError("it is above enter, so that an action would be over where it begins")
        return _LEAVE_SHARE * enter if leave is None else leave


OPERATIONS: Mapping[Operation, type[PartFields]] = {
    "classify": ClassifyVideoFields,
    "actions": ActionsFields,
    "features": FeaturesFields,
    "ask": AskFields,
    "describe": DescribeFields,
    "summary": SummaryFields,
    "keyframes": KeyframesFields,
}
_REQUESTS: Mapping[Operation, type[VideoRequest]] = {
    "classify": Classify,
    "actions": Actions,
    "features": Features,
    "ask": Ask,
    "describe": Describe,
    "summary": Summary,
    "keyframes": Keyframes,
}


def video_request(operation: str, fields: Mapping[str, Any], video: bytes) -> VideoRequest:
    """A checked request.

    Args:
        operation: a key of `OPERATIONS`.
        fields: what the route takes, without the video and how it is answered.

    Raises:
        NotFound: no such operation.
        InvalidRequest: see `serve.protocol.bodies.validate`.
    """
    kind = next((known for known in OPERATIONS if known == operation), None)
    if kind is None:
        message = f"Operation {operation[:80]!r} does not exist; there are {', '.join(OPERATIONS)}."
        raise NotFound(message, code="unknown_operation", param="operation")
    return _REQUESTS[kind](video=video, **validate(fields, OPERATIONS[kind]).model_dump())
