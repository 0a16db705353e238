"""The response cache: keys that never collide, one call for many identical requests, and what a hit costs."""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.redis_server import NotInstalled, redis_server
from benchmarks.report import Column, Report, this_command
from deployments.generation.messages import Answer, ChatRequest, ChatResult, ImagePart, Message, Sampling, Text
from deployments.messages import EmbedResult, EncodedImage
from serve.calls import Usage
from serve.config.load import parse
from serve.context import RequestContext
from serve.resilience.build import build_guard
from serve.resilience.cache_key import call_key
from serve.resilience.codec import CHAT, EMBED
from serve.resilience.guard import Attempted, Guard, Job
from serve.resilience.recorder import Silent

_ANSWER = ChatResult(
    (Answer("A red cube left of a blue ball, on a wooden table.", tuple(range(14)), (), "stop"),), 600, 0
)
_VECTOR = EmbedResult((np.arange(512, dtype=np.float32),), 0)
_CONCURRENT = 1_000
_CALL_S = 0.05


def run(*, pairs: int, hits: int, seed: int) -> Report:
    """See the module's text."""
    report = Report(
        command=this_command(),
        title="Response cache",
        goal=f"no collision; {_CONCURRENT:,} concurrent identical requests cause one call; hits found",
        columns=(
            Column("what", "what"),
            Column("count", "count", ",.0f"),
            Column("found", "found"),
            Column("median_us", "median us", ",.0f"),
            Column("p99_us", "P99 us", ",.0f"),
        ),
        settings={"pairs": pairs, "hits": hits, "seed": seed, "image_bytes": _IMAGE_BYTES},
        notes=[
            "Hits are whole passages of the guard, key given; the key of a request is timed by itself.",
            "Requests of the first row differ in one thing each: a bit of an image, the order of images, a letter, "
            "the cut between two texts, a parameter, the tenant, the gear, the revision.",
        ],
    )
    _keys(report, pairs, random.Random(seed))
    asyncio.run(_flights(report))
    asyncio.run(_hits(report, "memory", hits, {}))
    try:
        with tempfile.TemporaryDirectory() as folder, redis_server(Path(folder)) as server:
            # No answer fits the memory, so that each hit is Redis's.
            settings = {"redis": {"url": server.url, "timeout_ms": 500}, "cache": {"max_bytes": 0}}
            asyncio.run(_hits(report, "Redis", hits, settings))
    except NotInstalled:
        report.notes.append("redis-server is not installed: its hits are not measured.")
    return report


_IMAGE_BYTES = 20_000


def _keys(report: Report, pairs: int, rng: random.Random) -> None:
    keys: set[bytes] = set()
    seconds: list[float] = []
    calls = 0
    for call in _near_calls(pairs, rng):
        began = time.perf_counter()
        key = call_key(**call)
        seconds.append(time.perf_counter() - began)
        keys.add(key)
        calls += 1
    collisions = calls - len(keys)
    report.rows.append(_row("keys of requests that differ", calls, f"{collisions} collisions", seconds))
    if collisions:
        report.misses.append(f"{collisions} collisions among {calls} keys")


def _near_calls(count: int, rng: random.Random) -> Iterator[dict[str, Any]]:
    """Distinct calls: a random one and those that differ from it in one thing, again and again."""
    made = 0
    while made < count:
        image, other = rng.randbytes(_IMAGE_BYTES), rng.randbytes(_IMAGE_BYTES)
        prompt = f"What is left of item {rng.getrandbits(64):x}?"
        for call in _variants(image, other, prompt, rng):
            yield call
            made += 1
            if made == count:
                return


def _variants(image: bytes, other: bytes, prompt: str, rng: random.Random) -> Iterator[dict[str, Any]]:
    def request(*parts: bytes | str, **sampling: Any) -> ChatRequest:
        made = tuple(ImagePart(EncodedImage(part)) if isinstance(part, bytes) else Text(part) for part in parts)
        return ChatRequest((Message("user", made),), replace(Sampling(temperature=0.0), **sampling))

    place = rng.randrange(len(image))
    flipped = image[:place] + bytes([image[place] ^ (1 << rng.randrange(8))]) + image[place + 1 :]
    cut = rng.randrange(1, len(prompt) - 1)
    base: dict[str, Any] = {"identity": b"llava@1", "task": "chat", "request": request(image, prompt), "tenant": "a"}
    yield base
    for changed in (
        request(flipped, prompt),
        request(other, prompt),
        request(image, other, prompt),
        request(other, image, prompt),
        request(image + other, prompt),
        request(image, prompt[:cut], prompt[cut:]),
        request(image, prompt + " "),
        request(image, prompt, max_tokens=7),
        request(image, prompt, top_p=0.5),
        request(image, prompt, stop=(".",)),
    ):
        yield {**base, "request": changed}
    yield {**base, "tenant": "b"}
    yield {**base, "gear": "low"}
    yield {**base, "identity": b"llava@2"}


async def _flights(report: Report) -> None:
    for what, keys in (("identical requests at once", 1), ("the same prompt with two images", 2)):
        guard, calls = _guard({}), 0

        async def attempt(timeout_s: float) -> Attempted[ChatResult]:
            nonlocal calls
            calls += 1
            await asyncio.sleep(_CALL_S)
            return Attempted(_ANSWER, Usage())

        jobs = [Job("llava", attempt, cache_key=bytes([n % keys]), codec=CHAT) for n in range(_CONCURRENT)]
        began = time.perf_counter()
        await asyncio.gather(*(guard.run(job, _context()) for job in jobs))
        total = time.perf_counter() - began
        report.rows.append(
            {"what": what, "count": _CONCURRENT, "found": f"{calls} calls, {total * 1e3:.0f} ms in all", "calls": calls}
        )
        if calls != keys:
            report.misses.append(f"{what}: {calls} calls instead of {keys}")
        await guard.close()


async def _hits(report: Report, where: str, hits: int, resilience: dict[str, Any]) -> None:
    for what, codec, value in (("a chat's answer", CHAT, _ANSWER), ("an embedding of 512", EMBED, _VECTOR)):
        guard = _guard(resilience)

        async def attempt(timeout_s: float, value: Any = value) -> Attempted[Any]:
            return Attempted(value, Usage())

        job: Job[Any] = Job("llava", attempt, cache_key=what.encode(), codec=codec)  # type: ignore[arg-type]
        await guard.run(job, _context())
        await asyncio.sleep(0.1)  # Redis is written beside the request
        seconds, cached = [], 0
        for _ in range(hits):
            began = time.perf_counter()
            cached += (await guard.run(job, _context())).cached
            seconds.append(time.perf_counter() - began)
        report.rows.append(_row(f"hit in {where}: {what}", hits, f"{cached} hits", seconds))
        if cached != hits:
            report.misses.append(f"{where}: {hits - cached} of {hits} were no hits")
        await guard.close()


def _guard(resilience: dict[str, Any]) -> Guard:
    cluster = parse(
        {
            "name": "bench",
            "node_pools": {"cpu": {}},
            "models": {"llava": {"kind": "llava", "checkpoint": "llava-hf/llava-1.5-7b-hf"}},
            "resilience": resilience,
        }
    )
    return build_guard(cluster, Silent(), lambda seconds, usual_s: None)


def _context() -> RequestContext:
    return RequestContext("bench", "anonymous", time.monotonic() + 30)


def _row(what: str, count: int, found: str, seconds: list[float]) -> dict[str, Any]:
    p50, p99 = np.percentile(seconds, [50, 99]) * 1e6
    return {"what": what, "count": count, "found": found, "median_us": float(p50), "p99_us": float(p99)}
