"""What the code declares is what is listed, and every name and label keeps to the rules."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from grafana.inventory import by_series, inventory, scan

UNITS = ("_seconds", "_bytes", "_usd", "_tokens", "_items")
# Levels and shares without a unit.
COUNTED = {
    "argus_autoscaling_expected_calls",
    "argus_autoscaling_replica_calls",
    "argus_breaker_state",
    "argus_build_info",
    "argus_call_concurrency_limit",
    "argus_calls_in_flight",
    "argus_calls_waiting",
    "argus_cascade_confidence",
    "argus_cascade_drift_alarm",
    "argus_cascade_drift_evidence",
    "argus_cascade_gear",
    "argus_cascade_uncalibrated",
    "argus_generations_in_flight",
    "argus_jobs",
    "argus_lane_cut_classes",
    "argus_requests_in_flight",
    "argus_scene_artifacts",
    "argus_scene_versions",
    "argus_scene_viewers",
    "argus_scenes",
    "argus_scenes_loaded",
}
# Each is a name of the cluster file or the code, or a word of a fixed list; none is a client's.
LABELS = {
    *("answered", "cascade", "client", "cluster", "counted", "fault", "lane", "model", "operation", "outcome", "path"),
    *("priority", "protocol", "reason", "result", "route", "slo", "stage", "state", "step", "target", "tenant"),
    *("version", "won"),
}


def test_what_an_engineer_on_call_needs_is_there() -> None:
    needed = {
        "argus_requests_total": ("protocol", "route", "client", "outcome", "fault"),
        "argus_request_seconds": ("protocol", "route", "fault"),
        "argus_queue_wait_seconds": ("model",),
        "argus_batch_items": ("model",),
        "argus_preprocess_seconds": ("model",),
        "argus_forward_seconds": ("model",),
        "argus_cascade_step_seconds": ("cascade", "step"),
        "argus_cascade_escalations_total": ("cascade",),
        "argus_cascade_saved_usd_total": ("cascade",),
        "argus_cascade_drift_evidence": ("cascade", "step"),
        "argus_provider_spent_usd_total": ("target",),
        "argus_cache_results_total": ("target", "result"),
        "argus_budget_left_usd": ("tenant", "counted"),
        "argus_budget_usd": ("tenant", "counted"),
        "argus_gpu_memory_used_bytes": ("model",),
        "argus_gpu_memory_budget_bytes": ("model",),
        "argus_scene_viewers": (),
        "argus_build_info": ("cluster", "version"),
    }
    found = inventory()
    assert {name: found[name].labels for name in needed} == needed


def test_names_carry_units_and_counters_say_so() -> None:
    for name, metric in inventory().items():
        assert re.fullmatch(r"argus_[a-z_]+", name), name
        assert metric.description.endswith("."), name
        assert name.endswith("_total") == (metric.kind == "counter"), name
        if metric.kind != "counter" and name not in COUNTED:
            assert name.endswith(UNITS), f"{metric.declared}: {name} has no unit"
        assert not re.search(r"_(ms|milliseconds|mb|gb|percent)(_|$)", name), name


def test_labels_are_those_whose_values_are_bounded() -> None:
    for metric in inventory().values():
        assert set(metric.labels) <= LABELS, metric.declared


def test_series_are_what_a_scrape_has() -> None:
    assert inventory()["argus_forward_seconds"].series == tuple(
        f"ray_argus_forward_seconds{suffix}" for suffix in ("_bucket", "_sum", "_count")
    )
    assert by_series()["ray_argus_requests_total"] is inventory()["argus_requests_total"]


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("Counter(NAME, 'Text.')", "must be literals"),
        ("Gauge('argus_a', 'Text.', tag_keys=LABELS)", "must be literals"),
        ("Counter('argus_a_total', 'One.'); Counter('argus_a_total', 'Two.')", "is also declared in"),
    ],
)
def test_a_declaration_that_cannot_be_read_is_an_error(source: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text(f"from ray.util.metrics import Counter, Gauge\n{source}\n")
    with pytest.raises(ValueError, match=problem):
        scan([tmp_path])


def test_other_classes_of_the_same_name_are_no_metrics(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text("from collections import Counter\nCounter('abc')\n")
    assert scan([tmp_path]) == {}
