"""Models of 3D scenes: their store, their renderers, and what makes scenes from photos."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from deployments.gpu import CONTEXT_GB
from serve.config.model_base import ModelBase, Name, StoreModel


class SceneStoreModel(StoreModel):
    """3D scenes (`/v1/scenes`): their files, versions and exports. One replica, since a folder has one writer."""

    kind: Literal["scene_store"] = Field(description="Kind of model.")
    path: str = Field(
        "var/scenes",
        description="Folder of the durable store, relative to the working directory; renderers read it too, so on "
        "several nodes it is shared.",
    )
    blobs: str | None = Field(
        None,
        description="Where the scenes' files lie, when not in `path`: an address that fsspec knows, such as "
        "`s3://bucket/prefix`; its driver (s3fs, gcsfs) is then installed beside Argus.",
    )
    max_bytes: int = Field(20_000_000_000, ge=1_000_000, description="Bound on the files of all scenes together.")
    max_scenes: int = Field(1000, ge=1, description="Most scenes.")
    max_versions: int = Field(32, ge=2, description="Most versions kept of a scene; the oldest goes first.")
    max_gaussians: int = Field(5_000_000, ge=1, description="Most Gaussians in a scene.")
    decode_s: float = Field(120, gt=0, description="Seconds that reading or writing one file may take.")
    worker_memory_gb: float = Field(
        6,
        gt=0,
        description="Memory that work on one file may take, in GB (1e9 bytes) beyond the worker's own; about 1 for a "
        "million Gaussians with all harmonics.",
    )
    artifact_ttl_s: float = Field(86_400, gt=0, description="Seconds that exports and videos are kept.")
    preload: dict[Name, str] = Field(
        {},
        description="Scenes put in when they are missing, by name: a file, absolute or `./NAME` from this file; "
        "`demo:NAME` is one shipped in demo/scenes3d.",
    )


class RendererModel(ModelBase):
    """What draws scenes of a store."""

    scenes: Name = Field(description="The model of kind scene_store whose scenes it draws.")
    scene_memory_gb: float = Field(
        2, gt=0, description="Most memory of loaded scenes a replica, in GB (1e9 bytes); the longest unused goes first."
    )
    max_pixels: int = Field(8_300_000, ge=64, description="Most pixels of one view.")
    max_views: int = Field(64, ge=1, le=1024, description="Most views in one request.")


class SplatModel(RendererModel):
    """Draws scenes of 3D Gaussians: with gsplat on a GPU, with our own rasteriser on a CPU."""

    kind: Literal["splat"] = Field(description="Kind of model.")
    rasteriser: Literal["auto", "cpu", "gsplat"] = Field(
        "auto", description="`gsplat` needs a GPU; `auto` takes it when the model has a GPU budget."
    )


class NerfModel(RendererModel):
    """Draws radiance fields (NeRF and hash grids); rays of several requests share a batch."""

    kind: Literal["nerf"] = Field(description="Kind of model.")
    rays: int = Field(8192, ge=64, le=1_048_576, description="Rays in one batch.")


class ReconstructionModel(StoreModel):
    """Makes scenes from photos (`/v1/reconstructions`), in child processes. One replica: its folder has one writer."""

    kind: Literal["reconstruction"] = Field(description="Kind of model.")
    path: str = Field("var/reconstructions", description="Folder of work under way, relative to the working directory.")
    scenes: Name = Field(description="The model of kind scene_store that takes the scenes.")
    max_photos: int = Field(300, ge=3, le=5000, description="Most photos of one reconstruction.")
    max_side: int = Field(1600, ge=64, le=8192, description="Longest side at which photos are used, in pixels.")
    concurrency: int = Field(1, ge=1, le=16, description="Reconstructions that run at once; the others wait.")
    keep_s: float = Field(86_400, gt=0, description="Seconds that the folder of an ended reconstruction is kept.")

    @model_validator(mode="after")
    def _memory_for_each(self) -> ReconstructionModel:
        share = self.gpu_memory_gb / self.concurrency
        if 0 < share <= CONTEXT_GB:
            raise ValueError(
                f"gpu_memory_gb is {self.gpu_memory_gb:g} for {self.concurrency} at once; a CUDA context alone takes "
                f"{CONTEXT_GB:g}, so it must be more than {CONTEXT_GB * self.concurrency:g}, or concurrency less"
            )
        return self
