"""The scene store's deployment with its real workers, real formats and real edits; also when they go wrong."""

from __future__ import annotations

import asyncio
import io
import os
import signal
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import pytest_asyncio
import trimesh

from deployments.scenes.replica import DEFAULT_UP, SceneStoreReplica
from deployments.scenes.types import SceneInfo
from deployments.splat import formats, scene_file
from deployments.splat.edits_types import All, Box, Crop, Delete, Duplicate, Edit, Merge, Sphere, Translate
from deployments.splat.formats import FORMATS, FormatName
from deployments.splat.gaussians import Gaussians
from serve.config.scene_models import SceneStoreModel
from serve.errors import (
    ArgusError,
    Conflict,
    InvalidMedia,
    InvalidRequest,
    NotFound,
    OutOfCapacity,
    Overloaded,
    PayloadTooLarge,
    Unsupported,
    UnsupportedMedia,
)
from tests.support.bucket import Bucket
from tests.support.gaussians import moving_scene, random_scene, real_file

pytestmark = pytest.mark.asyncio(loop_scope="module")

UP = (0.0, 0.0, 1.0)
ALONG_X = np.array([1, 0, 0], np.float32)
HALF = Box((-2, -2, -2), (0, 2, 2))


class Clock:
    """Unix time that moves when a test says so."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def config(folder: Path, **options: Any) -> SceneStoreModel:
    return SceneStoreModel(kind="scene_store", path=str(folder), **options)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def store(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SceneStoreReplica]:
    made = SceneStoreReplica(config(tmp_path_factory.mktemp("scenes"), max_gaussians=5000, max_versions=4))
    await made.check_health()
    yield made
    await made.close()


async def whole(store: SceneStoreReplica, info: SceneInfo, number: int | None = None) -> Gaussians:
    """A version's Gaussians, read as a client downloads them."""
    artifact = await store.export(info.name, number, "argus")
    pieces = [await store.read(artifact.id, start, 10_000) for start in range(0, artifact.nbytes, 10_000)]
    return scene_file.read(b"".join(pieces))


async def refused(work: Any, kind: type[ArgusError], code: str) -> ArgusError:
    with pytest.raises(kind) as caught:
        await work
    assert caught.value.code == code
    return caught.value


async def test_a_scene_leaves_as_a_cloud_of_points(store: SceneStoreReplica) -> None:
    scene = random_scene(40, 1)
    info = await store.put("cloud", formats.write(scene, "argus"))
    artifact = await store.export(info.name, 1, "points")
    assert (artifact.filename, artifact.media_type) == ("cloud-v1.points.ply", "model/ply")
    data = await store.read(artifact.id, 0, artifact.nbytes)
    cloud: Any = trimesh.load(io.BytesIO(data), file_type="ply")
    assert len(cloud.vertices) == int((scene.opacities >= 0.5).sum()) > 0
    await refused(store.put("again", data), InvalidMedia, "invalid_scene")
    await refused(store.put("again", data, format="points"), InvalidRequest, "unknown_scene_format")


@pytest.mark.parametrize("format", FORMATS)
async def test_files_of_every_format_come_in_and_go_out(store: SceneStoreReplica, format: FormatName) -> None:
    scene = random_scene(150, sh_degree=1)
    data = formats.write(scene, format)
    info = await store.put(f"in-{format}", data, filename=f"scene{formats.EXTENSIONS[format]}", up=(0, 0, 2))
    assert (info.kind, info.source, info.up) == ("gaussians", format, UP)
    assert (info.shown.count, info.shown.ref.motion_s) == (150, 0)
    kept = await whole(store, info)
    expected = formats.read(data, format, max_gaussians=150)
    assert np.array_equal(kept.means, expected.means) and np.array_equal(kept.sh, expected.sh)

    artifact = await store.export(info.name, 1, format)
    assert artifact.filename == f"in-{format}-v1{formats.EXTENSIONS[format]}"
    again = formats.read(await store.read(artifact.id, 0, artifact.nbytes), format, max_gaussians=150)
    assert len(again) == 150
    np.testing.assert_allclose(np.sort(again.means, axis=0), np.sort(scene.means, axis=0), atol=0.02)


