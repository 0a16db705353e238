"""The declared workloads: what is refused, what the requirements say, and that each place is a cluster that exists."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.capacity.profiles import shipped_profiles
from benchmarks.capacity.scenario import scenario
from benchmarks.targets import SHIPPED, Goal, Targets, load_targets
from serve.errors import ConfigError

NAMES = (
    *("image_search", "classification", "blip2_vqa", "llava_chat", "moderation"),
    *("clip_api", "florence2", "splat", "mixed"),
)


@pytest.fixture(scope="module")
def targets() -> Targets:
    return load_targets()


@pytest.fixture
def changed(tmp_path: Path) -> Callable[[Callable[[Any], None]], Path]:
    """The shipped file with a change, as another file."""

    def change(how: Callable[[Any], None]) -> Path:
        data = yaml.safe_load(SHIPPED.read_text(encoding="utf-8"))
        how(data["workloads"])
        path = tmp_path / "targets.yaml"
        path.write_text(yaml.safe_dump(data), encoding="utf-8")
        return path

    return change


def test_every_workload_is_there(targets: Targets) -> None:
    assert set(targets.workloads) == set(NAMES)
    assert all("cpu-demo" in workload.goals for workload in targets.workloads.values())


def test_the_requirements_stand_as_they_were_stated(targets: Targets) -> None:
    def required(workload: str, hardware: str) -> Goal:
        goal = targets.workload(workload).goal(hardware)
        assert goal is not None
        assert goal.source == "requirements"
        return goal

    assert required("image_search", "t4").qps == 100
    assert required("blip2_vqa", "a10").qps == 10
    assert required("llava_chat", "a100").qps == 5
    assert required("clip_api", "t4").qps == 1000
    moderation = required("moderation", "t4+a100")
    assert (moderation.qps, moderation.mean_ms) == (100, 30)
    assert moderation.escalated_share is not None
    assert moderation.escalated_share.low < 0.05 < moderation.escalated_share.high
    for workload, hardware, precision in (("blip2_vqa", "a10", "4bit"), ("llava_chat", "a100", "4bit")):
        place = targets.workload(workload).place(hardware)
        assert place.content()["models"][place.models[0]]["quantization"] == precision


def test_each_place_is_a_cluster_that_has_what_the_flows_ask_for(targets: Targets) -> None:
    for name, workload in targets.workloads.items():
        for hardware, place in workload.places.items():
            cluster = place.cluster()
            there = cluster.models.keys() | cluster.cascades.keys() | cluster.providers.keys()
            assert {flow.entry for flow in place.flows} <= there, (name, hardware)
            assert place.pools.keys() == cluster.node_pools.keys(), (name, hardware)
            for flow in place.flows:
                if flow.escalated:
                    steps = {step.name for step in cluster.cascades[flow.entry].steps}
                    assert flow.escalated.keys() <= steps, (name, hardware)
            assert set(place.stand_ins) <= cluster.providers.keys(), (name, hardware)


def test_each_place_can_be_simulated_where_its_hardware_has_a_profile(targets: Targets) -> None:
    profiles = shipped_profiles()
    for workload in targets.workloads.values():
        for place in workload.places.values():
            if profiles.keys() >= set(place.pools.values()):
                by_pool = {pool: profiles[hardware] for pool, hardware in place.pools.items()}
                found = scenario(place.cluster(), by_pool, place.flows)
                assert found.flows == place.flows


def test_nothing_runs_that_the_workload_does_not_ask(targets: Targets) -> None:
    cluster = targets.workload("moderation").place("cpu-demo").cluster()
    assert cluster.models.keys() == {"clip", "llava"}
    assert cluster.cascades["moderation"].shadow.share == 0


def test_measured_goals_say_how(targets: Targets) -> None:
    for name, workload in targets.workloads.items():
        source = workload.goals["cpu-demo"].source
        assert "measured" in source and "argus load" in source, name
        assert re.search(r"\d+ cores", source), name


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w: w["moderation"].update(colour=1), ("workloads.moderation.colour", "1")),
        (lambda w: w["moderation"]["goals"]["cpu-demo"].update(qps=-3), ("goals.cpu-demo.qps", "-3", "greater than 0")),
        (lambda w: w["moderation"]["goals"]["cpu-demo"].update(p50_ms=900, p95_ms=100), ("p50_ms over p95_ms",)),
        (lambda w: w["moderation"].update(user="nobody"), ("benchmarks.workloads.nobody", "no module")),
        (lambda w: w["moderation"].update(user="../evil"), ("no module",)),
        (lambda w: w["moderation"]["mix"]["easy"].update(share=0.5), ("add up to", "must add up to 1")),
        (lambda w: w["moderation"]["arrivals"].update(process="wild"), ("arrivals", "wild")),
        (lambda w: w["moderation"]["goals"].update(h100={"qps": 1, "source": "x"}), ("h100",)),
        (lambda w: w["moderation"]["goals"].update(a10={"qps": 1, "source": "x"}), ("needs its place",)),
        (lambda w: w["moderation"]["goals"]["cpu-demo"].update(escalated_share={"low": 0.5, "high": 0.1}), ("low",)),
    ],
)
def test_what_is_wrong_is_named(
    changed: Callable[[Callable[[Any], None]], Path], change: Callable[[Any], None], words: tuple[str, ...]
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_targets(changed(change))
    for word in words:
        assert word in caught.value.message


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_targets(tmp_path / "missing.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("workloads: [", encoding="utf-8")
    with pytest.raises(ConfigError, match="is not YAML"):
        load_targets(broken)


def test_unknown_names_are_told_what_there_is(targets: Targets) -> None:
    with pytest.raises(ConfigError, match="moderation"):
        targets.workload("moderate")
    with pytest.raises(ConfigError, match="cpu-demo"):
        targets.workload("moderation").place("h100")
    assert targets.workload("florence2").goal("t4") is None


def test_what_is_made_of_a_place_may_be_changed(targets: Targets) -> None:
    place = targets.workload("clip_api").place("cpu-demo")
    before = copy.deepcopy(place.content())
    place.content()["providers"]["hosted"] |= {"base_url": "http://127.0.0.1:1"}
    place.content()["cascades"]["clip-api"]["steps"].clear()
    assert place.content() == before


def test_a_place_that_keeps_what_its_profile_lacks(targets: Targets) -> None:
    place = targets.workload("moderation").place("cpu-demo").model_copy(update={"models": ("clip", "gpt")})
    with pytest.raises(ConfigError, match="no models gpt"):
        place.content()
