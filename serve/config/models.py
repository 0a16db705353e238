"""The `models` section of a cluster file: one typed block for each kind of model."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from serve.config.model_base import CheckpointModel, ModelBase, StoreModel
from serve.config.scene_models import NerfModel, ReconstructionModel, SceneStoreModel, SplatModel


class ClipModel(CheckpointModel):
    """CLIP or SigLIP: zero-shot classification, image and text embeddings."""

    kind: Literal["clip"] = Field(description="Kind of model.")
    image_decode: Literal["exact", "scaled"] = Field(
        "exact",
        description="`exact` decodes at full size, so results equal those of plain transformers; `scaled` lets JPEG "
        "decode at a reduced size, several times faster for large photos, with slightly different pixels.",
    )
    label_cache: int = Field(4096, ge=1, description="Label features kept, one for each label of each cached set.")

    @model_validator(mode="after")
    def _not_quantised(self) -> ClipModel:
        if self.quantization != "none":
            raise ValueError(
                f"quantization is {self.quantization!r}; clip is served at full weights, so it must be none"
            )
        return self


class VectorIndexModel(StoreModel):
    """Named FAISS indexes: image search. One replica, since an index has one writer."""

    kind: Literal["vector_index"] = Field(description="Kind of model.")
    path: str = Field("var/indexes", description="Folder of the durable store, relative to the working directory.")
    max_bytes: int = Field(2_000_000_000, ge=1_000_000, description="Bound on vectors and metadata held in memory.")
    max_indexes: int = Field(
        1000, ge=1, le=100_000, description="Most indexes; those of knowledge bases (`kb-NAME`) count as well."
    )


class SessionStoreModel(StoreModel):
    """Conversations of several turns (`/v1/sessions`), kept on disk. One replica, since they have one writer."""

    kind: Literal["session_store"] = Field(description="Kind of model.")
    path: str = Field("var/sessions", description="Folder of the durable store, relative to the working directory.")
    max_sessions: int = Field(10_000, ge=1, le=10_000_000, description="Most sessions of all clients together.")
    max_bytes: int = Field(
        2_000_000_000, ge=1_000_000, description="Bound on the database: texts, images and videos of all sessions."
    )
    ttl_s: float = Field(
        86_400, gt=0, description="Seconds that a session lives after its last message, when its client states none."
    )
    max_ttl_s: float = Field(2_592_000, gt=0, description="Longest time to live that a client may ask for, in seconds.")
    max_turns: int = Field(
        32, ge=1, le=1000, description="Most exchanges (message and answer) kept in a session; older ones are dropped."
    )
    max_images: int = Field(
        8, ge=0, le=64, description="Most images kept in a session; the model's own bound holds as well."
    )
    max_tokens: int = Field(16_384, ge=1, description="Most tokens of the history that a message is asked with.")
    max_media_bytes: int = Field(
        67_108_864,
        ge=1024,
        le=134_217_728,
        description="Most bytes of images and videos of that history; they travel to the model with each message.",
    )

    @model_validator(mode="after")
    def _ordered(self) -> SessionStoreModel:
        if self.ttl_s > self.max_ttl_s:
            raise ValueError(
                f"ttl_s is {self.ttl_s:g}, max_ttl_s is {self.max_ttl_s:g}; the default must not exceed the maximum"
            )
        return self


class KnowledgeStoreModel(StoreModel):
    """Documents in knowledge bases (`/v1/knowledge`), cut into chunks and found by their words."""

    kind: Literal["knowledge_store"] = Field(description="Kind of model.")
    path: str = Field("var/knowledge", description="Folder of the durable store, relative to the working directory.")
    max_bytes: int = Field(1_000_000_000, ge=1_000_000, description="Bound on the database: documents and word index.")
    max_chunks: int = Field(100_000, ge=1, description="Most chunks of all knowledge bases together.")
    max_document_chars: int = Field(500_000, ge=1, le=10_000_000, description="Longest document, in characters.")
    chunk_chars: int = Field(800, ge=50, le=10_000, description="Longest chunk, in characters.")
    chunk_overlap: int = Field(120, ge=0, description="Most characters that a chunk repeats of the one before.")

    @model_validator(mode="after")
    def _overlapping(self) -> KnowledgeStoreModel:
        if 2 * self.chunk_overlap > self.chunk_chars:
            raise ValueError(
                f"chunk_overlap is {self.chunk_overlap}, chunk_chars is {self.chunk_chars}; "
                "the overlap must not exceed half a chunk"
            )
        return self


class GenerativeModel(CheckpointModel):
    """A vision-language model that writes text."""

    kind: Literal["llava", "blip2", "video_llava"] = Field(description="Kind of model.")
    engine: Literal["auto", "vllm", "transformers"] = Field(
        "auto",
        description="`vllm` batches continuously over paged attention; `transformers` runs what vLLM does not serve; "
        "`auto` takes vLLM where it is installed and serves the checkpoint's architecture.",
    )
    max_model_len: int | None = Field(
        None, ge=16, description="Context window in tokens, prompt and answer together; the checkpoint's by default."
    )
    max_images: int = Field(4, ge=0, le=64, description="Most images in one conversation; BLIP-2 takes at most one.")
    max_videos: int = Field(1, ge=0, le=8, description="Most videos in one conversation.")
    video_frames: int = Field(8, ge=1, le=64, description="Frames sampled evenly from a video.")
    kv_cache_gb: float | None = Field(
        None,
        gt=0,
        description="Memory of the KV cache in GB. By default, on a GPU what the budget leaves beside weights and "
        "activations; on a CPU 0.5.",
    )
    media_cache_gb: float = Field(
        0.5,
        gt=0,
        description="Main memory in GB in which vLLM keeps prepared pictures and videos, for further questions about "
        "them; one of 336 pixels takes 1.4 MB.",
    )
    eager: bool | None = Field(
        None,
        description="Skip compilation and CUDA graphs: starts sooner, decodes slower. By default on a CPU only.",
    )

    @property
    def most_images(self) -> int:
        """Most images in one conversation that any engine takes: BLIP-2 looks at one."""
        return min(1, self.max_images) if self.kind == "blip2" else self.max_images


class Florence2Model(CheckpointModel):
    """Florence-2: captions, detection, grounding, segmentation and OCR by task."""

    kind: Literal["florence2"] = Field(description="Kind of model.")
    dtype: Literal["float32", "float16", "bfloat16"] = Field(
        "float16", description="Data type of the forward pass on a GPU; on a CPU it is float32."
    )
    max_new_tokens: int = Field(
        1024, ge=8, le=4096, description="Most tokens of an answer; the checkpoint's positions bound it as well."
    )

    @model_validator(mode="after")
    def _not_quantised(self) -> Florence2Model:
        if self.quantization != "none":
            raise ValueError(
                f"quantization is {self.quantization!r}; florence2 is served at full weights, so it must be none"
            )
        return self


class VideoClassifierModel(CheckpointModel):
    """VideoMAE or TimeSformer: classes and features of clips, and actions in videos. A clip has the checkpoint's own
    number of frames."""

    kind: Literal["video_classifier"] = Field(description="Kind of model.")
    window_s: float = Field(
        2.0, gt=0, le=3600, description="Seconds of video that one clip covers while actions are looked for."
    )
    stride_s: float = Field(0.5, gt=0, le=3600, description="Seconds from one such clip to the next.")
    max_windows: int = Field(10_000, ge=1, le=1_000_000, description="Most such clips of one chunk.")
    background: tuple[str, ...] = Field((), description="Classes of the checkpoint that are no action.")
    max_duration_s: float = Field(3600, gt=0, description="Longest video, in seconds.")
    max_frames: int = Field(250_000, ge=1, description="Most frames in a video's file.")

    @model_validator(mode="after")
    def _not_quantised(self) -> VideoClassifierModel:
        if self.quantization != "none":
            raise ValueError(
                f"quantization is {self.quantization!r}; video_classifier is served at full weights, so it must be none"
            )
        return self

    @model_validator(mode="after")
    def _windows_leave_nothing_out(self) -> VideoClassifierModel:
        if self.stride_s > self.window_s:
            raise ValueError(f"stride_s is {self.stride_s:g}; it must be at most window_s, {self.window_s:g}")
        return self


class VideoReaderModel(ModelBase):
    """Reads video files (PyAV): facts, frames, key frames, scenes, and clips of a longer video. Runs on the CPU."""

    kind: Literal["video_reader"] = Field(description="Kind of model.")
    max_duration_s: float = Field(3600, gt=0, description="Longest video, in seconds.")
    max_frames: int = Field(250_000, ge=1, description="Most frames in a video's file.")
    decode_s: float = Field(120, gt=0, description="Seconds that one request may spend decoding a video.")


class OcrModel(ModelBase):
    """Reads documents: pages of a PDF with their text layer, of a TIFF and other images, and printed text by RapidOCR.
    Runs on the CPU.

    `placement.preprocess_workers` is the number of its worker processes: each reads one page at a time, with
    `placement.threads` threads, in about 0.5 GB. `batching.max_queue` counts pages.
    """

    kind: Literal["ocr"] = Field(description="Kind of model.")
    dpi: int = Field(
        150, ge=50, le=600, description="Resolution at which a PDF's page is drawn for recognition, by default."
    )
    max_pages: int = Field(100, ge=1, le=10_000, description="Most pages read in one request.")
    max_pixels: int = Field(
        16_000_000, ge=250_000, description="Most pixels of a page as it is drawn; larger pages are drawn smaller."
    )
    max_side: int = Field(8192, ge=256, description="Longest side of a page as it is drawn, in pixels.")
    page_s: float = Field(60, gt=0, description="Seconds that one page may take; then its worker is replaced.")
    worker_memory_gb: float = Field(
        2, gt=0, description="Memory that reading a page may take, in GB (1e9 bytes) beyond the worker's own."
    )

    @model_validator(mode="after")
    def _on_the_cpu(self) -> OcrModel:
        if self.gpu_memory_gb:
            raise ValueError(f"gpu_memory_gb is {self.gpu_memory_gb:g}; ocr runs on the CPU, so it must be 0")
        return self


class JobStoreModel(StoreModel):
    """Requests that outlast a deadline (`/v1/jobs`), kept on disk until they are done. One replica: one writer."""

    kind: Literal["job_store"] = Field(description="Kind of model.")
    path: str = Field("var/jobs", description="Folder of the durable store, relative to the working directory.")
    max_bytes: int = Field(
        10_000_000_000,
        ge=1_000_000,
        description="Bound on the database: requests with their media, finished chunks, results.",
    )
    max_jobs: int = Field(
        10_000, ge=1, le=10_000_000, description="Most jobs of all clients together, ended ones included."
    )
    max_active_jobs: int = Field(100, ge=1, description="Most jobs of one client that have not ended.")
    max_result_bytes: int = Field(
        16_777_216, ge=1024, le=134_217_728, description="Largest result, and largest part of one, as JSON."
    )
    ttl_s: float = Field(86_400, gt=0, description="Seconds that a result is kept, when its client states none.")
    max_ttl_s: float = Field(2_592_000, gt=0, description="Longest time that a client may ask for, in seconds.")
    concurrency: int = Field(
        2, ge=1, le=64, description="Jobs that one router replica runs at once, beside those that take hours."
    )
    long_concurrency: int = Field(
        2,
        ge=1,
        le=64,
        description="Jobs that take hours (reconstructions) that one router replica runs at once. They have places of "
        "their own, so that no other job waits for them.",
    )
    max_job_s: float = Field(
        21_600, gt=0, description="Longest time that one attempt at a job may run, in seconds; then the job fails."
    )
    max_attempts: int = Field(
        5, ge=1, le=100, description="Attempts in a row that finish no part of a job, after which it fails."
    )
    lease_s: float = Field(
        30,
        ge=1,
        le=600,
        description="Seconds after the last sign of life of a job's worker, after which another resumes the job.",
    )

    @model_validator(mode="after")
    def _ordered(self) -> JobStoreModel:
        if self.ttl_s > self.max_ttl_s:
            raise ValueError(
                f"ttl_s is {self.ttl_s:g}, max_ttl_s is {self.max_ttl_s:g}; the default must not exceed the maximum"
            )
        return self


class CustomModel(ModelBase):
    """A model of your own: any class with the interface of deployments.base.Replica."""

    kind: Literal["custom"] = Field(description="Kind of model.")
    implementation: str = Field(
        pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$", description="`package.module:Class`, importable on every node."
    )
    tasks: tuple[Literal["classify", "embed"], ...] = Field(min_length=1, description="What it answers.")


Model = Annotated[
    ClipModel
    | VectorIndexModel
    | SessionStoreModel
    | KnowledgeStoreModel
    | GenerativeModel
    | Florence2Model
    | VideoClassifierModel
    | VideoReaderModel
    | OcrModel
    | JobStoreModel
    | SceneStoreModel
    | SplatModel
    | NerfModel
    | ReconstructionModel
    | CustomModel,
    Field(discriminator="kind"),
]

KINDS = (
    "clip",
    "vector_index",
    "session_store",
    "knowledge_store",
    "llava",
    "blip2",
    "video_llava",
    "florence2",
    "video_classifier",
    "video_reader",
    "ocr",
    "job_store",
    "scene_store",
    "splat",
    "nerf",
    "reconstruction",
    "custom",
)
