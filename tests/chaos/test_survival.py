"""Things break in a real cluster while requests come: a short choice of `argus bench chaos`, and all of it with --slow.

Nothing here depends on how fast it is: a request may take its deadline and a grace, and each fault has a generous bound
within which all must be well again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from benchmarks.chaos.run import SCENARIOS
from benchmarks.chaos.scenario import Scenario, play
from benchmarks.chaos.site import Site, Skipped
from benchmarks.chaos.sites import SITES

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

SHORT = ("replica-forward", "replica-write-back", "router", "index", "sessions", "disk")
# Two cores that also run other tests may start a replica slowly.
GRACE_S = 15.0


@pytest.fixture(scope="module")
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    """One cluster for all scenarios of a site: the parameters are in its order."""
    name: str = request.param
    try:
        with SITES[name]() as made:
            yield made
    except Skipped as reason:
        pytest.skip(str(reason))


def of(scenario: Scenario) -> object:
    marks = () if scenario.name in SHORT else (pytest.mark.slow,)
    return pytest.param(scenario.site, scenario, id=scenario.name, marks=marks)


@pytest.mark.parametrize(("site", "scenario"), [of(one) for one in SCENARIOS], indirect=["site"])
async def test_it_survives(site: Site, scenario: Scenario) -> None:
    if scenario.name in SHORT:
        scenario = replace(scenario, seconds=8.0, fault_s=2.0, lasts_s=min(scenario.lasts_s, 3.0))
    try:
        figures = await play(scenario, site, seed=1, grace_s=GRACE_S)
    except Skipped as reason:
        pytest.skip(str(reason))
    assert figures["misses"] == [], figures
