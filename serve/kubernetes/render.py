"""The whole tree: a base that all overlays share, and overlays, as files for kustomize."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from serve.config.budget import problems
from serve.config.load import ConfigErrors
from serve.errors import ConfigError
from serve.kubernetes import cluster_file, disruption, jobs, monitoring, network, redis, routes, storage, weights
from serve.kubernetes.ray_service import ray_service
from serve.kubernetes.settings import NAME, Object, Settings, labels

HEAD = (
    "# Made by `argus k8s render`. Do not edit: change the cluster file, or patch it in a kustomization of your own.\n"
)


def base() -> dict[str, list[Object]]:
    """Files of the base, with their objects."""
    return {
        "base/namespace.yaml": [_namespace()],
        "base/priority.yaml": disruption.priority_classes(),
        "base/redis.yaml": redis.objects(),
        "base/kustomization.yaml": [_kustomization(["namespace.yaml", "priority.yaml", "redis.yaml"])],
        "dashboards/dashboards.yaml": monitoring.dashboards(),
        "dashboards/kustomization.yaml": [_kustomization(["dashboards.yaml"])],
    }


def overlay(settings: Settings) -> dict[str, list[Object]]:
    """Files of one overlay, with their objects.

    Raises:
        ConfigErrors: the cluster file's models do not fit onto its nodes.
        ConfigError: a pod could not have what the cluster file names.
    """
    if found := problems(settings.cluster):
        raise ConfigErrors(f"{settings.cluster.name}: " + "; ".join(found), tuple(found))
    files = {
        "cluster.yaml": [cluster_file.config_map(settings.cluster)],
        "rayservice.yaml": [ray_service(settings)],
        "storage.yaml": storage.claims(settings),
        "jobs.yaml": _jobs(settings),
        "network.yaml": network.policies(settings),
        "disruption.yaml": disruption.budgets(settings),
    }
    shared = ["../../base"]
    if not settings.local:
        files["monitoring.yaml"] = monitoring.objects(settings)
        files["gateway.yaml"] = routes.routes(settings)
        shared.append("../../dashboards")
    files = {name: objects for name, objects in files.items() if objects}
    kustomization = _kustomization([*shared, *files], namespace=NAME)
    if settings.redis is not None:
        kustomization["patches"] = [_without(one) for one in redis.objects()]
    files["kustomization.yaml"] = [kustomization]
    return {f"overlays/{settings.overlay}/{name}": objects for name, objects in files.items()}


def texts(files: Mapping[str, Iterable[Object]]) -> dict[str, str]:
    """The files' contents."""
    return {
        name: HEAD + yaml.dump_all(objects, Dumper=_Dumper, sort_keys=False, width=10_000, allow_unicode=True)
        for name, objects in files.items()
    }


def write(contents: Mapping[str, str], folder: Path) -> list[Path]:
    """Writes the files; their paths.

    Raises:
        ConfigError: one cannot be written.
    """
    written = []
    for name, content in contents.items():
        path = folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"{path} cannot be written: {error.strerror}.", param="--out") from None
        written.append(path)
    return written


def _jobs(settings: Settings) -> list[Object]:
    pull = [jobs.pull_weights(settings)] if weights.needed(settings.cluster) else []
    return [*pull, jobs.load_test(settings)]


def _namespace() -> Object:
    # Baseline is enforced, since the operator adds containers of its own; ours keep to the restricted standard.
    standards = {"pod-security.kubernetes.io/enforce": "baseline", "pod-security.kubernetes.io/warn": "restricted"}
    metadata = {"name": NAME, "labels": labels("namespace") | standards}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}


def _kustomization(resources: Sequence[str], namespace: str | None = None) -> Object:
    made: Object = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization"}
    if namespace is not None:
        made["namespace"] = namespace
    return made | {"resources": list(resources)}


def _without(one: Object) -> dict[str, Any]:
    name = one["metadata"]["name"]
    deleted = {"$patch": "delete", "apiVersion": one["apiVersion"], "kind": one["kind"], "metadata": {"name": name}}
    return {"patch": yaml.safe_dump(deleted, sort_keys=False)}


class _Dumper(yaml.SafeDumper):
    """Without anchors, and with texts of several lines as they are: people read this."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, data: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", data, style="|" if "\n" in data else None)


_Dumper.add_representer(str, _text)
