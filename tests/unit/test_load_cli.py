"""`argus load`: what it refuses, what it runs, and its exit status; the engine itself is in the integration tests."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from benchmarks.loadtest import run as engine
from benchmarks.loadtest.hooks import only_user
from benchmarks.loadtest.record import LoadRecord
from benchmarks.loadtest.run import Processes
from benchmarks.loadtest.settings import Settings
from benchmarks.loadtest.subject import arrivals, find
from benchmarks.loadtest.user import OpenLoopUser
from benchmarks.targets import load_targets
from serve.cli import app
from serve.errors import ArgusError, ConfigError
from tests.unit.load_records import record

TARGETS = load_targets()
HOST = ("--host", "http://127.0.0.1:1")
GOAL = TARGETS.workload("classification").goals["cpu-demo"]


class Engine:
    """Stands in for Locust: keeps what it was asked for, and gives a run with the latency that it was told."""

    def __init__(self) -> None:
        self.latency_s = 0.001
        self.cpu_share = 0.1
        self.asked: list[tuple[Settings, Path, Processes]] = []

    def __call__(self, settings: Settings, file: Path, processes: Processes, **_more: Any) -> LoadRecord:
        self.asked.append((settings, file, processes))
        return record(settings, latency_s=self.latency_s, cpu_share=self.cpu_share)


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Engine:
    stub = Engine()
    monkeypatch.setattr(engine, "run_load", stub)
    return stub


def said(*arguments: str) -> tuple[int, str]:
    """Exit status and output; an error of ours is raised out of the application."""
    ran = CliRunner().invoke(app, ["load", *arguments], catch_exceptions=True)
    if isinstance(ran.exception, ArgusError):
        return 1, ran.exception.message
    return ran.exit_code, ran.output


def test_a_file_without_a_user_of_ours_is_told_what_it_lacks(tmp_path: Path) -> None:
    path = tmp_path / "plain.py"
    path.write_text(
        "from locust import HttpUser, task\n\n\nclass Visitor(HttpUser):\n"
        "    @task\n    def look(self):\n        self.client.get('/')\n"
    )
    code, text = said(str(path), *HOST, "--rate", "5", "--duration", "1s")
    assert code == 1
    assert "plain.py defines no OpenLoopUser" in text


def test_a_target_that_is_held_ends_well(stub: Engine) -> None:
    code, text = said("classification", *HOST, "--duration", "5s")
    assert code == 0, text
    assert "met" in text
    ((settings, file, processes),) = stub.asked
    assert settings.arrivals.mean_rate(5) == pytest.approx(GOAL.qps)
    assert file.name == "classification.py"
    assert processes == Processes()


def test_a_target_that_is_missed_does_not(stub: Engine) -> None:
    stub.latency_s = 5.0
    code, text = said("classification", *HOST, "--duration", "5s")
    assert code == 1
    assert re.search(r"missed P\d\d: .* target <= ", text)


def test_a_run_that_is_no_measurement_does_not_either(stub: Engine) -> None:
    stub.cpu_share = 1.0
    code, text = said("classification", *HOST, "--duration", "5s")
    assert code == 1
    assert "invalid the generator used 100% of its core" in text


@pytest.mark.parametrize("option", ["duration", "warm-up", "grace"])
def test_what_is_no_length_of_time_is_named(stub: Engine, option: str) -> None:
    ran = CliRunner().invoke(app, ["load", "image_search", f"--{option}", "soon"])
    assert isinstance(ran.exception, ConfigError) and ran.exception.param == option


def test_files_are_written(stub: Engine, tmp_path: Path) -> None:
    files = ("--json", str(tmp_path / "a" / "r.json"), "--html", str(tmp_path / "a" / "r.html"))
    code, _ = said("classification", *HOST, "--duration", "5s", *files)
    assert code == 0
    assert json.loads((tmp_path / "a" / "r.json").read_text())["settings"]["workload"] == "classification"
    assert "<svg" in (tmp_path / "a" / "r.html").read_text()


def test_a_file_that_cannot_be_written_in_the_end_loses_nothing_else(stub: Engine, tmp_path: Path) -> None:
    """Both could be written before the run; meanwhile one of them has become a folder."""

    def run(settings: Settings, *rest: Any, **more: Any) -> LoadRecord:
        (tmp_path / "r.json").mkdir()
        return stub(settings, *rest, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "run_load", run)
        files = ("--json", str(tmp_path / "r.json"), "--html", str(tmp_path / "r.html"))
        code, text = said("classification", *HOST, "--duration", "5s", *files)
    assert code == 1
    assert "cannot be written: Is a directory" in text
    assert "met" in text
    assert "<svg" in (tmp_path / "r.html").read_text()


def test_an_output_is_not_begun_before_there_is_something_to_write(stub: Engine, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    said("classification", *HOST, "--name", "demo", "--json", str(path))
    assert not path.exists()
    path.write_text("kept")
    said("classification", *HOST, "--name", "demo", "--json", str(path))
    assert path.read_text() == "kept"


def test_locust_is_cooperative_and_runs_where_the_command_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    says = "import os; open('said', 'w').write(os.environ.get('LOCUST_SKIP_MONKEY_PATCH', 'cooperative'))"
    monkeypatch.setattr(engine, "_COMMAND", (sys.executable, "-c", says))
    monkeypatch.setenv("LOCUST_SKIP_MONKEY_PATCH", "1")
    monkeypatch.chdir(tmp_path)
    assert engine.run_worker(Path("mine.py"), "127.0.0.1:5557", 1) == 0
    assert (tmp_path / "said").read_text() == "cooperative"


def test_a_master_sends_its_workers_to_the_host(stub: Engine) -> None:
    code, text = said("classification", *HOST, "--duration", "5s", "--master", "0.0.0.0:5557", "--workers", "8")
    assert code == 0, text
    ((settings, _, processes),) = stub.asked
    assert (settings.host, processes) == (HOST[1], Processes(bind="0.0.0.0:5557", remote=8))


def test_a_worker_needs_its_master_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int]] = []
    monkeypatch.setattr(engine, "run_worker", lambda _file, master, local: asked.append((master, local)) or 0)
    code, text = said("classification", "--profile", "cpu-demo", "--worker", "10.0.0.5:5557", "--workers", "4")
    assert code == 0, text
    assert asked == [("10.0.0.5:5557", 4)]


def test_a_soak_test_is_long_and_at_the_targets_rate(stub: Engine) -> None:
    _, text = said("classification", *HOST, "--soak")
    ((settings, _, _),) = stub.asked
    assert settings.seconds == 1200
    assert settings.warm_up_s > 300, "caches keep answers for five minutes"
    assert settings.arrivals.mean_rate(1200) == pytest.approx(GOAL.qps)
    assert "latency P99, ms" in text
    said("classification", *HOST, "--soak", "--rate", "9", "--warm-up", "1s")
    assert stub.asked[-1][0].arrivals.mean_rate(1200) == pytest.approx(9)
    assert stub.asked[-1][0].warm_up_s == 1


def test_a_file_of_ones_own(stub: Engine, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("")
    code, text = said(str(path), *HOST, "--rate", "50", "--duration", "5s", "--workers", "3")
    assert code == 0, text
    ((settings, file, processes),) = stub.asked
    assert (settings.workload, file, processes) == ("mine", path, Processes(local=3))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("nothing", *HOST), "Workload 'nothing' does not exist; it must be one of"),
        (("none.py", *HOST), "there is no such file"),
        (("classification", *HOST, "--profile", "h100"), "Nothing is declared for 'h100'"),
        (("classification", *HOST, "--rate", "0"), "above 0"),
        (("classification", *HOST, "--arrivals", "poison:3"), "unknown process"),
        (("classification", *HOST, "--arrivals", "trace:/nowhere/x.csv"), "cannot be read"),
        (("classification", *HOST, "--duration", "long"), "is no length of time"),
        (("classification", *HOST, "--duration", "0"), "seconds"),
        (("classification", *HOST, "--json", "/"), "/: cannot be written: Is a directory"),
        (("classification", *HOST, "--html", "/dev/null/x.html"), "x.html: cannot be written"),
        (("classification", "--host", "127.0.0.1:80"), "host"),
        (("classification", "--host", "http://"), "host: String should match"),
        (("classification", *HOST, "--name", "demo"), "either --host or --name"),
        (("classification", "--name", "nothing-runs-under-this"), "does not run"),
        (("classification", *HOST, "--master", "5557", "--workers", "2"), "write HOST:PORT"),
        (("classification", *HOST, "--master", "0.0.0.0:5557"), "say how many"),
        (("classification", "--master", "0.0.0.0:5557", "--workers", "2"), "--master needs --host"),
        (("classification", "--name", "demo", "--master", "0.0.0.0:5557", "--workers", "2"), "--master needs --host"),
        (("classification", "--worker", "there"), "write HOST:PORT"),
        (("classification", *HOST, "--worker", "10.0.0.5:5557"), "give --host to the master"),
        (("classification", "--worker", "10.0.0.5:5557", "--rate", "9"), "give --rate to the master"),
        (("classification", "--worker", "10.0.0.5:5557", "--max-in-flight", "9"), "give --max-in-flight to the master"),
        (("classification", "--worker", "10.0.0.5:5557", "--master", "0.0.0.0:5557"), "give --master to the master"),
    ],
)
def test_what_cannot_be_is_one_clear_line(stub: Engine, arguments: tuple[str, ...], says: str) -> None:
    code, text = said(*arguments)
    assert code == 1
    assert says in text
    assert "\n" not in text
    assert stub.asked == []


def test_a_trace_of_no_length_is_one_clear_line(stub: Engine, tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text('{"time_s": 0}\n{"time_s": 1}\n')
    code, text = said("classification", *HOST, "--duration", "0", "--arrivals", f"trace:{path}")
    assert code == 1
    assert "seconds: Input should be greater than 0" in text


def test_nothing_is_started_for_settings_that_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.loadtest import target

    def refuse(*_args: object) -> None:
        raise AssertionError("a cluster was started")

    monkeypatch.setattr(target, "started", refuse)
    code, text = said("classification", "--warm-up", "2h")
    assert code == 1
    assert "warm_up_s" in text


def test_a_spec_keeps_its_rate_unless_another_is_given() -> None:
    subject = find("classification", "cpu-demo", TARGETS)
    assert arrivals(subject, "gamma:7,cv=3", None).mean_rate(60) == pytest.approx(7)
    assert arrivals(subject, "gamma:7,cv=3", 9.0).mean_rate(60) == pytest.approx(9)
    assert arrivals(subject, None, 9.0).mean_rate(60) == pytest.approx(9)


def test_a_file_without_a_target_needs_a_rate(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("")
    with pytest.raises(ConfigError, match="give --rate or --arrivals"):
        arrivals(find(str(path), "cpu-demo", TARGETS), None, None)


def test_the_files_own_user_is_chosen_among_those_in_sight() -> None:
    base = type("Base", (OpenLoopUser,), {"__module__": "benchmarks.workloads.base"})
    own = type("Own", (base,), {"__module__": "own"})
    assert only_user([base, own], "own.py") is own
    assert only_user([base], "own.py") is base
    assert only_user([], "own.py") is None
    other = type("Other", (base,), {"__module__": "own"})
    with pytest.raises(ConfigError, match="has several users: Other, Own"):
        only_user([own, other], "own.py")


def test_knowing_a_workload_does_not_make_the_process_cooperative() -> None:
    from gevent import monkey

    assert "locust" in sys.modules
    assert not monkey.is_module_patched("socket")
