"""Planted secrets stand nowhere: a small cluster with a provider that repeats its key, a collector, and no Redis."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.security import planting, secrets
from benchmarks.security.case import try_it
from benchmarks.security.sink import Sink
from benchmarks.security.site import Site
from tests.e2e import cluster as clusters
from tests.e2e.cluster import KEY, OTHER_KEY

pytestmark = pytest.mark.cluster
MODELS = {
    "noop": {
        "kind": "custom",
        "implementation": "benchmarks.noop:NoopModel",
        "tasks": ["classify"],
        "placement": {"num_cpus": 0.1},
    }
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("secrets")
    with planting.planted({"client's key": KEY, "other client's key": OTHER_KEY}) as servers, Sink() as trap:
        content = {
            "node_pools": {"local": {"cpus": 2}},
            "models": MODELS,
            "router": {"num_cpus": 0.1},
            "log_level": "DEBUG",
            **planting.sections(servers),
        }
        running = clusters.start("secrets", content, folder)
        run_dir = Path(running.environment["ARGUS_RUN_DIR"]) / running.name
        addresses = (running.http, running.grpc, running.metrics)
        config = folder / "secrets.yaml"
        made = Site("secrets", *addresses, KEY, OTHER_KEY, run_dir, trap, running.environment, config, servers)
        yield made
        made.close()
        clusters.stop(running)


def test_planted_secrets_stand_nowhere(site: Site, subtests: pytest.Subtests) -> None:
    for case in secrets.cases(site):
        with subtests.test(case.attempt):
            got = try_it(case)
            assert got.ok, f"{case.attempt}: expected {case.expected}, got {got.text}"


def test_the_search_finds_what_is_there(site: Site) -> None:
    """A search that finds nothing proves nothing unless it can find something."""
    assert site.planted is not None
    leak = site.run_dir / "leak.log"
    leak.write_text(site.planted.secrets["provider's key"])
    try:
        (case,) = (one for one in secrets.cases(site) if one.attempt == "every file of the cluster")
        got = try_it(case)
        assert not got.ok
        assert "provider's key in leak.log" in got.text
    finally:
        leak.unlink()
