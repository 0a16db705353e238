"""What a set of photos is worth before hours are spent on it: sharpness, exposure, overlap, repeats, and advice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

UInt8 = npt.NDArray[np.uint8]

# Measures are taken at this longest side, so that they mean the same for every camera.
SIDE: Final = 480
_THUMB: Final = 24
# Below this variance of the Laplacian (on 0 to 255) nothing is in focus; against the set's median, one photo is shaken.
_SOFT, _SHAKEN = 12.0, 0.3
_DARK, _BRIGHT = 35.0, 222.0
# Share of pixels at the end of the scale.
_BURNT: Final = 0.25
# Two photos are one when the cells of their thumbnails differ by less than this in the mean, and nowhere by as much as
# that, of 255: a small thing that turns before a plain wall changes only its own cells. JPEG at quality 60, another
# size and a hundredth of its light change a cell by up to 6; a plant two fifths of the picture high that turns by 10
# degrees, by 9 or more.
_SAME, _SAME_CELL = 1.5, 7.0
# Matches of a few hundred corners from which two photos see the same things, and photos that are looked at beyond each.
_MATCHES: Final = 18
_NEIGHBOURS: Final = 2
_FEW: Final = 20
# Stops of exposure between the darker and the brighter photos.
_UNEVEN: Final = 1.2
# Photos that are named in one sentence.
_NAMED: Final = 5


@dataclass(frozen=True, slots=True, eq=False)
class Measures:
    """Of one photo.

    Attributes:
        sharpness: variance of the Laplacian of its brightness (Pech-Pacheco et al. 2000).
        brightness: mean, from 0 to 255.
        burnt: share of pixels that are white to the end.
        thumb: (24, 24) float32.
        corners: (N, 32) uint8, binary descriptors (Rublee et al. 2011, ORB); None where nothing has corners.
    """

    sharpness: float
    brightness: float
    burnt: float
    thumb: npt.NDArray[np.float32]
    corners: UInt8 | None


def measure(pixels: UInt8) -> Measures:
    """Of a photo (height, width, 3) uint8 RGB."""
    scale = SIDE / max(pixels.shape[:2])
    grey: Any = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    if scale < 1:
        grey = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    thumb = cv2.resize(grey, (_THUMB, _THUMB), interpolation=cv2.INTER_AREA).astype(np.float32)
    _, corners = cv2.ORB.create(nfeatures=400).detectAndCompute(grey, None)
    return Measures(
        float(cv2.Laplacian(grey, cv2.CV_64F).var()),
        float(grey.mean()),
        float((grey >= 252).mean()),
        thumb,
        None if corners is None else np.asarray(corners, np.uint8),
    )


def repeats(measured: Sequence[Measures]) -> list[int]:
    """Positions of photos that show what an earlier one shows already."""
    kept: list[npt.NDArray[np.float32]] = []
    found = []
    for position, one in enumerate(measured):
        if kept and _alike(np.stack(kept), one.thumb).any():
            found.append(position)
        else:
            kept.append(one.thumb)
    return found


def _alike(thumbs: npt.NDArray[np.float32], thumb: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """(N,): which of N thumbnails (N, 24, 24) show what this one (24, 24) shows."""
    cells = np.abs(thumbs - thumb)
    return np.asarray((cells.mean(axis=(1, 2)) < _SAME) & (cells.max(axis=(1, 2)) < _SAME_CELL))


def lonely(measured: Sequence[Measures]) -> list[int]:
    """Positions of photos that see nothing of what any of the two before and after them sees; an estimate."""
    matcher = cv2.BFMatcher(cv2.NORM_HAMMING)
    seen = [False] * len(measured)
    for first in range(len(measured)):
        for second in range(first + 1, min(first + 1 + _NEIGHBOURS, len(measured))):
            if _shared(matcher, measured[first].corners, measured[second].corners) >= _MATCHES:
                seen[first] = seen[second] = True
    return [position for position, found in enumerate(seen) if not found]


def _shared(matcher: Any, first: UInt8 | None, second: UInt8 | None) -> int:
    if first is None or second is None or len(first) < 2 or len(second) < 2:
        return 0
    pairs = matcher.knnMatch(first, second, k=2)
    return sum(len(pair) == 2 and pair[0].distance < 0.8 * pair[1].distance for pair in pairs)


def assess(names: Sequence[str], measured: Sequence[Measures], *, from_video: bool) -> dict[str, Any]:
    """The report on a capture.

    Args:
        names: of the photos that are used, in order, as their owner knows them.

    Returns:
        With the names of photos that are `blurred`, `dark` and `bright`, the worst first, and of those that are good
        by themselves and `lonely`, in their order.
    """
    sharpness = np.array([one.sharpness for one in measured])
    brightness = np.array([one.brightness for one in measured])
    burnt = np.array([one.burnt for one in measured])
    middle = float(np.median(sharpness))
    blurred = _worst(names, sharpness, sharpness < max(_SOFT, _SHAKEN * middle))
    dark = _worst(names, brightness, brightness < _DARK)
    bright = _worst(names, -brightness, (brightness > _BRIGHT) | (burnt > _BURNT))
    low, high = np.percentile(np.maximum(brightness, 1.0), [10, 90])
    stops = float(np.log2(high / low))
    alone = lonely(measured)
    explained = {*blurred, *dark, *bright}
    report: dict[str, Any] = {
        "used": len(names),
        "sharpness": round(middle, 1),
        "overlap": round(1 - len(alone) / len(names), 3),
        "exposure_stops": round(stops, 2),
        "blurred": blurred,
        "dark": dark,
        "bright": bright,
        "lonely": [names[position] for position in alone if names[position] not in explained],
    }
    report["advice"] = _advice(report, len(names), from_video=from_video)
    return report


def suspects(report: Mapping[str, Any]) -> str:
    """The photos that are the likeliest cause when a capture cannot be aligned, in a sentence; empty when all are good.

    Args:
        report: of `assess`.
    """
    kinds = {"blurred": "shaken or out of focus", "dark": "too dark", "bright": "burnt out"}
    if len(report["lonely"]) <= report["used"] / 2:  # else the walk is at fault, not these
        kinds["lonely"] = "sharing nothing with their neighbours"
    found = [f"{words}: {named(report[kind])}" for kind, words in kinds.items() if report[kind]]
    return f"Photos to take again or to leave out, {'; '.join(found)}." if found else ""


def named(names: Sequence[str]) -> str:
    """The first few of these, and how many more there are."""
    shown = ", ".join(names[:_NAMED])
    return shown if len(names) <= _NAMED else f"{shown} and {len(names) - _NAMED} more"


def _worst(names: Sequence[str], values: npt.NDArray[np.float64], which: npt.NDArray[np.bool_]) -> list[str]:
    """Names of those at `which`, the lowest value first."""
    return [names[position] for position in np.argsort(values, kind="stable") if which[position]]


def _advice(report: dict[str, Any], count: int, *, from_video: bool) -> list[str]:
    """In a photographer's words; nothing when nothing is to be said."""
    advice = []
    blurred, dark, bright, alone = (report[kind] for kind in ("blurred", "dark", "bright", "lonely"))
    if count < _FEW and not from_video:
        advice.append(
            f"There are only {count} photos. Twenty to sixty, taken while walking once or twice around, do better."
        )
    if report["overlap"] < 0.8:
        most = f" Most alone: {named(alone)}." if 0 < len(alone) <= count / 2 else ""
        advice.append(
            "Neighbouring photos share too little. Take smaller steps: two thirds of each photo should be in the next."
            + most
        )
    elif alone:
        advice.append(f"{len(alone)} photos share nothing with their neighbours: {named(alone)}. Add some between.")
    if len(blurred) > count / 2:
        advice.append(
            f"Most photos are soft, above all {named(blurred)}. Use more light, a shorter exposure, or hold still; "
            "check the focus."
        )
    elif blurred:
        advice.append(
            f"{len(blurred)} photos are shaken or out of focus: {named(blurred)}. Take them again, or leave them out."
        )
    if dark:
        many = "Many" if len(dark) > count / 4 else len(dark)
        advice.append(f"{many} photos are too dark: {named(dark)}. Use more light rather than a higher ISO.")
    if bright:
        many = "Many" if len(bright) > count / 4 else len(bright)
        advice.append(
            f"{many} photos are burnt out: {named(bright)}. Expose for the highlights, and keep windows and the sun "
            "out of view."
        )
    if report["exposure_stops"] > _UNEVEN:
        advice.append("Brightness changes from photo to photo. Lock exposure and white balance for the whole walk.")
    if from_video and blurred:
        advice.append("Move more slowly, or film at a shutter of 1/200 s or faster.")
    return advice
