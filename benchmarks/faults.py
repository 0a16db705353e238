"""A provider that fails in every way, with a healthy one to fall back on: what does a caller feel of it?

Both are local servers that speak OpenAI's API, in a process of their own. Callers are one at a time; each call of the
chain is followed by one of the fallback alone, and what is added is the difference of the two.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import statistics
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console

from benchmarks.fake_providers import KEY
from benchmarks.fault_servers import FaultServers, fault_servers
from benchmarks.peers.litellm_setup import REQUIREMENT, litellm_python
from benchmarks.peers.setup import PeerUnavailable
from benchmarks.report import Column, Report, this_command
from benchmarks.servers import ROOT, free_port
from deployments.generation.messages import ChatRequest, Message, Sampling, Text
from serve.config.load import parse
from serve.context import RequestContext
from serve.errors import ArgusError
from serve.providers.build import build_providers
from serve.resilience.build import build_guard
from serve.resilience.cache_key import CacheKeys
from serve.resilience.recorder import Silent
from serve.routed_calls import RoutedCalls

_KEY_VARIABLE = "ARGUS_FAULT_DRILL_KEY"
_WARM = 40
# The peer has one time-out for all calls, which must be long enough for a slow answer; ours follows what it measures.
_PEER_TIMEOUT_S = 1.0
_GOAL_ADDED_MS, _GOAL_OPEN_MS, _GOAL_EXTRA = 100.0, 1.0, 0.10


@dataclass(frozen=True, slots=True)
class Way:
    """A way of failing.

    Attributes:
        mode: of `Fault`; `refused` is a port at which nobody listens.
        every: each `every`th call meets it.
        fallback: whether there is another way to go.
        announced: the failure is told, rather than waited for.
    """

    name: str
    mode: str
    fault: dict[str, Any] = field(default_factory=dict)
    every: int = 1
    fallback: bool = True
    announced: bool = True


WAYS = (
    Way("429 with Retry-After", "429", {"retry_after": 2}),
    Way("503", "503"),
    Way("refused connection", "refused"),
    Way("reset connection", "reset"),
    Way("malformed bytes", "malformed"),
    Way("cut in the middle", "cut"),
    Way("slow (0.5 s)", "slow", {"delay_s": 0.5}, announced=False),
    Way("hang", "hang", announced=False),
    Way("503, 1 in 20, no fallback", "503", every=20, fallback=False),
    Way("hang, 1 in 40, no fallback", "hang", every=40, fallback=False, announced=False),
)


def run(*, requests: int, latency_ms: float, peer: bool, progress: Console) -> Report:
    """See the module's text."""
    logging.getLogger("argus.providers").setLevel(logging.ERROR)  # of faults it warns, one line a call
    report = Report(
        command=this_command(),
        title="A failing provider with a healthy fallback",
        goal=f"median added at most {_GOAL_ADDED_MS:g} ms where the failure is told, {_GOAL_OPEN_MS:g} ms once the "
        f"breaker is open; at most {_GOAL_EXTRA:.0%} extra calls; every request answered",
        columns=(
            Column("way", "way of failing"),
            Column("system", "system"),
            Column("answered", "answered %", ".0f"),
            Column("added_ms", "added ms, median", ".1f"),
            Column("p95_ms", "P95", ".1f"),
            Column("open_ms", "breaker open, median", ".2f"),
            Column("sent", "calls to it %", ".0f"),
            Column("extra", "extra calls %", ".1f"),
        ),
        settings={"requests": requests, "latency_ms": latency_ms, "warm": _WARM, "peer_timeout_s": _PEER_TIMEOUT_S},
        notes=[
            f"A failure is told after the servers' latency, {latency_ms:g} ms; that is part of what is added.",
            "added: time of a call of the chain, less that of a call of the fallback alone right after it.",
            "argus, no breaker: every call meets the failure. argus: the defaults; its breaker opens after 5 failures.",
            "extra: calls beyond one of each provider that a request needs: retries and hedges.",
            "Without a fallback, added is against a healthy call; its P95 shows what a retry or hedge costs.",
        ],
    )
    with fault_servers(latency_ms / 1e3) as servers:
        for way in WAYS:
            progress.print(f"{way.name} ...", highlight=False)
            report.rows += asyncio.run(_ours(servers, way, requests))
        _add_peer(report, servers, requests, peer, progress)
    _judge(report)
    return report


