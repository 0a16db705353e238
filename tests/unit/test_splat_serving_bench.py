"""The benchmark of rendering: what it draws, what it starts and how it judges. Nothing here asserts a time."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import splat_serving
from benchmarks.splat_serving import LIVE, MOST_OVERHEAD, Measured, misses, rows
from deployments.rendering.checks import check_all
from deployments.rendering.messages import RasterOptions
from deployments.splat import scene_file
from deployments.splat.rasteriser import make_rasteriser
from serve.config.load import parse
from serve.config.scene_models import SplatModel


def measured(per_s: float, share: float = 1.0, failed: int = 0) -> Measured:
    return Measured([per_s] * 3, [share] * 3, [0.3, 0.1, 0.2], failed)


def test_the_scene_is_one_that_fills_the_picture_and_stays_the_same() -> None:
    drawn = splat_serving.scene(20_000)
    scene_file.check(drawn)
    assert scene_file.write(drawn) == scene_file.write(splat_serving.scene(20_000))
    rasteriser = make_rasteriser("cpu", 1)
    cameras = [camera.resized(160, 90) for camera in splat_serving.cameras()[::12]]
    check_all(cameras, 64, 20_000)
    for picture in rasteriser.render(rasteriser.load(drawn), cameras, RasterOptions()):
        assert 0.2 < picture.alpha.mean() < 0.9
        assert np.ptp(picture.rgb) > 0.5


def test_the_cluster_file_is_valid(tmp_path: object) -> None:
    cluster = parse({"name": "bench", **splat_serving.cluster(str(tmp_path))})
    splat = cluster.models["splat"]
    assert isinstance(splat, SplatModel) and splat.placement.threads == 1 and splat.rasteriser == "cpu"


def test_the_table_compares_with_the_raw_loop() -> None:
    table = rows(Measured([10.0, 12.0, 11.0], [], [0.1] * 3), {1: measured(8.0, 0.8), 8: measured(10.5, 0.95)})
    assert [row["viewers"] for row in table] == ["raw loop", 1, 8]
    assert [row["per_s"] for row in table] == [11.0, 8.0, 10.5]
    assert table[0]["overhead"] is None
    assert table[2]["overhead"] == pytest.approx(0.05)
    assert (table[1]["p50_ms"], table[1]["p99_ms"]) == (200, 300)


def test_it_is_judged_by_the_rows_where_the_renderer_never_idles() -> None:
    worst = 1 - MOST_OVERHEAD
    fine = rows(measured(10), {1: measured(5, 0.5), 8: measured(9, worst + 0.001), 32: measured(9, 1.2)})
    assert misses(fine) == []
    slow = rows(
        measured(10), {LIVE: measured(9, worst - 0.01), 8: measured(9, worst - 0.01), 32: measured(9, float("nan"))}
    )
    assert len(misses(slow)) == 3
    assert misses(rows(measured(10), {1: measured(10, 1, failed=2)})) == ["1 viewers: 2 requests failed"]
