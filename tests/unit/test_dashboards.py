"""Dashboards as files: committed as rendered, well-formed, complete, and of metrics that exist."""

from __future__ import annotations

import json
import re
import subprocess
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from grafana.catalogue import DASHBOARDS
from grafana.inventory import by_series, inventory
from grafana.panels import COLUMNS, Dashboard, Panel, Place, Query, Row, layout
from grafana.queries import filled
from grafana.render import files
from serve.cli import app
from tests.support.prometheus import installed
from tests.support.rays_metrics import RAYS

ROOT = Path(__file__).parents[2]
GRAFANA = ROOT / "grafana"
COMMITTED = GRAFANA / "dashboards"
PANELS = [(one, panel) for one in DASHBOARDS for panel in one.panels]
NAME = re.compile(r"\b(?:ray_|haproxy_|argus_|up\b|ALERTS\b)[a-zA-Z_:0-9]*")
# Recorded by the rules of `argus observability rules` and `argus plan`, or by Prometheus itself.
RECORDED = re.compile(r"argus_slo:[a-z_]+:\w+|argus_plan:[a-z_]+:\w+|ALERTS")
UNITS = {"s", "bytes", "reqps", "cps", "percentunit", "currencyUSD", "short"}

rendered = pytest.mark.parametrize("content", [json.loads(text) for text in files().values()], ids=list(files()))


def names(panel: Panel) -> set[str]:
    """Metrics that a panel's queries name."""
    return {name for query in panel.queries for name in NAME.findall(query.expr)}


def test_committed_files_are_what_is_rendered() -> None:
    """After a change: `argus observability dashboards`."""
    assert {path.name: path.read_text(encoding="utf-8") for path in COMMITTED.iterdir()} == files()


def test_every_metric_has_a_panel() -> None:
    shown = {by_series()[name].name for _, panel in PANELS for name in names(panel) if name in by_series()}
    assert set(inventory()) - shown == set()


def test_every_series_is_of_the_chosen_cluster() -> None:
    for dashboard, panel in PANELS:
        for query in panel.queries:
            chosen = len(re.findall(r'[a-zA-Z_:]+{cluster=~"\$cluster"', query.expr))
            assert chosen == len(NAME.findall(query.expr)), (dashboard.uid, panel.title, query.expr)


def test_no_panel_reads_the_sum_of_a_histogram() -> None:
    """Ray makes it up from the middles of buckets."""
    assert [panel.title for _, panel in PANELS for name in names(panel) if name.endswith("_sum")] == []


def test_the_page_of_metrics_is_current() -> None:
    written = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    done = CliRunner().invoke(app, ["observability", "metrics"])
    assert done.output == written, "renew it: argus observability metrics > docs/metrics.md"
    lines = {line.split("`")[1]: line for line in written.splitlines() if line.startswith("| `")}
    assert set(lines) == {metric.exported for metric in inventory().values()}
    busy = lines["ray_argus_forward_busy_seconds_total"]
    assert "counter" in busy and "model" in busy and "models: Busiest replica" in busy


def test_no_panel_shows_what_does_not_exist() -> None:
    for dashboard, panel in PANELS:
        unknown = {
            name
            for name in names(panel)
            if name not in by_series() and name not in RAYS and not RECORDED.fullmatch(name)
        }
        assert not unknown, (dashboard.uid, panel.title)
        assert names(panel), (dashboard.uid, panel.title)


def test_panels_read_labels_that_their_metrics_have() -> None:
    """What is summed `by` a label that no series has is one line without a name."""
    for _, panel in PANELS:
        for query in panel.queries:
            ours = [by_series()[name] for name in NAME.findall(query.expr) if name in by_series()]
            if not ours or len({metric.name for metric in ours}) > 1:
                continue
            labels = {*ours[0].labels, "le", "cluster"}
            for group in re.findall(r"by \(([^)]*)\)", query.expr):
                assert set(group.replace(" ", "").split(",")) <= labels, (panel.title, group)
            for label in re.findall(r"\{\{(\w+)\}\}", query.legend):
                assert label in labels, (panel.title, label)


def test_panels_are_written_for_people() -> None:
    for dashboard, panel in PANELS:
        where = (dashboard.uid, panel.title)
        assert panel.unit in UNITS, where
        assert len(panel.description) > 20 and panel.description.endswith("."), where
        assert all(query.legend for query in panel.queries), where
        assert [value for value, _ in panel.thresholds] == sorted(value for value, _ in panel.thresholds), where


def test_titles_are_unique_within_a_dashboard() -> None:
    for dashboard in DASHBOARDS:
        titles = [panel.title for panel in dashboard.panels]
        assert len(titles) == len(set(titles)), dashboard.uid


