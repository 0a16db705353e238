"""A real Prometheus (Debian's package), and what is asked of it."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from serve.runtime.ingress import free_ports

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "grafana" / "prometheus" / "prometheus.yml"


@dataclass(frozen=True)
class Prometheus:
    """A running server."""

    address: str

    def query(self, expression: str, at_s: float | None = None) -> list[dict[str, Any]]:
        """Series of an instant query.

        Raises:
            AssertionError: the expression is wrong.
        """
        given = {"query": expression} | ({} if at_s is None else {"time": f"{at_s}"})
        answer = httpx.post(f"{self.address}/api/v1/query", data=given, timeout=30, trust_env=False).json()
        assert answer["status"] == "success", f"{expression}: {answer.get('error')}"
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found


def installed() -> bool:
    """Whether this machine has it."""
    return shutil.which("prometheus") is not None and shutil.which("promtool") is not None


@contextmanager
def prometheus(folder: Path, targets: Path, rules: list[Path]) -> Iterator[Prometheus]:
    """A server with the committed configuration, hurried: it scrapes and evaluates every few seconds.

    A scrape of a busy cluster takes its agent a good part of a second of work, which is also the least timeout.

    Args:
        folder: for its data and the hurried copies.
        targets: folder of what `argus observability targets` wrote.
        rules: rule files.
    """
    config: dict[str, Any] = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    config["global"] = {"scrape_interval": "3s", "scrape_timeout": "3s", "evaluation_interval": "2s"}
    config["rule_files"] = [str(_hurried(path, folder)) for path in rules]
    config["scrape_configs"][0]["file_sd_configs"] = [{"files": [f"{targets}/*.json"], "refresh_interval": "1s"}]
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    subprocess.run(["promtool", "check", "config", file], check=True, capture_output=True)
    [port] = free_ports(1)
    command = ["prometheus", f"--config.file={file}", f"--storage.tsdb.path={folder / 'data'}"]
    command += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        address = f"http://127.0.0.1:{port}"
        _wait(address)
        yield Prometheus(address)
    finally:
        process.terminate()
        process.wait(30)


def _hurried(path: Path, folder: Path) -> Path:
    """A copy of a rule file whose groups are evaluated every two seconds, and whose alerts wait for nothing."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    for group in content["groups"]:
        group["interval"] = "2s"
        for rule in group["rules"]:
            rule.pop("for", None)
    copy = folder / path.name
    copy.write_text(yaml.safe_dump(content), encoding="utf-8")
    return copy


def _wait(address: str) -> None:
    for _ in range(300):
        try:
            if httpx.get(f"{address}/-/ready", timeout=5, trust_env=False).is_success:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.1)
    raise AssertionError(f"Prometheus at {address} is not ready")
