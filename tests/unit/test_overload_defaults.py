"""Where the cluster file says nothing: how many calls a model has in progress, and which wait is still good."""

from __future__ import annotations

from typing import Any

import pytest

from serve.config.load import parse
from serve.config.overload import Overload
from serve.context import RequestContext
from serve.resilience.admission import Admission
from serve.resilience.settings import all_settings


@pytest.mark.parametrize(
    ("scaling", "limits"),
    [
        ({}, (16, 16, 16)),
        ({"min_replicas": 3, "max_replicas": 3}, (48, 48, 48)),
        ({"min_replicas": 0, "max_replicas": 4, "target_ongoing_requests": 4}, (16, 16, 64)),
        ({"min_replicas": 2, "max_replicas": 4, "target_ongoing_requests": 20}, (80, 80, 160)),
    ],
)
def test_a_model_has_two_batches_a_replica_in_progress(scaling: dict[str, Any], limits: tuple[int, int, int]) -> None:
    """And as many as Ray Serve must see to add a replica."""
    model = {"kind": "clip", "checkpoint": "demo:clip", "batching": {"max_items": 8}, "autoscaling": scaling}
    cluster = parse({"name": "x", "node_pools": {"local": {"cpus": 8}}, "models": {"m": model}})
    assert all_settings(cluster)["m"].concurrency == limits


@pytest.mark.parametrize(("usual_s", "shed"), [(0.01, True), (2.0, False)])
def test_a_wait_is_long_beside_what_calls_usually_take(usual_s: float, shed: bool) -> None:
    now = 1_000.0
    admission = Admission(256, overload=Overload(), clock=lambda: now)
    context = RequestContext("r", "c", now + 60)
    with admission.enter(context, "/v1/chat"):
        admission.waited(0.0, usual_s)  # a lane begins with its first wait
    with admission.enter(context, "/v1/chat"):
        for _ in range(40):
            now += 0.02
            admission.waited(0.5, usual_s)
            admission.lanes()
        assert (admission.lanes()["/v1/chat"].cut > 0) == shed
