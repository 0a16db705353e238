"""Secrets that were planted, looked for wherever the cluster writes: logs, traces, answers, metrics, command lines."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import httpx
import psutil

from benchmarks.security.case import Case, Got
from benchmarks.security.routes import Rpc, call
from benchmarks.security.site import WRONG, Planted, Site
from serve.config.load import ConfigErrors, parse
from serve.errors import ArgusError

GROUP = "secrets"
# Seconds for logs to be written, and the longest that the first trace may need to arrive.
_WRITTEN_S: Final = 4.0
_SENT_S: Final = 120.0
_MOST_FILE: Final = 256 << 20
_INFER: Final = Rpc("/inference.GRPCInferenceService/ModelInfer", streams_in=False, streams_out=False)
_PASTED: Final = "sk-pasted-0123456789"


def cases(site: Site) -> Iterator[Case]:
    """The attempts; of a cluster without planted secrets only those on its file."""
    if site.planted is not None:
        plan = site.planted
        yield Case(GROUP, "traffic with every secret, good and failing", "it was sent", partial(_drive, site, plan))
        for place, look in (
            ("every file of the cluster", _in_files),
            ("every answer so far", _in_answers),
            ("every trace", _in_traces),
            ("the metrics", _in_metrics),
            ("argus config show, config check, status", _on_the_command_line),
            ("command lines of the cluster's processes", _in_processes),
        ):
            yield Case(GROUP, place, "no planted secret", partial(look, site, plan))
    for where, sections in (
        ("redis.url", {"resilience": {"redis": {"url": f"redis://user:{_PASTED}@host/0"}}}),
        ("api_key_env", {"providers": {"p": {"kind": "openai", "model": "gpt-4o", "api_key_env": _PASTED}}}),
        ("api_key", {"providers": {"p": {"kind": "openai", "model": "gpt-4o", "api_key": _PASTED}}}),
        (
            "base_url",
            {"providers": {"p": {"kind": "openai", "model": "gpt-4o", "base_url": f"https://a:{_PASTED}@b/v1"}}},
        ),
        ("password_env", {"resilience": {"redis": {"url": "redis://host/0", "password_env": _PASTED}}}),
        ("headers_env", {"tracing": {"endpoint": "http://a:4318", "headers_env": {"authorization": _PASTED}}}),
        ("tracing.endpoint", {"tracing": {"endpoint": f"http://a:{_PASTED}@b:4318"}}),
        ("sha256", {"auth": {"keys": [{"name": "a", "sha256": _PASTED}]}}),
    ):
        yield Case(
            GROUP, f"a secret pasted into the cluster file's {where}", "refused without it", partial(_pasted, sections)
        )


def _drive(site: Site, plan: Planted) -> Got:
    traced = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}
    statuses = []
    for words in ("What is it?", "Please fail."):
        body = {"model": plan.provider_model, "messages": [{"role": "user", "content": words}], "max_tokens": 4}
        for stream in (False, True):
            statuses.append(site.ask("POST", "/v1/chat/completions", json={**body, "stream": stream}, headers=traced))
    for key in (site.key, WRONG):
        statuses.append(site.ask("GET", "/v1/models", key=None, headers={"Authorization": f"Bearer {key}", **traced}))
        call(site.grpc, _INFER, b"", [("x-api-key", key)])
    statuses.append(site.ask("GET", f"/v1/models/{site.key}", headers=traced))  # a key in the wrong place
    statuses.append(site.ask("POST", "/v1/classify", content=b"{", headers={"Content-Type": "application/json"}))
    deadline = time.monotonic() + _SENT_S
    while not plan.collector.requests and time.monotonic() < deadline:
        time.sleep(0.2)
    time.sleep(_WRITTEN_S)
    sent = [plan.provider.requests, plan.collector.requests]
    told = [str(answer.status_code) for answer in statuses]
    return Got(f"{', '.join(told)}; {len(sent[0])} calls of the provider, {len(sent[1])} exports", all(sent))


def _found(plan: Planted, where: str, data: bytes) -> list[str]:
    return [f"{what} in {where}" for what, secret in plan.secrets.items() if secret.encode() in data]


def _in_files(site: Site, plan: Planted) -> Got:
    found, count = [], 0
    for folder, _, names in os.walk(site.run_dir):
        for path in (Path(folder) / name for name in names):
            try:
                if path.is_symlink() or not path.is_file() or path.stat().st_size > _MOST_FILE:
                    continue
                data = path.read_bytes()
            except FileNotFoundError:
                continue  # the cluster goes on
            count += 1
            found += _found(plan, str(path.relative_to(site.run_dir)), data)
    return _judged(found, f"{count} files")


def _in_answers(site: Site, plan: Planted) -> Got:
    # The name of a model that does not exist is told back; it was a key because its owner had put it there.
    own = [answer for answer in site.answers if b"model_not_found" not in answer]
    return _judged([one for answer in own for one in _found(plan, "an answer", answer)], f"{len(own):,} answers")


def _in_traces(site: Site, plan: Planted) -> Got:
    # The collector's own key goes to it in a header, and stands in no body.
    bodies = [request.body for request in plan.collector.requests]
    return _judged([one for body in bodies for one in _found(plan, "a trace", body)], f"{len(bodies)} exports")


def _in_metrics(site: Site, plan: Planted) -> Got:
    text = httpx.get(site.metrics, trust_env=False, timeout=20).content
    return _judged(_found(plan, "the metrics", text), f"{len(text):,} bytes")


def _on_the_command_line(site: Site, plan: Planted) -> Got:
    found = []
    for command in (
        ["config", "show", "--config", str(site.config)],
        ["config", "check", "--config", str(site.config)],
        ["status", "--name", site.name, "--json"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "serve", *command],
            capture_output=True,
            timeout=120,
            env={**os.environ, **site.environment},
            check=False,
        )
        found += _found(plan, f"argus {' '.join(command[:2])}", done.stdout + done.stderr)
    return _judged(found, "3 commands")


def _in_processes(site: Site, plan: Planted) -> Got:
    found, count = [], 0
    for pid in site.pids():
        try:
            line = "\0".join(psutil.Process(pid).cmdline())
        except psutil.Error:
            continue
        count += 1
        found += _found(plan, f"process {pid}", line.encode())
    return _judged(found, f"{count} processes")


def _judged(found: list[str], looked_at: str) -> Got:
    return Got("; ".join(dict.fromkeys(found)) or f"none in {looked_at}", not found)


def _pasted(sections: dict[str, Any]) -> Got:
    model = {"kind": "custom", "implementation": "a:B", "tasks": ["classify"]}
    try:
        parse({"name": "a", "node_pools": {"local": {}}, "models": {"m": model}, **sections})
    except ArgusError as error:
        told = error.message + repr(error.problems if isinstance(error, ConfigErrors) else "")
        return Got(error.message[:110], _PASTED not in told)
    return Got("it was accepted", False)
