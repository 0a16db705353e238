"""`argus bench videos`: what is asked of videos, with chunks side by side and with one after the other, served.

A real clip and a generated video of minutes are summarised, asked about (as a whole, and at a moment), searched for key
frames and for actions, by the demo's checkpoints behind `/v1/videos`. Every request is sent both ways, in turn, to one
running cluster without caches; its answers must be the same, in order, and cover the video.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx
from rich.console import Console

from benchmarks.report import Column, Report, this_command
from benchmarks.servers import argus
from benchmarks.video_material import real_clips, story
from demo.scenes.story import Story
from serve.errors import Unavailable

GOAL = "side by side is faster than in turn on the generated video, for every request in several chunks; order is kept"
_SIDE_BY_SIDE, _IN_TURN = 8, 1
_CHUNK_S = 5.0
_TIMEOUT_S = 1800.0
# Two replicas of what works on chunks, so that both cores of a small machine do.
_TWICE = {"min_replicas": 2, "max_replicas": 2}
_CLUSTER: dict[str, Any] = {
    "node_pools": {"local": {"cpus": 4, "memory_gb": 16}},
    "models": {
        "reader": {"kind": "video_reader", "placement": {"num_cpus": 0.1}},
        "video_llava": {
            "kind": "video_llava",
            "checkpoint": "demo:video_llava",
            "engine": "transformers",
            "batching": {"max_items": 8},
            "autoscaling": _TWICE,
            "placement": {"num_cpus": 0.1},
        },
        "blip2": {
            "kind": "blip2",
            "checkpoint": "demo:blip2",
            "engine": "transformers",
            "batching": {"max_items": 16},
            "placement": {"num_cpus": 0.1},
        },
        "videomae": {
            "kind": "video_classifier",
            "checkpoint": "demo:videomae",
            "background": ["still"],
            "autoscaling": _TWICE,
            "placement": {"num_cpus": 0.1},
        },
    },
    "videos": {
        "reader": "reader",
        "backends": ["video_llava"],
        "captioner": "blip2",
        "chunk_s": _CHUNK_S,
        "max_chunks": 1000,
        "concurrency": _SIDE_BY_SIDE,
        "clip_side": 224,
        "max_tokens": 24,
    },
    "router": {"num_cpus": 0.2},
    "limits": {"default_timeout_s": _TIMEOUT_S, "max_timeout_s": _TIMEOUT_S},
}
_COLUMNS = (
    Column("video", "video"),
    Column("request", "request"),
    Column("pieces", "pieces", "d"),
    Column("in_turn_s", "in turn s", ".1f"),
    Column("side_by_side_s", "side by side s", ".1f"),
    Column("ratio", "ratio", ".2f"),
    Column("order", "order"),
    Column("same", "same pieces", ".0%"),
    Column("answer", "answer"),
)


@dataclass(frozen=True, slots=True)
class _Use:
    """A request: its route and fields, and where the response has its pieces and its answer."""

    name: str
    route: str
    fields: Mapping[str, Any]

    def pieces(self, body: Mapping[str, Any]) -> list[tuple[float, str]]:
        """When each piece begins, and what it says, as they stand in the response."""
        if self.route == "keyframes":
            return [(frame["at_s"], frame["description"]) for frame in body["keyframes"]]
        if self.route == "actions":
            # Batches of another size round otherwise, which moves an action's ends a little.
            return [(round(action["start_s"], 1), action["label"]) for action in body["actions"]]
        return [(segment["start_s"], segment["text"]) for segment in body["segments"]]

    def answer(self, body: Mapping[str, Any]) -> str:
        """In a few words."""
        if self.route == "keyframes":
            return f"{body['keyframes'][0]['at']}: {body['keyframes'][0]['description']}"
        if self.route == "actions":
            return ", ".join(f"{action['start']} {action['label']}" for action in body["actions"][:2])
        return str(body.get("summary") or body.get("answer"))

    def count(self, body: Mapping[str, Any]) -> int:
        """Pieces that were worked on."""
        return int(body["chunks"]) if self.route == "actions" else len(self.pieces(body))


def run(*, minutes: float, rounds: int, progress: Console) -> Report:
    """The benchmark.

    Args:
        minutes: length of the generated video.
        rounds: times that each request is sent, each way; the shortest times are shown.
    """
    report = Report(
        this_command(),
        "Videos",
        GOAL,
        _COLUMNS,
        {"minutes": minutes, "rounds": rounds, "side_by_side": _SIDE_BY_SIDE, "chunk_s": _CHUNK_S},
    )
    told, generated = story(minutes)
    real = real_clips()["bigbuckbunny"]
    with argus("videos", _CLUSTER) as (address, _), httpx.Client(base_url=address, timeout=_TIMEOUT_S) as client:
        for use in _uses(None):
            _ask(client, use, real, _SIDE_BY_SIDE)  # what is asked first compiles and loads
        for name, data, uses in (
            ("bigbuckbunny", real, _uses(None)),
            (f"generated, {minutes:g} min", generated, _uses(told)),
        ):
            for use in uses:
                progress.print(f"{name}: {use.name}", highlight=False)
                _compare(report, client, name, use, data, rounds)
    report.notes.append("pieces: chunks watched, or pictures described. same pieces: said alike both ways.")
    return report


def _uses(told: Story | None) -> list[_Use]:
    moment = 2.0 if told is None else sum((told.segments[1].start_s, told.segments[1].end_s)) / 2
    question = "What happens in the video?"
    return [
        _Use("summary", "summary", {}),
        _Use("question", "ask", {"question": question}),
        _Use(f"question at {moment:.1f} s", "ask", {"question": question, "at_s": moment}),
        _Use("key frames", "keyframes", {"strategy": "keyframe", "count": 32}),
        _Use("actions", "actions", {}),
    ]


def _compare(report: Report, client: httpx.Client, video: str, use: _Use, data: bytes, rounds: int) -> None:
    seconds: dict[int, list[float]] = {_IN_TURN: [], _SIDE_BY_SIDE: []}
    bodies: dict[int, dict[str, Any]] = {}
    for number in range(rounds):
        ways = (_IN_TURN, _SIDE_BY_SIDE) if number % 2 == 0 else (_SIDE_BY_SIDE, _IN_TURN)
        for concurrency in ways:
            began = time.perf_counter()
            bodies[concurrency] = _ask(client, use, data, concurrency)
            seconds[concurrency].append(time.perf_counter() - began)
    in_turn, side_by_side = (use.pieces(bodies[way]) for way in (_IN_TURN, _SIDE_BY_SIDE))
    times = [at for at, _ in side_by_side]
    ordered = times == sorted(times) and (use.route == "actions" or times == [at for at, _ in in_turn])
    alike = sum(one == other for one, other in zip(in_turn, side_by_side, strict=False))
    ratio = min(seconds[_IN_TURN]) / min(seconds[_SIDE_BY_SIDE])
    pieces = use.count(bodies[_SIDE_BY_SIDE])
    report.rows.append(
        {
            "video": video,
            "request": use.name,
            "pieces": pieces,
            "in_turn_s": min(seconds[_IN_TURN]),
            "side_by_side_s": min(seconds[_SIDE_BY_SIDE]),
            "ratio": ratio,
            "order": "kept" if ordered else "lost",
            "same": alike / max(1, len(in_turn), len(side_by_side)),
            "answer": use.answer(bodies[_SIDE_BY_SIDE])[:60],
        }
    )
    if not ordered:
        report.misses.append(f"{video}, {use.name}: the pieces are not in order, or not those of the run in turn")
    if pieces >= _SIDE_BY_SIDE and ratio <= 1 and video.startswith("generated"):
        report.misses.append(f"{video}, {use.name}: side by side takes {1 / ratio:.2f} times as long as in turn")


def _ask(client: httpx.Client, use: _Use, data: bytes, concurrency: int) -> dict[str, Any]:
    fields = {name: str(value) for name, value in {**use.fields, "concurrency": concurrency}.items()}
    files = {"video": ("video.mp4", data, "video/mp4")}
    response = client.post(f"/v1/videos/{use.route}", data=fields, files=files)
    if not response.is_success:
        raise Unavailable(f"{use.name} failed: {response.text[:500]}")
    body: dict[str, Any] = response.json()
    return body
