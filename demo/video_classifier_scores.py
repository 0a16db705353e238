"""Temporal mean average precision, as the ActivityNet challenge measures action detection (Heilbron et al. 2015)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from demo.scenes.story import Segment
from deployments.video_classifier.actions import Action


@dataclass(frozen=True, slots=True)
class Watched:
    """One video: what happens in it, and what was found."""

    truth: Sequence[Segment]
    found: Sequence[Action]


def mean_average_precision(videos: Sequence[Watched], threshold: float = 0.5) -> float:
    """Mean over the labels that happen of the interpolated average precision at a temporal IoU of `threshold`.

    Detections of a label are taken from the surest down over all videos; each is right when it overlaps an action of
    its label, in its video, that no surer one has taken, by at least `threshold`.

    Raises:
        ValueError: nothing happens in any video.
    """
    labels = sorted({segment.label for video in videos for segment in video.truth})
    if not labels:
        raise ValueError("no video has an action")
    return float(np.mean([average_precision(videos, label, threshold) for label in labels]))


def average_precision(videos: Sequence[Watched], label: str, threshold: float) -> float:
    """The average precision of one label; 0 when it never happens."""
    truth = [[segment for segment in video.truth if segment.label == label] for video in videos]
    total = sum(map(len, truth))
    ranked = sorted(
        ((action, number) for number, video in enumerate(videos) for action in video.found if action.label == label),
        key=lambda pair: -pair[0].score,
    )
    if not total or not ranked:
        return 0.0
    taken = [[False] * len(segments) for segments in truth]
    right = np.zeros(len(ranked))
    for rank, (action, number) in enumerate(ranked):
        overlaps = [_overlap(action, segment) for segment in truth[number]]
        for best in sorted(range(len(overlaps)), key=lambda place: -overlaps[place]):
            if overlaps[best] < threshold:
                break
            if not taken[number][best]:
                taken[number][best], right[rank] = True, 1.0
                break
    hits = right.cumsum()
    precision = hits / np.arange(1, len(ranked) + 1)
    # Interpolated: at each recall the best precision at that recall or beyond.
    best_beyond = np.maximum.accumulate(precision[::-1])[::-1]
    return float((best_beyond * right).sum() / total)


def _overlap(action: Action, segment: Segment) -> float:
    """Intersection over union of two spans of time."""
    shared = min(action.end_s, segment.end_s) - max(action.start_s, segment.start_s)
    union = max(action.end_s, segment.end_s) - min(action.start_s, segment.start_s)
    return max(shared, 0.0) / union if union > 0.0 else 0.0
