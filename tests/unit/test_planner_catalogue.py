"""What a catalogue may say: names that Kubernetes takes, nodes that can be rented, and providers that there are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from typer.testing import CliRunner

from benchmarks.capacity.planner.catalogue import SHIPPED, Catalogue
from benchmarks.capacity.planner.problem import Wishes
from benchmarks.capacity.planner.question import Traffic, problem
from benchmarks.traffic.arrivals import Poisson
from serve.cli import app
from serve.errors import ConfigError
from tests.unit import planner_cases as cases

API = {"usd_per_call": 0.01, "source": "a test", "date": "2026-11-29"}


def content(**nodes: dict[str, Any]) -> dict[str, Any]:
    """The catalogue of the other tests, its nodes changed."""
    shipped = cases.catalogue().model_dump(mode="json")
    for name, changes in nodes.items():
        shipped["nodes"][name] |= changes
    return shipped


@pytest.mark.parametrize("name", ["my.t4", "t4_spot", "t4-", "-t4", "T4", "t" * 64])
def test_a_node_has_a_name_that_a_worker_group_may_have(name: str) -> None:
    made = content()
    made["nodes"] = {name: made["nodes"]["t4"]}
    with pytest.raises(ValidationError, match="should match pattern"):
        Catalogue.model_validate(made)


def test_a_card_has_a_name() -> None:
    with pytest.raises(ValidationError, match="has GPUs and no gpu"):
        Catalogue.model_validate(content(t4={"gpu": None}))


def test_a_node_that_cannot_be_rented_so_is_left_out() -> None:
    prices = cases.catalogue().model_dump(mode="json")["nodes"]["t4"]["prices"]
    catalogue = Catalogue.model_validate(content(t4={"prices": {"spot": prices["spot"]}}))
    assert catalogue.priced("on_demand").keys() == {"a100"}
    assert catalogue.priced("spot").keys() == {"t4", "a100"}
    assert catalogue.rented("on_demand").nodes.keys() == {"a100"}
    with pytest.raises(ConfigError, match="no node has a price 'reserved'"):
        catalogue.priced("reserved")
    assert asked(catalogue).catalogue.nodes.keys() == {"a100"}


@pytest.mark.parametrize("name", ["mini", "gpt-4o-mini"])
def test_prices_of_calls_are_of_providers_that_there_are(name: str) -> None:
    assert asked(Catalogue.model_validate(content() | {"apis": {name: API}})).catalogue.apis.keys() == {name}


def test_a_provider_that_nobody_knows_is_named() -> None:
    with pytest.raises(ConfigError, match=r"the catalogue's apis has 'minni'; providers are gpt-4o-mini, mini"):
        asked(Catalogue.model_validate(content() | {"apis": {"minni": API}}))


def test_the_command_says_which_nodes_it_leaves_out(tmp_path: Path) -> None:
    shipped = yaml.safe_load(SHIPPED.read_text())
    prices = shipped["nodes"]["t4"]["prices"]
    shipped["nodes"]["t4"]["prices"] = {"spot": prices.get("spot", prices["on_demand"])}
    path = tmp_path / "catalogue.yaml"
    path.write_text(yaml.safe_dump(shipped))
    asked_for = ["plan", "--workload", "classification", "--rate", "100", "--slo", "p99=200ms", "--no-what-ifs"]
    done = CliRunner().invoke(app, [*asked_for, "--catalogue", str(path)])
    assert done.exit_code == 0, done.output
    assert "Left out, having no price 'on_demand' nor on demand: t4" in done.output


def asked(catalogue: Catalogue) -> Any:
    traffic = Traffic(cases.cluster(), cases.CLASSIFIED, None, Poisson(rate_per_s=1), (), None)
    return problem(
        traffic,
        rate_per_s=10.0,
        arrivals=None,
        slo=(),
        catalogue=catalogue,
        profiles=cases.PROFILES,
        wishes=Wishes(),
    )
