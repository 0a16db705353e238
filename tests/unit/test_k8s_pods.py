"""What pods run themselves: the application from a mounted file, preparation, weights, and their end."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray import serve as ray_serve
from ray.serve._private.api import call_user_app_builder_with_args_if_necessary as built_by_ray

from serve.app import from_file
from serve.config.load import ConfigErrors, load_profile
from serve.config.mounted import read
from serve.errors import Unavailable
from serve.kubernetes import cluster_file, weights
from serve.kubernetes.drain import SETTLE_S, drain, replicas
from serve.kubernetes.prepare import await_file, write_ingress
from tests.unit.k8s_objects import serve_config, shipped, the

KEYS = {"keys": [{"name": "app", "sha256": "a" * 64}]}


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def mounted(tmp_path: Path) -> dict[str, Any]:
    """Arguments as the dev overlay has them, with the files where a test may put them."""
    (application,) = serve_config("dev")["applications"]
    path = tmp_path / "cluster.yaml"
    path.write_text(the("dev", "ConfigMap", "argus-cluster")["data"]["cluster.yaml"], encoding="utf-8")
    return application["args"] | {"cluster_file": str(path)}


def test_the_import_path_builds_the_application(mounted: dict[str, Any]) -> None:
    """With Ray Serve's own function, which looks at the builder's signature."""
    (application,) = serve_config("dev")["applications"]
    assert application["import_path"] == f"{from_file.__module__}:{from_file.__name__}"
    built = built_by_ray(from_file, mounted)
    assert isinstance(built, ray_serve.Application)
    cluster, handles = built._bound_deployment.init_args
    assert cluster.name == "demo" and handles.keys() == shipped("dev").cluster.models.keys()


def test_keys_come_from_the_secret(mounted: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(yaml.safe_dump(KEYS), encoding="utf-8")
    cluster = read(mounted | {"insecure": False, "keys_file": str(path)})
    assert [key.name for key in cluster.auth.keys] == ["app"]


def test_without_keys_nothing_starts_unless_told_to(mounted: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigErrors, match="no API keys"):
        read(mounted | {"insecure": False})
    path = tmp_path / "keys.yaml"
    path.write_text("keys: []\n", encoding="utf-8")
    with pytest.raises(ConfigErrors, match="no API keys"):
        read(mounted | {"insecure": False, "keys_file": str(path)})


@pytest.mark.parametrize(
    "content",
    [
        "keys: [{name: app, sha256: sk-plainly-secret}]\n",
        "keys: [{name: app, sha256: one, sha256: sk-plainly-secret}]\n",
        "keys: []\nsk-plainly-secret: 1\nsk-plainly-secret: 2\n",
    ],
    ids=["no hash", "twice in a key", "a key that stands twice"],
)
def test_a_key_in_the_wrong_place_is_not_repeated(mounted: dict[str, Any], tmp_path: Path, content: str) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigErrors, match="hash-key") as caught:
        read(mounted | {"keys_file": str(path)})
    assert "plainly" not in str(caught.value)


def test_the_file_that_is_meant_is_waited_for(mounted: dict[str, Any]) -> None:
    """A kubelet renews a mounted ConfigMap a while after it has changed."""
    path, clock = Path(mounted["cluster_file"]), Clock()
    new = path.read_text(encoding="utf-8").replace("name: demo", "name: tomorrow", 1)
    wanted = mounted | {"sha256": hashlib.sha256(new.encode()).hexdigest()}

    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        if clock.now > 30:
            path.write_text(new, encoding="utf-8")

    assert read(wanted, clock=clock, sleep=sleep).name == "tomorrow"


def test_a_file_that_never_comes_ends_the_wait(mounted: dict[str, Any]) -> None:
    clock = Clock()
    with pytest.raises(ConfigErrors, match="did not appear in 180 s"):
        read(mounted | {"sha256": "0" * 64}, clock=clock, sleep=clock.sleep)
    assert clock.now == pytest.approx(180, abs=2)


@pytest.mark.parametrize("wrong", [{}, {"cluster_file": "x", "sha265": "0"}, {"cluster_file": "x", "sha256": "short"}])
def test_wrong_arguments_are_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigErrors, match=r"args\."):
        from_file(wrong)


def test_the_ingress_keeps_statistics_on_loopback_and_metrics_open(tmp_path: Path) -> None:
    wrapper = write_ingress(tmp_path, 8404)
    assert os.access(wrapper, os.X_OK) and (tmp_path / "503.http").is_file()
    config = tmp_path / "cfg"
    config.write_text("frontend stats\n  bind *:8404\nfrontend prometheus\n  bind *:9101\n", encoding="utf-8")
    subprocess.run([wrapper, "-v", "-f", config], check=False, capture_output=True, timeout=30)
    text = config.read_text(encoding="utf-8")
    assert "bind 127.0.0.1:8404" in text and "bind *:9101" in text


def test_workers_wait_for_weights(tmp_path: Path) -> None:
    clock, marker = Clock(), tmp_path / ".complete-1"

    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        if clock.now >= 60:
            marker.touch()

    await_file(marker, 600, clock=clock, sleep=sleep)
    assert clock.now == 60
    with pytest.raises(Unavailable, match="did not appear in 600 s"):
        await_file(tmp_path / "never", 600, clock=clock, sleep=clock.sleep)


def test_weights_are_those_that_the_hub_has_and_the_marker_comes_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster, asked = shipped("mixed").cluster, []

    def download(name: str, **options: Any) -> str:
        assert not list(tmp_path.glob(".complete-*"))
        asked.append((name, options["revision"]))
        return str(options["cache_dir"])

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    done = weights.pull(cluster, tmp_path)
    assert asked == weights.checkpoints(cluster) and ("openai/clip-vit-large-patch14", None) in asked
    assert done.is_file() and done.name == weights.marker(cluster).name
    assert weights.checkpoints(load_profile("demo")) == []


def test_weights_that_the_hub_refuses_leave_no_marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str, **options: Any) -> str:
        raise OSError("401 Client Error")

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    with pytest.raises(Unavailable, match=r"Video-LLaVA.*401"):
        weights.pull(shipped("mixed").cluster, tmp_path)
    assert not list(tmp_path.iterdir())


def test_another_revision_is_another_marker() -> None:
    cluster = shipped("mixed").cluster
    clip = cluster.models["clip"].model_copy(update={"revision": "v2"})
    assert weights.digest(cluster) != weights.digest(
        cluster.model_copy(update={"models": cluster.models | {"clip": clip}})
    )


def test_a_pod_goes_when_its_replicas_have_gone() -> None:
    clock, told = Clock(), []
    left = drain(
        300,
        announce=lambda seconds: told.append(seconds) is None,
        busy=lambda: 2 if clock.now < 40 else 0,
        clock=clock,
        sleep=clock.sleep,
    )
    assert left == 0 and told == [300] and clock.now == 40


def test_a_pod_waits_for_load_balancers_even_without_replicas() -> None:
    clock = Clock()
    assert drain(300, announce=lambda _: True, busy=lambda: 0, clock=clock, sleep=clock.sleep) == 0
    assert clock.now == SETTLE_S


def test_a_drain_ends_in_time_and_says_what_is_left() -> None:
    clock = Clock()
    assert drain(100, announce=lambda _: False, busy=lambda: 3, clock=clock, sleep=clock.sleep) == 3
    assert clock.now == 100


def test_replicas_are_known_by_the_names_that_ray_gives_processes() -> None:
    before = replicas()
    with subprocess.Popen(["ray::ServeReplica:argus:clip", "60"], executable="/bin/sleep") as process:
        try:
            assert replicas() == before + 1
        finally:
            process.kill()


def test_the_mounted_file_is_the_one_whose_digest_is_named() -> None:
    (application,) = serve_config("mixed")["applications"]
    assert cluster_file.digest(shipped("mixed").cluster) == application["args"]["sha256"]
