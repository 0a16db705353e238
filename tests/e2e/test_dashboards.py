"""Every panel of every dashboard, asked of a real Prometheus that scrapes a busy cluster; `argus top` beside it."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from grafana.catalogue import DASHBOARDS
from grafana.inventory import by_series, inventory
from grafana.overview import OVERVIEW
from grafana.panels import Dashboard, Panel
from grafana.picture import asking, draw, save
from grafana.providers import PROVIDERS
from grafana.queries import filled
from tests.e2e.observed import Clients, Observed, observed
from tests.support.prometheus import Prometheus, installed, prometheus
from tests.support.rays_metrics import RAYS
from tests.support.waiting import until

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(not installed(), reason="prometheus is not installed; on Debian: apt-get install prometheus"),
    pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed"),
]

# Ray's agent takes in values every ten seconds: a window must hold two of them.
RATE_INTERVAL, SHOWN = "45s", "3m"
# What can have no data here, and why.
EMPTY = {
    "GPU memory of a budget": "no GPU",
    "GPU memory": "no GPU",
    "Batches run again": "no model fails with a whole batch when its inputs are checked",
    "Decisions that failed": "the autoscaler's do not",
}
# Long enough for two exports of Ray's; what needs more, such as the thirty calls before the first hedge, is waited for.
BUSY_S = 45
PATIENCE_S = 180
PLAN = """
groups:
  - name: argus_plan
    interval: 1m
    rules:
      - {record: argus_plan:capacity:qps, expr: vector(40), labels: {cluster: seen, flow: moderate, entry: moderation}}
      - {record: argus_plan:replicas:count, expr: vector(2), labels: {cluster: seen, model: clip}}
      - {record: argus_plan:nodes:count, expr: vector(1), labels: {cluster: seen, pool: local}}
      - {record: argus_plan:cost:usd_per_hour, expr: vector(0.53), labels: {cluster: seen}}
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    with observed(tmp_path_factory.mktemp("seen")) as running:
        yield running


@pytest.fixture(scope="module")
def server(seen: Observed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Prometheus with the cluster's own targets and rules, after the cluster has been kept busy; it still is."""
    folder = tmp_path_factory.mktemp("prometheus")
    targets, rules = folder / "targets", folder / "rules"
    file = seen.folder / "seen.yaml"
    for arguments in (
        ("targets", "--name", "seen", "--out", str(targets)),
        ("rules", "--config", str(file), "--out", str(rules)),
    ):
        made = seen.cluster.argus("observability", *arguments)
        assert made.returncode == 0, made.stderr
    (rules / "plan.rules.yaml").write_text(PLAN, encoding="utf-8")
    clients = Clients(seen)
    with prometheus(folder, targets, sorted(rules.iterdir())) as running:
        assert until(lambda: running.query("ray_argus_slo_errors_total")), "objectives are counted before any request"
        clients.start()
        try:
            time.sleep(BUSY_S / 2)
            clients.kill_engine()
            chats = clients.answered("chat")
            time.sleep(BUSY_S / 2)
            # On a slow machine the engine takes longer than that to come back. One answer may have begun before.
            assert until(lambda: clients.answered("chat") > chats + 2, patience_s=300), clients.statuses
            yield running
        finally:
            clients.stop()


def answers(server: Prometheus, dashboard: Dashboard, panel: Panel) -> list[str]:
    """The panel's queries that nothing answers."""
    asked = [filled(query.expr, dashboard, rate_interval=RATE_INTERVAL, shown=SHOWN) for query in panel.queries]
    return [expression for expression in asked if not server.query(expression)]


def lately(selector: str) -> str:
    """The last values of the shown time. Ray forgets a gauge that was not told anew for two of its exports, twenty
    seconds, as happens on a busy machine; it is back with the next."""
    return f"last_over_time({selector}[{SHOWN}])"


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda one: one.uid)
def test_every_panel_has_data(server: Prometheus, dashboard: Dashboard) -> None:
    silent = {panel.title: answers(server, dashboard, panel) for panel in dashboard.panels if panel.title not in EMPTY}
    end = time.monotonic() + PATIENCE_S
    while any(silent.values()) and time.monotonic() < end:  # what happens now and then may not have happened yet
        time.sleep(3)
        silent = {
            panel.title: answers(server, dashboard, panel) for panel in dashboard.panels if silent.get(panel.title)
        }
    assert {title: queries for title, queries in silent.items() if queries} == {}


def test_what_is_said_to_have_no_data_has_none(server: Prometheus) -> None:
    """Else it belongs off the list."""
    panels = {panel.title: (dashboard, panel) for dashboard in DASHBOARDS for panel in dashboard.panels}
    assert [title for title in EMPTY if not answers(server, *panels[title])] == []


def test_rays_own_series_are_scraped(server: Prometheus) -> None:
    assert [name for name in sorted(RAYS) if not server.query(lately(name))] == []


def test_what_is_scraped_of_ours_is_declared(server: Prometheus) -> None:
    """Nothing is exported past the inventory, and all of it has the cluster's label."""
    ours = lately('{__name__=~"ray_argus_.*"}')
    series = server.query(f"group by (__name__, cluster) ({ours})")
    assert {one["metric"]["__name__"] for one in series} <= set(by_series())
    assert {one["metric"].get("cluster") for one in series} == {"seen"}
    found = {by_series()[one["metric"]["__name__"]].name for one in series}
    shown_empty = " ".join(
        query.expr
        for dashboard in DASHBOARDS
        for panel in dashboard.panels
        if panel.title in EMPTY
        for query in panel.queries
    )
    assert [name for name in inventory() if name not in found and name not in shown_empty] == []


