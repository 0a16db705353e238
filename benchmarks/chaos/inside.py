"""What breaks inside the cluster: replicas at every stage of a request, routers, stores, and Ray's and Serve's own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final

from benchmarks.chaos.callers import Adds, Caller, Chat, Classify, GrpcReady, Jobs, Streams, Turns
from benchmarks.chaos.model import STAGES, Stage, arm
from benchmarks.chaos.outcome import Allowed
from benchmarks.chaos.scenario import Scenario
from benchmarks.chaos.site import NotMade, Site

Breaks = Callable[[Site, list[str]], AbstractAsyncContextManager[None]]
# A request comes to its stage soon, on a busy machine too; if none does, nothing is shown.
_HIT_S: Final = 30.0
# What a client is told while what it asks for is started anew; and, where there was one replica only, when the next is
# not there by the request's deadline. To wait that long is what the client asked for: one with more time is answered,
# and a refusal at once would fail them all.
AWAY: Final = frozenset({"unavailable"})
WAITED: Final = AWAY | {"deadline_exceeded"}
# HAProxy answers 503 for a router that is gone, unless the client's connection had carried a request before: then it
# closes that, so that the client decides whether to repeat (`abort_keep_alive` in its http_ana.c). It could send the
# request to another router (`retry-on empty-response`), and does not: not every request is safe to repeat, and one that
# ended a router would end the next as well. A session whose turn a router took with it is busy until that turn's
# deadline: nobody can know that it will not be stored after all.
_ROUTER: Final = Allowed(AWAY | {"session_busy"}, cuts=True, neighbours=True)
# What clients' connections end at. There is nobody to answer, and one such process a node.
_PROXY: Final = Allowed(AWAY, refuses=True, neighbours=True)
# Ray's names of the actor that keeps a node's proxy, or is it.
_KEEPER: Final = r"ray::HAProxyManager"
_PLAIN: Final = r"ray::ProxyActor"


def neighbours() -> list[Caller]:
    """Traffic that no fault in another model may touch, over both protocols."""
    return [Classify(4, "neighbour", neighbour=True, name="neighbour"), GrpcReady(2, neighbour=True)]


def _everybody() -> Sequence[Caller]:
    return [Classify(8), Adds(3), Turns(2), Chat(2), *neighbours()]


def _stage(stage: Stage) -> Breaks:
    @asynccontextmanager
    async def breaks(site: Site, wrong: list[str]) -> AsyncIterator[None]:
        armed = arm(site.folder, stage)
        try:
            for _ in range(int(_HIT_S / 0.05)):
                if not armed.exists():
                    break
                await asyncio.sleep(0.05)
            else:
                raise NotMade(f"no request came to the stage {stage!r}")
        finally:
            armed.unlink(missing_ok=True)
        yield

    return breaks


def killed(pattern: str) -> Breaks:
    """One process whose command line matches ends, as by `kill -9`."""

    @asynccontextmanager
    async def breaks(site: Site, wrong: list[str]) -> AsyncIterator[None]:
        site.kill(pattern)
        yield

    return breaks


def replica_killed(deployment: str) -> Breaks:
    """One replica of a deployment ends, as by `kill -9`."""
    return killed(rf"ServeReplica:.*:{deployment}\b")


SCENARIOS: Final = (
    *(
        Scenario(
            f"replica-{stage}",
            f"a replica killed, stage {stage}",
            "main",
            lambda: [Classify(12), *neighbours()],
            _stage(stage),
        )
        for stage in STAGES
    ),
    Scenario("router", "a router replica killed", "main", _everybody, replica_killed("router"), _ROUTER),
    Scenario(
        "router-stream",
        "a router replica killed, answers half sent",
        "main",
        lambda: [Streams(4)],
        replica_killed("router"),
        Allowed(AWAY, cuts=True),
    ),
    Scenario(
        "index",
        "the vector index killed while it writes",
        "main",
        lambda: [Adds(12), *neighbours()],
        replica_killed("index"),
        Allowed(WAITED),
    ),
    Scenario(
        "sessions",
        "the session store killed between turns",
        "main",
        lambda: [Turns(3), *neighbours()],
        replica_killed("sessions"),
        # A turn that failed meanwhile could not give its session back, which is its own until its deadline.
        Allowed(WAITED | {"session_busy"}),
    ),
    Scenario(
        "jobs",
        "the job store killed with jobs under way",
        "main",
        lambda: [Jobs(1), *neighbours()],
        replica_killed("jobs"),
        Allowed(WAITED),
    ),
    Scenario(
        "job-runner",
        "a router replica killed with jobs under way",
        "main",
        lambda: [Jobs(1.5)],
        replica_killed("router"),
        _ROUTER,
    ),
    Scenario("controller", "Serve's controller killed", "main", _everybody, killed(r"ray::ServeController")),
    Scenario(
        "proxy",
        "HAProxy killed",
        "main",
        _everybody,
        killed(r"^\S*haproxy\S* .*-f "),
        _PROXY,
        seconds=20.0,
    ),
    Scenario(
        "proxy-keeper",
        "the actor that keeps HAProxy killed",
        "main",
        _everybody,
        killed(_KEEPER),
        _PROXY,
        seconds=20.0,
    ),
    Scenario(
        "plain-proxy",
        "Ray Serve's own proxy killed",
        "plain",
        _everybody,
        killed(_PLAIN),
        _PROXY,
        seconds=20.0,
    ),
    Scenario(
        "plain-router",
        "a router replica killed behind Ray Serve's own proxy",
        "plain",
        _everybody,
        replica_killed("router"),
        Allowed(AWAY, neighbours=True),
    ),
)
