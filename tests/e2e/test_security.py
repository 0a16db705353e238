"""The security drill (benchmarks/security) on the session's cluster: every attempt must end as it must."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from benchmarks.security import bombs, exposure, injection, isolation, keys, limits, names, ssrf
from benchmarks.security.case import try_it
from benchmarks.security.sink import Sink
from benchmarks.security.site import Site
from tests.e2e.cluster import KEY, OTHER_KEY, Cluster

pytestmark = pytest.mark.cluster
GROUPS = (keys, exposure, ssrf, bombs, names, injection, limits, isolation)


@pytest.fixture(scope="module")
def site(cluster: Cluster) -> Iterator[Site]:
    with Sink() as trap:
        folder = Path(cluster.environment["ARGUS_RUN_DIR"]) / cluster.name
        addresses = (cluster.http, cluster.grpc, cluster.metrics)
        made = Site(cluster.name, *addresses, KEY, OTHER_KEY, folder, trap, cluster.environment, Path())
        yield made
        made.close()


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.GROUP)
def test_attempts_end_as_they_must(site: Site, group: ModuleType, subtests: pytest.Subtests) -> None:
    for case in group.cases(site):
        with subtests.test(case.attempt):
            got = try_it(case)
            assert got.ok, f"{case.attempt}: expected {case.expected}, got {got.text}"
