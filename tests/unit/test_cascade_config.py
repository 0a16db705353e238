"""The `cascades` section: what is refused, with messages that name the key, the value and what would be right."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from serve.calibration.file import Calibration
from serve.config.checkpoints import checkpoint_mark
from serve.config.load import ConfigErrors, load_file, parse

Change = Callable[[dict[str, Any]], None]
SCREEN = {"name": "screen", "use": "clip", "task": "classify", "accept": {"rule": "confidence", "at_least": 0.9}}
ANALYSE = {"name": "analyse", "use": "llava", "task": "choose"}


def calibration(**step: Any) -> dict[str, Any]:
    """A calibration file's content, some values of its step replaced."""
    return {
        "cascade": "guard",
        "made": "2026-11-01",
        "steps": {
            "screen": {
                "checkpoint": "openai/clip-vit-base-patch32",
                "temperature": 2.0,
                "threshold": 0.8,
                "target": 0.95,
                "confidence": 0.95,
                "samples": 100,
                "labels_used": 100,
                "ece_before": 0.1,
                "ece_after": 0.02,
                "curve": [{"threshold": 0.8, "accepted": 0.7, "agreement": 0.99, "lower": 0.96}],
                **step,
            }
        },
    }


def file(change: Change = lambda _: None) -> dict[str, Any]:
    """A file whose cascade `guard` is right, then changed."""
    cascade = {
        "answer": "label",
        "labels": ["safe", "knife"],
        "policy": {"allow": ["safe"], "block": ["knife"]},
        "steps": [SCREEN, ANALYSE],
    }
    data = {
        "name": "test",
        "node_pools": {"local": {}},
        "models": {
            "clip": {"kind": "clip", "checkpoint": "openai/clip-vit-base-patch32"},
            "llava": {"kind": "llava", "checkpoint": "llava-hf/llava-1.5-7b-hf"},
        },
        "providers": {"gpt": {"kind": "openai", "model": "gpt-4o"}},
        "cascades": {"guard": cascade},
    }
    made = copy.deepcopy(data)
    change(made["cascades"]["guard"])  # type: ignore[index]
    return made


def put(*path: Any, value: Any) -> Change:
    """Sets one value of the cascade."""

    def change(cascade: dict[str, Any]) -> None:
        place: Any = cascade
        for part in path[:-1]:
            place = place[part]
        place[path[-1]] = value

    return change


def problems(data: dict[str, Any]) -> tuple[str, ...]:
    with pytest.raises(ConfigErrors) as caught:
        parse(data)
    return caught.value.problems


def test_a_right_one() -> None:
    cascade = parse(file()).cascades["guard"]
    screen, analyse = cascade.steps
    assert cascade.after(screen) == analyse
    assert cascade.after(analyse) is None


REFUSED: list[tuple[str, Change, list[str]]] = [
    ("threshold", put("steps", 0, "accept", "at_least", value=1.5), ["steps.0.accept.at_least: got 1.5", "equal to 1"]),
    ("no model", put("steps", 1, "use", value="lava"), ["steps.1.use: got 'lava'", "did you mean 'llava'", "gpt"]),
    ("cannot", put("steps", 1, "use", value="clip"), ["steps.1.use: got 'clip', which does not choose", "llava, gpt"]),
    (
        "no fallback",
        put("steps", 1, "fallback", value=[{"on": ["timeout"], "use": "nobody"}]),
        ["steps.1.fallback.0.use: got 'nobody'", "clip, gpt, llava"],
    ),
    (
        "failure",
        put("steps", 1, "fallback", value=[{"on": ["explosion"], "use": "gpt"}]),
        ["steps.1.fallback.0.on.0: got 'explosion'", "'rate_limited'"],
    ),
    (
        "next",
        put("steps", 0, "next", value="analyze"),
        ["steps.0.next: got 'analyze'", "'end' or one of screen, analyse"],
    ),
    ("circle", put("steps", 1, "next", value="screen"), ["steps.1.next: got 'screen'", "screen -> analyse -> screen"]),
    ("itself", put("steps", 0, "next", value="screen"), ["closes a circle: screen -> screen"]),
    ("unreachable", put("steps", 0, "next", value="end"), ["steps.1: no step leads to 'analyse'"]),
    ("twice", put("steps", 1, "name", value="screen"), ["two steps are named 'screen'"]),
    ("end", put("steps", 1, "name", value="end"), ["means the end"]),
    ("shape", put("steps", 1, "task", value="caption"), ["steps.1.task: got 'caption', which gives a text", "'label'"]),
    ("first agrees", put("steps", 0, "accept", value={"rule": "agreement"}), ["steps.0.accept.rule: got 'agreement'"]),
    ("no threshold", put("steps", 0, "accept", value={"rule": "confidence"}), ["steps.0.accept.at_least: is missing"]),
    ("margin", put("steps", 1, "accept", value={"rule": "margin", "at_least": 0.1}), ["only classify has"]),
    ("schema", put("steps", 1, "accept", value={"rule": "schema"}), ["only extract gives JSON"]),
    ("function", put("steps", 1, "accept", value={"rule": "python"}), ["`python` and function go together"]),
    ("surplus", put("steps", 1, "accept", value={"rule": "always", "at_least": 0.4}), ["leave at_least out"]),
    ("field", put("steps", 1, "prompt", value="Is it {label}?"), ["steps.1.prompt: got 'Is it {label}?'", "{labels}"]),
    ("clip prompt", put("steps", 0, "prompt", value="What is it?"), ["takes no prompt"]),
    ("one label", put("labels", value=["safe"]), ["guard.labels: got ['safe']", "at least two"]),
    ("same label", put("labels", value=["safe", "Safe", "knife"]), ["stands twice, case aside"]),
    ("templates", put("templates", value="none"), ["guard.templates: ", "'none' does not exist"]),
    ("policy label", put("policy", "review", value=["saif"]), ["policy.review: got 'saif'", "did you mean 'safe'"]),
    ("unplaced", put("policy", "block", value=[]), ["label 'knife' stands in no list"]),
    ("placed twice", put("policy", "review", value=["safe"]), ["label 'safe' stands in several lists"]),
    ("schema for labels", put("json_schema", value={"type": "object"}), ["a schema is for 'json'"]),
    ("gear", put("gears", value=[{"name": "low"}]), ["guard.gears.0", "has no bound"]),
    (
        "gear's step",
        put("gears", value=[{"name": "low", "above_requests_per_s": 5, "thresholds": {"analyse": 0.5}}]),
        ["gears.0.thresholds.analyse", "there are screen"],
    ),
    (
        "gears fall",
        put("gears", value=[{"name": "a", "above_queue_wait_ms": 9}, {"name": "b", "above_queue_wait_ms": 3}]),
        ["gears must stand by rising load"],
    ),
    ("calibration", put("calibration", value="./nowhere.json"), ["guard.calibration: ", "cannot be read"]),
    (
        "another cascade's",
        put("calibration", value={**calibration(), "cascade": "other"}),
        ["guard.calibration: is of cascade 'other'; it must be of 'guard'"],
    ),
    (
        "stale",
        put("calibration", value=calibration(checkpoint="openai/clip-vit-large-patch14")),
        ["was calibrated on 'openai/clip-vit-large-patch14'", "argus calibrate guard"],
    ),
    (
        "another step's",
        put("calibration", value={**calibration(), "steps": {"scan": calibration()["steps"]["screen"]}}),
        ["has a step 'scan'; the cascade has screen, analyse"],
    ),
]


