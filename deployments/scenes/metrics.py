"""Metrics of the scene store, made with Ray's metric API."""

from __future__ import annotations

from deployments.gauges import Gauge
from deployments.scenes.types import StoreStats


class SceneMetrics:
    """Series of the store."""

    def __init__(self) -> None:
        self._scenes = Gauge("argus_scenes", "Scenes in the store.")
        self._versions = Gauge("argus_scene_versions", "Versions of all scenes in the store.")
        self._artifacts = Gauge("argus_scene_artifacts", "Exports and videos of scenes in the store.")
        self._bytes = Gauge("argus_scene_bytes", "Size of the files of all scenes, exports and videos in the store.")

    def holds(self, stats: StoreStats) -> None:
        """What is in the store now."""
        self._scenes.set(stats.scenes)
        self._versions.set(stats.versions)
        self._artifacts.set(stats.artifacts)
        self._bytes.set(stats.bytes)