async def _ours(servers: FaultServers, way: Way, requests: int) -> list[dict[str, Any]]:
    rows = []
    for breaker in (False, True) if way.fallback else (True,):
        address = _address(servers, way)
        calls, guard = _calls(address, servers.fallback, breaker)
        chain = _Chain(calls, way.fallback)
        servers.set(None)
        if way.mode != "refused":
            await _timed([chain.primary for _ in range(_WARM)])
        await _timed([chain.alone for _ in range(_WARM)])
        _fail(servers, way)
        pairs = [(await chain.seconds(chain.chain), await chain.seconds(chain.alone)) for _ in range(requests)]
        row = _row(way, "argus" if breaker else "argus, no breaker", pairs, servers.calls(), way.fallback)
        if breaker and way.fallback:
            row["open_ms"] = await _once_open(chain)
        rows.append(row)
        await guard.close()
    return rows


def _fail(servers: FaultServers, way: Way) -> None:
    servers.set(None if way.mode == "refused" else way.mode, way.every, **way.fault)


def _address(servers: FaultServers, way: Way) -> str:
    return f"http://127.0.0.1:{free_port(47_000)}/v1" if way.mode == "refused" else servers.primary


def _calls(primary: str, fallback: str, breaker: bool) -> tuple[RoutedCalls, Any]:
    """The router's own path to two providers, with every default but the breaker."""
    os.environ[_KEY_VARIABLE] = KEY

    def provider(address: str) -> dict[str, Any]:
        return {"kind": "openai", "model": "gpt-4o", "base_url": address, "api_key_env": _KEY_VARIABLE}

    cluster = parse(
        {
            "name": "drill",
            "node_pools": {"cpu": {}},
            "models": {"clip": {"kind": "clip", "checkpoint": "openai/clip-vit-base-patch32"}},
            "providers": {"primary": provider(primary), "fallback": provider(fallback)},
            "resilience": {"targets": {"primary": {"breaker": {"enabled": breaker}}}},
        }
    )
    guard = build_guard(cluster, Silent(), lambda seconds, usual_s: None)
    return RoutedCalls({}, build_providers(cluster.providers), guard, CacheKeys({})), guard


class _Chain:
    """The primary, then the fallback, as a cascade's step calls them."""

    def __init__(self, calls: RoutedCalls, fallback: bool) -> None:
        self._calls = calls
        self._fallback = fallback
        self._number = 0

    async def primary(self) -> None:
        await self._ask("primary")

    async def alone(self) -> None:
        await self._ask("fallback")

    async def chain(self) -> None:
        if not self._fallback:
            return await self._ask("primary")
        try:
            return await self._ask("primary", fallback=True)
        except ArgusError:
            return await self._ask("fallback")

    async def seconds(self, call: Any) -> float | None:
        """Seconds of a call; None when it failed."""
        began = time.perf_counter()
        try:
            await call()
        except ArgusError:
            return None
        return time.perf_counter() - began

    async def _ask(self, name: str, fallback: bool = False) -> None:
        self._number += 1
        request = ChatRequest(
            (Message("user", (Text(f"What is it? {self._number}"),)),), Sampling(max_tokens=16, temperature=0.0)
        )
        context = RequestContext("drill", "anonymous", time.monotonic() + 10)
        await self._calls.chat(name, request, context, fallback=fallback)


async def _timed(calls: Sequence[Any]) -> None:
    for call in calls:
        await call()


async def _once_open(chain: _Chain) -> float:
    """Median milliseconds that an open breaker takes to refuse a call: all that it adds to the fallback's own time."""
    refusals = []
    for _ in range(200):
        began = time.perf_counter()
        try:
            await chain._ask("primary", fallback=True)
        except ArgusError as error:
            if error.code in ("breaker_open", "provider_rate_limited"):
                refusals.append((time.perf_counter() - began) * 1e3)
    return statistics.median(refusals) if len(refusals) >= 100 else float("nan")