async def test_facts_of_a_scene_are_those_of_its_gaussians(store: SceneStoreReplica) -> None:
    scene = random_scene(2000, sh_degree=3)
    scene.means[0] = (1e6, 0, 0)  # one far away is not where the scene is
    info = await store.put("facts", scene_file.write(scene), attribution="Ann")
    shown = info.shown
    assert (info.source, info.attribution, info.up) == ("argus", "Ann", DEFAULT_UP)
    assert (shown.count, shown.sh_degree, shown.edit) == (2000, 3, "uploaded")
    inside = ((scene.means >= shown.bounds.least) & (scene.means <= shown.bounds.most)).mean(axis=0)
    np.testing.assert_allclose(inside, 0.99, atol=0.002)
    np.testing.assert_allclose(shown.bounds.centre, np.add(shown.bounds.least, shown.bounds.most) / 2)
    diagonal = np.linalg.norm(np.subtract(shown.bounds.most, shown.bounds.least))
    assert shown.bounds.radius == pytest.approx(diagonal / 2) and diagonal < 4


async def test_a_scene_of_one_gaussian_has_an_extent(store: SceneStoreReplica) -> None:
    info = await store.put("one", scene_file.write(random_scene(1)))
    assert info.shown.bounds.radius > 0


async def test_motion_is_kept_by_our_own_format(store: SceneStoreReplica) -> None:
    scene = moving_scene(100, period_s=3.5)
    info = await store.put("moving", scene_file.write(scene))
    assert info.shown.ref.motion_s == 3.5
    moved = await store.edit("moving", [Translate(All(), (1, 0, 0))])
    kept = await whole(store, moved)
    np.testing.assert_allclose(kept.at(1.25).means, scene.at(1.25).means + ALONG_X, atol=1e-5)


async def test_edits_make_versions_to_go_back_and_forth(store: SceneStoreReplica) -> None:
    scene = random_scene(300)
    await store.put("edited", scene_file.write(scene))
    left = int((scene.means[:, 0] <= 0).sum())
    cropped = await store.edit("edited", [Crop(HALF)], 1)
    assert (cropped.current, cropped.shown.count) == (2, left)
    assert await store.edit("edited", [Crop(HALF)], 1) == cropped  # sent again
    await refused(store.edit("edited", [Delete(HALF)], 1), Conflict, "version_conflict")
    doubled = await store.edit("edited", [Duplicate(All(), (0, 9, 0)), Translate(All(), (0, 0, 1))])
    assert (doubled.current, doubled.shown.count) == (3, 2 * left)
    assert "uploaded" not in doubled.shown.edit

    assert (await store.undo("edited")).shown.count == left
    assert (await store.undo("edited")).shown.count == 300
    assert (await store.redo("edited")).shown.count == left
    assert len(await whole(store, doubled, 3)) == 2 * left  # what was undone is still there
    branched = await store.edit("edited", [Delete(Sphere((0, 0, 0), 0.5))])
    assert [version.number for version in branched.versions] == [1, 2, 4]
    await refused(store.resolve("edited", 3), NotFound, "version_not_found")
    np.testing.assert_array_equal((await whole(store, branched, 1)).means, scene.means)


async def test_edits_without_a_base_follow_each_other(store: SceneStoreReplica) -> None:
    await store.put("queue", scene_file.write(random_scene(50)))
    await asyncio.gather(*(store.edit("queue", [Translate(All(), (1, 0, 0))]) for _ in range(3)))
    info = await store.get("queue")
    assert info.current == 4
    first, last = await whole(store, info, 1), await whole(store, info, 4)
    np.testing.assert_allclose(last.means, first.means + 3 * ALONG_X, atol=1e-5)


async def test_scenes_are_merged(store: SceneStoreReplica) -> None:
    await store.put("guest", scene_file.write(random_scene(30, seed=2)))
    await store.edit("guest", [Translate(All(), (5, 0, 0))])
    await store.put("host", scene_file.write(random_scene(40, seed=3)))
    merged = await store.edit("host", [Merge("guest"), Merge("guest", 1)])
    assert merged.shown.count == 100
    means = (await whole(store, merged)).means
    np.testing.assert_allclose(means[40:70], means[70:] + 5 * ALONG_X, atol=1e-5)
    error = await refused(store.edit("host", [Merge("guest"), Merge("nobody")]), NotFound, "scene_not_found")
    assert error.param == "edits[1].scene"
    error = await refused(store.edit("host", [Merge("guest", 9)]), NotFound, "version_not_found")
    assert error.param == "edits[0].version"


