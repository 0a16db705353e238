"""The load engine with a real Locust against a real HTTP and gRPC server.

Nothing is said about how fast anything is, but for what a stall of a second does to an open and to a closed loop.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from benchmarks.loadtest.messages import Progress
from benchmarks.loadtest.record import LoadRecord, load_record
from benchmarks.loadtest.run import Processes, run_load, run_worker
from benchmarks.loadtest.schedule import schedule
from benchmarks.loadtest.settings import Settings, checked
from benchmarks.loadtest.watched import run_watched
from benchmarks.servers import free_port
from benchmarks.traffic.arrivals import parse_arrivals
from serve.errors import Unavailable
from tests.support.load_server import LoadServer, load_server
from tests.support.load_users import stalling
from tests.support.waiting import until

USERS = Path(stalling.__file__).parent
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def server() -> Iterator[LoadServer]:
    with load_server() as running:
        yield running


def settings(server: LoadServer, spec: str = "poisson:60", **more: object) -> Settings:
    values = {"workload": "test", "host": server.http, "grpc": server.grpc, "seconds": 2.0, "warm_up_s": 0.5}
    return checked(**{**values, "grace_s": 10.0, "seed": 4, "arrivals": parse_arrivals(spec), **more})


def of_schedule(record: LoadRecord) -> None:
    """Every request of the schedule is in the record, once, at its time."""
    columns, drawn = record.columns(), schedule(record.settings)
    assert np.array_equal(columns.due_s, drawn.due_s)
    assert np.array_equal(columns.number, drawn.number)
    assert (columns.ended_s >= columns.due_s).all()


def test_http_and_grpc_on_schedule(server: LoadServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", "secret")
    seen: list[Progress] = []
    record = run_load(settings(server, key_env="TEST_KEY"), USERS / "asking.py", on_progress=seen.append)
    of_schedule(record)
    columns = record.columns()
    refused = columns.number % 10 == 0
    assert set(columns.errors) == {"overloaded"}
    assert np.array_equal(~columns.ok, refused)
    kinds = np.array(columns.kinds)[columns.kind]
    assert np.array_equal(kinds == "grpc", columns.number % 2 == 1)
    assert {columns.paths[path] for path in np.unique(columns.path[columns.ok])} == {"ask", "live"}
    assert columns.usd[columns.ok & (kinds == "http")] == pytest.approx(0.001)
    assert record.errors["overloaded"].example == "too much"
    assert "secret" not in record.model_dump_json()
    assert seen[-1].sent == seen[-1].requests == len(columns)
    assert seen[-1].done + seen[-1].failed == len(columns)


def test_workers_share_one_schedule(server: LoadServer) -> None:
    record = run_load(settings(server), USERS / "asking.py", Processes(local=2))
    of_schedule(record)
    assert record.generator.workers == 2
    assert np.array_equal(~record.columns().ok, record.columns().number % 10 == 0)


def test_beside_a_cluster_of_this_machine_memory_and_the_pace_of_the_cores_are_kept(server: LoadServer) -> None:
    record = run_watched(settings(server, "poisson:10"), USERS / "asking.py", Processes(), os.getpid())
    memory = record.extra["memory"]
    assert len(memory["times_s"]) == len(memory["bytes"]["all"]) > 0
    assert min(memory["bytes"]["all"]) > 1e6
    assert 0.1 < record.extra["pace"] < 20


def test_a_stall_of_the_server_is_felt_by_all_who_would_have_come(server: LoadServer) -> None:
    """A closed loop asks the same server, which stalls the same way, and sees the stall once: coordinated omission."""
    chosen = settings(server, "constant:100", seconds=4.0, warm_up_s=0.0)
    columns = run_load(chosen, USERS / "stalling.py").columns()
    waited = columns.latency_s
    with httpx.Client(base_url=server.http) as client:
        closed = np.array([_asked(client, number) for number in range(400)])
    half = stalling.STALL_S / 2
    assert float(np.quantile(waited, 0.99)) > half
    assert (waited > half).mean() > 0.05
    assert (closed > half).sum() >= 1
    assert float(np.quantile(closed, 0.99)) < half


def _asked(client: httpx.Client, number: int) -> float:
    began = time.monotonic()
    client.get(stalling.path(number)).raise_for_status()
    return time.monotonic() - began


def test_what_cannot_be_sent_is_counted_and_the_run_is_invalid(server: LoadServer) -> None:
    chosen = settings(server, "constant:20", max_in_flight=3)
    record = run_load(chosen, USERS / "waiting.py")
    of_schedule(record)
    assert record.errors["generator_full"].count > 10
    assert any("were not sent" in fault for fault in record.generator.faults)


def test_an_overloaded_generator_says_so_and_blames_no_server(server: LoadServer) -> None:
    chosen = settings(server, "constant:200", seconds=1.0, warm_up_s=0.0, grace_s=0.5)
    record = run_load(chosen, USERS / "burning.py")
    of_schedule(record)
    assert any("the generator sent late" in fault for fault in record.generator.faults)
    assert any("still not sent when the run had to end" in fault for fault in record.generator.faults)


def test_what_is_still_unanswered_at_the_end_has_failed(server: LoadServer) -> None:
    record = run_load(settings(server, "constant:10", grace_s=0.2, seconds=1.0), USERS / "waiting.py")
    of_schedule(record)
    assert record.errors["unanswered"].count > 0


def test_a_server_that_is_not_there(server: LoadServer) -> None:
    gone = settings(server, host=f"http://127.0.0.1:{free_port(21_000)}", seconds=1.0)
    record = run_load(gone, USERS / "stalling.py")
    of_schedule(record)
    assert not record.columns().ok.any()
    assert "ConnectionRefusedError" in record.errors


@pytest.mark.parametrize(
    ("file", "more", "says"),
    [
        ("unprepared.py", {}, "Unprepared.prepare: RuntimeError: the pictures are not there"),
        ("asking.py", {"key_env": "NOT_SET_ANYWHERE"}, "NOT_SET_ANYWHERE"),
    ],
)
def test_a_workload_that_cannot_start(server: LoadServer, file: str, more: dict[str, object], says: str) -> None:
    with pytest.raises(Unavailable, match=says):
        run_load(settings(server, **more), USERS / file)


def test_a_master_waits_for_workers_of_other_machines(server: LoadServer) -> None:
    bind = f"127.0.0.1:{free_port(26_557)}"
    workers = [threading.Thread(target=run_worker, args=(USERS / "asking.py", bind, 1)) for _ in range(2)]
    for worker in workers:
        worker.start()
    record = run_load(settings(server), USERS / "asking.py", Processes(bind=bind, remote=2))
    for worker in workers:
        worker.join(120)
        assert not worker.is_alive()
    of_schedule(record)
    assert record.generator.workers == 2


def test_the_web_interface_shows_the_run(server: LoadServer) -> None:
    port = free_port(28_089)
    shown: list[str] = []

    def look(_where: Progress) -> None:
        # Locust ends with the run, and progress may be read a moment later.
        with contextlib.suppress(httpx.HTTPError):
            page = httpx.get(f"http://127.0.0.1:{port}/stats/requests", timeout=10)
            shown.extend(one["name"] for one in page.json()["stats"])

    # Locust tells the same for two seconds, so that a look at the very beginning is all that a short run shows.
    record = run_load(settings(server, seconds=6.0), USERS / "asking.py", Processes(ui_port=port), on_progress=look)
    of_schedule(record)
    assert {"http", "grpc", "Aggregated"} <= set(shown)


def test_the_web_interface_runs_one_test_after_the_other(server: LoadServer, tmp_path: Path) -> None:
    path, port = tmp_path / "record.json", free_port(28_600)
    command = [sys.executable, "-m", "locust", "-f", str(USERS / "stalling.py"), "--host", server.http]
    command += ["--web-host", "127.0.0.1", "--web-port", str(port), "--record", str(path)]
    command += ["--arrivals", "constant:20", "--duration", "1s", "--warm-up", "0s"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as web:
            for _ in range(2):
                assert until(lambda: _state(web) in ("ready", "stopped"))
                web.post("/swarm", data={"user_count": 1, "spawn_rate": 1, "host": server.http}).raise_for_status()
                assert until(path.exists)
                assert until(lambda: _state(web) == "stopped")
                assert load_record(path).columns().ok.all()
                path.unlink()
    finally:
        process.kill()
        process.wait()


def _state(web: httpx.Client) -> str:
    try:
        return str(web.get("/stats/requests").json()["state"])
    except httpx.HTTPError:
        return "starting"


def test_locust_runs_the_same_file_by_itself(server: LoadServer, tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    command = [sys.executable, "-m", "locust", "-f", str(USERS / "stalling.py"), "--headless", "--only-summary"]
    command += ["--host", server.http, "--arrivals", "ramp:10,to=50", "--duration", "2s", "--warm-up", "0s"]
    command += ["--record", str(path)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert "Open loop:" in ran.stderr
    record = load_record(path)
    of_schedule(record)
    assert record.settings.workload == "stalling"
    assert record.columns().ok.all()


def test_ctrl_c_keeps_what_was_sent(server: LoadServer, tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    options = ["--host", server.http, "--arrivals", "constant:50", "--duration", "10m", "--warm-up", "0s"]
    command = [sys.executable, "-m", "serve", "load", str(USERS / "stalling.py"), *options, "--json", str(path)]
    before = server.asked()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert until(lambda: server.asked() > before + 20)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=180)
    assert process.returncode == 1
    assert "ended before its time" in said
    record = load_record(path)
    assert record.interrupted
    assert 0 < len(record.columns()) < record.generator.scheduled
    assert json.loads(path.read_text())["settings"]["seconds"] == 600


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARGUS_BENCH_CACHE", str(tmp_path))
