"""Metrics of the scenes that a renderer holds and of the pictures that it writes, made with Ray's metric API."""

from __future__ import annotations

from typing import Literal

from ray.util.metrics import Counter, Histogram

from deployments.gauges import Gauge
from deployments.replica import SECONDS


class SceneMetrics:
    """A `CacheObserver` that reports to Ray. One label, the model's name, whose values the cluster file bounds."""

    def __init__(self, model: str) -> None:
        self._asked = Counter(
            "argus_scene_lookups_total",
            "Scenes asked for: hit, or miss when none was loaded.",
            tag_keys=("model", "result"),
        )
        self._loaded = Histogram(
            "argus_scene_load_seconds",
            "From the store's file to a scene in memory.",
            list(SECONDS),
            tag_keys=("model",),
        )
        self._failed = Counter(
            "argus_scene_load_failures_total", "Scenes that could not be loaded.", tag_keys=("model",)
        )
        self._evicted = Counter("argus_scene_evictions_total", "Scenes dropped to make room.", tag_keys=("model",))
        self._scenes = Gauge("argus_scenes_loaded", "Scenes in memory.", tag_keys=("model",))
        self._bytes = Gauge("argus_scene_memory_bytes", "Memory of the scenes in memory.", tag_keys=("model",))
        self._encode = Histogram(
            "argus_view_encode_seconds",
            "Writing the pictures of one view.",
            boundaries=list(SECONDS),
            tag_keys=("model",),
        )
        for metric in (self._asked, self._loaded, self._failed, self._evicted, self._scenes, self._bytes, self._encode):
            metric.set_default_tags({"model": model})

    def asked(self, result: Literal["hit", "miss"]) -> None:
        """See `CacheObserver`."""
        self._asked.inc(tags={"result": result})

    def loaded(self, seconds: float, failed: bool) -> None:
        """See `CacheObserver`."""
        if failed:
            self._failed.inc()
        else:
            self._loaded.observe(seconds)

    def evicted(self) -> None:
        """See `CacheObserver`."""
        self._evicted.inc()

    def holds(self, scenes: int, nbytes: int) -> None:
        """See `CacheObserver`."""
        self._scenes.set(scenes)
        self._bytes.set(nbytes)

    def encoded(self, seconds: float) -> None:
        """Takes in how long one view's pictures took to write."""
        self._encode.observe(seconds)
