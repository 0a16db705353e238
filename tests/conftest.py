"""Settings for all tests."""

from __future__ import annotations

import os

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


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests that take minutes each as well")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        # The first test of a cluster has its start in its time, which takes minutes on a slow machine.
        if item.get_closest_marker("cluster") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(_CLUSTER_S))
    if config.getoption("--slow"):
        return
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.skip(reason="takes minutes; run with --slow"))
