"""What can be asked of a video, and what is told while it is watched."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from deployments.video.messages import Strategy
from serve.errors import ArgusError

Operation = Literal["classify", "actions", "features", "ask", "describe", "summary", "keyframes"]
Stage = Literal["reading", "watching", "merging"]
Body = dict[str, Any]
"""Plain JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoRequest:
    """Something asked of a video, or of the part of it from `start_s` to `end_s`.

    Attributes:
        video: the file, admitted at the edge.
        model: who is asked; the cluster file's choice when None.
        start_s: seconds from the first frame.
        end_s: likewise, to the end when None.
    """

    operation: ClassVar[Operation]
    video: bytes
    model: str | None = None
    start_s: float = 0.0
    end_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunked(VideoRequest):
    """Something that is done piece by piece.

    Attributes:
        concurrency: pieces worked on at a time; the cluster file's when None, and never more than it allows.
    """

    concurrency: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch(Chunked):
    """What a model that reads videos writes about it; a longer one is watched in chunks.

    Attributes:
        max_tokens: written about a chunk at most.
        chunk_s: about how long a chunk is, in seconds.

    What is None is the cluster file's.
    """

    max_tokens: int | None = None
    chunk_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Describe(Watch):
    """What happens, part by part.

    Attributes:
        prompt: an instruction in place of the usual one.
    """

    operation: ClassVar[Operation] = "describe"
    prompt: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary(Watch):
    """What happens, in a few sentences.

    Attributes:
        prompt: an instruction in place of the usual one, for each chunk.
    """

    operation: ClassVar[Operation] = "summary"
    prompt: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask(Watch):
    """A question.

    Attributes:
        at_s: the moment that it is about, in seconds; the whole part when None.
    """

    operation: ClassVar[Operation] = "ask"
    question: str
    at_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Keyframes(Chunked):
    """Pictures that stand for the video; `model` describes them.

    Attributes:
        strategy: see `deployments.video.messages.SampleFrames`, also for the others.
        describe: whether they are described, where there is a model that can.
        images: whether the pictures themselves are wanted.
    """

    operation: ClassVar[Operation] = "keyframes"
    strategy: Strategy = "keyframe"
    count: int = 8
    threshold: float = 0.01
    min_gap_s: float = 1.0
    side: int = 512
    describe: bool = True
    images: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Classify(VideoRequest):
    """The classifier's classes of the whole part, `top_k` of them."""

    operation: ClassVar[Operation] = "classify"
    top_k: int = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Features(VideoRequest):
    """The classifier's features of the whole part; see `deployments.video_classifier.messages.ClipFeatures`."""

    operation: ClassVar[Operation] = "features"
    normalize: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Actions(Chunked):
    """Which actions happen when; see `deployments.video_classifier.messages.DetectActions`."""

    operation: ClassVar[Operation] = "actions"
    window_s: float | None = None
    stride_s: float | None = None
    enter: float = 0.5
    leave: float = 0.4
    merge_gap_s: float = 0.5
    min_action_s: float = 0.5


@dataclass(frozen=True, slots=True)
class ChunkResult:
    """A finished piece of work.

    Attributes:
        key: the same whenever the same request is run.
        value: what came of it.
    """

    key: str
    value: Body


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a request is.

    Attributes:
        total: chunks in all; 0 while that is not known.
        chunk: the one that has just been finished, if one has.
        failure: why one has just failed, if one has; a listener who raises it ends the run.
    """

    stage: Stage
    done: int
    total: int
    chunk: ChunkResult | None = None
    failure: ArgusError | None = None


OnProgress = Callable[[Progress], Awaitable[None]]
Done = Mapping[str, Body]
"""Values of chunks that an earlier run of the same request has finished, by key."""


async def silent(progress: Progress) -> None:
    """Tells nobody."""


def clock(seconds: float) -> str:
    """MM:SS.mmm, with as many minutes as there are."""
    milliseconds = round(seconds * 1000)
    return f"{milliseconds // 60_000:02d}:{milliseconds // 1000 % 60:02d}.{milliseconds % 1000:03d}"


def seconds(exact: float) -> float:
    """To the microsecond, as answers tell times: finer than any stamp, and free of what binary fractions add."""
    return round(exact, 6)