def _row(
    way: Way,
    system: str,
    pairs: Sequence[tuple[float | None, float | None]],
    received: tuple[int, int],
    fallback: bool,
) -> dict[str, Any]:
    added = sorted((one - other) * 1e3 for one, other in pairs if one is not None and other is not None)
    count = len(pairs)
    # The fallback is called once alone for each request, and once by the chain where there is one.
    needed = count * (2 if fallback else 1)
    extra = max(0, received[0] - count) + max(0, received[1] - needed)
    return {
        "way": way.name,
        "system": system,
        "announced": way.announced,
        "answered": 100 * sum(one is not None for one, _ in pairs) / count,
        "added_ms": statistics.median(added) if added else float("nan"),
        "p95_ms": added[int(0.95 * (len(added) - 1))] if added else float("nan"),
        "sent": 100 * received[0] / count,
        "extra": 100 * extra / count,
    }


def _add_peer(report: Report, servers: FaultServers, requests: int, peer: bool, progress: Console) -> None:
    if not peer:
        return
    try:
        python = litellm_python()
    except PeerUnavailable as problem:
        report.notes.append(f"LiteLLM: {problem}")
        return
    with _Peer(str(python)) as router:
        for way in WAYS:
            if way.fallback:
                progress.print(f"{REQUIREMENT}: {way.name} ...", highlight=False)
                report.rows.append(_peer_row(router, servers, way, requests))
    report.notes.append(
        f"LiteLLM's Router has fallbacks, no retries, allowed_fails 3, cooldown 10 s, time-out {_PEER_TIMEOUT_S:g} s."
    )


def _peer_row(router: _Peer, servers: FaultServers, way: Way, requests: int) -> dict[str, Any]:
    primary = _address(servers, way)
    settings = {"primary": primary, "fallback": servers.fallback, "key": KEY, "timeout_s": _PEER_TIMEOUT_S}
    router.ask({"new": settings})
    servers.set(None)
    for name in ("primary", "fallback"):
        if name == "fallback" or way.mode != "refused":
            router.ask({"run": name, "count": _WARM})
    _fail(servers, way)
    pairs = []
    for _ in range(requests):
        one, other = (router.ask({"run": name, "count": 1})["seconds"][0] for name in ("primary", "fallback"))
        pairs.append((one, other))
    return _row(way, REQUIREMENT, pairs, servers.calls(), True)


class _Peer:
    """The peer's process."""

    def __init__(self, python: str) -> None:
        environment = {"PATH": os.environ["PATH"], "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        self._process = subprocess.Popen(
            [python, str(ROOT / "benchmarks/peers/litellm_router.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            text=True,
        )

    def __enter__(self) -> _Peer:
        self._read()
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.wait()

    def ask(self, command: dict[str, Any]) -> dict[str, Any]:
        """The answer to a command."""
        assert self._process.stdin is not None, "it was started with pipes"
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None, "it was started with pipes"
        while not (line := self._process.stdout.readline()).startswith("{"):
            if not line:
                raise PeerUnavailable("the peer's process ended")
        answer: dict[str, Any] = json.loads(line)
        return answer


def _judge(report: Report) -> None:
    for row in report.rows:
        if not row["system"].startswith("argus"):
            continue
        name = f"{row['way']} ({row['system']})"
        if row["announced"] and not row["added_ms"] <= _GOAL_ADDED_MS:
            report.misses.append(f"{name}: {row['added_ms']:.1f} ms added")
        if "open_ms" in row and not row["open_ms"] <= _GOAL_OPEN_MS:
            report.misses.append(f"{name}: {row['open_ms']:.2f} ms added by an open breaker")
        if row["extra"] > 100 * _GOAL_EXTRA:
            report.misses.append(f"{name}: {row['extra']:.1f} % extra calls")
        if row["answered"] < 100:
            report.misses.append(f"{name}: {100 - row['answered']:.0f} % of the requests were not answered")
