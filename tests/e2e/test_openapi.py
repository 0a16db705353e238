"""schemathesis reads our own OpenAPI document and tries everything it allows: no answer may be a 5xx."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.cluster import KEY, Cluster

pytestmark = pytest.mark.cluster


def test_no_server_errors(cluster: Cluster, tmp_path: Path) -> None:
    # Kept from the tests' own index and from the scripted model's delays by nothing: whatever it sends must be borne.
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{cluster.http}/openapi.json"]
    options = ["--checks", "not_a_server_error", "--phases", "examples,coverage,fuzzing", "--max-examples", "20"]
    limits = ["--seed", "1", "--request-timeout", "30", "--workers", "1", "-H", f"X-API-Key: {KEY}"]
    done = subprocess.run(
        [*command, *options, *limits], capture_output=True, text=True, timeout=280, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "operations" in done.stdout.lower() or "selected" in done.stdout.lower(), done.stdout[-2000:]
