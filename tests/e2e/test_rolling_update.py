"""`argus update` under load: the short form of `argus bench rolling-update`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from benchmarks.rolling_update import run as bench
from benchmarks.rolling_update.site import Site, running
from serve.errors import Unavailable
from tests.support.waiting import until

pytestmark = pytest.mark.cluster
# Enough that each update meets requests of every kind, also long ones; little, so that a slow machine keeps up.
RATE_PER_S, REQUESTS = 10.0, 60


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with running(checkpoint=None) as made:
        yield made


@pytest.mark.parametrize("update", bench.updates(clip=False), ids=lambda update: update.kind)
def test_no_request_fails_and_only_what_must_is_replaced(site: Site, update: bench.Update) -> None:
    before = site.processes()
    assert {name: len(found) for name, found in before.items()} == {"telling": 2, "router": 2}
    traffic, _ = asyncio.run(bench.under_load(site, update, REQUESTS, RATE_PER_S, seed=1))
    # An update has ended when the new ones run; the old ones may still answer what they have.
    until(lambda: {name: len(found) for name, found in site.processes().items()} == {"telling": 2, "router": 2})
    assert len(traffic.samples) >= REQUESTS
    assert bench.misses(update, traffic, before, site.processes(), arrived=update.arrived(site)) == []


def test_the_same_file_again_changes_nothing(site: Site) -> None:
    before = site.processes()
    told = site.update()
    assert "replaced" not in told and "changed in place" not in told and told.count("unchanged") == 2
    assert site.processes() == before


def test_another_port_is_refused(site: Site) -> None:
    port = site.content["server"]["http_port"]
    site.content["server"]["http_port"] = port + 1
    site.write()
    try:
        with pytest.raises(Unavailable, match=r"server\.http_port: runs with"):
            site.update()
    finally:
        site.content["server"]["http_port"] = port
        site.write()
