"""What a plan is written as: a cluster file that loads, rules, a report; and errors in one line."""

from __future__ import annotations

import copy
import itertools
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from benchmarks.capacity.planner.catalogue import SHIPPED, load_catalogue
from benchmarks.capacity.planner.judge import Judge
from benchmarks.capacity.planner.plan import CalledPlan, Plan
from benchmarks.capacity.planner.question import of_cluster, of_workloads, problem
from benchmarks.capacity.planner.report import markdown
from benchmarks.capacity.planner.search import search
from benchmarks.capacity.planner.solve import Solution, solve
from benchmarks.capacity.planner.what_if import sensitivity
from benchmarks.capacity.planner.write import write
from benchmarks.capacity.profiles import shipped_profiles
from benchmarks.targets import Targets, load_targets
from benchmarks.traffic.arrivals import Poisson
from serve.cli import app
from serve.config.budget import problems
from serve.config.load import load_file
from serve.errors import ConfigError
from tests.unit import planner_cases as cases


@pytest.fixture(scope="module")
def solution() -> Solution:
    asked = cases.problem(60, "p99=3s", "failed=0.5%", flows=cases.SCREENED, seconds=10.0)
    return solve(asked, growth=1.5)


@pytest.fixture(scope="module")
def folder(solution: Solution, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("plan")
    write(solution, path)
    yield path


def test_the_cluster_file_loads_and_fits(folder: Path, solution: Solution) -> None:
    cluster = load_file(folder / "cluster.yaml")
    assert not problems(cluster)
    for stage in solution.plan.stages:
        model = cluster.models[stage.name]
        assert model.autoscaling.min_replicas == stage.replicas
        assert model.autoscaling.max_replicas >= stage.replicas
        assert model.batching.max_items == stage.max_items
        assert model.gpu_memory_gb == pytest.approx(stage.gpu_memory_gb, abs=0.001)
        assert model.placement.pool == stage.node
    for node in solution.plan.nodes:
        pool = cluster.node_pools[node.name]
        assert pool.min_nodes == node.rented
        assert pool.max_nodes >= pool.min_nodes
    assert cluster.cascades["screen"].steps[0].use == "clip"
    assert "spare" not in cluster.models
    assert cluster.models["jobs"].placement.pool in cluster.node_pools


def test_prometheus_takes_the_rules(folder: Path, solution: Solution) -> None:
    rules = folder / "plan.rules.yaml"
    (group,) = yaml.safe_load(rules.read_text())["groups"]
    (capacity,) = [rule for rule in group["rules"] if rule["record"] == "argus_plan:capacity:qps"]
    assert capacity["labels"] == {"cluster": "small", "flow": "screened", "entry": "screen"}
    held = float(capacity["expr"].removeprefix("vector(").removesuffix(")"))
    assert held == pytest.approx(solution.plan.capacity_per_s["screened"], rel=1e-4)
    assert held >= 60 * 0.999
    if (promtool := shutil.which("promtool")) is None:
        pytest.skip("promtool is not installed")
    done = subprocess.run([promtool, "check", "rules", str(rules)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_plan_json_is_the_plan(folder: Path, solution: Solution) -> None:
    read = Plan.model_validate_json((folder / "plan.json").read_text())
    assert read == solution.plan
    assert read.process == solution.problem.arrivals
    assert isinstance(read.process, Poisson)


def test_the_report_says_what_it_must(folder: Path, solution: Solution) -> None:
    text = (folder / "report.md").read_text()
    plan = solution.plan
    assert f"{plan.usd_per_hour:.2f} $/h" in text
    assert "for 1,000 requests" in text
    for heading in ("Cluster", "Objectives", "Headroom", "Latency", "When things change", "Host or call"):
        assert f"## {heading}" in text
    for change in ("escalation + 1 point", "escalation - 1 point", "load x 1.5", "lost", "hosted APIs down"):
        assert change in text or (change == "hosted APIs down" and not plan.providers)
    assert "rho for +1 point" in text
    assert "Clopper-Pearson" in text
    assert "spare" in text
    for path in ("all", "first", "second"):
        assert re.search(rf"\| screened \| {path} \|", text)
    for picture in re.findall(r"\]\((\w+\.svg)\)", text):
        assert (folder / picture).read_text().lstrip().startswith("<?xml")
    assert {"latency.svg", "use.svg"} <= {path.name for path in folder.iterdir()}


def test_sensitivity_prices_what_the_plan_does_not_hold(solution: Solution) -> None:
    changes = {one.change: one for one in solution.plan.what_if}
    for one in changes.values():
        if one.held:
            # No call is paid for in this plan, so nothing changes with the load.
            assert one.usd_per_hour_to_hold == pytest.approx(solution.plan.usd_per_hour)
        elif one.usd_per_hour_to_hold is not None and not one.change.startswith("escalation -"):
            assert one.usd_per_hour_to_hold >= solution.plan.usd_per_hour - 1e-9
    assert changes["escalation - 1 point"].held


def test_a_change_that_the_plan_holds_costs_the_calls_that_it_makes() -> None:
    """LLaVA is called in its place: at half as much load again, half as many calls again are paid for."""
    flows = (cases.SCREENED[0].model_copy(update={"escalated": {"first": 0.10}}),)
    asked = cases.problem(30, "p99=5s", flows=flows, nodes=cases.catalogue(t4_usd=50.0).only(("t4",)))
    candidate = search(asked, Judge(asked)).candidate
    assert candidate is not None and [one.provider for one in candidate.called] == ["mini"]
    verdict = Judge(asked).judge(candidate)
    changes = {one.change: one for one in sensitivity(asked, candidate, None, lambda _what: None)}
    for change, calls in (("load x 1.5", 1.5), ("escalation + 1 point", 1.1), ("escalation - 1 point", 0.9)):
        found = changes[change]
        assert found.held
        paid = verdict.nodes_usd + calls * verdict.calls_usd
        assert found.usd_per_hour_to_hold == pytest.approx(paid, rel=0.03)


def test_cost_falls_as_bounds_are_relaxed(solution: Solution) -> None:
    costs = [one.usd_per_hour for one in solution.plan.cost_against_slo if one.usd_per_hour is not None]
    assert costs == sorted(costs, reverse=True)


def test_a_plan_that_cannot_be_says_why() -> None:
    plan = solve(cases.problem(50, "p99=5ms"), what_ifs=False).plan
    text = markdown(plan)
    assert "There is no such cluster" in text
    assert "when idle" in text
    assert "## Cluster" not in text


def test_the_report_holds_calls_against_their_limits(solution: Solution) -> None:
    call = CalledPlan(
        provider="mini",
        stands_in_for="llava",
        calls_per_s=1.5,
        usd_per_call=0.001,
        usd_per_hour=5.4,
        calls_per_minute=120,
    )
    plan = solution.plan.model_copy(update={"providers": (call,), "calls_usd_per_hour": 5.4, "usd_per_day": 200.0})
    text = markdown(plan)
    assert "90 of the 120 calls a minute that its limits let pass" in text
    assert "A day at this load: 129.60 $ of calls; resilience.usd_per_day allows 200.00 $." in text


def test_a_plan_leaves_nothing_of_an_earlier_one_in_its_folder(solution: Solution, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    write(solution, tmp_path)
    assert (tmp_path / "cluster.yaml").exists()
    written = write(solve(cases.problem(50, "p99=5ms"), what_ifs=False), tmp_path)
    assert {*written} | {tmp_path / "notes.txt"} == {*tmp_path.iterdir()}
    assert {path.name for path in written} == {"plan.json", "report.md"}


def test_the_shipped_catalogue_has_a_source_and_a_date_for_every_price() -> None:
    shipped = load_catalogue()
    assert {"t4", "a10", "a100", "cpu"} <= shipped.nodes.keys()
    for node in shipped.nodes.values():
        for price in node.prices.values():
            assert price.usd_per_hour > 0 and price.source and price.date.year >= 2025


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"nodes": {}}, "nodes"),
        ({"nodes": {"x": {"cpus": 1, "memory_gb": 1, "prices": {}}}}, "prices"),
        ({"nodes": {"x": {"cpus": 1, "memory_gb": 1, "gpus": 1, "prices": {}}}}, "nodes.x"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_wrong_catalogue_names_the_key(tmp_path: Path, change: dict[str, object], words: str) -> None:
    content = {**yaml.safe_load(SHIPPED.read_text()), **change}
    path = tmp_path / "catalogue.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match=words):
        load_catalogue(path)


def test_several_workloads_share_their_rates() -> None:
    traffic = of_workloads(load_targets(), ["image_search", "classification"], "t4")
    assert traffic.rate_per_s == 200
    assert {flow.name: flow.share for flow in traffic.flows} == {
        "image_search.search": pytest.approx(0.5),
        "classification.classify": pytest.approx(0.5),
    }
    assert {one.flow for one in traffic.objectives} == {"image_search.search", "classification.classify"}


@pytest.mark.parametrize("hardware", [None, "cpu-demo"])
def test_all_pairs_of_shipped_workloads_with_goals_make_one_cluster(hardware: str | None) -> None:
    """Each model that a workload's only pool was the place of is on that kind of node among the others' pools."""
    targets = load_targets()
    with_goals = []
    for name, workload in targets.workloads.items():
        place = hardware or next((one for one in workload.places if one != "cpu-demo"), "")
        if workload.goal(place) is not None:
            with_goals.append(name)
    assert len(with_goals) >= 6
    for pair in itertools.permutations(with_goals, 2):
        traffic = of_workloads(targets, pair, hardware)
        assert {flow.name.partition(".")[0] for flow in traffic.flows} == {*pair}
        assert all(traffic.cluster.pool_of(model) in traffic.cluster.node_pools for model in traffic.cluster.models)


def twice(section: str, name: str, **changes: Any) -> Targets:
    """The workload clip_api, and one like it whose cluster defines one thing otherwise."""
    shipped = load_targets()
    one = shipped.workload("clip_api")
    overlay = copy.deepcopy(one.place("t4").overlay)
    overlay.setdefault(section, {}).setdefault(name, {}).update(changes)
    other = one.place("t4").model_copy(update={"overlay": overlay})
    labelling = one.model_copy(update={"places": {"t4": other}})
    return shipped.model_copy(update={"workloads": {"clip_api": one, "labelling": labelling}})


@pytest.mark.parametrize(
    ("section", "name", "changes"),
    [
        ("cascades", "clip-api", {"answer": "text"}),
        ("models", "clip", {"checkpoint": "demo:clip"}),
        ("providers", "gemini", {"model": "gemini-2.5-pro"}),
    ],
)
def test_workloads_that_define_one_name_differently_are_refused(
    section: str, name: str, changes: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError) as refused:
        of_workloads(twice(section, name, **changes), ["clip_api", "labelling"], "t4")
    assert refused.value.message.startswith(f"workloads 'clip_api' and 'labelling' define {section}.{name} differently")


@pytest.mark.parametrize(
    ("section", "name", "changes"),
    [
        ("node_pools", "t4", {"max_nodes": 9}),
        ("models", "clip", {"batching": {"max_items": 3}, "autoscaling": {"min_replicas": 1, "max_replicas": 1}}),
    ],
)
def test_workloads_need_not_agree_on_what_is_planned(section: str, name: str, changes: dict[str, Any]) -> None:
    traffic = of_workloads(twice(section, name, **changes), ["clip_api", "labelling"], "t4")
    assert traffic.rate_per_s == 2000
    assert len(traffic.flows) == 2


def test_flows_as_they_are_written() -> None:
    (flow,) = of_cluster(cases.cluster(), ["name=s,entry=screen,escalated.first=0.1,output_tokens=5"], None).flows
    assert (flow.name, flow.entry, flow.escalated, flow.output_tokens) == ("s", "screen", {"first": 0.1}, 5)
    (plain,) = of_cluster(cases.cluster(), ["clip"], None).flows
    assert (plain.name, plain.entry, plain.share) == ("clip", "clip", 1.0)


@pytest.mark.parametrize("text", ["entry=clip,colour=red", "entry=clip,share=lots", "entry=clip,escalated.a=x"])
def test_a_wrong_flow_is_named(text: str) -> None:
    with pytest.raises(ConfigError, match="flow"):
        of_cluster(cases.cluster(), [text], None)


def test_a_rate_must_be_known() -> None:
    traffic = of_cluster(cases.cluster(), ["clip"], None)
    with pytest.raises(ConfigError, match="no rate"):
        problem(
            traffic,
            rate_per_s=None,
            arrivals=None,
            slo=(),
            catalogue=cases.catalogue(),
            profiles=cases.PROFILES,
            wishes=cases.Wishes(),
        )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--workload"),
        (["--workload", "nothing"], "nothing"),
        (["--workload", "moderation", "--slo", "p99=soon"], "must be like"),
        (["--workload", "moderation", "--slo", "p99=200"], "need ms or s"),
        (["--profile", "cluster", "--flow", "entry=llava,images=0", "--rate", "5"], "output_tokens"),
        (["--profile", "cluster", "--flow", "llava", "--rate", "5"], "output_tokens"),
        (["--workload", "moderation", "--slo", "other.p99=1s"], "other"),
        (["--workload", "moderation", "--node", "h100"], "h100"),
        (["--workload", "moderation", "--price", "gratis"], "gratis"),
        (["--workload", "moderation", "--hardware", "h100"], "h100"),
        (["--workload", "moderation", "--arrivals", "poisson:1", "--trace", "x"], "not both"),
        (["--flow", "llava"], "no rate"),
        (["--profile", "cluster", "--flow", "moderation", "--rate", "10"], "hands on"),
        (["--workload", "moderation", "--catalogue", "/nowhere.yaml"], "cannot be read"),
    ],
)
def test_wrong_options_give_one_line(arguments: list[str], words: str) -> None:
    result = CliRunner().invoke(app, ["plan", *arguments])
    assert isinstance(result.exception, ConfigError)
    assert words in result.exception.message
    assert "\n" not in result.exception.message


def test_the_command_writes_a_plan(tmp_path: Path) -> None:
    """On shipped profiles and prices, which are estimates: only that it is whole."""
    arguments = ["--workload", "classification", "--rate", "20", "--slo", "p99=1s", "--duration", "60", "--seeds", "3"]
    result = CliRunner().invoke(app, ["plan", *arguments, "--no-what-ifs", "--json", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert plan["feasible"] and plan["version"] == 1
    checked = CliRunner().invoke(app, ["config", "check", "--config", str(tmp_path / "cluster.yaml")])
    assert checked.exit_code == 0, checked.output


def test_the_command_fails_where_there_is_no_plan() -> None:
    arguments = ["--workload", "classification", "--rate", "20", "--slo", "p99=1ms", "--no-what-ifs"]
    result = CliRunner().invoke(app, ["plan", *arguments])
    assert result.exit_code == 1
    assert "when idle" in result.output


def test_shipped_profiles_are_there_for_every_gpu_node() -> None:
    have = shipped_profiles()
    assert {node.hardware for node in load_catalogue().nodes.values() if node.gpus} <= have.keys()
