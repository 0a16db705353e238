"""Temporal action detection from a classifier's windows: pure functions, no model and no video.

A clip classifier that slides over a video says, for each window, how likely each class is. The scores of a class, one
for each window's middle, form a series; an action is where the series is high. Two thresholds keep it in one piece: it
begins where the series rises to `enter`, and reaches in both directions as far as the series stays at `leave` or above
(Canny's hysteresis, 1986, along time). Between two windows the series is a straight line, so that an action's ends are
finer than the stride.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from serve.config.models import VideoClassifierModel
from serve.errors import InvalidRequest

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ActionRule:
    """How window scores become actions.

    Attributes:
        enter: probability at which an action begins, above 0 and at most 1.
        leave: probability below which it is over; at most `enter`.
        merge_gap_s: two actions of one label are one when at most this many seconds lie between them.
        min_action_s: what is shorter, in seconds, is no action.
    """

    enter: float = 0.5
    leave: float = 0.4
    merge_gap_s: float = 0.5
    min_action_s: float = 0.5


@dataclass(frozen=True, slots=True)
class Action:
    """A detected action: from `start_s` to `end_s` in seconds of the video; `score` is its mean probability."""

    label: str
    start_s: float
    end_s: float
    score: float


@dataclass(frozen=True, slots=True)
class WindowScores:
    """What the windows over a part of a video say.

    Attributes:
        spans: start and end of each window in seconds, by their start.
        scores: of labels, the probability in each window. What is not there is no action, whatever it is merged with.
    """

    spans: Sequence[tuple[float, float]] = ()
    scores: Mapping[str, Sequence[float]] = field(default_factory=dict)


def window_and_stride(
    model: VideoClassifierModel, window_s: float | None, stride_s: float | None
) -> tuple[float, float]:
    """Seconds of a window and from one to the next: as asked for, else the model's own; windows leave nothing out.

    Raises:
        InvalidRequest: `invalid_field`: a stride longer than the window, so that there is video between two windows.
    """
    window = window_s or model.window_s
    stride = stride_s or min(model.stride_s, window)
    if stride > window:
        raise InvalidRequest(
            f"Field 'stride_s': {stride:g} is longer than a window of {window:g} s; video between two windows would be "
            "left out.",
            code="invalid_field",
            param="stride_s",
        )
    return window, stride


def windows(start_s: float, end_s: float, window_s: float, stride_s: float) -> list[tuple[float, float]]:
    """The windows, (start, end) in seconds, that cover a part of a video.

    One begins every `stride_s`; the last ends with the part. A part shorter than a window is one window.
    """
    count, room = window_count(start_s, end_s, window_s, stride_s), end_s - start_s - window_s
    if room <= 0.0:
        return [(start_s, end_s)]
    starts = [start_s + min(number * stride_s, room) for number in range(count)]
    return [(start, start + window_s) for start in starts]


def window_count(start_s: float, end_s: float, window_s: float, stride_s: float) -> int:
    """How many `windows` there are."""
    # A last step of a rounding error's size is none.
    return 1 + max(0, math.ceil((end_s - start_s - window_s) / stride_s - 1e-6))


def check_window_count(start_s: float, end_s: float, stride_s: float, most: int) -> None:
    """Refuses more windows over a part than are classified in one go.

    Raises:
        InvalidRequest: `too_many_windows`.
    """
    if (count := (end_s - start_s) / stride_s) > most:
        raise InvalidRequest(
            f"A window every {stride_s:g} s makes {count:.0f} windows of {end_s - start_s:.0f} s of video; "
            f"at most {most} are classified in one request.",
            code="too_many_windows",
            param="stride_s",
        )


def window_scores(
    spans: Sequence[tuple[float, float]],
    probabilities: Float32,
    labels: Sequence[str],
    leave: float,
    background: frozenset[str] = frozenset(),
) -> WindowScores:
    """What actions can come of: labels that reach `leave` in some window.

    Args:
        spans: see `WindowScores`.
        probabilities: (windows, classes).
        labels: the name of each class.
        background: labels that are no action.
    """
    columns = probabilities.astype(np.float64).T
    kept = [number for number, label in enumerate(labels) if label not in background and spans]
    return WindowScores(
        spans, {labels[number]: columns[number].tolist() for number in kept if columns[number].max() >= leave}
    )


def put_together(parts: Sequence[WindowScores]) -> list[WindowScores]:
    """Parts of one video, by their start: those that share a window become one there."""
    whole: list[WindowScores] = []
    for part in parts:
        if whole and part.spans and math.isclose(whole[-1].spans[-1][0], part.spans[0][0], abs_tol=1e-6):
            whole[-1] = _after(whole[-1], part)
        elif part.spans:
            whole.append(part)
    return whole


def _after(one: WindowScores, other: WindowScores) -> WindowScores:
    def column(label: str) -> list[float]:
        before = one.scores.get(label, [0.0] * len(one.spans))
        after = other.scores.get(label, [0.0] * len(other.spans))
        return [*before[:-1], max(before[-1], after[0]), *after[1:]]

    labels = dict.fromkeys([*one.scores, *other.scores])
    return WindowScores([*one.spans, *other.spans[1:]], {label: column(label) for label in labels})


def detect(seen: WindowScores, rule: ActionRule) -> list[Action]:
    """The actions that the windows show, by their start."""
    if not seen.spans:
        return []
    centres = np.array([(start + end) / 2 for start, end in seen.spans])
    # The first and the last window speak for the video's ends too.
    times = np.concatenate([[seen.spans[0][0]], centres, [seen.spans[-1][1]]])
    found = [
        Action(label, start, end, score)
        for label, scores in seen.scores.items()
        for start, end, score in _merged(times, np.array([scores[0], *scores, scores[-1]], np.float64), rule)
        if end - start >= rule.min_action_s
    ]
    return sorted(found, key=lambda action: (action.start_s, action.end_s, action.label))


def _merged(
    times: npt.NDArray[np.float64], series: npt.NDArray[np.float64], rule: ActionRule
) -> Iterator[tuple[float, float, float]]:
    """Start, end and mean score of one class's actions, those close together as one."""
    spans: list[list[float]] = []
    for start, end in _high(times, series, rule):
        if spans and start - spans[-1][1] <= rule.merge_gap_s:
            spans[-1][1] = end
        else:
            spans.append([start, end])
    for start, end in spans:
        yield start, end, _mean(times, series, start, end)


