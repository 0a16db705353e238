"""Replicas on nodes with two kinds of GPUs: their places, their shares, what has no room, and a node that is gone.

The application is deployed as KubeRay deploys it, from the rendered `serveConfigV2`; nodes have the resources and
labels of the rendered worker groups. GPUs are counted, not there.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from typing import Any

import httpx
import psutil
import pytest
import yaml
from PIL import Image

from benchmarks.scaling.files import file, model, pools
from benchmarks.scaling.placement import MODELS, NOTHING, PREFERRING, held, too_full
from benchmarks.scaling.site import Site, site
from benchmarks.scaling.state import State
from serve.config.load import parse
from tests.e2e.cluster import argus

pytestmark = pytest.mark.cluster
WAIT_S = 90.0


@pytest.fixture(scope="module")
def nodes() -> Iterator[Site]:
    with site(file(MODELS), {"t4": 2, "a100": 1}) as running:
        yield running


def image() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, "PNG")
    return buffer.getvalue()


def status(nodes: Site, name: str) -> int:
    """Of an answer of the model; a router that is being replaced may not know it for a while."""
    nodes.until_ready(seconds=WAIT_S)
    deadline = time.monotonic() + WAIT_S
    while True:
        answer = httpx.post(
            f"{nodes.http}/v1/classify",
            params={"model": name, "labels": "a,b"},
            content=image(),
            headers={"Content-Type": "image/png"},
            timeout=20,
            trust_env=False,
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


def test_each_model_is_on_its_pool_and_no_gpu_holds_too_much(nodes: Site) -> None:
    content = file(MODELS)
    state = deployed(nodes, content)
    assert where(state, "clip") == ["t4", "t4"] and where(state, "florence") == where(state, "index") == ["t4"]
    assert where(state, "llava") == where(state, "blip") == ["a100", "a100"]
    check_shares(state, content)
    # 0.6 of a GPU each: one on either.
    assert sorted(one.gpus for one in state.deployments["llava"].running) == [(0,), (1,)]
    for name in MODELS:
        assert status(nodes, name) == 200, name


def test_what_is_full_spills_over_and_what_is_preferred_is_taken_first(nodes: Site) -> None:
    """Five of 0.25 are more than a T4 holds; ten are more than two A100s hold."""
    deployed(nodes, file(NOTHING))
    content = file(PREFERRING)
    state = deployed(nodes, content)
    assert len({one.node for one in state.deployments["clip"].running}) == 2
    assert where(state, "assist") == ["a100"] * 8 + ["t4"] * 2
    check_shares(state, content)


def test_what_cannot_fit_is_refused_before_and_where_it_is_built(nodes: Site, tmp_path: Any) -> None:
    before = deployed(nodes, file({"clip": model(4, "t4", replicas=2)}))
    too_much = file({"clip": model(4, "t4", replicas=2), "llava": model(24, "a100", replicas=3)})
    path = tmp_path / "cluster.yaml"
    path.write_text(yaml.safe_dump(too_much))
    checked = argus("config", "check", "--config", str(path))
    said = "GPU memory does not suffice: llava 3 x 24 = 72 of 80 GB"
    assert checked.returncode == 1
    assert said in " ".join(checked.stderr.split())
    nodes.deploy(too_much)
    state = nodes.until("refused", lambda state: state.application == "DEPLOY_FAILED", seconds=WAIT_S)
    assert said in state.message
    # What ran before runs on, though Ray Serve lists only what it was asked for last.
    assert "llava" not in state.deployments
    assert all(psutil.pid_exists(one.pid) for one in before.deployments["clip"].running if one.pid is not None)
    assert status(nodes, "clip") == 200


def test_a_replica_without_a_node_waits_for_one_and_says_so(nodes: Site) -> None:
    """The file counts on two A100 nodes; one is there."""
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
