"""`argus bench video-decode`: PyAV as our reader uses it beside torchcodec, one thread each, on the same files.

Both open the file's bytes, find the frames' exact times, and give pictures scaled within 224 pixels. torchcodec needs
a system FFmpeg (4 to 8) and a wheel that loads beside the installed torch; without them there is nothing to compare.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.report import Column, Report, this_command
from benchmarks.video_material import real_clips, story
from deployments.video.decode import open_video
from serve.errors import ConfigError

GOAL = "PyAV takes at most twice torchcodec's time at either task on every file"
_MOST = 2.0
_SIDE = 224
_FRAMES = 8
_COLUMNS = (
    Column("file", "file"),
    Column("task", "task"),
    Column("pyav_ms", "PyAV ms", ".1f"),
    Column("torchcodec_ms", "torchcodec ms", ".1f"),
    Column("ratio", "PyAV / torchcodec", ".2f"),
    Column("difference", "mean difference", ".2f"),
)
Pictures = npt.NDArray[np.uint8]
Task = Callable[[bytes], tuple[list[float], Pictures]]


def run(*, rounds: int, minutes: float) -> Report:
    """The benchmark.

    Args:
        rounds: times that each is measured; the shortest are shown, since other work on the machine only adds.
        minutes: length of the generated video.

    Raises:
        ConfigError: torchcodec does not load.
    """
    theirs = _torchcodec()
    report = Report(
        this_command(),
        "Decoding",
        GOAL,
        _COLUMNS,
        {"rounds": rounds, "side": _SIDE, "frames": _FRAMES, "av": version("av"), "torchcodec": theirs["version"]},
    )
    for name, data in _files(minutes).items():
        for task, ours, other in (
            (f"{_FRAMES} frames", _few, theirs["few"]),
            ("every frame", _all, theirs["all"]),
        ):
            _measure(report, name, task, data, ours, other, rounds)
    report.notes.append("difference: of the pictures' values, 0 to 255; the two scale differently.")
    return report


def _measure(report: Report, name: str, task: str, data: bytes, ours: Task, theirs: Task, rounds: int) -> None:
    (times, pictures), (other_times, other_pictures) = ours(data), theirs(data)
    if not np.allclose(times, other_times, atol=1e-6):
        report.misses.append(f"{name}, {task}: the two disagree on the frames' times")
    seconds: dict[str, list[float]] = {"pyav": [], "torchcodec": []}
    for _ in range(rounds):
        for who, read in (("pyav", ours), ("torchcodec", theirs)):
            began = time.perf_counter()
            read(data)
            seconds[who].append(time.perf_counter() - began)
    pyav, torchcodec = (min(seconds[who]) * 1e3 for who in ("pyav", "torchcodec"))
    report.rows.append(
        {
            "file": name,
            "task": task,
            "pyav_ms": pyav,
            "torchcodec_ms": torchcodec,
            "ratio": pyav / torchcodec,
            "difference": float(np.abs(pictures.astype(np.int16) - other_pictures).mean()),
        }
    )
    if pyav > _MOST * torchcodec:
        report.misses.append(f"{name}, {task}: PyAV takes {pyav / torchcodec:.2f} times as long")


def _few(data: bytes) -> tuple[list[float], Pictures]:
    with open_video(data) as video:
        numbers = video.even(_FRAMES)
        found = dict(video.frames(numbers, _SIDE))
        return [video.at_s(number) for number in numbers], np.stack([found[number] for number in numbers])


def _all(data: bytes) -> tuple[list[float], Pictures]:
    """Of every frame only the last is kept, as a reader that streams does."""
    with open_video(data) as video:
        for _, picture in video.frames(range(len(video.ticks)), _SIDE):
            last = picture
        return [video.at_s(number) for number in range(len(video.ticks))], last


def _torchcodec() -> dict[str, Any]:
    try:
        from torchcodec import __version__
        from torchcodec.decoders import VideoDecoder
        from torchcodec.transforms import Resize
    except (ImportError, RuntimeError, OSError) as error:
        raise ConfigError(f"torchcodec does not load: {str(error).splitlines()[0]}") from None

    def opened(data: bytes) -> Any:
        # Its scaling is told the size beforehand, so the header is read twice; without the search for every frame.
        plain = VideoDecoder(data, seek_mode="approximate").metadata
        scale = min(1.0, _SIDE / max(plain.width, plain.height))
        size = (round(plain.height * scale), round(plain.width * scale))
        return VideoDecoder(data, dimension_order="NHWC", num_ffmpeg_threads=1, transforms=[Resize(size)])

    def few(data: bytes) -> tuple[list[float], Pictures]:
        decoder = opened(data)
        last = len(decoder) - 1
        batch = decoder.get_frames_at([last * k // (_FRAMES - 1) for k in range(_FRAMES)])
        return batch.pts_seconds.tolist(), batch.data.numpy()

    def all_(data: bytes) -> tuple[list[float], Pictures]:
        decoder = opened(data)
        times = []
        for number in range(len(decoder)):
            frame = decoder.get_frame_at(number)
            times.append(frame.pts_seconds)
        return times, frame.data.numpy()

    return {"version": __version__, "few": few, "all": all_}


def _files(minutes: float) -> dict[str, bytes]:
    return {**real_clips(), f"generated ({minutes:g} min)": story(minutes)[1]}
