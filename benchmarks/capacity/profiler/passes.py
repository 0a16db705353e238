"""Forward passes by batch size and the work before them, of one adapter alone in this process."""

from __future__ import annotations

import gc
import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from benchmarks.capacity.profiler.timing import Effort, distribution, time_by_size
from benchmarks.capacity.profiles import Distribution, ForwardPass, scaled, scaled_passes
from serve.config.cluster import ClusterFile
from serve.config.model_base import ModelBase
from serve.config.models import ClipModel, Florence2Model, Model, VideoClassifierModel
from serve.config.scene_models import SplatModel
from serve.errors import ConfigError, ModelFailed
from serve.services import image_limits

_VIDEOS, _SCENES = 16, 32
_SCENE, _VIEW = "table.spz", (320, 240)


@dataclass(frozen=True, slots=True)
class Subject:
    """One adapter with something to do.

    Attributes:
        preprocess: the work of one item, as its replica does it; a new item each time.
        batch: so many prepared items, none of which the model has seen.
        forward: a pass over them.
        cost: of one of them.
        sizes: of batches that are measured.
        clock: by which a pass is timed; see `clock_of`.
        accelerator: its model has a budget of GPU memory.
    """

    preprocess: Callable[[], object]
    batch: Callable[[int], Sequence[Any]]
    forward: Callable[[Sequence[Any]], Sequence[Any]]
    cost: Callable[[Any], float]
    sizes: tuple[int, ...]
    clock: Callable[[], float] = time.perf_counter
    accelerator: bool = False


@dataclass(frozen=True, slots=True)
class Alone:
    """A model that nothing stands around.

    Attributes:
        forward: by batch size.
        memory_bytes: that torch took of an accelerator at most; None for a model that has no budget there.
        began: when timing did, on `time.monotonic()`.
    """

    preprocess: Distribution
    forward: tuple[ForwardPass, ...]
    memory_bytes: int | None = None
    began: float = 0.0

    def at_pace(self, factor: float) -> Alone:
        """With every duration times `factor`."""
        return replace(self, preprocess=scaled(self.preprocess, factor), forward=scaled_passes(self.forward, factor))


def measure(subject: Subject, effort: Effort) -> Alone:
    """Times a subject; sizes take turns.

    Raises:
        ModelFailed: a pass failed.
    """
    sizes = subject.sizes
    ready: dict[int, Sequence[Any]] = {}

    def run(size: int) -> None:
        for result in subject.forward(ready.pop(size)):
            if isinstance(result, BaseException):
                raise ModelFailed(f"The model fails on what it is measured with: {result}") from result

    def prepared(size: int) -> None:
        ready[size] = subject.batch(size)

    began = time.monotonic()
    first = subject.batch(1)[0]
    passes = time_by_size(run, sizes, effort, clock=subject.clock, before=prepared)
    # Preparing is processor work in one thread, whatever the model runs on.
    items = time_by_size(lambda _: subject.preprocess(), (1,), effort, clock=time.thread_time)[1]
    cost = subject.cost(first)
    return Alone(
        distribution(items),
        tuple(ForwardPass(items=size, cost=size * cost, seconds=distribution(passes[size])) for size in sorted(passes)),
        peak_bytes() if subject.accelerator else None,
        began,
    )


def subject_of(cluster: ClusterFile, model: Model) -> Subject:
    """The adapter of a model of the cluster file, loaded here; accelerator memory is counted from here on.

    Raises:
        ConfigError: a kind without batches of its own.
    """
    if not model.gpu_memory_gb:
        return _loaded(cluster, model)
    forget_peak()
    return replace(_loaded(cluster, model), accelerator=True)


def _loaded(cluster: ClusterFile, model: Model) -> Subject:
    if isinstance(model, ClipModel):
        return _clip(cluster, model)
    if isinstance(model, Florence2Model):
        return _florence(cluster, model)
    if isinstance(model, VideoClassifierModel):
        return _video(model)
    if isinstance(model, SplatModel):
        return _splat(model)
    raise ConfigError(f"a model of kind {model.kind} has no forward pass to profile", param="model")


def clock_of(model: ModelBase) -> Callable[[], float]:
    """Processor time of this thread where it computes a pass alone: what others take of the cores does not show.

    Wall time for an accelerator, and for several threads.
    """
    return time.thread_time if one_thread(model) else time.perf_counter


def one_thread(model: ModelBase) -> bool:
    """Whether a pass is computed by the thread that asks for it."""
    return not model.gpu_memory_gb and model.placement.threads == 1


def sizes_up_to(most: int) -> tuple[int, ...]:
    """1, 2, 3, 4, 6, 8, 12, 16, ... up to `most`, which is among them: small batches are the common ones."""
    steps = sorted({1, 2, 3, 4, *(2**k for k in range(3, 13)), *(3 * 2**k for k in range(1, 12))})
    return tuple(sorted({*(size for size in steps if size < most), most}))


