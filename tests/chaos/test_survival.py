"""Things break in a real cluster while requests come: a short choice of `argus bench chaos`, and all of it with --slow.

The short ones do not depend on how fast the machine is: their requests may take a minute and a grace, and all may take
minutes to be well again. The others have the deadlines that they have in `argus bench chaos`, which are part of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace

import pytest

from benchmarks.chaos.callers import Caller
from benchmarks.chaos.run import SCENARIOS
from benchmarks.chaos.scenario import Scenario, play
from benchmarks.chaos.site import Site, Skipped
from benchmarks.chaos.sites import SITES

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500)]

SHORT = ("replica-forward", "replica-write-back", "router", "index", "sessions", "disk")
# A machine that also runs other tests may start a replica slowly.
GRACE_S, DEADLINE_S, RECOVERY_S = 30.0, 60.0, 600.0


class Sites:
    """One cluster at a time: scenarios of one site follow each other and share it."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._name = ""
        self._site: Site | None = None

    def of(self, name: str) -> Site:
        """The site of this name, started unless it is the one that runs.

        Raises:
            Skipped: it cannot be here.
        """
        if self._site is None or name != self._name:
            self.close()
            self._name, self._site = name, self._stack.enter_context(SITES[name]())
        return self._site

    def close(self) -> None:
        """Ends the one that runs."""
        self._site = None
        self._stack.close()


@pytest.fixture(scope="module")
def sites() -> Iterator[Sites]:
    made = Sites()
    yield made
    made.close()


def short(scenario: Scenario) -> Scenario:
    """The same with less traffic, and with patience."""

    def callers() -> Sequence[Caller]:
        made = scenario.callers()
        for caller in made:
            caller.deadline_s = DEADLINE_S
        return made

    return replace(
        scenario,
        callers=callers,
        allowed=replace(scenario.allowed, recovery_s=RECOVERY_S),
        seconds=8.0,
        fault_s=2.0,
        lasts_s=min(scenario.lasts_s, 3.0),
    )


def of(scenario: Scenario) -> object:
    marks = () if scenario.name in SHORT else (pytest.mark.slow,)
    return pytest.param(scenario, id=scenario.name, marks=marks)


# Those of one site stand together.
@pytest.mark.parametrize("scenario", [of(one) for one in sorted(SCENARIOS, key=lambda one: one.site)])
def test_it_survives(sites: Sites, scenario: Scenario) -> None:
    if scenario.name in SHORT:
        scenario = short(scenario)
    try:
        figures = asyncio.run(play(scenario, sites.of(scenario.site), seed=1, grace_s=GRACE_S))
    except Skipped as reason:
        pytest.skip(str(reason))
    assert figures["misses"] == [], figures
