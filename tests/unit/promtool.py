"""Prometheus' own tester of rules."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from grafana.rules import text
from serve.config.cluster import ClusterFile

_PROMTOOL = shutil.which("promtool")
promtool = pytest.mark.skipif(_PROMTOOL is None, reason="no promtool (Debian: apt-get install prometheus)")

COUNTED = 'ray_argus_slo_%s_total{slo="all",WorkerId="1"}'
ALL, BAD = COUNTED % "events", COUNTED % "errors"


def selector(name: str, labels: Mapping[str, str]) -> str:
    matchers = [f'{key}="{value}"' for key, value in labels.items()]
    return f"{name}{{{', '.join(matchers)}}}"


def evaluate(folder: Path, cluster: ClusterFile, tests: list[dict[str, Any]], every: str = "1m") -> None:
    """Runs promtool over the cluster's rules; what it says is the failure's message.

    Args:
        every: between evaluations; days of them take promtool minutes.
    """
    rules = text(cluster, "a test")
    (folder / "rules.yaml").write_text(rules)
    # Without an order promtool takes the groups in that of a Go map, which is a new one each time.
    order = [group["name"] for group in yaml.safe_load(rules)["groups"]]
    for test in tests:
        series = test.pop("series")
        test["input_series"] = [{"series": name, "values": values} for name, values in series.items()]
        test["interval"] = "1m"
    content = {"rule_files": ["rules.yaml"], "evaluation_interval": every, "group_eval_order": order, "tests": tests}
    (folder / "tests.yaml").write_text(yaml.safe_dump(content))
    _run("test", "rules", "tests.yaml", folder=folder)


def check(rules: Path) -> None:
    """Whether Prometheus takes a file of rules."""
    _run("check", "rules", rules.name, folder=rules.parent)


def _run(*arguments: str, folder: Path) -> None:
    assert _PROMTOOL is not None
    done = subprocess.run([_PROMTOOL, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