def _clip(cluster: ClusterFile, model: ClipModel) -> Subject:
    from benchmarks.workloads.pictures import Pictures
    from deployments.clip_adapter import ClipAdapter
    from deployments.messages import EncodedImage

    adapter, shown, numbers = (
        ClipAdapter(model, image_limits(cluster)),
        Pictures("easy", range(_SCENES)),
        itertools.count(),
    )

    def one() -> Any:
        return adapter.preprocess(EncodedImage(shown.take(next(numbers))[1]))

    return Subject(
        one,
        partial(_several, one),
        adapter.forward,
        adapter.cost,
        sizes_up_to(model.batching.max_items),
        clock_of(model),
    )


def _florence(cluster: ClusterFile, model: Florence2Model) -> Subject:
    """Detection, decoded greedily, as the workload `florence2` asks for."""
    from benchmarks.workloads.pictures import Pictures
    from deployments.florence2.adapter import Florence2Adapter
    from deployments.florence2.items import Question, Watch
    from deployments.florence2.tasks import TASKS
    from deployments.messages import EncodedImage

    adapter, shown, numbers = (
        Florence2Adapter(model, image_limits(cluster)),
        Pictures("easy", range(_SCENES)),
        itertools.count(),
    )

    def open_one() -> Any:
        return adapter.open(EncodedImage(shown.take(next(numbers))[1]))

    def one() -> Any:
        question = Question(open_one(), TASKS["object-detection"], None, None, 1, 1024, Watch(math.inf))
        return adapter.preprocess(question)

    sizes = sizes_up_to(model.batching.max_items)
    return Subject(open_one, partial(_several, one), adapter.forward, adapter.cost, sizes, clock_of(model))


def _video(model: VideoClassifierModel) -> Subject:
    from benchmarks.video_classifier import clips as video_files
    from deployments.video.decode import open_video
    from deployments.video_classifier.adapter import ShapedClip, VideoClassifierAdapter
    from deployments.video_classifier.clips import Part, Shaping, read_clip
    from serve.media.video import VideoLimits

    adapter = VideoClassifierAdapter(model)
    shaping = Shaping(adapter.frame_count, adapter.shape)
    limits = VideoLimits(
        max_bytes=1 << 30, max_duration_s=model.max_duration_s, max_frames=model.max_frames, decode_s=math.inf
    )
    files = itertools.cycle(video_files(_VIDEOS))

    def one() -> Any:
        opened = open_video(next(files), limits, deadline=math.inf)
        return ShapedClip(read_clip(opened, Part(0.0, None), shaping, limits.frame_side))

    return Subject(
        one,
        partial(_several, one),
        adapter.forward,
        adapter.cost,
        sizes_up_to(model.batching.max_items),
        clock_of(model),
    )


def _splat(model: SplatModel) -> Subject:
    """Views of the demo's table from all around, as the workload `splat` asks for."""
    from deployments.rendering.camera import orbit
    from deployments.rendering.messages import RasterOptions
    from deployments.splat.adapter import Arrival, Backlog, SplatAdapter, View
    from deployments.splat.formats import read
    from deployments.splat.rasteriser import make_rasteriser
    from serve.config.checkpoints import DEMO_SCENES

    rasteriser = make_rasteriser("auto" if model.gpu_memory_gb else "cpu", model.placement.threads)
    adapter = SplatAdapter(rasteriser, model.max_pixels, 4.0 * model.max_pixels, Backlog(4 * model.max_pixels))
    gaussians = read((DEMO_SCENES / _SCENE).read_bytes(), max_gaussians=5_000_000)
    (scene,) = adapter.forward([Arrival(gaussians)])
    x, y, z = (float(one) for one in gaussians.means.mean(axis=0))
    radius = 2.5 * float(gaussians.means.std(axis=0).max())
    numbers = itertools.count()

    def one() -> Any:
        azimuth = 137.5 * next(numbers) % 360  # the golden angle: no two alike, all around
        camera = orbit((x, y, z), radius, azimuth, 30.0, (0.0, 0.0, 1.0), 50.0, *_VIEW)
        return adapter.preprocess(View("table", scene, camera, RasterOptions(), 0.0))

    # A CPU draws one view after the other; see `SplatReplica`.
    sizes = sizes_up_to(model.batching.max_items) if rasteriser.device == "cuda" else (1,)
    return Subject(one, partial(_several, one), adapter.forward, adapter.cost, sizes, clock_of(model))


def _several(one: Callable[[], Any], count: int) -> list[Any]:
    return [one() for _ in range(count)]


def forget_peak() -> None:
    """Gives back what earlier models of this process left on the accelerator, and counts its peak anew."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_bytes() -> int | None:
    """Most bytes that torch reserved since `forget_peak`; None where there is no accelerator."""
    import torch

    return int(torch.cuda.max_memory_reserved()) if torch.cuda.is_available() else None