@rendered
def test_ids_are_unique_and_every_query_has_the_datasource(content: dict[str, Any]) -> None:
    ids = [panel["id"] for panel in content["panels"]]
    assert len(ids) == len(set(ids)) and all(ids)
    for panel in content["panels"]:
        if panel["type"] == "row":
            continue
        for asked in (panel, *panel["targets"]):
            assert asked["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, panel["title"]
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        assert panel["fieldConfig"]["defaults"]["unit"] and panel["description"]


@rendered
def test_variables_are_those_that_queries_use(content: dict[str, Any]) -> None:
    offered = {variable["name"] for variable in content["templating"]["list"]}
    text = json.dumps([panel.get("targets") for panel in content["panels"]])
    used = set(re.findall(r"\$([a-z_]\w*)", text)) - {"__rate_interval", "__range"}
    assert offered == used | {"datasource", "cluster"}


@rendered
def test_only_what_the_chosen_cluster_has_is_offered(content: dict[str, Any]) -> None:
    asked = {one["name"]: one["query"]["query"] for one in content["templating"]["list"] if one["type"] == "query"}
    assert '"$cluster"' not in asked.pop("cluster")
    assert all('cluster=~"$cluster"' in query for query in asked.values())


def test_uids_are_unique() -> None:
    uids = [one.uid for one in DASHBOARDS]
    assert len(uids) == len(set(uids))


@rendered
def test_panels_do_not_overlap_and_lie_within_the_grid(content: dict[str, Any]) -> None:
    places = [panel["gridPos"] for panel in content["panels"]]
    for one in places:
        assert one["x"] >= 0 and one["x"] + one["w"] <= COLUMNS and one["w"] > 0 and one["h"] > 0
    for one, other in combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or below


def panel(width: int, height: int = 4) -> Panel:
    return Panel("t", "d", "s", (Query("up", "l"),), width=width, height=height)


def test_a_row_is_broken_where_it_is_full() -> None:
    placed = layout([Row("a", (panel(12, 8), panel(8, 4), panel(8))), Row("b", (panel(24),))])
    assert [place for _, place in placed] == [
        Place(0, 0, 24, 1),
        Place(0, 1, 12, 8),
        Place(12, 1, 8, 4),
        Place(0, 9, 8, 4),
        Place(0, 13, 24, 1),
        Place(0, 14, 24, 4),
    ]


def test_grafanas_variables_are_filled_in() -> None:
    expression = 'rate(x{cluster=~"$cluster", a="$__rate_interval_ms"}[$__rate_interval]) + increase(x[$__range])'
    dashboard = Dashboard("u", "t", "d", ())
    assert filled(expression.replace("$__rate_interval_ms", "b"), dashboard, rate_interval="1m", shown="2h") == (
        'rate(x{cluster=~".*", a="b"}[1m]) + increase(x[2h])'
    )


@pytest.mark.parametrize(
    "runbook", sorted({panel.runbook for _, panel in PANELS if panel.runbook}), ids=lambda one: one
)
def test_every_runbook_is_written(runbook: str) -> None:
    name, _, heading = runbook.partition("#")
    text = (ROOT / name).read_text(encoding="utf-8")
    slugs = {
        re.sub(r"[^\w\- ]", "", line.lstrip("# ").lower()).strip().replace(" ", "-")
        for line in text.splitlines()
        if line.startswith("#")
    }
    assert not heading or heading in slugs


def test_panels_link_to_the_docs_when_there_is_an_address() -> None:
    content = json.loads(files("https://docs.example/argus/")["argus-cascade.json"])
    links = {link["url"] for panel in content["panels"] for link in panel.get("links", ())}
    assert links == {"https://docs.example/argus/operations.md#cascades"}


def test_the_command_writes_them(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["observability", "dashboards", "--out", str(tmp_path / "made")])
    assert done.exit_code == 0, done.output
    assert {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "made").iterdir()} == files()


def test_provisioning_names_what_is_there() -> None:
    [source] = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yaml").read_text())["datasources"]
    [provider] = yaml.safe_load((GRAFANA / "provisioning/dashboards/argus.yaml").read_text())["providers"]
    assert source["type"] == "prometheus" and provider["type"] == "file"
    readme = (GRAFANA / "README.md").read_text(encoding="utf-8")
    for variable in (source["url"], provider["options"]["path"]):
        assert variable.strip("${}") in readme


@pytest.mark.skipif(not installed(), reason="prometheus is not installed; on Debian: apt-get install prometheus")
def test_the_configuration_of_prometheus_is_right() -> None:
    command = ["promtool", "check", "config", str(GRAFANA / "prometheus/prometheus.yml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_nodes_and_their_ingress_are_scraped_from_the_file_that_ray_writes() -> None:
    config = yaml.safe_load((GRAFANA / "prometheus/prometheus.yml").read_text(encoding="utf-8"))
    jobs = {job["job_name"]: job for job in config["scrape_configs"]}
    nodes, ingress = jobs["argus-nodes"], jobs["argus-ingress"]
    assert nodes["file_sd_configs"] == ingress["file_sd_configs"]
    [port] = [rule for rule in ingress["relabel_configs"] if rule["target_label"] == "__address__"]
    for address, expected in (("10.0.0.7:53211", "10.0.0.7:9101"), ("[fd00::7]:53211", "[fd00::7]:9101")):
        assert re.sub(f"^(?:{port['regex']})$", port["replacement"].replace("$1", r"\1"), address) == expected
    for job in (nodes, ingress):
        labels = {rule["target_label"]: rule["replacement"] for rule in job["relabel_configs"]}
        assert (labels["job"], labels["cluster"]) == (job["job_name"], "cluster")


def test_thresholds_are_drawn_from_below() -> None:
    """Grafana takes the first step as the one without a bound."""
    for content in map(json.loads, files().values()):
        for panel in content["panels"]:
            if panel["type"] != "row":
                steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
                values = [step["value"] for step in steps]
                assert values[0] is None and all(one < other for one, other in pairwise(values[1:]))
