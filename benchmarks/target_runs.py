"""Every workload's target on one class of hardware, each run as `argus load` runs it: its own cluster, open loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.loadtest import subject as subjects
from benchmarks.loadtest.html import write_html
from benchmarks.loadtest.record import LoadRecord
from benchmarks.loadtest.run import run_load
from benchmarks.loadtest.settings import checked
from benchmarks.loadtest.subject import Subject
from benchmarks.loadtest.target import started
from benchmarks.loadtest.verdict import figures, misses, rows
from benchmarks.report import Column, Report, this_command
from benchmarks.targets import Targets
from benchmarks.traffic.arrivals import Arrivals

GOAL = "every workload that has a target on this class of hardware meets it: rate, failures, latencies, escalation"
_WARM_UP_S = 5.0
_LATENCIES = ("mean_ms", "p50_ms", "p95_ms", "p99_ms")
_COLUMNS = (
    Column("workload", "workload"),
    Column("qps", "target/s", "g"),
    Column("paced_per_s", "answered/s", ".2f"),
    Column("requests", "requests", "d"),
    Column("failed_share", "failed", ".2%"),
    *(
        column
        for key in _LATENCIES
        for column in (Column(key, key.removesuffix("_ms") + " ms", ".1f"), Column(f"{key}_most", "at most", "g"))
    ),
    Column("escalated_share", "escalated", ".1%"),
    Column("lag_p99_ms", "send lag P99 ms", ".1f"),
    Column("met", "met"),
)


def declared(targets: Targets, hardware: str) -> list[str]:
    """Workloads that have a target there."""
    return [name for name, workload in targets.workloads.items() if workload.goal(hardware) is not None]


def run(
    targets: Targets,
    names: Sequence[str],
    *,
    hardware: str,
    seconds: float,
    html: Path | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> Report:
    """Runs them one after the other.

    Args:
        seconds: of the measured part of each.
        html: folder for each run's report.

    Raises:
        ConfigError: a name is no workload, or has no target there.
        Unavailable: a cluster or the load generator did not start.
    """
    chosen = [subjects.find(name, hardware, targets) for name in names]
    arrivals = [subjects.arrivals(subject, None, None) for subject in chosen]
    report = Report(
        command=this_command(),
        title=f"Targets of {hardware}",
        goal=GOAL,
        columns=_COLUMNS,
        settings={"hardware": hardware, "seconds": seconds, "warm_up_s": _WARM_UP_S},
    )
    for subject, process in zip(chosen, arrivals, strict=True):
        tell(f"{subject.name}: {process.mean_rate(seconds):g} requests a second for {seconds:g} s")
        record = _loaded(subject, process, hardware, seconds)
        row, missed = judged(subject, record)
        report.rows.append(row)
        report.misses += [f"{subject.name}: {one}" for one in missed]
        if html is not None:
            title = f"{subject.name} on {hardware}"
            write_html(html / f"{subject.name}.html", record, rows(record, subject.goal), [], title)
    report.notes.append("Latencies count from the intended send time. Each workload has a cluster of its own.")
    return report


def judged(subject: Subject, record: LoadRecord) -> tuple[dict[str, Any], list[str]]:
    """The row of one run, and what it misses. A run that measured its own load generator meets nothing."""
    goal, found = subject.goal, figures(record)
    assert goal is not None, "chosen by it"
    missed = [*record.generator.faults, *misses(rows(record, goal))]
    missed += [f"{one.count} failed with {code}: {one.example}" for code, one in record.errors.items() if missed]
    row: dict[str, Any] = {
        "workload": subject.name,
        "qps": goal.qps,
        "paced_per_s": found.paced_per_s,
        "requests": found.requests,
        "failed_share": found.failed_share,
        "escalated_share": found.escalated_share if goal.escalated_share else None,
        "lag_p99_ms": None if record.generator.lag_p99_s is None else 1000 * record.generator.lag_p99_s,
        "met": "no" if missed else "yes",
    }
    for key in _LATENCIES:
        row |= {key: getattr(found, key), f"{key}_most": getattr(goal, key)}
    return row, missed


def _loaded(subject: Subject, process: Arrivals, hardware: str, seconds: float) -> LoadRecord:
    assert subject.workload is not None
    with started(subject.name, subject.workload, hardware) as target:
        settings = checked(
            workload=subject.name,
            host=target.http,
            grpc=target.grpc,
            arrivals=process,
            seconds=seconds,
            warm_up_s=_WARM_UP_S,
        )
        return run_load(settings, subject.file)