@pytest.mark.parametrize(
    ("edits", "kind", "code"),
    [
        ([Delete(All())], InvalidRequest, "empty_scene"),
        ([Crop(Sphere((99, 0, 0), 1))], InvalidRequest, "empty_selection"),
        ([Duplicate(All(), (1, 0, 0))] * 6, PayloadTooLarge, "too_many_gaussians"),
    ],
)
async def test_an_edit_that_cannot_be_leaves_the_scene(
    store: SceneStoreReplica, edits: list[Edit], kind: type[ArgusError], code: str
) -> None:
    info = await store.put("stays", scene_file.write(random_scene(200)))
    error = await refused(store.edit("stays", edits), kind, code)
    assert (error.param or "").startswith("edits[")
    assert await store.get("stays") == info


@pytest.mark.parametrize("name", ["../x", "/etc/x", "Übung", "a b", "", ".hidden", "UPPER", "x" * 64, "a\n", "a/b"])
async def test_hostile_names_are_refused(store: SceneStoreReplica, name: str) -> None:
    error = await refused(store.put(name, scene_file.write(random_scene(5))), InvalidRequest, "invalid_scene_name")
    assert error.param == "name"
    await refused(store.get(name), NotFound, "scene_not_found")


async def test_bad_uploads_are_refused_and_leave_nothing(store: SceneStoreReplica) -> None:
    before = await store.stats()
    ply, own = formats.write(random_scene(100), "ply"), scene_file.write(random_scene(100))
    for data in (ply[:-7], ply[:200], own[:-7], own.replace(b"means", b"meanz")):
        with pytest.raises(InvalidMedia):
            await store.put("bad", data)
    await refused(store.put("bad", b"hello there"), UnsupportedMedia, "unknown_scene_format")
    await refused(store.put("bad", ply, format="spz"), InvalidMedia, "invalid_scene")
    many = scene_file.write(random_scene(5001))
    await refused(store.put("bad", many), PayloadTooLarge, "too_many_gaussians")
    error = await refused(store.put("bad", ply, format="obj"), InvalidRequest, "unknown_scene_format")
    assert error.param == "format"
    for up in ((0, 0, 0), (float("nan"), 0, 1)):
        assert (await refused(store.put("bad", ply, up=up), InvalidRequest, "invalid_up")).param == "up"
    await refused(store.put("bad", ply, attribution="x" * 2001), InvalidRequest, "attribution_too_long")
    assert await store.stats() == before


async def test_a_damaged_splat_file_is_known_by_its_name(store: SceneStoreReplica) -> None:
    good = formats.write(random_scene(50, 0), "splat")
    nowhere = np.float32("nan").tobytes() + good[4:]
    inside_out = good[:12] + np.float32(-1).tobytes() + good[16:]
    for data, reason in (
        (good[:-5], "27 left over"),
        (nowhere, "a position that is not a number"),
        (inside_out, "a negative scale"),
    ):
        error = await refused(store.put("bad", data, filename=".splat"), InvalidMedia, "invalid_scene")
        assert reason in error.message
        await refused(store.put("bad", data), UnsupportedMedia, "unknown_scene_format")


async def test_uploads_of_one_name_at_once_are_one_scene(store: SceneStoreReplica) -> None:
    one, other = (scene_file.write(random_scene(20, seed=seed)) for seed in (1, 2))
    same = await asyncio.gather(*(store.put("twins", one) for _ in range(4)))
    assert len({info.created for info in same}) == 1
    await refused(store.put("twins", other), Conflict, "scene_exists")
    replaced = await store.put("twins", other, replace=True)
    assert (replaced.current, len(replaced.versions)) == (2, 1)


async def test_a_call_whose_caller_leaves_happens_all_the_same(tmp_path: Path) -> None:
    store = SceneStoreReplica(config(tmp_path))
    call = asyncio.ensure_future(store.put("left", scene_file.write(random_scene(20))))
    async with asyncio.timeout(60):
        while not list((tmp_path / "work").iterdir()):  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        call.cancel()
        while not await store.list_scenes(None, 1):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert call.cancelled()
    await store.close()


async def test_an_export_that_would_damage_the_scene_is_refused(store: SceneStoreReplica) -> None:
    scene = random_scene(50)
    scene.means[0] = 1e7
    await store.put("wide", scene_file.write(scene))
    error = await refused(store.export("wide", None, "spz"), Unsupported, "scene_too_wide")
    assert error.param == "format" and "24 bits" in error.message
    assert (await store.export("wide", None, "ply")).filename == "wide-v1.ply"


