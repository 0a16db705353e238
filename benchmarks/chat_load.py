"""Driving `/v1/chat/completions` with streams: one asyncio client for all servers, which times the tokens."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import orjson

from benchmarks.load import quantile

_TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class Stream:
    """One answer as its reader saw it, in seconds from sending.

    Attributes:
        text: the whole answer, for comparing servers.
        tokens: by the server's own count.
        first_s: first chunk with text.
        last_s: last chunk with text.
        ended_s: end of the stream.
    """

    text: str
    tokens: int
    first_s: float
    last_s: float
    ended_s: float


@dataclass(frozen=True, slots=True)
class ChatLoad:
    """A round of load on one server.

    Attributes:
        tokens_per_s: all tokens by the time from the first request to the end of the last answer.
        ttft_s, ttft_p99_s: time to first token, median and p99.
        itl_s: median over answers of the mean time between an answer's tokens.
        tokens: of all answers.
        answers: texts, by number of the request.
    """

    tokens_per_s: float
    requests_per_s: float
    ttft_s: float
    ttft_p99_s: float
    itl_s: float
    tokens: int
    requests: int
    failed: int
    answers: tuple[str, ...]


def load(url: str, bodies: Sequence[dict[str, Any]], *, requests: int, concurrency: int) -> ChatLoad:
    """Sends `requests` in all, taking `bodies` in turn, with `concurrency` of them in progress."""
    return asyncio.run(_load(url, [orjson.dumps(body) for body in bodies], requests, concurrency))


async def _load(url: str, bodies: Sequence[bytes], requests: int, concurrency: int) -> ChatLoad:
    done: dict[int, Stream] = {}
    numbers = iter(range(requests))
    limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
    async with httpx.AsyncClient(timeout=_TIMEOUT_S, limits=limits, trust_env=False) as client:

        async def reader() -> None:
            for number in numbers:
                stream = await _read(client, url, bodies[number % len(bodies)])
                if stream is not None:
                    done[number] = stream

        began = time.perf_counter()
        await asyncio.gather(*(reader() for _ in range(concurrency)))
        seconds = time.perf_counter() - began
    streams = list(done.values())
    first = sorted(stream.first_s for stream in streams)
    between = sorted((s.last_s - s.first_s) / (s.tokens - 1) for s in streams if s.tokens > 1)
    tokens = sum(stream.tokens for stream in streams)
    return ChatLoad(
        tokens / seconds,
        len(streams) / seconds,
        quantile(first, 0.5),
        quantile(first, 0.99),
        quantile(between, 0.5),
        tokens,
        requests,
        requests - len(streams),
        tuple(done[number].text if number in done else "" for number in range(requests)),
    )


async def _read(client: httpx.AsyncClient, url: str, body: bytes) -> Stream | None:
    """Reads one stream to its end; None when it failed."""
    sent = time.perf_counter()
    pieces: list[str] = []
    first = last = 0.0
    tokens = 0
    complete = False
    async with client.stream("POST", url, content=body, headers={"content-type": "application/json"}) as response:
        if response.status_code != httpx.codes.OK:
            await response.aread()
            return None
        async for line in response.aiter_lines():
            if not line.startswith("data: "):
                continue
            if line == "data: [DONE]":
                complete = True
                continue
            chunk = orjson.loads(line[len("data: ") :])
            if "error" in chunk:
                return None
            if chunk.get("usage"):
                tokens = chunk["usage"]["completion_tokens"]
            for choice in chunk["choices"]:
                if text := choice["delta"].get("content"):
                    last = time.perf_counter() - sent
                    first = first or last
                    pieces.append(text)
    return Stream("".join(pieces), tokens, first, last, time.perf_counter() - sent) if complete else None
