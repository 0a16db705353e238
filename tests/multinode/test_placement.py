"""Replicas on nodes with two kinds of GPUs: their places, their shares, what has no room, and a node that is gone.

The application is deployed as KubeRay deploys it, from the rendered `serveConfigV2`; nodes have the resources and
labels of the rendered worker groups. GPUs are counted, not there.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from typing import Any, Final

import httpx
import psutil
import pytest
from PIL import Image

from benchmarks.scaling.files import file, model, pools
from benchmarks.scaling.placement import NOTHING, held, too_full
from benchmarks.scaling.site import Site, site
from benchmarks.scaling.state import State
from serve.config.budget import problems
from serve.config.load import parse

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
WAIT_S = 240.0
# There is room in whatever order they are placed, and always the same places are left for the third of `assist`.
CHOOSING: Final[dict[str, Any]] = {
    "clip": model(4, "t4", replicas=2),
    "llava": model(8, "a100"),
    "assist": model(12, "a100", "t4", replicas=3),
    "index": model(0, "t4"),
}


@pytest.fixture(scope="module")
def nodes() -> Iterator[Site]:
    with site(file(CHOOSING), {"t4": 2, "a100": 1}) as running:
        yield running


def image() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, "PNG")
    return buffer.getvalue()


def status(nodes: Site, name: str) -> int:
    """Of an answer of the model; a router that is being replaced may not know it for a while."""
    nodes.until_ready(seconds=WAIT_S)
    deadline = time.monotonic() + WAIT_S
    with httpx.Client(base_url=nodes.http, timeout=WAIT_S, trust_env=False) as client:
        while True:
            answer = client.post(
                "/v1/classify",
                params={"model": name, "labels": "a,b"},
                content=image(),
                headers={"Content-Type": "image/png"},
            )
            if answer.is_success or time.monotonic() > deadline:
                return answer.status_code
            time.sleep(0.5)


def deployed(nodes: Site, content: dict[str, Any]) -> State:
    return nodes.deployed(content, seconds=WAIT_S)


def where(state: State, name: str) -> list[str]:
    return sorted(one.pool for one in state.deployments[name].running)


def check_shares(state: State, content: dict[str, Any]) -> None:
    """Each replica has one GPU, or none if it needs none, and no GPU holds more than one GPU's worth."""
    cluster = parse(content)
    for name, one in cluster.models.items():
        assert {len(replica.gpus) for replica in state.deployments[name].running} == {1 if one.gpu_memory_gb else 0}
    taken = held(cluster, state)
    assert taken and not too_full(taken), taken


def test_each_replica_is_on_the_first_of_its_pools_with_room(nodes: Site) -> None:
    """Three quarters of a GPU fit each A100 once; the third replica finds room on a T4 only."""
    state = deployed(nodes, file(CHOOSING))
    assert where(state, "assist") == ["a100", "a100", "t4"]
    assert where(state, "clip") == ["t4", "t4"] and where(state, "index") == ["t4"]
    assert where(state, "llava") == ["a100"]
    on_a100 = [one.gpus for one in state.deployments["assist"].running if one.pool == "a100"]
    assert sorted(on_a100) == [(0,), (1,)]
    check_shares(state, file(CHOOSING))
    for name in CHOOSING:
        assert status(nodes, name) == 200, name


def test_what_cannot_fit_is_refused_by_the_check_and_where_it_is_built(nodes: Site) -> None:
    before = deployed(nodes, file(CHOOSING))
    too_much = file(CHOOSING | {"llava": model(24, "a100", replicas=3)})
    (said,) = problems(parse(too_much))
    assert "GPU memory does not suffice" in said and "llava 3 x 24" in said
    nodes.deploy(too_much)
    state = nodes.until("refused", lambda state: state.application == "DEPLOY_FAILED", seconds=WAIT_S)
    assert said in state.message
    # What ran before runs on, though Ray Serve lists only what it was asked for last.
    assert all(psutil.pid_exists(one.pid) for name in CHOOSING for one in before.deployments[name].running if one.pid)
    assert status(nodes, "llava") == 200


@pytest.mark.slow
def test_a_replica_without_a_node_waits_for_one_and_says_so(nodes: Site) -> None:
    """The file counts on two A100 nodes; one is there."""
    deployed(nodes, file(NOTHING))
    content = file({"clip": model(4, "t4"), "llava": model(40, "a100", replicas=3)}, pools(2, 2))
    nodes.deploy(content)

    def waits(state: State) -> bool:
        one = state.deployments.get("llava")
        return one is not None and len(one.running) == 2 and "to be scheduled" in one.message

    state = nodes.until("two of three", waits, seconds=WAIT_S)
    assert all(word in state.deployments["llava"].message for word in ("1 replicas", "GPU", "accelerator_type:A100"))
    assert status(nodes, "llava") == 200
    added = nodes.add("a100")
    state = nodes.until("the third", State.all_run, seconds=WAIT_S)
    assert len({one.node for one in state.deployments["llava"].running}) == 2
    nodes.remove(added)


@pytest.mark.slow
def test_replicas_of_a_node_that_is_gone_come_back_elsewhere(nodes: Site) -> None:
    deployed(nodes, file(NOTHING))
    content = file({"clip": model(4, "t4", replicas=2), "assist": model(4, "a100", "t4")})
    state = deployed(nodes, content)
    assert where(state, "assist") == ["a100"]
    lost = {state.deployments["assist"].running[0].node, state.deployments["clip"].running[0].node}
    for node in lost:
        nodes.remove(node)

    def recovered(state: State) -> bool:
        return not lost & {node.id for node in state.nodes} and state.all_run()

    state = nodes.until("recovered", recovered, seconds=WAIT_S)
    assert where(state, "clip") == ["t4", "t4"] and where(state, "assist") == ["t4"]
    check_shares(state, content)
    for name in ("clip", "assist"):
        assert status(nodes, name) == 200
