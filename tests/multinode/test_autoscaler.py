"""Ray's own autoscaler on the node groups that are rendered for Kubernetes: nodes come when replicas need them, and go.

Only who starts a node is another than in a Kubernetes cluster: Ray's provider of nodes on one machine.
"""

from __future__ import annotations

import pytest

from benchmarks.scaling.files import file, model, pools
from benchmarks.scaling.site import site
from benchmarks.scaling.state import State

pytestmark = pytest.mark.cluster
WAIT_S = 120.0
SHORT = {"kubernetes": {"idle_timeout_s": 3}}


def test_nodes_come_when_they_are_needed_and_go_when_they_are_not() -> None:
    bounds = pools(1, 0, t4={"max_nodes": 2, **SHORT}, a100={"max_nodes": 1, **SHORT})
    small = file({"clip": model(8, "t4")}, bounds)
    # Three halves of a T4 need a second one, and LLaVA needs an A100.
    large = file({"clip": model(8, "t4", replicas=1), "llava": model(24, "a100")}, bounds)
    large["models"]["clip"]["autoscaling"] = {"min_replicas": 1, "max_replicas": 1}
    with site(small, boot_s=0.5) as nodes:
        nodes.deploy(small)
        state = nodes.until("the fewest nodes", State.all_run, seconds=WAIT_S)
        assert (state.count("t4"), state.count("a100")) == (1, 0)
        nodes.deploy(large)
        state = nodes.until("an A100", lambda found: "llava" in found.deployments and found.all_run(), seconds=WAIT_S)
        assert (state.count("t4"), state.count("a100")) == (1, 1)
        (llava,) = state.deployments["llava"].running
        assert llava.pool == "a100"
        nodes.deploy(small)
        nodes.until("no A100 any more", lambda found: found.count("a100") == 0, seconds=WAIT_S)
        assert nodes.state().count("t4") == 1, "the fewest stay"
