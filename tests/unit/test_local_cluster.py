"""`LocalCluster` without Ray below it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import ray

from serve.config.load import load_profile
from serve.runtime.local import LocalCluster


def test_a_cluster_of_its_own_is_started_whatever_ray_address_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray reads that variable unless it is told an address (`ray.init`), and refuses our options for a cluster that
    it joins."""
    told: dict[str, Any] = {}

    def init(**options: Any) -> dict[str, str]:
        told.update(options)
        return {"address": "127.0.0.1:6379"}

    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    monkeypatch.setattr(ray, "init", init)
    assert LocalCluster(load_profile("demo"), tmp_path).start_ray() == "127.0.0.1:6379"
    assert told["address"] == "local"
