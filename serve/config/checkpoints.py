"""Which weights a name of the cluster file stands for, so that a calibration of others is known to be stale."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from serve.config.cluster import ClusterFile
from serve.config.model_base import CheckpointModel
from serve.config.models import CustomModel

DEMO = Path(__file__).parents[2] / "demo"
DEMO_CHECKPOINTS = DEMO / "checkpoints"
DEMO_CALIBRATIONS = DEMO / "calibrations"
DEMO_SCENES = DEMO / "scenes3d" / "files"

# Bytes read at either end of a file of weights: training changes all of them, and files may have tens of gigabytes.
_SAMPLE = 1 << 20


def checkpoint_label(checkpoint: str) -> str:
    """How a checkpoint is shown to clients: hub ids as they are, folders without the path of this machine."""
    path = Path(checkpoint)
    if not path.is_absolute():
        return checkpoint
    return f"demo:{path.name}" if path.parent == DEMO_CHECKPOINTS else path.name


def checkpoint_mark(cluster: ClusterFile, name: str) -> str:
    """What a model or provider of the file is, as calibration files name it.

    A hub id with its revision; a folder's name with a digest of its weights, since a folder's content can change under
    one name; a custom model's implementation; a provider's model.
    """
    if name in cluster.providers:
        return cluster.providers[name].model
    model = cluster.models[name]
    if isinstance(model, CustomModel):
        return model.implementation
    if not isinstance(model, CheckpointModel):
        return model.kind
    label = checkpoint_label(model.checkpoint)
    if Path(model.checkpoint).is_dir():
        return f"{label}#{_digest(model.checkpoint)}"
    return label if model.revision is None else f"{label}@{model.revision}"


@lru_cache(maxsize=64)
def _digest(folder: str) -> str:
    """Of the sizes, the first and the last bytes of all weights."""
    digest = hashlib.sha256()
    for path in sorted(Path(folder).glob("*.safetensors")):
        size = path.stat().st_size
        digest.update(f"{path.name} {size} ".encode())
        with path.open("rb") as file:
            digest.update(file.read(_SAMPLE))
            file.seek(max(0, size - _SAMPLE))
            digest.update(file.read(_SAMPLE))
    return digest.hexdigest()[:12]
