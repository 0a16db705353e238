"""`argus load` against a running cluster: real users, real answers, the record that is left."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.loadtest.record import LoadRecord, load_record
from benchmarks.targets import load_targets
from tests.e2e.cluster import Cluster

pytestmark = pytest.mark.cluster

# Few enough for a machine with other work.
RATE = 3.0
# What a machine that is too busy may say; anything else is a defect.
BUSY = {"overloaded", "deadline_exceeded"}


def load(cluster: Cluster, workload: str, folder: Path, seconds: int) -> LoadRecord:
    """A short run; its record must be there whatever the machine's speed makes of the targets."""
    path = folder / f"{workload}.json"
    ended = cluster.argus(
        *("load", workload, "--host", cluster.http, "--grpc", cluster.grpc, "--key-env", "ARGUS_API_KEY"),
        *("--rate", str(RATE), "--duration", f"{seconds}s", "--warm-up", "2s", "--json", str(path)),
    )
    # 1 is a target that was missed: latencies are none of this test's business.
    assert ended.returncode in (0, 1), f"{ended.stdout}\n{ended.stderr}"
    assert workload in ended.stdout
    return load_record(path)


def test_moderation_answers_rightly_over_both_protocols_and_escalates_what_is_hard(
    cluster: Cluster, tmp_path: Path
) -> None:
    record = load(cluster, "moderation", tmp_path, seconds=25)
    columns = record.columns()
    assert record.errors.keys() <= BUSY
    assert len(columns) == record.generator.scheduled
    by_kind = {name: columns.ok & (columns.kind == number) for number, name in enumerate(columns.kinds)}
    # Kinds follow from the requests' numbers, so every run of this length has all of them.
    assert by_kind.keys() == load_targets().workload("moderation").mix.keys()
    steps = {name: {columns.paths[p] for p in columns.path[chosen]} for name, chosen in by_kind.items()}
    # An easy one goes on too when the first step fails, as it may where the machine is busy.
    assert "screen" in steps["easy"] and "screen" in steps["easy_grpc"]
    assert steps["hard"] == {"analyse"}
    assert columns.escalated[by_kind["hard"]].all()
    assert (columns.tokens[by_kind["hard"]] > 0).all()


@pytest.mark.slow
def test_mixed_traffic_is_answered_rightly_and_what_is_invalid_refused(cluster: Cluster, tmp_path: Path) -> None:
    record = load(cluster, "mixed", tmp_path, seconds=60)
    columns = record.columns()
    assert record.errors.keys() <= BUSY
    mix = load_targets().workload("mixed").mix
    answered = {columns.kinds[kind] for kind in columns.kind[columns.ok]}
    assert answered == {name for name, kind in mix.items() if not kind.refused} | {"invalid"}
    assert record.outcome().measured.any()


def test_a_workload_that_does_not_exist_is_one_line(cluster: Cluster) -> None:
    ended = cluster.argus("load", "moderate", "--host", cluster.http)
    assert ended.returncode != 0
    assert "moderation" in ended.stderr and "Traceback" not in ended.stderr
