"""Names of scene stores that are none."""

from __future__ import annotations

from collections.abc import Iterator

from serve.config.cluster import ClusterFile
from serve.config.scene_models import NerfModel, ReconstructionModel, SceneStoreModel, SplatModel


def scene_problems(cluster: ClusterFile) -> Iterator[str]:
    """Everything that is wrong between the models of 3D scenes."""
    stores = [name for name, model in cluster.models.items() if isinstance(model, SceneStoreModel)]
    for name, model in cluster.models.items():
        if isinstance(model, SplatModel | NerfModel | ReconstructionModel) and model.scenes not in stores:
            yield (
                f"models.{name}.scenes: got {model.scenes!r}; it must be a model of kind scene_store: "
                f"{', '.join(stores) or 'this file has none'}"
            )
        if isinstance(model, SplatModel) and model.rasteriser == "gsplat" and not model.gpu_memory_gb:
            yield f"models.{name}.rasteriser: got 'gsplat', which needs a GPU: give the model gpu_memory_gb"
