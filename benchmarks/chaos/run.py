"""Runs the faults, each site's together, and puts what became of the requests into one table."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any, Final

from rich.console import Console

from benchmarks.chaos import around, clients, engines, inside
from benchmarks.chaos.scenario import GRACE_S, Scenario, play
from benchmarks.chaos.site import Skipped
from benchmarks.chaos.sites import SITES
from benchmarks.report import Column, Report, this_command
from serve.errors import ConfigError, Unavailable

SCENARIOS: Final[tuple[Scenario, ...]] = (
    *inside.SCENARIOS,
    *around.SCENARIOS,
    *clients.SCENARIOS,
    *engines.SCENARIOS,
)
NAMES: Final = tuple(scenario.name for scenario in SCENARIOS)
GOAL: Final = (
    f"every request is answered within its deadline and {GRACE_S:g} s; a failure has a code that its fault explains; "
    "nothing acknowledged is lost or done twice; other models are unhurt; everything is answered again without help"
)
_COLUMNS: Final = (
    Column("title", "fault"),
    Column("sent", "sent", "d"),
    Column("failed", "failed", "d"),
    Column("codes", "codes"),
    Column("retried", "retried", "d"),
    Column("again", "asked again", "d"),
    Column("lost", "lost", "d"),
    Column("stall_s", "longest stall s", ".2f"),
    Column("recovery_s", "recovery s", ".1f"),
    Column("remark", "remark"),
)


def chosen(only: Sequence[str]) -> list[Scenario]:
    """The scenarios of these names, all when there are none.

    Raises:
        ConfigError: there is none of a name.
    """
    for name in only:
        if name not in NAMES:
            raise ConfigError(f"--only: got {name!r}; it must be one of {', '.join(NAMES)}")
    return [scenario for scenario in SCENARIOS if not only or scenario.name in only]


def run(*, only: Sequence[str], seed: int, progress: Console) -> Report:
    """Breaks what `only` names, one after the other."""
    scenarios = chosen(only)
    report = Report(
        this_command(),
        "What breaks, and what becomes of the requests meanwhile",
        GOAL,
        _COLUMNS,
        {"seed": seed, "grace_s": GRACE_S, "faults": [scenario.name for scenario in scenarios]},
        notes=[
            "Arrivals are Poisson and do not wait for answers. `longest stall`: from when a request was due to its "
            "answer, good or bad. `recovery`: from the fault to the end of the last request that failed, or that took "
            "more than twice as long as any of its kind before and half a second; 0 when there was none.",
            "`retried`: attempts after failed ones that the routers counted (those of a router that was killed are "
            "lost with it). `asked again`: calls that reached a model for a request that had reached one before.",
        ],
    )
    for site in dict.fromkeys(scenario.site for scenario in scenarios):
        here = [scenario for scenario in scenarios if scenario.site == site]
        for row in _rows(site, here, seed, progress):
            report.rows.append(row)
            report.misses += [f"{row['title']}: {miss}" for miss in row.get("misses", ())]
    return report


def _rows(name: str, scenarios: Sequence[Scenario], seed: int, progress: Console) -> Iterable[dict[str, Any]]:
    progress.print(f"  cluster {name!r} starts ...", highlight=False)
    try:
        with SITES[name]() as site:
            for scenario in scenarios:
                progress.print(f"  {scenario.title} ...", highlight=False)
                try:
                    row = asyncio.run(play(scenario, site, seed=seed))
                except Skipped as reason:
                    yield _without(scenario, f"skipped: {reason}")
                    continue
                for miss in row["misses"]:
                    progress.print(f"    {miss}", highlight=False)
                yield row
    except Skipped as reason:
        for scenario in scenarios:
            yield _without(scenario, f"skipped: {reason}")
    except Unavailable as problem:
        progress.print(f"    {problem.message}", highlight=False, markup=False)
        for scenario in scenarios:
            yield {**_without(scenario, "its cluster did not start"), "misses": ["its cluster did not start"]}


def _without(scenario: Scenario, remark: str) -> dict[str, Any]:
    return {"fault": scenario.name, "title": scenario.title, "remark": remark, "misses": []}
