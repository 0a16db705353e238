"""`argus simulate`, through its command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from serve.cli import app
from serve.cli.simulate import read_seconds
from serve.errors import ConfigError


def _run(*arguments: str) -> tuple[int, str, BaseException | None]:
    done = CliRunner().invoke(app, ["simulate", *arguments])
    return done.exit_code, done.output, done.exception


def test_a_workload_is_simulated_and_recorded(tmp_path: Path) -> None:
    record = tmp_path / "run.json"
    code, shown, _ = _run(
        "--workload",
        "moderation",
        "--hardware",
        "cpu-demo",
        "--duration",
        "2m",
        "--warm-up",
        "10s",
        "--json",
        str(record),
    )
    assert code == 0, shown
    assert "clip" in shown
    assert "times real time" in shown
    written = json.loads(record.read_text())
    assert written["settings"]["hardware"] == {"local": "cpu-demo"}
    assert written["settings"]["seconds"] == 120
    assert written["all"]["requests"] > 100
    assert set(written["all"]["path_share"]) == {"screen", "analyse"}
    assert 0 < written["stages"]["clip"]["busy_share"] < 1


def test_beyond_what_a_cluster_can_do_the_answers_a_second_stay_where_they_are(tmp_path: Path) -> None:
    told = []
    for rate in ("60", "2000"):
        record = tmp_path / "folder" / rate
        assert _run("--flow", "clip", "--rate", rate, "--duration", "20", "--json", str(record))[0] == 0
        told.append(json.loads(record.read_text())["all"])
    assert told[0]["answers_per_s"] == pytest.approx(60, rel=0.1)
    assert told[1]["answers_per_s"] < 1000


@pytest.mark.parametrize("command", ["simulate", "plan"])
def test_a_rate_that_nobody_can_mean_is_refused(command: str) -> None:
    done = CliRunner().invoke(app, [command, "--flow", "clip", "--rate", "2e6"])
    assert done.exit_code == 2 and "--rate" in done.output


@pytest.mark.parametrize(
    ("command", "option", "value"), [("simulate", "--seed", str(2**64)), ("plan", "--duration", "inf")]
)
def test_numbers_that_nothing_can_be_done_with_are_refused(command: str, option: str, value: str) -> None:
    done = CliRunner().invoke(app, [command, "--flow", "clip", "--rate", "1", option, value])
    assert done.exit_code == 2 and option in done.output


def test_a_plan_is_not_written_over_a_file(tmp_path: Path) -> None:
    (tmp_path / "plan").write_text("something")
    done = CliRunner().invoke(app, ["plan", "--flow", "clip", "--rate", "1", "--out", str(tmp_path / "plan")])
    assert done.exit_code == 2 and "--out" in done.output


def test_of_a_run_without_any_request_nothing_is_told_that_nobody_knows(tmp_path: Path) -> None:
    record = tmp_path / "run.json"
    code, shown, _ = _run("--flow", "clip", "--rate", "1e-6", "--duration", "10s", "--json", str(record))
    assert code == 0, shown
    assert "nan" not in shown and "0 requests" in shown
    whole = json.loads(record.read_text())["all"]
    assert (whole["requests"], whole["p99_s"]) == (0, None)


def test_the_same_seed_is_the_same_run(tmp_path: Path) -> None:
    figures = []
    for name in ("one", "two"):
        record = tmp_path / name
        assert _run("--flow", "clip", "--rate", "20", "--duration", "60", "--seed", "7", "--json", str(record))[0] == 0
        figures.append({**json.loads(record.read_text()), "simulated_in_s": 0})
    assert figures[0] == figures[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "either --workload, or --flow"),
        (("--workload", "moderation", "--flow", "clip"), "either --workload, or --flow"),
        (("--workload", "nonsense"), "nonsense"),
        (("--flow", "clip"), "no rate is known"),
        (("--flow", "nonsense", "--rate", "1"), "nonsense"),
        (("--flow", "clip", "--rate", "1", "--hardware", "local=h100"), "h100"),
        (("--flow", "clip", "--rate", "1", "--hardware", "remote=t4"), "remote"),
        (("--flow", "clip", "--rate", "1", "--hardware", "t4"), "POOL=CLASS"),
        (("--flow", "clip", "--rate", "1", "--duration", "soon"), "soon"),
        (("--flow", "clip", "--rate", "1", "--duration", "1m", "--warm-up", "2m"), "shorter than the duration"),
        (("--flow", "clip", "--arrivals", "nonsense:3"), "nonsense"),
        (("--flow", "entry=moderation,items=4", "--rate", "1"), "has 4 items"),
    ],
)
def test_what_cannot_be_simulated_is_said_in_one_line(arguments: tuple[str, ...], message: str) -> None:
    code, _, error = _run(*arguments)
    assert code != 0
    assert isinstance(error, ConfigError), error
    assert message in error.message


def test_durations_have_units() -> None:
    assert [read_seconds(text, "duration") for text in ("90", "90s", "1.5m", "2min", "1h")] == [90, 90, 90, 120, 3600]
    for wrong in ("", "-3", "3 days", "1e9h", "99999999h"):
        with pytest.raises(ConfigError, match="write a time"):
            read_seconds(wrong, "duration")


def test_a_model_that_writes_must_be_told_how_much(tmp_path: Path) -> None:
    code, _, error = _run("--flow", "llava", "--rate", "1", "--duration", "20")
    assert code != 0 and isinstance(error, ConfigError)
    assert "says nothing of how much" in error.message
    trace = tmp_path / "trace.jsonl"
    rows = [{"time_s": float(second), "output_tokens": 5} for second in range(20)]
    trace.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert _run("--flow", "llava", "--arrivals", f"trace:{trace}", "--duration", "20")[0] == 0, "a trace may say it"
    gap = tmp_path / "gap.jsonl"
    gap.write_text("".join(json.dumps(row) + "\n" for row in [*rows[:5], {"time_s": 5.0}, *rows[6:]]))
    assert isinstance(_run("--flow", "llava", "--arrivals", f"trace:{gap}", "--duration", "20")[2], ConfigError)


def test_texts_alone_may_have_their_lengths_from_a_recording(tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    trace.write_text('{"time_s": 0, "prompt_tokens": 30, "output_tokens": 8}\n{"time_s": 20, "output_tokens": 20}\n')
    flow = "name=chat,entry=llava,images=0"
    code, shown, error = _run("--profile", "gpu", "--flow", flow, "--arrivals", f"trace:{trace},rate=2")
    assert code == 0, error
    assert "Hardware: gpu as a100" in shown


def test_a_record_is_json_where_nothing_was_answered(tmp_path: Path) -> None:
    def refused(name: str) -> float:
        raise AssertionError(f"{name} is no JSON")

    record = tmp_path / "run.json"
    assert _run("--flow", "clip", "--rate", "0.001", "--duration", "10", "--json", str(record))[0] == 0
    assert json.loads(record.read_text(), parse_constant=refused)["all"]["requests"] == 0


@pytest.mark.parametrize(
    "command",
    [
        ("simulate", "--flow", "clip", "--rate", "1", "--json"),
        ("plan", "--flow", "clip", "--rate", "1", "--slo", "p99=5s", "--out"),
        ("profile", "clip", "--hardware", "cpu-demo", "--out"),
        ("validate", "classification", "--json"),
        ("bench", "batching", "--json"),
    ],
)
def test_what_cannot_be_written_is_said_before_the_work(command: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ran = CliRunner().invoke(app, [*command, str(tmp_path / "file" / "run.yaml")])
    assert isinstance(ran.exception, ConfigError), ran.exception
    assert "cannot be written" in ran.exception.message


def _two_pools(*order: str) -> dict[str, Any]:
    pools = {
        "routers": {"cpus": 32, "memory_gb": 64, "min_nodes": 1},
        "gpu": {"gpu": "A100", "gpus": 1, "gpu_memory_gb": 80, "cpus": 24, "memory_gb": 220, "min_nodes": 1},
    }
    model = {"kind": "clip", "checkpoint": "openai/clip-vit-large-patch14", "dtype": "float16", "gpu_memory_gb": 4}
    return {
        "name": "two-pools",
        "node_pools": {name: pools[name] for name in order},
        "models": {"clip": {**model, "placement": {"pool": "gpu", "preprocess_workers": 8}}},
    }


def test_nodes_without_a_model_are_not_taken_for_the_demos_machine(tmp_path: Path) -> None:
    """Whichever pool comes first, no core is short beside an A100."""
    told = []
    for at, order in enumerate((("routers", "gpu"), ("gpu", "routers"))):
        config, record = tmp_path / f"{at}.yaml", tmp_path / f"{at}.json"
        config.write_text(yaml.safe_dump(_two_pools(*order), sort_keys=False))
        code, shown, _ = _run(
            "--config", str(config), "--flow", "clip", "--rate", "100", "--duration", "20s", "--json", str(record)
        )
        assert code == 0, shown
        assert "Hardware: gpu as a100" in shown
        told.append(json.loads(record.read_text()))
    assert told[0]["all"] == told[1]["all"]
    assert told[0]["settings"]["config"].endswith("0.yaml")


def test_a_hosted_model_is_shown_as_one_and_ours_is_not(tmp_path: Path) -> None:
    code, shown, _ = _run("--workload", "clip_api", "--rate", "50", "--duration", "10s", "--hardware", "t4")
    assert code == 0, shown
    hosted = {line.split()[1] for line in shown.splitlines() if "hosted" in line}
    assert hosted and "clip" not in hosted


def test_a_model_where_nobody_knows_the_hardware_is_named_with_what_would_say_it(tmp_path: Path) -> None:
    content = _two_pools("routers", "gpu")
    content["models"]["clip"] |= {"placement": {"pool": "routers"}, "gpu_memory_gb": 0}
    config = tmp_path / "cluster.yaml"
    config.write_text(yaml.safe_dump(content, sort_keys=False))
    error = _run("--config", str(config), "--flow", "clip", "--rate", "10", "--duration", "5s")[2]
    assert isinstance(error, ConfigError)
    assert "--hardware routers=CLASS" in error.message


def test_eight_replicas_on_one_card_do_what_the_card_does(tmp_path: Path) -> None:
    content = _two_pools("gpu")
    content["router"] = {"replicas": 4, "num_cpus": 1}
    content["models"]["clip"]["batching"] = {"max_items": 32}
    told = {}
    for replicas in (1, 8):
        content["models"]["clip"]["autoscaling"] = {"min_replicas": replicas, "max_replicas": replicas}
        config, record = tmp_path / "cluster.yaml", tmp_path / "run.json"
        config.write_text(yaml.safe_dump(content, sort_keys=False))
        ran = ("--flow", "clip", "--rate", "1400", "--duration", "20s", "--json", str(record))
        code, _, error = _run("--config", str(config), *ran)
        assert code == 0, error
        told[replicas] = json.loads(record.read_text())["all"]["answers_per_s"]
    # By the profile of an A100 521 pictures a second in batches of 32.
    assert told[1] == pytest.approx(521, rel=0.05)
    assert told[8] == pytest.approx(told[1], rel=0.05)
