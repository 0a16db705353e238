"""What every model of a cluster file has."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field, model_validator

from serve.config.autoscaling import Autoscaling as Autoscaling
from serve.config.section import Section as Section

NAME_PATTERN: Final = r"^[a-z0-9][a-z0-9_.-]{0,62}$"
Name = Annotated[str, Field(pattern=NAME_PATTERN)]


class Batching(Section):
    """Bounds of the model's batcher (deployments/batching.py)."""

    max_items: int = Field(32, ge=1, le=4096, description="Most items in one forward pass.")
    max_cost: float | None = Field(
        None, gt=0, description="Most summed cost in one pass, in the model's unit (pixels, frames, tokens)."
    )
    max_wait_ms: float = Field(
        2.0, ge=0, le=1000, description="Longest time an idle model waits for a herd to return, in milliseconds."
    )
    max_queue: int = Field(512, ge=1, le=100_000, description="Most items waiting in a replica; more get a 429.")


class Placement(Section):
    """Where replicas run."""

    pool: str | None = Field(None, description="A name in `node_pools`; may be left out when there is only one.")
    fallback_pools: tuple[str, ...] = Field(
        (),
        description="Pools for replicas that find no room in `pool`, in order of preference. The share of a GPU that a "
        "replica takes is then that of the smallest card of them all, on every card.",
    )
    num_cpus: float = Field(1, ge=0, description="CPU cores that Ray reserves for a replica.")
    threads: int = Field(1, ge=1, description="Threads of a CPU forward pass (OpenMP); see docs/operations.md.")
    preprocess_workers: int = Field(2, ge=1, le=64, description="Threads that decode and resize beside the model.")


class ModelBase(Section):
    """What every model has."""

    gpu_memory_gb: float = Field(
        0, ge=0, description="GPU memory budget of a replica, in GB (1e9 bytes); 0 runs on the CPU."
    )
    batching: Batching = Field(Batching(), description="Bounds of its batches and its queue.")
    autoscaling: Autoscaling = Field(Autoscaling(), description="Replica count.")
    placement: Placement = Field(Placement(), description="Where its replicas run.")


class CheckpointModel(ModelBase):
    """A model with weights."""

    checkpoint: str = Field(
        min_length=1,
        description="Hub id (`openai/clip-vit-large-patch14`) or a folder: absolute, or `./NAME` from this file; "
        "`demo:NAME` is a checkpoint shipped in demo/checkpoints.",
    )
    revision: str | None = Field(None, description="Commit, tag or branch on the hub; pin it in production.")
    dtype: Literal["float32", "float16", "bfloat16"] = Field("float32", description="Data type of the forward pass.")
    quantization: Literal["none", "int8", "4bit"] = Field("none", description="Weight quantisation (bitsandbytes).")


class StoreModel(ModelBase):
    """What every store has: a folder, and one replica, since a folder has one writer."""

    path: str = Field(description="Folder of the durable store, relative to the working directory.")

    @model_validator(mode="after")
    def _single_writer(self) -> StoreModel:
        if self.autoscaling.max_replicas != 1 or self.autoscaling.min_replicas != 1:
            raise ValueError("a store has one writer: autoscaling.min_replicas and max_replicas must be 1")
        return self
