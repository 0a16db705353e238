"""What breaks while text is written: the engine's own process, and the replica, when half of an answer was sent."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from benchmarks import material
from benchmarks.chaos.callers import Classify, Streams
from benchmarks.chaos.inside import AWAY
from benchmarks.chaos.outcome import Allowed
from benchmarks.chaos.scenario import Scenario
from benchmarks.chaos.site import NotMade, Site, Skipped
from serve.errors import Unavailable

# vLLM names its processes so (`setproctitle`).
_ENGINE: Final = r"VLLM::EngineCore"
_LONG: Final = 200
_DEADLINE_S: Final = 30.0
_DIED: Final = AWAY | {"engine_died", "engine_stalled", "deadline_exceeded"}


def models() -> dict[str, Any]:
    """A LLaVA of random weights, which never comes to an end by itself, on vLLM and on transformers.

    Raises:
        Skipped: there is no vLLM, or nothing to make the checkpoint from.
    """
    if importlib.util.find_spec("vllm") is None:
        raise Skipped("vLLM is not installed here")
    try:
        checkpoint = str(material.random_llava())
    except Unavailable as missing:
        raise Skipped(missing.message) from None

    def llava(engine: str) -> dict[str, Any]:
        return {
            "kind": "llava",
            "checkpoint": checkpoint,
            "engine": engine,
            "batching": {"max_items": 8},
            "placement": {"num_cpus": 0.1},
        }

    return {"written": llava("vllm"), "writer": llava("transformers")}


@asynccontextmanager
async def _engine_killed(site: Site, wrong: list[str]) -> AsyncIterator[None]:
    async with _half_sent(site, "written", wrong):
        site.kill(_ENGINE)
    yield


@asynccontextmanager
async def _replica_killed(site: Site, wrong: list[str]) -> AsyncIterator[None]:
    async with _half_sent(site, "writer", wrong):
        (pid,) = site.replicas("writer")
        # It writes faster than it can be killed: it is held first.
        os.kill(pid, signal.SIGSTOP)
        os.kill(pid, signal.SIGKILL)
    yield


@asynccontextmanager
async def _half_sent(site: Site, model: str, wrong: list[str]) -> AsyncIterator[None]:
    """The block runs when the first words of an answer have come; the rest must then be an error, and come soon.

    Raises:
        NotMade: the whole answer came all the same.
    """
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "Tell me everything."}],
        "max_completion_tokens": _LONG,
        "stream": True,
    }
    headers = {"x-argus-timeout-ms": f"{1e3 * _DEADLINE_S:.0f}"}
    async with (
        site.client() as client,
        client.stream("POST", "/v1/chat/completions", json=body, headers=headers) as answer,
    ):
        lines = answer.aiter_lines()
        async for line in lines:
            if '"content"' in line:
                break
        else:
            raise NotMade(f"{model} wrote nothing ({answer.status_code})")
        yield
        last = ""
        async for line in lines:
            last = line or last
    data = last.removeprefix("data: ")
    if data == "[DONE]":
        raise NotMade("the whole answer was there before it broke")
    try:
        code = json.loads(data)["error"]["code"]
    except (ValueError, KeyError):
        wrong.append(f"an answer that was half sent ended with {data[:80]!r}, not with an error")
        return
    if code not in _DIED:
        wrong.append(f"an answer that was half sent ended with {code}")


SCENARIOS: Final = (
    Scenario(
        "engine",
        "vLLM's engine process killed, answers half sent",
        "engines",
        lambda: [Streams(2, "written", deadline_s=_DEADLINE_S), Classify(4, "neighbour", neighbour=True)],
        _engine_killed,
        Allowed(_DIED, recovery_s=240.0),
        seconds=15.0,
    ),
    Scenario(
        "replica-mid-stream",
        "a replica killed, answers half sent",
        "engines",
        lambda: [Streams(2, "writer", deadline_s=_DEADLINE_S), Classify(4, "neighbour", neighbour=True)],
        _replica_killed,
        Allowed(_DIED, recovery_s=180.0),
        seconds=15.0,
    ),
)