async def test_artifacts_have_harmless_names(store: SceneStoreReplica) -> None:
    made = await store.add_artifact("room", '../../x/"a\r\nb".mp4', "video/mp4", b"film")
    assert (made.scene, made.filename) == ("room", "_a_b_.mp4")
    assert await store.artifact(made.id) == made
    error = await refused(
        store.add_artifact("room", "a", "text/html\r\nX: y", b""), InvalidRequest, "invalid_media_type"
    )
    assert error.param == "media_type"


async def test_a_real_scene_comes_through(tmp_path: Path) -> None:
    data = real_file("spot_10k.splat")
    store = SceneStoreReplica(config(tmp_path))
    info = await store.put("spot", data)
    assert (info.source, info.shown.count) == ("splat", len(data) // 32)
    export = await store.export("spot", None, "splat")
    assert (export.nbytes, export.media_type) == (len(data), "application/octet-stream")
    assert (await store.export("spot", 1, "splat")).id == export.id
    await store.close()


async def test_radiance_fields_are_kept_as_they_are(store: SceneStoreReplica) -> None:
    checkpoint = pytest.importorskip("deployments.nerf.checkpoint")
    field = pytest.importorskip("deployments.nerf.field")
    settings = pytest.importorskip("deployments.nerf.settings").FieldSettings(
        variant="hash", least=(-1, -1, -1), most=(1, 2, 3), occupancy=8, levels=2, log2_table=8, hidden=8
    )
    data = checkpoint.write(field.RadianceField(settings))
    info = await store.put("field", data)
    assert (info.kind, info.source, info.shown.count) == ("nerf", "nerf", 0)
    assert info.shown.bounds.centre == (0, 0.5, 1)
    artifact = await store.export("field", None, "argus")
    assert await store.read(artifact.id, 0, len(data) + 1) == data
    assert (await store.put_field("field", data)).created == info.created
    await refused(store.export("field", None, "ply"), Unsupported, "unsupported_export")
    error = await refused(store.edit("field", [Crop(HALF)]), Unsupported, "unsupported_edit")
    assert error.param == "edits"
    await store.put("plain", scene_file.write(random_scene(5)))
    error = await refused(store.edit("plain", [Merge("field")]), Unsupported, "unsupported_edit")
    assert error.param == "edits[0].scene"
    for bad in (data[:-9], data[:100], scene_file.write(random_scene(5))):
        with pytest.raises(InvalidMedia):
            await store.put_field("broken", bad)


def workers() -> set[psutil.Process]:
    """Worker processes of this test's stores."""
    return {child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())}


@asynccontextmanager
async def one_worker(folder: Path, **options: Any) -> AsyncIterator[tuple[SceneStoreReplica, psutil.Process]]:
    """A store with a single worker, which is ready."""
    before = workers()
    store = SceneStoreReplica(config(folder, placement={"preprocess_workers": 1}, **options))
    await store.check_health()
    (worker,) = workers() - before
    yield store, worker
    await store.close()


async def at_work(work: Coroutine[Any, Any, Any], worker: psutil.Process) -> asyncio.Task[Any]:
    """The call, once the worker has begun to compute for it."""
    idle = worker.cpu_times().user
    call = asyncio.ensure_future(work)
    async with asyncio.timeout(120):
        while worker.cpu_times().user < idle + 0.1:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    return call


async def test_a_worker_that_dies_loses_its_own_scene_only(tmp_path: Path) -> None:
    async with one_worker(tmp_path) as (store, worker):
        await store.put("room", scene_file.write(random_scene(60_000, sh_degree=3)))
        export = await at_work(store.export("room", None, "sog"), worker)
        os.kill(worker.pid, signal.SIGKILL)
        await refused(export, InvalidMedia, "scene_crashed")
        assert list((tmp_path / "work").iterdir()) == []
        await store.check_health()
        assert (await store.edit("room", [Crop(HALF)])).current == 2


async def test_what_takes_too_long_is_ended(tmp_path: Path) -> None:
    async with one_worker(tmp_path, decode_s=60) as (store, _):
        await store.put("room", scene_file.write(random_scene(60_000, sh_degree=3)))
    async with one_worker(tmp_path, decode_s=5) as (store, worker):
        export = await at_work(store.export("room", None, "sog"), worker)
        os.kill(worker.pid, signal.SIGSTOP)  # it hangs
        await refused(export, InvalidMedia, "scene_too_slow")
        assert list((tmp_path / "work").iterdir()) == []
        await store.check_health()


