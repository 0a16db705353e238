"""What a changed cluster file changes in a running application."""

from __future__ import annotations

from typing import Any

import pytest

from serve.app import marks
from serve.cli.update import check_room, check_same_server
from serve.config.cluster import ClusterFile
from serve.config.load import ConfigErrors, parse
from serve.rollout import SURGE_PERCENT, Change, changes, drain_s, surge_percent
from serve.runtime.local import cores
from serve.runtime.state import Deployed

CUSTOM = {"kind": "custom", "implementation": "benchmarks.noop:NoopModel", "tasks": ["classify"]}
TELLING = {**CUSTOM, "implementation": "benchmarks.rolling_update.model:Telling"}


def cluster(**sections: Any) -> ClusterFile:
    models = {"noop": CUSTOM, "telling": TELLING, "index": {"kind": "vector_index"}, **sections.pop("models", {})}
    return parse({"name": "test", "node_pools": {"local": {"cpus": 4}}, "models": models, **sections})


def what(**sections: Any) -> dict[str, str]:
    """What a change of these sections does to each deployment, those that it leaves alone left out."""
    found = changes(marks(cluster()), marks(cluster(**sections)))
    return {change.name: change.what for change in found if change.what != "unchanged"}


def test_the_same_file_changes_nothing() -> None:
    assert what() == {}


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({"models": {"telling": {**TELLING, "batching": {"max_items": 8}}}}, {"telling": "changed in place"}),
        ({"models": {"noop": {**CUSTOM, "batching": {"max_items": 8}}}}, {"noop": "replaced"}),
        ({"models": {"noop": {**CUSTOM, "placement": {"num_cpus": 0.5}}}}, {"noop": "replaced", "router": "replaced"}),
        ({"models": {"more": CUSTOM}}, {"more": "new", "router": "replaced"}),
        ({"limits": {"max_labels": 5}}, {"router": "replaced"}),
        ({"overload": {"target_queue_wait_ms": 77}}, {"router": "replaced"}),
        ({"router": {"replicas": 3}}, {"router": "replaced"}),
        ({"auth": {"keys": [{"name": "a", "sha256": "0" * 64}]}}, {"router": "changed in place"}),
        ({"limits": {"max_body_bytes": 5_000_000}}, {"router": "replaced"}),
        (
            {"tracing": {"endpoint": "http://collector:4318"}},
            {"router": "replaced", "noop": "replaced", "telling": "replaced", "index": "replaced"},
        ),
    ],
)
def test_a_change_reaches_what_it_is_about(sections: dict[str, Any], expected: dict[str, str]) -> None:
    found = what(**sections)
    # Other bounds of a batch are other bounds of the router's calls.
    if "router" not in expected and found.get("router") == "changed in place":
        found.pop("router")
    assert found == expected


def test_more_replicas_are_no_reason_to_replace_one() -> None:
    scaled = {**TELLING, "autoscaling": {"min_replicas": 2, "max_replicas": 2}}
    assert what(models={"telling": scaled})["telling"] == "scaled"


def test_what_is_left_out_goes() -> None:
    before = marks(cluster(models={"more": CUSTOM}))
    assert Change("more", "gone") in changes(before, marks(cluster()))


def test_other_code_is_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    before = marks(cluster())
    monkeypatch.setattr("serve.rollout._our_code", lambda: "other")
    assert {change.what for change in changes(before, marks(cluster()))} == {"replaced"}


def test_a_replica_drains_longer_than_the_longest_request() -> None:
    assert drain_s(cluster(limits={"max_timeout_s": 120.5})) > 120.5


def test_a_store_has_one_writer_so_nothing_surges_there() -> None:
    models = cluster().models
    assert surge_percent(models["index"]) == 0
    assert surge_percent(models["noop"]) == surge_percent(None) == SURGE_PERCENT


def deployed(file: ClusterFile) -> Deployed:
    return Deployed(server=file.server.model_dump(mode="json"), cpus=cores(file), marks=marks(file))


def test_addresses_stay_as_long_as_a_cluster_runs() -> None:
    check_same_server(deployed(cluster()), cluster(limits={"max_labels": 5}))
    with pytest.raises(ConfigErrors) as caught:
        check_same_server(deployed(cluster()), cluster(server={"grpc_port": 9001}))
    assert caught.value.problems[0].startswith("server.grpc_port: runs with 9000, the file has 9001")


def test_cores_beyond_those_that_ray_was_told_of_are_refused() -> None:
    many = cluster(node_pools={"local": {"cpus": 512}})
    with pytest.raises(ConfigErrors, match="node_pools: Ray was started with"):
        check_same_server(deployed(cluster()), many)


def test_an_update_without_room_for_one_more_is_refused() -> None:
    file = cluster()
    planned = [Change("noop", "replaced"), Change("telling", "changed in place"), Change("index", "replaced")]
    check_room(file, planned, marks(file), {"CPU": 1.0})
    with pytest.raises(ConfigErrors) as caught:
        check_room(file, planned, marks(file), {"CPU": 0.25})
    assert len(caught.value.problems) == 1  # the store's old replica stops first, and the other goes on
    assert caught.value.problems[0].startswith("noop: a new replica needs 1 CPU beside the old ones; 0.25 are free")
