"""Ray's own autoscaler on the node groups that are rendered for Kubernetes: nodes come when replicas need them, and go.

Only who starts a node is another than in a Kubernetes cluster: Ray's provider of nodes on one machine.
"""

from __future__ import annotations

import pytest

from benchmarks.scaling.files import file, model, pools
from benchmarks.scaling.nodes import HEAD, autoscaling, shapes
from benchmarks.scaling.site import site
from benchmarks.scaling.state import State
from serve.config.load import parse
from serve.kubernetes.settings import POOL_LABEL

WAIT_S = 240.0
SHORT = {"idle_timeout_s": 3}


def test_the_autoscaler_reads_groups_as_they_are_rendered() -> None:
    bounds = pools(1, 0, t4={"max_nodes": 3, "kubernetes": SHORT | {"priority": 2}})
    content = parse(file({"clip": model(4, "t4")}, bounds))
    config = autoscaling(content, "127.0.0.1:1", "f", 0)
    kinds = config["available_node_types"]
    assert kinds.keys() == {"t4", "a100", HEAD} and config["head_node_type"] == HEAD
    assert kinds[HEAD]["resources"]["CPU"] == 0 and kinds[HEAD]["max_workers"] == 0
    t4 = kinds["t4"]
    assert (t4["min_workers"], t4["max_workers"], t4["idle_timeout_s"], t4["priority"]) == (1, 3, 3, 2)
    assert t4["resources"].items() >= {"CPU": 4, "GPU": 1, "accelerator_type:T4": 1}.items()
    assert t4["labels"][POOL_LABEL] == "t4"
    assert config["max_workers"] == 4
    assert shapes(content)["a100"].gpus == 2


@pytest.mark.cluster
@pytest.mark.timeout(900)
def test_nodes_come_when_they_are_needed_and_go_when_they_are_not() -> None:
    bounds = pools(0, 0, t4={"kubernetes": SHORT}, a100={"kubernetes": SHORT})
    # For the router, which may run anywhere and would keep a dearer node.
    bounds["cpu"] = {"cpus": 2, "memory_gb": 8}
    # Three quarters of a GPU each: two on the one A100 node that there may be, the third on a T4.
    large = file({"assist": model(12, "a100", "t4", replicas=3)}, bounds)
    small = file({"clip": model(4, "t4")}, bounds)
    with site(large, boot_s=0.5) as nodes:
        state = nodes.until("the fewest nodes", lambda found: found.count("cpu") == 1, seconds=WAIT_S)
        assert (state.count("t4"), state.count("a100")) == (0, 0)
        nodes.deploy(large)
        state = nodes.until("nodes for all", State.all_run, seconds=WAIT_S)
        assert (state.count("t4"), state.count("a100")) == (1, 1)
        assert sorted(one.pool for one in state.deployments["assist"].running) == ["a100", "a100", "t4"]
        nodes.deploy(small)
        nodes.until(
            "one T4 node alone",
            lambda found: (
                "clip" in found.deployments and found.all_run() and (found.count("t4"), found.count("a100")) == (1, 0)
            ),
            seconds=WAIT_S,
        )
