"""The drivers and the report of the benchmarks. Nothing here asserts how long something takes."""

from __future__ import annotations

import asyncio
import io
import itertools
import json
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import typer
from rich.console import Console

from benchmarks import batching, load, material, overhead, serving, wrk
from benchmarks.load import Run, Sample
from benchmarks.peers import setup
from benchmarks.report import Column, Report
from serve.cli.bench import command
from serve.config.cluster import ClusterFile
from serve.config.load import parse
from serve.errors import Unavailable


def report(misses: list[str] | None = None) -> Report:
    columns = (Column("name", "name"), Column("rate", "rate/s", ".1f"))
    rows: list[dict[str, Any]] = [{"name": "a", "rate": 1 / 3}, {"name": "b", "rate": math.nan}]
    return Report("argus bench x", "X", "fast", columns, {"seed": 1}, rows, ["a note"], misses or [])


class Unstarted:
    """Stands in for servers and their load generator: keeps cluster files, and the flag of each trace by host."""

    def __init__(self) -> None:
        self.clusters: dict[str, ClusterFile] = {}
        self.flags: dict[str, set[str]] = {}
        self.sends_spans = True

    @contextmanager
    def argus(self, name: str, content: dict[str, Any], **_: int) -> Iterator[tuple[str, str]]:
        self.clusters[name] = parse({"name": name, **content})
        yield f"http://{name}", ""

    def post(self, url: str, files: Any, headers: dict[str, str], **_: Any) -> wrk.Load:
        host = urlsplit(url).hostname or ""
        self.flags.setdefault(host, set()).add(headers.get("traceparent", "").rpartition("-")[2])
        running = self.clusters.get(host)
        if self.sends_spans and running is not None and running.tracing.endpoint:
            spans = httpx.post(f"{running.tracing.endpoint}/v1/traces", content=b"spans", trust_env=False)
            assert spans.status_code == 200
        return wrk.Load(100.0, 0.01, 0.02, 100, 0)


class TestArrivals:
    def test_a_seed_gives_the_same_arrivals(self) -> None:
        assert load.poisson_arrivals(50, 10, seed=3) == load.poisson_arrivals(50, 10, seed=3)
        assert load.poisson_arrivals(50, 10, seed=3) != load.poisson_arrivals(50, 10, seed=4)

    def test_they_are_sorted_and_within_the_time(self) -> None:
        times = load.poisson_arrivals(100, 20, seed=0)
        assert times == sorted(times)
        assert all(0 <= time < 20 for time in times)

    def test_rate_and_spread_are_those_of_a_poisson_process(self) -> None:
        times = load.poisson_arrivals(100, 200, seed=0)
        gaps = [b - a for a, b in itertools.pairwise(times)]
        mean = sum(gaps) / len(gaps)
        deviation = math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / len(gaps))
        assert mean == pytest.approx(0.01, rel=0.03)
        assert deviation == pytest.approx(mean, rel=0.05)  # exponential gaps: both are 1/rate


class TestQuantile:
    def test_nearest_rank(self) -> None:
        ordered = [float(i) for i in range(1, 101)]
        assert (load.quantile(ordered, 0.5), load.quantile(ordered, 0.99), load.quantile(ordered, 1)) == (50, 99, 100)

    def test_one_value_and_none(self) -> None:
        assert load.quantile([7.0], 0.01) == 7.0
        assert math.isnan(load.quantile([], 0.5))


class TestRun:
    def test_only_the_window_counts(self) -> None:
        run = Run(1.0, 3.0, closed=4.0)
        run.samples = [Sample(0.5, 1.5), Sample(1.0, 1.2), Sample(2.0, 3.5), Sample(2.5, 2.6, "ValueError")]
        assert run.offered_per_s() == 1.5
        assert run.done_per_s() == 1.0  # at 1.5 and 1.2; 3.5 is after the window, the failed one is no answer
        assert run.errors() == {"ValueError": 1}
        assert run.latencies() == pytest.approx([0.2, 1.5])

    def test_what_was_given_up_counts_with_its_age(self) -> None:
        run = Run(0.0, 2.0, closed=5.0, samples=[Sample(1.0), Sample(1.5, 1.6)])
        assert run.latencies() == pytest.approx([0.1, 4.0])
        assert run.unanswered() == 1

    def test_the_slope_is_exact_for_answers_in_bursts(self) -> None:
        bursts = [Sample(0.0, 2.0 * burst) for burst in range(1, 6) for _ in range(32)]
        assert Run(0.0, 100.0, samples=bursts).slope_per_s() == pytest.approx(16.0)

    def test_the_slope_of_nothing_is_zero(self) -> None:
        assert Run(0.0, 1.0).slope_per_s() == 0.0
        assert Run(0.0, 1.0, samples=[Sample(0.0, 0.5)]).slope_per_s() == 0.0


