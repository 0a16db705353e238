"""The command line: starting, refusing to start, asking, stopping."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from serve.auth import hash_key
from serve.config.load import load_profile
from tests.e2e import cluster as clusters
from tests.e2e.cluster import ROOT, Cluster, argus
from tests.support.waiting import until

SAMPLE = ROOT / "demo" / "samples" / "red_star.png"


@pytest.mark.cluster
def test_status_and_models(cluster: Cluster) -> None:
    status = json.loads(cluster.argus("status", "--name", cluster.name, "--json").stdout)
    assert (status["phase"], status["application"]) == ("ready", "RUNNING")
    assert {d["name"]: d["running"] for d in status["deployments"]} == dict.fromkeys(
        ("router", "scripted", "vit", *load_profile("demo").models), 1
    )
    models = json.loads(cluster.argus("models", "--name", cluster.name, "--json").stdout)
    assert models[0]["id"] == "clip" and models[0]["checkpoint"] == "demo:clip"
    assert "red star" in cluster.argus("call", "classify", str(SAMPLE), "a red star", "--name", cluster.name).stdout


@pytest.mark.cluster
def test_call(cluster: Cluster) -> None:
    name = ("--name", cluster.name)
    answer = cluster.argus("call", "classify", str(SAMPLE), "a red star", "a blue circle", *name, "--json")
    assert json.loads(answer.stdout)["results"][0]["label"] == "a red star"
    image = json.loads(cluster.argus("call", "embed", str(SAMPLE), *name).stdout)
    text = json.loads(cluster.argus("call", "embed", "a photo of a red star.", *name).stdout)
    assert len(image) == len(text) == 128
    with cluster.client() as client:
        client.put("/v1/indexes/cli", json={})
        client.post("/v1/indexes/cli/items", json={"items": [{"id": "star", "vector": image}]})
        found = cluster.argus("call", "search", "cli", str(SAMPLE), *name, "--json")
        client.delete("/v1/indexes/cli")
    assert json.loads(found.stdout)["hits"][0]["id"] == "star"
    asked = cluster.argus("call", "ask", str(SAMPLE), "What colour is the object?", *name)
    assert asked.stdout.strip() == "red"
    wrong = cluster.argus("call", "classify", "/nowhere.png", "x", *name)
    assert wrong.returncode == 1 and "no file" in wrong.stderr and "Traceback" not in wrong.stderr


@pytest.mark.cluster
def test_a_running_cluster_is_not_started_twice(cluster: Cluster, tmp_path: Path) -> None:
    file = tmp_path / "again.yaml"
    file.write_text(yaml.safe_dump({"extends": "demo", "name": cluster.name}))
    again = cluster.argus("up", "--config", str(file))
    assert again.returncode == 1 and "runs already" in again.stderr and "argus down" in again.stderr


def test_a_public_address_needs_keys_or_insecure() -> None:
    refused = argus("up", "--host", "0.0.0.0")
    assert refused.returncode == 1
    assert "auth.keys is empty" in refused.stderr and "--insecure" in refused.stderr


def test_a_taken_port_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        environment = {**os.environ, "ARGUS_RUN_DIR": tempfile.mkdtemp()}
        refused = argus("up", "--http-port", str(port), environment=environment)
    assert refused.returncode == 2 and f"server.http_port: {port} is taken" in refused.stderr


def test_a_wrong_cluster_file_is_one_line_a_problem(tmp_path: Path) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text("extends: demo\nsever: {}\nlimits: {max_labels: 0}\n")
    refused = argus("config", "check", "--config", str(file))
    assert refused.returncode == 2 and "Traceback" not in refused.stderr
    assert "did you mean 'server'?" in refused.stderr and "limits.max_labels: got 0" in refused.stderr


def test_config_check_refuses_what_does_not_fit(tmp_path: Path) -> None:
    file = tmp_path / "tight.yaml"
    file.write_text("extends: gpu\nname: tight\nnode_pools: {gpu: {gpu_memory_gb: 24}}\n")
    refused = argus("config", "check", "--config", str(file))
    assert refused.returncode == 1 and "80 of 24 GB" in " ".join(refused.stderr.split())


def test_hash_key_and_schema() -> None:
    made = argus("config", "hash-key", "secret")
    assert made.stdout.strip() == hash_key("secret")
    assert json.loads(argus("config", "schema").stdout)["title"] == "ClusterFile"
    shown = yaml.safe_load(argus("config", "show", "--profile", "gpu").stdout)
    assert shown["models"]["clip"]["checkpoint"] == "openai/clip-vit-large-patch14"


def test_doctor_lists_what_it_checked() -> None:
    report = json.loads(argus("doctor", "--json").stdout)
    assert {"Python", "torch", "torchvision", "GPU", "HAProxy", "free memory", "models.clip"} <= {
        finding["check"] for finding in report
    }
    assert all(finding["fix"] for finding in report if finding["level"] != "ok")


def test_nothing_runs_where_nothing_was_started() -> None:
    environment = {**os.environ, "ARGUS_RUN_DIR": tempfile.mkdtemp()}
    assert argus("status", environment=environment).returncode == 1
    assert "does not run" in argus("down", environment=environment).stdout
    assert "argus up" in argus("models", environment=environment).stderr


# Soon there: the demo's CLIP alone.
CLIP_ALONE: dict[str, Any] = {
    "node_pools": {"local": {"cpus": 2}},
    "models": {"clip": {"kind": "clip", "checkpoint": "demo:clip", "placement": {"num_cpus": 0.5}}},
    "router": {"num_cpus": 0.5},
}


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[Cluster]:
    """Without HAProxy and without keys: what a machine without the binary gets."""
    content = {**CLIP_ALONE, "server": {"tuned_ingress": False}}
    running = clusters.start("plain", content, tmp_path)
    yield running
    clusters.stop(running)


@pytest.mark.cluster
def test_the_plain_proxy_serves_the_same(plain: Cluster, scene_png: bytes) -> None:
    import numpy as np
    import tritonclient.grpc as triton

    from tests.e2e.test_protocols import classify_inputs, key

    fields = {"labels": "a red star,a blue circle"}
    with plain.client() as client:
        answer = client.post("/v1/classify", files={"image": scene_png}, data=fields).json()
        assert client.post("/v1/classify", json={}).status_code == 400
    with triton.InferenceServerClient(plain.grpc) as rpc:
        inputs = classify_inputs(triton, scene_png, ["a red star", "a blue circle"])
        scores = rpc.infer("clip.classify", inputs, headers=key()).as_numpy("LOGITS")[0]
        with pytest.raises(Exception, match="NOT_FOUND"):
            rpc.infer("nothing", inputs, headers=key())
    np.testing.assert_allclose(answer["results"][0]["scores"][0]["logit"], scores[0], atol=1e-4)


@pytest.mark.cluster
def test_the_foreground_shows_an_example_and_stops_cleanly_on_ctrl_c(tmp_path: Path) -> None:
    http, rpc, metrics = clusters.ports()
    file = tmp_path / "fg.yaml"
    server = {"http_port": http, "grpc_port": rpc, "metrics_port": metrics}
    file.write_text(yaml.safe_dump({**CLIP_ALONE, "name": "fg", "server": server}))
    environment = {**os.environ, "ARGUS_RUN_DIR": tempfile.mkdtemp(prefix="argus-")}
    process = subprocess.Popen(
        [sys.executable, "-m", "serve", "up", "--config", str(file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        cwd=ROOT,
    )
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if '"label":"a red star"' in line:
            break
    shown = "".join(seen)
    assert "Argus is ready" in shown and "curl -s" in shown, shown
    family = [process.pid, *(child.pid for child in psutil.Process(process.pid).children(recursive=True))]
    assert len(family) > 5
    process.send_signal(signal.SIGINT)
    process.stdout.read()
    assert process.wait(timeout=90) == 0
    assert until(lambda: not any(lives(pid) for pid in family))


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
