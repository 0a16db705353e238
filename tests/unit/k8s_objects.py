"""The committed objects of Kubernetes, and how to look through them."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from serve.kubernetes.settings import Settings
from serve.kubernetes.shipped import SHIPPED, settings

REPOSITORY = Path(__file__).parents[2]
TREE = REPOSITORY / "k8s"
OVERLAYS = tuple(SHIPPED)

Object = dict[str, Any]


@functools.cache
def shipped(overlay: str) -> Settings:
    """How an overlay is rendered: read once, since profiles take a moment."""
    return settings(overlay)


@functools.cache
def _read(folder: Path) -> tuple[Object, ...]:
    files = sorted(path for path in folder.glob("*.yaml") if path.name != "kustomization.yaml")
    return tuple(one for path in files for one in yaml.safe_load_all(path.read_text(encoding="utf-8")))


def objects(overlay: str) -> list[Object]:
    """Everything that an overlay makes, as its kustomization names it."""
    folder = TREE / "overlays" / overlay
    named = yaml.safe_load((folder / "kustomization.yaml").read_text(encoding="utf-8"))["resources"]
    shared = [folder / name for name in named if name.startswith("../")]
    return [one for path in [*shared, folder] for one in _read(path.resolve())]


def of_kind(overlay: str, kind: str) -> list[Object]:
    return [one for one in objects(overlay) if one["kind"] == kind]


def the(overlay: str, kind: str, name: str) -> Object:
    (found,) = [one for one in of_kind(overlay, kind) if one["metadata"]["name"] == name]
    return found


def ray(overlay: str) -> Object:
    """The Ray cluster of the RayService."""
    found: Object = the(overlay, "RayService", "argus")["spec"]["rayClusterConfig"]
    return found


def serve_config(overlay: str) -> Object:
    found: Object = yaml.safe_load(the(overlay, "RayService", "argus")["spec"]["serveConfigV2"])
    return found


def pods(overlay: str) -> Iterator[tuple[str, Object]]:
    """Every pod template, with the name of what makes it."""
    cluster = ray(overlay)
    yield "head", cluster["headGroupSpec"]["template"]
    for group in cluster["workerGroupSpecs"]:
        yield group["groupName"], group["template"]
    for one in objects(overlay):
        if one["kind"] in ("Job", "StatefulSet"):
            yield one["metadata"]["name"], one["spec"]["template"]


def containers(pod: Object) -> list[Object]:
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


def matches(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a label selector chooses a pod (matchLabels and matchExpressions; a plain mapping as of a Service)."""
    if not {"matchLabels", "matchExpressions"} & selector.keys():
        return all(labels.get(key) == value for key, value in selector.items())
    named = all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
    return named and all(_holds(one, labels) for one in selector.get("matchExpressions", []))


def _holds(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    value, operator = labels.get(expression["key"]), expression["operator"]
    if operator == "In":
        return value in expression["values"]
    assert operator == "Exists", operator
    return value is not None


def walk(value: Any) -> Iterator[Any]:
    """Every mapping and list within."""
    if isinstance(value, dict | list):
        yield value
        for inner in value.values() if isinstance(value, dict) else value:
            yield from walk(inner)