def _high(
    times: npt.NDArray[np.float64], series: npt.NDArray[np.float64], rule: ActionRule
) -> Iterator[tuple[float, float]]:
    """Where the series stays at `leave` or above and reaches `enter` at least once."""
    inside = np.concatenate([[False], series >= rule.leave, [False]]).astype(np.int8)
    changes = np.flatnonzero(np.diff(inside))
    for first, stop in zip(changes[::2].tolist(), changes[1::2].tolist(), strict=True):
        if series[first:stop].max() < rule.enter:
            continue
        start = times[first] if first == 0 else _crossing(times, series, first - 1, rule.leave)
        end = times[stop - 1] if stop == len(series) else _crossing(times, series, stop - 1, rule.leave)
        yield float(start), float(end)


def _crossing(times: npt.NDArray[np.float64], series: npt.NDArray[np.float64], number: int, level: float) -> float:
    """When the line from point `number` to the next one crosses `level`."""
    before, after = series[number], series[number + 1]
    return float(times[number] + (level - before) / (after - before) * (times[number + 1] - times[number]))


def _mean(times: npt.NDArray[np.float64], series: npt.NDArray[np.float64], start: float, end: float) -> float:
    """The mean of the series from `start` to `end`."""
    if end <= start:
        return float(np.interp(start, times, series))
    inner = times[(times > start) & (times < end)]
    moments = np.concatenate([[start], inner, [end]])
    return float(np.trapezoid(np.interp(moments, times, series), moments) / (end - start))