class TestOpenLoop:
    async def test_it_sends_without_waiting_for_answers(self) -> None:
        release, started = asyncio.Event(), 0

        async def call(number: int) -> None:
            nonlocal started
            started += 1
            if started == 5:  # reached only if all five are in progress at once
                release.set()
            await release.wait()

        run = await load.open_loop(call, [0.0] * 5, warm_up_s=0.0, seconds=0.01, grace_s=30.0)
        assert [sample.ended is not None for sample in run.samples] == [True] * 5

    async def test_errors_are_counted_and_stop_nothing(self) -> None:
        async def call(number: int) -> None:
            if number % 2:
                raise LookupError

        run = await load.open_loop(call, [0.0, 0.001, 0.002, 0.003], warm_up_s=0.0, seconds=0.01, grace_s=30.0)
        assert run.errors() == {"LookupError": 2}
        assert len(run.latencies()) == 2

    async def test_what_hangs_is_cancelled_at_the_end(self) -> None:
        cancelled = []

        async def call(number: int) -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(number)
                raise

        run = await load.open_loop(call, [0.0, 0.0], warm_up_s=0.0, seconds=0.01, grace_s=0.01)
        assert sorted(cancelled) == [0, 1]
        assert run.unanswered() == 2


class TestClosedLoop:
    async def test_it_keeps_no_more_in_progress_than_it_has_connections(self) -> None:
        numbers: list[int] = []
        now, most = 0, 0

        async def call(number: int) -> None:
            nonlocal now, most
            numbers.append(number)
            now += 1
            most = max(most, now)
            await asyncio.sleep(0)
            now -= 1

        run = await load.closed_loop(call, connections=4, warm_up_s=0.0, seconds=0.05)
        assert most == 4
        assert len(set(numbers)) == len(numbers) == len(run.samples)


class TestWrk:
    def test_the_result_line_is_found(self) -> None:
        output = 'Running 1s test\nRESULT {"per_s": 10.5, "p50_s": 0.1, "p99_s": 0.2, "requests": 11, "failed": 1}\n'
        assert wrk.parse(output) == wrk.Load(10.5, 0.1, 0.2, 11, 1)

    def test_a_missing_wrk_says_how_to_get_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(shutil, "which", lambda name: None)
        with pytest.raises(Unavailable, match="apt-get install wrk"):
            wrk.wrk_path()


class TestReport:
    def test_the_record_survives_json(self, tmp_path: Path) -> None:
        path = tmp_path / "results" / "x.json"
        report(["too slow"]).save(path)
        record = json.loads(path.read_text())
        assert record["rows"] == [{"name": "a", "rate": 0.333333}, {"name": "b", "rate": None}]
        assert (record["verdict"], record["misses"], record["goal"]) == ("missed", ["too slow"], "fast")
        assert record["machine"]["cores"] >= 1 and record["machine"]["python"].startswith("3.")

    def test_the_table_shows_figures_notes_and_verdict(self) -> None:
        out = io.StringIO()
        report(["too slow"]).show(Console(file=out))
        for part in ("rate/s", "0.3", "-", "a note", "Goal: fast", "missed too slow"):
            assert part in out.getvalue()

    @pytest.mark.parametrize(("value", "cell"), [(None, "-"), (math.nan, "-"), (2, "2.0"), (True, "True"), ("x", "x")])
    def test_cells(self, value: Any, cell: str) -> None:
        assert Column("rate", "rate", ".1f").cell({"rate": value}) == cell

    def test_check_fails_only_on_a_missed_goal(self) -> None:
        command.finish(report(), None, check=True)
        command.finish(report(["too slow"]), None, check=False)
        with pytest.raises(typer.Exit):
            command.finish(report(["too slow"]), None, check=True)