def test_the_objectives_rules_are_recorded(server: Prometheus) -> None:
    left = server.query("argus_slo:error_budget:remaining_ratio")
    assert {one["metric"]["slo"] for one in left} == {"availability", "classify-latency", "moderation-agreement"}
    assert all(float(one["value"][1]) <= 1 for one in left)


def test_what_objectives_count_began_at_nothing(server: Prometheus) -> None:
    """Scraped before the first request, so that `rate` sees the first bad one."""
    least, grown = (
        {one["metric"]["slo"]: float(one["value"][1]) for one in server.query(f"sum by (slo) ({expression})")}
        for expression in (
            "min_over_time(ray_argus_slo_errors_total[1h])",
            "increase(ray_argus_slo_events_total[1h])",
        )
    )
    assert least == dict.fromkeys(("availability", "classify-latency", "moderation-agreement"), 0)
    assert least.keys() == grown.keys() and all(grown.values())


def test_top_tells_the_same(seen: Observed, server: Prometheus) -> None:
    done = seen.cluster.argus("top", "--name", "seen", "--once", "--json", "--window", "20")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["requests_per_s"] > 0 and found["failed"] > 0
    assert {"/v1/classify", "/v1/chat/completions", "/v1/cascades/{name}"} <= {one["route"] for one in found["routes"]}
    cascades = {one["name"]: one for one in found["cascades"]}
    assert cascades["moderation"]["calibrated"] and not cascades["paid"]["calibrated"]
    assert 0 < cascades["paid"]["escalated"] <= 1 and cascades["fragile"]["degraded"] > 0
    models = {one["name"]: one for one in found["models"]}
    assert (models["clip"]["replicas"], models["clip"]["wanted"]) == (1, 1)
    assert models["clip"]["batch"] >= 1 and models["llava"]["tokens_per_s"] > 0
    targets = {one["name"]: one for one in found["targets"]}
    assert targets["hosted"]["usd_per_h"] > 0 and targets["hosted"]["cached"] > 0
    assert targets["broken"]["breaker"] in ("open", "half open")
    assert 0 < found["budget_left_usd"]["*"] < 5
    # The same question, asked of Prometheus.
    worst = {
        one["metric"]["target"]: float(one["value"][1])
        for one in server.query(f"max by (target) ({lately('ray_argus_breaker_state')})")
    }
    assert worst["broken"] > 0 == worst.get("clip", 0)


def test_top_prints_tables(seen: Observed, server: Prometheus) -> None:
    done = seen.cluster.argus("top", "--name", "seen", "--once", "--window", "12")
    assert done.returncode == 0, done.stderr
    for word in ("Routes", "Cascades", "Models", "Calls to models and providers", "moderation", "hosted"):
        assert word in done.stdout


def test_a_target_that_never_succeeded_has_failed_always(server: Prometheus) -> None:
    [expression] = [
        query.expr for panel in PROVIDERS.panels if panel.title == "Failed attempts" for query in panel.queries
    ]
    found = server.query(filled(expression, PROVIDERS, rate_interval=SHOWN, shown=SHOWN))
    shares = {one["metric"]["target"]: float(one["value"][1]) for one in found}
    assert shares["broken"] == 1 and 0 <= shares["clip"] < 1


@pytest.mark.slow
def test_the_picture_of_a_dashboard_is_drawn(server: Prometheus, tmp_path: Path) -> None:
    until_s = time.time()
    figure = draw(OVERVIEW, asking(server.address, 3, until_s), minutes=3, until_s=until_s, source="a test")
    drawn = {axes.get_title(loc="left"): axes for axes in figure.axes}
    for panel in OVERVIEW.panels:
        if panel.kind == "timeseries" and answers(server, OVERVIEW, panel) == []:
            assert drawn[panel.title].get_lines(), f"{panel.title} has no line"
    routes = drawn["Requests a second"]
    assert max(float(np.nanmax(line.get_ydata())) for line in routes.get_lines()) > 0
    path = tmp_path / "overview.png"
    save(OVERVIEW, server.address, minutes=3, path=path)
    with Image.open(path) as picture:
        assert picture.width > 1000 and picture.height > 1000


def test_top_of_no_cluster_is_one_line(seen: Observed) -> None:
    done = seen.cluster.argus("top", "--name", "nobody")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "argus up" in done.stderr


def test_a_router_that_is_gone_raises_its_alert(seen: Observed, server: Prometheus) -> None:
    """Last of all, since nothing answers meanwhile: each new router is killed until Prometheus has seen that there is
    none, or one that starts quickly would go unseen."""

    def told() -> bool:
        for pid in seen.cluster.pids():
            with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
                process = psutil.Process(pid)
                if " ".join(process.cmdline()).startswith("ray::ServeReplica:argus:router"):
                    process.kill()
        return bool(server.query('ALERTS{alertname="ArgusRouterDown",alertstate="firing",severity="page"}'))

    for alert in ("ArgusRouterDown", "ArgusControllerSilent"):
        assert not server.query(f'ALERTS{{alertname="{alert}"}}'), alert
    assert until(told, every_s=1.0)
