"""Settings for all tests."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import settings

# Before anything imports torch or numpy. Threads of OpenMP that share two cores with something else wait for each other
# at the end of every parallel region: a training of a second took twenty.
for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

# How long an example takes says something of the machine, not of the code.
settings.register_profile("argus", deadline=None)
settings.load_profile("argus")

# Most seconds of a test that needs a cluster.
_CLUSTER_S = 900
# What computes in its own process, and may run beside the rest: clusters fill the machine, and run one after the other.
_SIDE_BY_SIDE = ("tests/unit/", "tests/integration/")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests that take minutes each as well")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items.sort(key=_turn)
    for item in items:
        # The first test of a cluster has its start in its time, which takes minutes on a slow machine.
        if item.get_closest_marker("cluster") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(_CLUSTER_S))
    if config.getoption("--slow"):
        return
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.skip(reason="takes minutes; run with --slow"))


def _turn(item: pytest.Item) -> int:
    """Clusters of single files come before the main one, which takes a third of two cores even when nobody asks it."""
    if item.nodeid.startswith(_SIDE_BY_SIDE):
        return 0
    return 2 if "cluster" in getattr(item, "fixturenames", ()) else 1


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Packed bytes may hold the time, and processes that collect the same tests must call them the same."""
    return argname if isinstance(val, bytes) and not val.isascii() else None


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `-n N`: files of what computes in its own process side by side, then clusters, one after the other."""
    from xdist.scheduler import LoadFileScheduling

    class ClustersLast(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return super()._split_scope(nodeid) if nodeid.startswith(_SIDE_BY_SIDE) else "clusters"

    config.option.loadscopereorder = False  # largest first would be the clusters, beside everything else
    return ClustersLast(config, log)
