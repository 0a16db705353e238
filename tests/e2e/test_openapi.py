"""schemathesis reads our own OpenAPI document and tries everything it allows: no answer may be a 5xx."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.cluster import KEY, Cluster

pytestmark = pytest.mark.cluster
# Hundreds of requests, some of which draw, train or talk.
LONGEST_S = 800


def test_no_server_errors(cluster: Cluster, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{cluster.http}/openapi.json"]
    options = [
        "--checks",
        "not_a_server_error",
        "--phases",
        "examples,coverage,fuzzing,stateful",
        "--max-examples",
        "20",
    ]
    limits = ["--seed", "1", "--request-timeout", "30", "--workers", "1", "-H", f"X-API-Key: {KEY}"]
    done = subprocess.run(
        [*command, *options, *limits], capture_output=True, text=True, timeout=LONGEST_S, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    tested = re.search(r"Tested: (\d+)", done.stdout)
    cases = re.search(r"([\d,]+) generated, ([\d,]+) passed", done.stdout)
    assert tested is not None and int(tested[1]) >= 20, done.stdout[-2000:]
    assert cases is not None and int(cases[1].replace(",", "")) >= 500, done.stdout[-2000:]
