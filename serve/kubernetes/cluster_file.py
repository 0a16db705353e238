"""The cluster file as pods read it: complete, with their paths, without keys."""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from serve.config.checkpoints import DEMO_CHECKPOINTS, DEMO_SCENES
from serve.config.cluster import ClusterFile
from serve.config.model_base import CheckpointModel, StoreModel
from serve.config.scene_models import SceneStoreModel
from serve.errors import ConfigError
from serve.kubernetes.settings import APPLICATION_DIR, CONFIG, NAME, PROVIDER_FILES, STATE, WEIGHTS, Object, labels

FILE = "cluster.yaml"
PATH = CONFIG / FILE


def config_map(cluster: ClusterFile) -> Object:
    """The ConfigMap that every pod of Ray has at `/etc/argus`."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": f"{NAME}-cluster", "labels": labels("config")},
        "data": {FILE: text(cluster)},
    }


def digest(cluster: ClusterFile) -> str:
    """SHA-256 of the file's text."""
    return hashlib.sha256(text(cluster).encode()).hexdigest()


def text(cluster: ClusterFile) -> str:
    """The file: `extends` and calibrations put in, paths as they are in a pod. Keys are in a Secret instead.

    Raises:
        ConfigError: a path is one of this machine, which pods do not have.
    """
    content = cluster.model_dump(mode="json", exclude_unset=True, exclude_none=True, exclude={"auth"})
    for name, model in cluster.models.items():
        section, key = content["models"][name], f"models.{name}"
        if isinstance(model, CheckpointModel):
            section["checkpoint"] = _checkpoint(model.checkpoint, f"{key}.checkpoint")
        elif isinstance(model, StoreModel):
            section["path"] = _state(model.path, f"{key}.path")
        if isinstance(model, SceneStoreModel) and model.preload:
            section["preload"] = {
                scene: _shipped(path, DEMO_SCENES, f"{key}.preload.{scene}") for scene, path in model.preload.items()
            }
    for name, provider in cluster.providers.items():
        file = provider.api_key_file
        if file is not None and PurePosixPath(file).parent != PROVIDER_FILES:
            raise ConfigError(
                f"providers.{name}.api_key_file: got {file!r}; pods have the Secret's files in {PROVIDER_FILES}"
            )
    return yaml.safe_dump(content, sort_keys=False, width=110, allow_unicode=True)


def _checkpoint(checkpoint: str, key: str) -> str:
    return _shipped(checkpoint, DEMO_CHECKPOINTS, key) if checkpoint.startswith("/") else checkpoint


def _shipped(path: str, folder: Path, key: str) -> str:
    """`demo:NAME` for what is in the image; a path on the weights' volume as it is."""
    if Path(path).is_relative_to(folder):
        return f"demo:{Path(path).relative_to(folder)}"
    if PurePosixPath(path).is_relative_to(WEIGHTS):
        return path
    raise ConfigError(f"{key}: got {path!r}, which pods do not have; put it on the volume of weights, below {WEIGHTS}")


def _state(path: str, key: str) -> str:
    """Below the volume of stores. A cluster file's relative path was made absolute when it was read, here."""
    here = Path.cwd()
    inside = APPLICATION_DIR / Path(path).relative_to(here) if Path(path).is_relative_to(here) else PurePosixPath(path)
    if not inside.is_relative_to(STATE) or inside == STATE:
        raise ConfigError(f"{key}: got {path!r}; pods keep stores on a volume at {STATE}, so it must be var/NAME")
    return str(inside)


def parsed(content: str) -> dict[str, Any]:
    """The mapping that a rendered file holds."""
    found: dict[str, Any] = yaml.safe_load(content)
    return found
