"""3D scenes: what their renderers hold in memory, and what the store holds on disk."""

from __future__ import annotations

from typing import Final

from grafana.panels import Panel, Query, Row, largest, quantile, rate, total

_OF: Final = 'model=~"$model"'
_HIT: Final = 'result="hit"'
_RUNBOOK: Final = "docs/operations.md#scenes-on-disk"

SCENES = Row(
    "Scenes",
    (
        Panel(
            "Scenes found in memory",
            "Share of scenes asked for that the renderer held already. When it falls, scenes push each other out: "
            "raise `scene_memory_gb`.",
            "percentunit",
            (
                Query(
                    f"{rate('ray_argus_scene_lookups_total', _OF, _HIT, by='model')} / "
                    f"{rate('ray_argus_scene_lookups_total', _OF, by='model')}",
                    "{{model}}",
                ),
            ),
            most=1,
            runbook=_RUNBOOK,
        ),
        Panel(
            "Loading a scene, P95",
            "From the store's file to a scene in memory.",
            "s",
            (Query(quantile(0.95, "ray_argus_scene_load_seconds", _OF, by="model"), "{{model}}"),),
            runbook=_RUNBOOK,
        ),
        Panel(
            "Scenes pushed out, and failed loads",
            "Scenes dropped to make room, and scenes that could not be loaded: a file that is gone or no longer fits.",
            "cps",
            (
                Query(rate("ray_argus_scene_evictions_total", _OF, by="model"), "{{model}} pushed out"),
                Query(rate("ray_argus_scene_load_failures_total", _OF, by="model"), "{{model}} failed"),
            ),
            runbook=_RUNBOOK,
        ),
        Panel(
            "Scenes in memory",
            "How many each renderer's replicas hold.",
            "short",
            (Query(total("ray_argus_scenes_loaded", _OF, by="model"), "{{model}}"),),
            width=6,
            runbook=_RUNBOOK,
        ),
        Panel(
            "Memory of scenes",
            "Of the fullest replica; at most `scene_memory_gb`.",
            "bytes",
            (Query(largest("ray_argus_scene_memory_bytes", _OF, by="model"), "{{model}}"),),
            width=6,
            runbook=_RUNBOOK,
        ),
        Panel(
            "Writing pictures, P95",
            "Writing the pictures of one view as PNG, JPEG, WebP and so on, after it has been drawn.",
            "s",
            (Query(quantile(0.95, "ray_argus_view_encode_seconds", _OF, by="model"), "{{model}}"),),
            width=6,
        ),
        Panel(
            "Open live views",
            "WebSockets on which scenes are looked at; each router replica takes at most 64.",
            "short",
            (Query(total("ray_argus_scene_viewers"), "views"),),
            width=6,
            runbook=_RUNBOOK,
        ),
        Panel(
            "In the store",
            "Scenes, versions of them, and exports and films.",
            "short",
            (
                Query(largest("ray_argus_scenes"), "scenes"),
                Query(largest("ray_argus_scene_versions"), "versions"),
                Query(largest("ray_argus_scene_artifacts"), "exports and films"),
            ),
            width=12,
            runbook=_RUNBOOK,
        ),
        Panel(
            "Size of the store",
            "Files of all scenes, exports and films. Compare with the disk and with the store's `max_bytes`.",
            "bytes",
            (Query(largest("ray_argus_scene_bytes"), "files"),),
            width=12,
            runbook=_RUNBOOK,
        ),
    ),
)
