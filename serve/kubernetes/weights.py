"""Weights from the hub: which ones, and how they come onto the volume that pods read them from."""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePosixPath

from serve.config.cluster import ClusterFile
from serve.config.model_base import CheckpointModel
from serve.errors import Unavailable
from serve.kubernetes.settings import WEIGHTS

# The same weights in the formats of other frameworks.
_OTHER_FORMATS = ["*.h5", "*.msgpack", "*.ot", "*.onnx", "*.tflite"]

Checkpoint = tuple[str, str | None]
"""Hub id and revision."""


def checkpoints(cluster: ClusterFile) -> list[Checkpoint]:
    """What must be fetched, each once; what is in the image or a folder is not among them."""
    named = [
        (model.checkpoint, model.revision)
        for model in cluster.models.values()
        if isinstance(model, CheckpointModel) and not model.checkpoint.startswith("/")
    ]
    return sorted(set(named), key=lambda one: (one[0], one[1] or ""))


def needed(cluster: ClusterFile) -> bool:
    """Whether there is anything to fetch."""
    return bool(checkpoints(cluster))


def digest(cluster: ClusterFile) -> str:
    """Ten digits that change when other weights are needed."""
    lines = "\n".join(f"{name}@{revision or ''}" for name, revision in checkpoints(cluster))
    return hashlib.sha256(lines.encode()).hexdigest()[:10]


def marker(cluster: ClusterFile) -> PurePosixPath:
    """The file that says that all of them are on the volume."""
    return WEIGHTS / f".complete-{digest(cluster)}"


def pull(cluster: ClusterFile, into: Path) -> Path:
    """Fetches all checkpoints to the hub's cache (HF_HOME) and then writes the marker; its path. Safe to repeat.

    Args:
        into: where the volume is mounted.

    Raises:
        Unavailable: the hub does not give one of them; the message is the hub's.
    """
    from huggingface_hub import snapshot_download

    for name, revision in checkpoints(cluster):
        try:
            snapshot_download(name, revision=revision, cache_dir=into / "hub" / "hub", ignore_patterns=_OTHER_FORMATS)
        except Exception as error:  # the hub's client has no root of its own for what it raises
            raise Unavailable(f"{name}: the hub did not give it: {error}") from None
    done = into / marker(cluster).name
    done.write_text("".join(f"{name} {revision or ''}\n" for name, revision in checkpoints(cluster)), encoding="utf-8")
    return done