@pytest.mark.parametrize(("change", "said"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_refused(change: Change, said: list[str]) -> None:
    found = problems(file(change))
    assert all(any(part in problem for problem in found) for part in said), found
    assert all(problem.startswith("cascades.guard") for problem in found), found


def test_a_json_cascade_checks_its_schema() -> None:
    step = {"name": "read", "use": "llava", "task": "extract", "accept": {"rule": "schema"}}
    right = {"answer": "json", "json_schema": {"type": "object"}, "steps": [step]}
    wrong = {**right, "json_schema": {"type": "objekt"}}
    data = file()
    data["cascades"] = {"facts": right}
    assert parse(data).cascades["facts"].json_schema == {"type": "object"}
    data["cascades"] = {"facts": wrong}
    assert "is no JSON Schema" in problems(data)[0]
    data["cascades"] = {"facts": {**right, "json_schema": None}}
    assert "has no json_schema to fit" in problems(data)[0]


def test_names_are_unique_across_models_providers_and_cascades() -> None:
    data = file()
    data["cascades"]["gpt"] = data["cascades"].pop("guard")
    assert any("cascades.gpt: a model or provider has the same name" in problem for problem in problems(data))


def test_a_calibration_file_is_read_beside_the_cluster_file(tmp_path: Path) -> None:
    def change(cascade: dict[str, Any]) -> None:
        del cascade["steps"][0]["accept"]["at_least"]
        cascade["calibration"] = "./guard.json"

    (tmp_path / "guard.json").write_text(Calibration.model_validate(calibration()).model_dump_json())
    (tmp_path / "cluster.yaml").write_text(__import__("yaml").safe_dump(file(change)))
    evidence = load_file(tmp_path / "cluster.yaml").cascades["guard"].evidence
    assert evidence is not None
    assert evidence.steps["screen"].threshold == 0.8
    unread = load_file(tmp_path / "cluster.yaml", calibrations=False).cascades["guard"]
    assert unread.evidence is None
    assert unread.calibration == str(tmp_path / "guard.json")


def test_a_local_checkpoint_is_known_by_its_weights(tmp_path: Path) -> None:
    """A folder keeps its name when its model is trained again; its calibration must not be trusted then."""
    weights = tmp_path / "mine" / "model.safetensors"
    weights.parent.mkdir()
    data = file()
    data["models"]["clip"]["checkpoint"] = str(weights.parent)
    marks = []
    for folder, content in (("a", b"\1" * 100), ("b", b"\2" * 100)):
        path = tmp_path / folder / "mine" / "model.safetensors"
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        data["models"]["clip"]["checkpoint"] = str(path.parent)
        marks.append(checkpoint_mark(parse(data), "clip"))
    assert marks[0] != marks[1]
    assert all(mark.startswith("mine#") for mark in marks)
    data["models"]["clip"] = {"kind": "clip", "checkpoint": "a/b", "revision": "abc"}
    assert checkpoint_mark(parse(data), "clip") == "a/b@abc"
    assert checkpoint_mark(parse(data), "gpt") == "gpt-4o"


def test_yaml_says_on_and_no_as_people_mean_them(tmp_path: Path) -> None:
    """YAML 1.1 would read a key `on` and the labels `yes` and `no` as booleans; 1.2 does not."""
    (tmp_path / "cluster.yaml").write_text(
        """
name: test
node_pools: {local: {}}
url_fetch: {enabled: true}
models: {llava: {kind: llava, checkpoint: a/b}}
providers: {gpt: {kind: openai, model: gpt-4o}}
cascades:
  person:
    answer: label
    labels: [yes, no]
    steps:
      - {name: ask, use: llava, task: choose, fallback: [{on: [timeout], use: gpt}]}
"""
    )
    cluster = load_file(tmp_path / "cluster.yaml")
    cascade = cluster.cascades["person"]
    assert cascade.labels == ("yes", "no")
    assert cascade.steps[0].fallback[0].on == ("timeout",)
    assert cluster.url_fetch.enabled is True
