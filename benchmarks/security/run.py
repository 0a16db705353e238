"""`argus bench security`: the whole drill on a cluster of its own."""

from __future__ import annotations

import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import yaml
from rich.console import Console

from benchmarks.report import Column, Report, this_command
from benchmarks.security import bombs, exposure, injection, isolation, keys, limits, names, planting, ssrf
from benchmarks.security import secrets as planted_secrets
from benchmarks.security.case import try_it
from benchmarks.security.sink import Sink
from benchmarks.security.site import Site
from benchmarks.servers import free_port, replica_ports, server, up
from serve.auth import hash_key
from serve.errors import ConfigError

GROUPS: Final[dict[str, ModuleType]] = {
    module.GROUP: module
    for module in (keys, exposure, ssrf, bombs, names, injection, limits, isolation, planted_secrets)
}
"""By name, in the order in which they are tried: secrets last, since they are looked for in all that came before."""

GOAL: Final = "every attempt ends as it must"
NAME: Final = "drill"
_COLUMNS: Final = (
    Column("group", "group"),
    Column("attempt", "attempt"),
    Column("expected", "expected"),
    Column("got", "got"),
    Column("verdict", ""),
)


def run(*, only: Sequence[str], progress: Console) -> Report:
    """Makes every attempt, or those of the groups named.

    Raises:
        ConfigError: there is no such group.
    """
    if unknown := set(only) - GROUPS.keys():
        raise ConfigError(f"--only: got {min(unknown)!r}; it must be one of {', '.join(GROUPS)}")
    report = Report(this_command(), "Security drill", GOAL, _COLUMNS, {"groups": list(only or GROUPS)})
    with cluster() as site:
        for name, module in GROUPS.items():
            if only and name not in only:
                continue
            began, before = time.monotonic(), len(report.rows)
            for case in module.cases(site):
                got = try_it(case)
                row = {"group": name, "attempt": case.attempt, "expected": case.expected, "got": got.text}
                report.rows.append({**row, "verdict": "ok" if got.ok else "FAILED"})
                if not got.ok:
                    report.misses.append(f"{name}: {case.attempt}: expected {case.expected}, got {got.text}")
            made, took = len(report.rows) - before, time.monotonic() - began
            progress.print(f"  {name}: {made} attempts in {took:.0f} s", highlight=False)
    report.notes.append(f"{len(report.rows)} attempts on profile demo with keys, on every address of this machine.")
    return report


@contextmanager
def cluster() -> Iterator[Site]:
    """Profile `demo` with two clients' keys and planted secrets, listening on every address."""
    own, other = (secrets.token_urlsafe(32) for _ in range(2))
    folder = Path(tempfile.mkdtemp(prefix="argus-"))  # short: unix sockets lie below it
    try:
        with planting.planted({"client's key": own, "other client's key": other}) as servers, Sink() as trap:
            ports = {"http_port": free_port(18_000), "grpc_port": free_port(19_000), "metrics_port": free_port(19_100)}
            content: dict[str, Any] = {
                "extends": "demo",
                "name": NAME,
                "server": {**ports, "host": "0.0.0.0"},
                "auth": {"keys": [{"name": n, "sha256": hash_key(k)} for n, k in (("own", own), ("other", other))]},
                "models": {
                    name: {"path": str(folder / name)}
                    for name in ("index", "sessions", "jobs", "scenes", "reconstruction")
                },
                "log_level": "DEBUG",
                **planting.sections(servers),
            }
            config = folder / "cluster.yaml"
            config.write_text(yaml.safe_dump(content), encoding="utf-8")
            environment = {"ARGUS_RUN_DIR": str(folder), **replica_ports(29_000)}
            command = [sys.executable, "-m", "serve", "up", "--config", str(config)]
            http = f"http://127.0.0.1:{ports['http_port']}"
            with server(NAME, command, up(NAME, folder), environment):
                site = Site(
                    NAME,
                    http,
                    f"127.0.0.1:{ports['grpc_port']}",
                    f"http://127.0.0.1:{ports['metrics_port']}/metrics",
                    own,
                    other,
                    folder / NAME,
                    trap,
                    {**environment, "PYTHONPATH": os.environ.get("PYTHONPATH", "")},
                    config,
                    servers,
                )
                yield site
                site.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