class TestGoals:
    def test_batching(self) -> None:
        def row(load_share: float, done: float, p99: float, kind: str = "argus") -> dict[str, Any]:
            return {
                "batcher": batching.NAMES[kind],
                "forward_ms": 80.0,
                "load": load_share,
                "done_share": done,
                "p99_passes": p99,
            }

        assert batching.misses([row(0.75, 0.99, 2.4), row(0.95, 0.97, 4.0), row(0.75, 0.2, 50, "ray")]) == []
        assert batching.misses([row(0.75, 0.90, 2.4)]) == ["forward 80 ms at 75%: completes 90.0% of the offered load"]
        assert batching.misses([row(0.50, 0.99, 2.6)]) == ["forward 80 ms at 50%: p99 is 2.60 forward passes"]

    def test_overhead_compares_medians(self) -> None:
        def loads(*rates: float) -> list[wrk.Load]:
            return [wrk.Load(rate, 0.01, 0.02, 100, 0) for rate in rates]

        rows = overhead.rows({"argus": loads(80, 90, 10), "fastapi": loads(100, 99, 500), "asgi": loads(160)})
        assert [row["ratio"] for row in rows] == [1.0, 0.8, 0.5]

    @pytest.fixture
    def unstarted(self, monkeypatch: pytest.MonkeyPatch) -> Unstarted:
        made = Unstarted()
        monkeypatch.setattr(overhead, "argus", made.argus)
        monkeypatch.setattr(overhead, "server", lambda *_: nullcontext())
        monkeypatch.setattr(wrk, "post", made.post)
        monkeypatch.setattr(wrk, "wrk_path", lambda: "wrk")
        return made

    def test_overhead_runs_without_tracing(self, unstarted: Unstarted) -> None:
        rows = overhead.run(rounds=1, seconds=1, connections=1).rows
        assert [row["system"] for row in rows] == list(overhead.NAMES.values())[:3]
        assert {name: one.tracing.endpoint for name, one in unstarted.clusters.items()} == {"bench-overhead": None}

    def test_overhead_with_tracing_has_a_row_for_each_share_of_requests(self, unstarted: Unstarted) -> None:
        rows = overhead.run(rounds=1, seconds=1, connections=1, tracing=True).rows
        assert [row["system"] for row in rows] == list(overhead.NAMES.values())
        assert unstarted.clusters["bench-overhead-traced"].tracing.sample_ratio == 0.01
        assert unstarted.flags == {"bench-overhead": {""}, "127.0.0.1": {""}, "bench-overhead-traced": {"00", "", "01"}}

    def test_tracing_that_sends_nothing_is_not_measured(self, unstarted: Unstarted) -> None:
        unstarted.sends_spans = False
        with pytest.raises(Unavailable, match="no span arrived"):
            overhead.run(rounds=1, seconds=1, connections=1, tracing=True)

    def test_serving_compares_under_the_same_generator(self) -> None:
        def row(title: str, kind: str, generator: str, rate: float, raw: float = 100.0) -> dict[str, Any]:
            head = {"model": "m", "title": title, "kind": kind, "generator": generator}
            return {**head, "per_s": rate, "raw_per_s": raw, "failed": 0}

        rows = [
            row("raw", "limit", "none", 100.0),
            row("http", "argus", "wrk", 95.0),
            row("grpc", "argus", "tritonclient aio", 80.0),
            row("peer", "peer", "wrk", 96.0, raw=110.0),  # faster in a faster minute is not ahead
            row("triton", "peer", "tritonclient aio", 81.0),
            {"model": "m", "title": "absent", "kind": "peer", "generator": "wrk", "reason": "not installed"},
        ]
        assert serving.judge(rows) == [
            "m: grpc serves 80% of the raw forward pass",
            "m: grpc serves 80.0 images/s (80% of raw), triton 81.0 images/s (81% of raw)",
        ]
        assert rows[1]["of_raw"] == 0.95

    def test_serving_without_argus_is_no_success(self) -> None:
        rows = [{"model": "m", "title": "raw", "kind": "limit", "generator": "none", "per_s": 1.0, "failed": 0}]
        assert serving.judge(rows) == ["m: Argus was not measured"]


class TestMaterial:
    def test_files_are_real_distinct_and_the_same_every_time(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pytest.importorskip("skimage")
        made = []
        for folder in ("one", "two"):
            monkeypatch.setenv("ARGUS_BENCH_CACHE", str(tmp_path / folder))
            made.append([path.read_bytes() for path in material.jpegs(3, 8_000, long_side=200)])
        assert made[0] == made[1]
        assert len(set(made[0])) == 3
        assert all(data.startswith(b"\xff\xd8\xff") for data in made[0])

    def test_a_peer_that_is_not_installed_says_how_to_install_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(setup, "PYTRITON", tmp_path)
        with pytest.raises(setup.PeerUnavailable, match=r"benchmarks\.peers\.setup"):
            setup.triton_python()