async def test_what_takes_too_much_memory_is_refused(tmp_path: Path) -> None:
    store = SceneStoreReplica(config(tmp_path, worker_memory_gb=0.02))
    large = formats.write(random_scene(200_000, 3), "ply")
    await refused(store.put("room", large), InvalidMedia, "scene_too_large")
    assert (await store.put("tiny", scene_file.write(random_scene(10)))).current == 1
    await store.close()


async def test_what_expires_goes_with_a_health_check(tmp_path: Path) -> None:
    clock = Clock()
    store = SceneStoreReplica(config(tmp_path, artifact_ttl_s=60), clock)
    await store.put("room", scene_file.write(random_scene(10)))
    artifact = await store.export("room", None, "ply")
    assert (await store.stats()).artifacts == 1
    clock.now += 59
    await store.check_health()
    assert await store.artifact(artifact.id) == artifact
    clock.now += 1
    await refused(store.artifact(artifact.id), NotFound, "artifact_not_found")
    await store.check_health()
    stats = await store.stats()
    assert (stats.artifacts, stats.bytes) == (0, (await store.get("room")).shown.ref.nbytes)
    await store.close()


async def test_a_full_store_takes_no_more(tmp_path: Path) -> None:
    store = SceneStoreReplica(config(tmp_path, max_bytes=1_000_000, max_scenes=2))
    await refused(store.put("huge", bytes(1_000_001)), PayloadTooLarge, "payload_too_large")
    data = scene_file.write(random_scene(2500, sh_degree=3))
    await store.put("a", data)
    await refused(store.edit("a", [Translate(All(), (1, 0, 0))]), OutOfCapacity, "out_of_capacity")
    await refused(store.export("a", None, "ply"), OutOfCapacity, "out_of_capacity")
    await store.put("b", data)
    await refused(store.put("c", data), OutOfCapacity, "out_of_capacity")
    assert (await store.stats()).bytes == len(data)
    await store.close()


async def test_more_work_than_the_store_takes_is_refused(tmp_path: Path) -> None:
    store = SceneStoreReplica(config(tmp_path, placement={"preprocess_workers": 1}))
    data = scene_file.write(random_scene(5))
    results = await asyncio.gather(*(store.put(f"s{index}", data) for index in range(70)), return_exceptions=True)
    assert sum(isinstance(result, SceneInfo) for result in results) == 64
    assert sum(isinstance(result, Overloaded) for result in results) == 6
    await store.close()


async def test_files_in_an_object_store_are_worked_on_from_copies(tmp_path: Path) -> None:
    store = SceneStoreReplica(config(tmp_path, blobs=f"{Bucket.protocol}://replica-scenes"))
    scene = random_scene(50)
    await store.put("room", scene_file.write(scene))
    edited = await store.edit("room", [Translate(All(), (1, 0, 0)), Merge("room")])
    assert edited.shown.count == 100
    artifact = await store.export("room", None, "splat")
    assert artifact.nbytes == 3200 and len(await store.read(artifact.id, 100, 5000)) == 3100
    np.testing.assert_allclose((await whole(store, edited)).means[50:], scene.means)
    assert list((tmp_path / "work").iterdir()) == [] and not (tmp_path / "blobs").exists()
    await store.close()


async def test_preloaded_scenes_are_put_in_when_missing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = {"still": "still.spz", "moving": "moving.safetensors", "broken": "broken.ply", "absent": "absent.ply"}
    (tmp_path / "still.spz").write_bytes(formats.write(random_scene(30), "spz"))
    (tmp_path / "moving.safetensors").write_bytes(scene_file.write(moving_scene(30)))
    (tmp_path / "broken.ply").write_bytes(b"ply\nbroken")
    model = config(tmp_path / "store", preload={name: str(tmp_path / file) for name, file in files.items()})
    store = SceneStoreReplica(model)
    await store.check_health()
    assert [info.name for info in await store.list_scenes(None, 10)] == ["moving", "still"]
    assert (await store.get("still")).source == "spz"
    assert (await store.get("moving")).shown.ref.motion_s > 0
    assert {record.args[0] for record in caplog.records if isinstance(record.args, tuple)} >= {"broken", "absent"}
    await store.edit("still", [Translate(All(), (1, 0, 0))])
    await store.delete("moving")
    await store.close()
    again = SceneStoreReplica(model)
    await again.check_health()
    assert (await again.get("still")).current == 2
    assert (await again.get("moving")).current == 1
    await again.close()
