"""`argus bench splat-serving`: views of a scene of Gaussians through the whole cluster beside the rasteriser alone.

Both draw the same cameras and write JPEG. The raw loop does one after the other in one process and one thread; the
cluster, of one renderer with one thread, is asked over HTTP by so many viewers, each of which asks for its next picture
when it has the last, and by one live view, whose camera never rests. The raw loop runs before and after each of them,
so that a slow minute of the machine hits both.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from multiprocessing import get_context
from typing import Any, Final

import httpx
import numpy as np
from rich.console import Console

from benchmarks.load import Run, closed_loop, quantile
from benchmarks.report import Column, Report, this_command
from benchmarks.servers import argus
from benchmarks.splat_live import watch
from deployments.rendering.camera import Camera, orbit
from deployments.rendering.encode import encode_view
from deployments.rendering.messages import RasterOptions
from deployments.splat import formats
from deployments.splat.gaussians import SH_C0, Gaussians
from deployments.splat.rasteriser import Rasteriser, make_rasteriser
from serve.errors import Unavailable

VIEWERS: Final = (1, 8, 32)
MOST_OVERHEAD: Final = 0.1
LIVE: Final = "1, live"
# Who asks for the next picture when it has the last leaves the renderer idle while either travels, if it is alone: what
# serving costs shows where the renderer is kept busy.
_JUDGED: Final = (LIVE, *VIEWERS[1:])
GOAL: Final = (
    f"serving costs <= {MOST_OVERHEAD:.0%} of the rasteriser's pictures a second, in a live view and with 8 viewers "
    "and more"
)
_WIDTH, _HEIGHT, _QUALITY = 640, 360, 80
_CAMERAS: Final = 48
_TIMEOUT_S: Final = 120
_NAME: Final = "bench"
_COLUMNS = (
    Column("viewers", "viewers"),
    Column("per_s", "pictures/s", ".2f"),
    Column("low_per_s", "lowest", ".2f"),
    Column("high_per_s", "highest", ".2f"),
    Column("p50_ms", "p50 ms", ".0f"),
    Column("p99_ms", "p99 ms", ".0f"),
    Column("overhead", "overhead", ".1%"),
    Column("failed", "failed", "d"),
)


@dataclass(slots=True)
class Measured:
    """Rounds of one row.

    Attributes:
        shares: pictures a second over those of the raw loop just before and after.
    """

    per_s: list[float] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    latencies_s: list[float] = field(default_factory=list)
    failed: int = 0


def scene(count: int, seed: int = 1) -> Gaussians:
    """A ball with a wavy surface, coloured by direction, over a floor: most of it opaque, as captured scenes are."""
    rng = np.random.default_rng(seed)
    on_ball = int(0.7 * count)
    normals = rng.normal(size=(on_ball, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    radius = 1 + 0.1 * np.sin(9 * normals[:, :1]) * np.sin(7 * normals[:, 1:2])
    floor = np.concatenate([rng.uniform(-3, 3, (count - on_ball, 2)), np.full((count - on_ball, 1), 1.1)], axis=1)
    means = np.concatenate([radius * normals, floor[:, [0, 2, 1]]])
    quats = rng.normal(size=(count, 4))
    quats /= np.linalg.norm(quats, axis=1, keepdims=True)
    sh = rng.normal(0, 0.05, (count, 16, 3))
    sh[:, 0] = 0.3 * np.sin(3 * means) / SH_C0
    return Gaussians(
        means.astype(np.float32),
        quats.astype(np.float32),
        np.exp(rng.normal(np.log(0.012), 0.5, (count, 3))).astype(np.float32),
        rng.beta(4, 1.5, count).astype(np.float32),
        sh.astype(np.float32),
    )


def cameras() -> list[Camera]:
    """Around the scene."""
    step = 360 / _CAMERAS
    return [orbit((0, 0, 0), 3.2, step * number, 20, (0, -1, 0), 50, _WIDTH, _HEIGHT) for number in range(_CAMERAS)]


def run(*, gaussians: int, rounds: int, seconds: float, progress: Console) -> Report:
    """Measures the raw loop and each number of viewers in turns.

    Raises:
        Unavailable: the cluster did not start, or did not take the scene.
    """
    report = Report(
        this_command(),
        f"Rendering: POST /v1/scenes/{{name}}/render, {gaussians:,} Gaussians, {_WIDTH} x {_HEIGHT}, JPEG",
        GOAL,
        _COLUMNS,
        {
            "gaussians": gaussians,
            "sh_degree": 3,
            "width": _WIDTH,
            "height": _HEIGHT,
            "quality": _QUALITY,
            "threads": 1,
            "rounds": rounds,
            "seconds": seconds,
        },
    )
    with tempfile.TemporaryDirectory() as folder, argus("bench-splat", cluster(folder)) as (http, _):
        _upload(http, scene(gaussians))
        raw, served = _measure(http, gaussians, rounds, seconds, progress)
    report.rows = rows(raw, served)
    report.notes = [
        "The raw loop draws and writes JPEG one after the other, in one process and one thread; its times are those of "
        "one picture.",
        f"{LIVE!r} is a WebSocket whose camera moves 60 times a second; its times are those from picture to picture.",
        "Overhead is 1 - served / raw, the median over rounds. Below 0: the cluster writes one picture while it draws "
        "the next.",
    ]
    report.misses = misses(report.rows)
    return report


def cluster(folder: str) -> dict[str, Any]:
    """A store and one renderer, on the CPU."""
    return {
        "node_pools": {"local": {"cpus": 2}},
        "models": {
            "scenes": {"kind": "scene_store", "path": folder, "placement": {"num_cpus": 0.2}},
            "splat": {"kind": "splat", "scenes": "scenes", "rasteriser": "cpu", "placement": {"num_cpus": 1}},
        },
        "router": {"num_cpus": 0.2},
        "limits": {"max_body_bytes": 200_000_000},
    }


def rows(raw: Measured, served: Mapping[str | int, Measured]) -> list[dict[str, Any]]:
    """The table: medians over rounds, latencies of all rounds together."""
    return [_row("raw loop", raw), *(_row(viewers, measured) for viewers, measured in served.items())]


def misses(table: Sequence[dict[str, Any]]) -> list[str]:
    """Why the goal is not met."""
    found = [f"{row['viewers']} viewers: {row['failed']} requests failed" for row in table if row["failed"]]
    return found + [
        f"{row['viewers']} viewers: serving costs {row['overhead']:.1%}"
        for row in table
        if row["viewers"] in _JUDGED and not row["overhead"] <= MOST_OVERHEAD
    ]


def _row(viewers: str | int, measured: Measured) -> dict[str, Any]:
    ordered = sorted(measured.latencies_s)
    return {
        "viewers": viewers,
        "per_s": statistics.median(measured.per_s),
        "low_per_s": min(measured.per_s),
        "high_per_s": max(measured.per_s),
        "p50_ms": 1e3 * quantile(ordered, 0.5),
        "p99_ms": 1e3 * quantile(ordered, 0.99),
        "overhead": 1 - statistics.median(measured.shares) if measured.shares else None,
        "failed": measured.failed,
        "rounds_per_s": measured.per_s,
    }


def _upload(http: str, drawn: Gaussians) -> None:
    answer = httpx.post(
        f"{http}/v1/scenes",
        params={"name": _NAME, "format": "ply"},
        content=formats.write(drawn, "ply"),
        headers={"Content-Type": "application/octet-stream"},
        timeout=_TIMEOUT_S,
    )
    if answer.status_code != 201:
        raise Unavailable(f"The scene was not taken: {answer.status_code} {answer.text[:500]}")


def _measure(
    http: str, gaussians: int, rounds: int, seconds: float, progress: Console
) -> tuple[Measured, dict[str | int, Measured]]:
    ways: dict[str | int, Callable[[float], Awaitable[Run]]] = {LIVE: partial(_live, http)}
    ways |= {viewers: partial(_viewers, http, viewers) for viewers in VIEWERS}
    raw, served = Measured(), {way: Measured() for way in ways}
    with raw_loop(gaussians) as draw:
        draw(1.0)
        asyncio.run(_viewers(http, 2, 2.0))

        def measure_raw() -> float:
            times = draw(seconds / 2)
            raw.latencies_s += times
            raw.per_s.append(len(times) / sum(times))
            return raw.per_s[-1]

        for number in range(rounds):
            before = measure_raw()
            for way, measured in served.items():
                done = asyncio.run(_run(ways[way], seconds))
                after = measure_raw()
                measured.per_s.append(done.slope_per_s())
                measured.shares.append(measured.per_s[-1] / ((before + after) / 2))
                measured.latencies_s += done.latencies()
                measured.failed += sum(done.errors().values())
                line = f"{way} viewers {measured.per_s[-1]:.2f}/s, raw {before:.2f} and {after:.2f}/s"
                progress.print(f"  round {number + 1}: {line}", highlight=False)
                before = after
    return raw, served


async def _run(way: Callable[[float], Awaitable[Run]], seconds: float) -> Run:
    return await way(seconds)


@contextmanager
def raw_loop(gaussians: int) -> Iterator[Callable[[float], list[float]]]:
    """Draws for about so many seconds and gives those of each picture.

    In a process and a session of its own, as the cluster is: Linux shares processors out by session.
    """
    with ProcessPoolExecutor(1, get_context("spawn"), os.setsid) as pool:
        yield lambda seconds: pool.submit(_run_raw, gaussians, seconds).result()


@dataclass(slots=True)
class _RawLoop:
    """The rasteriser and the JPEG encoder, and nothing else."""

    rasteriser: Rasteriser
    scene: Any
    cameras: list[Camera]
    next: int = 0


@cache
def _raw(gaussians: int) -> _RawLoop:
    rasteriser = make_rasteriser("cpu", 1)
    return _RawLoop(rasteriser, rasteriser.load(scene(gaussians)), cameras())


def _run_raw(gaussians: int, seconds: float) -> list[float]:
    loop, times = _raw(gaussians), []
    ends = time.perf_counter() + seconds
    while (started := time.perf_counter()) < ends:
        camera = loop.cameras[loop.next % _CAMERAS]
        loop.next += 1
        (picture,) = loop.rasteriser.render(loop.scene, [camera], RasterOptions())
        encode_view(picture, ("rgb",), "jpeg", _QUALITY)
        times.append(time.perf_counter() - started)
    return times


async def _viewers(http: str, viewers: int, seconds: float) -> Run:
    bodies = [_body(camera) for camera in cameras()]
    limits = httpx.Limits(max_connections=viewers)
    headers = {"X-Argus-Timeout-Ms": str(1000 * _TIMEOUT_S)}
    async with httpx.AsyncClient(base_url=http, timeout=_TIMEOUT_S, limits=limits, headers=headers) as client:

        async def ask(number: int) -> None:
            answer = await client.post(f"/v1/scenes/{_NAME}/render", json=bodies[number % _CAMERAS])
            answer.raise_for_status()

        # Until every viewer has been answered once, they do not yet wait for each other.
        return await closed_loop(ask, connections=viewers, warm_up_s=seconds / 4, seconds=1.25 * seconds)


async def _live(http: str, seconds: float) -> Run:
    address = f"{http.replace('http', 'ws', 1)}/v1/scenes/{_NAME}/stream"
    return await watch(address, [_body(camera) for camera in cameras()], seconds / 4, 1.25 * seconds)


def _body(camera: Camera) -> dict[str, Any]:
    return {
        "camera": {"intrinsics": camera.intrinsics.tolist(), "world_to_camera": camera.world_to_camera.tolist()},
        "width": camera.width,
        "height": camera.height,
        "format": "jpeg",
        "quality": _QUALITY,
    }
