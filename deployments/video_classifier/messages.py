"""What is asked of a video classifier and what it answers; see `deployments.messages.TaskRequest`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from deployments.messages import Float32, TaskRequest
from deployments.video_classifier.actions import Action, WindowScores


@dataclass(frozen=True, slots=True)
class ClipLabel:
    """A class and its probability."""

    label: str
    probability: float


@dataclass(frozen=True, slots=True)
class ClassifiedClip:
    """The classes of one video, the likeliest first."""

    labels: tuple[ClipLabel, ...]


@dataclass(frozen=True, slots=True)
class ClassifiedClips:
    """An entry of `videos` is the error that this video alone met.

    Attributes:
        queue_wait_s: see `deployments.messages.ClassifyResult`.
    """

    videos: tuple[ClassifiedClip | Exception, ...]
    queue_wait_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ClassifyClips(TaskRequest[ClassifiedClips]):
    """Which of the checkpoint's classes each video, or a part of it, shows as a whole.

    Attributes:
        videos: video files, each seen as the model's few frames, evenly spaced.
        top_k: most classes of each answer, at least 1.
        start_s, end_s: the part, in seconds; to the end when `end_s` is None.
    """

    method: ClassVar[str] = "classify_clips"

    videos: tuple[bytes, ...]
    top_k: int = 5
    start_s: float = 0.0
    end_s: float | None = None


@dataclass(frozen=True, slots=True)
class ClipVectors:
    """An entry of `vectors` is a (hidden,) float32 array, or the error that this video alone met.

    Attributes:
        queue_wait_s: see `deployments.messages.ClassifyResult`.
    """

    vectors: tuple[Float32 | Exception, ...]
    queue_wait_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ClipFeatures(TaskRequest[ClipVectors]):
    """What the classifier's last layer reads of each video, or of a part of it.

    TimeSformer's class token; for VideoMAE, whose published classifiers have none, the normalised mean of all tokens.

    Attributes:
        videos: video files, each seen as the model's few frames, evenly spaced.
        normalize: vectors of unit length.
        start_s, end_s: the part, in seconds; to the end when `end_s` is None.
    """

    method: ClassVar[str] = "clip_features"

    videos: tuple[bytes, ...]
    normalize: bool = False
    start_s: float = 0.0
    end_s: float | None = None


@dataclass(frozen=True, slots=True)
class DetectedActions:
    """Actions by their start, in seconds of the whole video.

    Attributes:
        duration_s: seconds of the whole video.
        seen: what they follow from, of labels that are not background and reach `leave`: of parts of a video that
            were looked at apart, `deployments.video_classifier.actions.put_together` makes one.
        queue_wait_s: see `deployments.messages.ClassifyResult`.
    """

    actions: tuple[Action, ...]
    duration_s: float
    seen: WindowScores
    queue_wait_s: float = 0.0

    @property
    def windows(self) -> int:
        """How many were classified."""
        return len(self.seen.spans)


@dataclass(frozen=True, slots=True)
class DetectActions(TaskRequest[DetectedActions]):
    """Which actions a video, or a part of it, shows and when; see `deployments.video_classifier.actions`.

    What is None is the deployment's own (`window_s`, `stride_s` of its section in the cluster file).

    Attributes:
        video: a video file.
        start_s, end_s: the part, in seconds; to the end when `end_s` is None.
        window_s: seconds that the classifier sees at a time.
        stride_s: seconds from one window to the next.
        enter, leave, merge_gap_s, min_action_s: see `deployments.video_classifier.actions.ActionRule`.
    """

    method: ClassVar[str] = "detect_actions"

    video: bytes
    start_s: float = 0.0
    end_s: float | None = None
    window_s: float | None = None
    stride_s: float | None = None
    enter: float = 0.5
    leave: float = 0.4
    merge_gap_s: float = 0.5
    min_action_s: float = 0.5
