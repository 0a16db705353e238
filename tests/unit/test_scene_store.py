"""The scene store on a real folder: names, versions, artifacts and quotas, and the files that they stand on."""

from __future__ import annotations

import hashlib
import secrets
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments.rendering.messages import SceneRef
from deployments.scenes.blobs import Blobs
from deployments.scenes.store import SceneStore
from deployments.scenes.types import Bounds, Label, NewScene, SceneFile, SceneInfo
from deployments.sqlite_store import FILE_NAME
from serve.errors import Conflict, NotFound, OutOfCapacity, Unavailable
from tests.support.bucket import Bucket

TTL_S = 60.0
BOUNDS = Bounds((-1.0, -2.0, -3.0), (1.0, 2.0, 3.0), (0.0, 0.0, 0.0), 3.75)


class Clock:
    """Unix time that moves when a test says so."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class Site:
    """A store in a folder, and files as its workers would make them."""

    def __init__(self, root: Path, location: str | None = None, **bounds: int) -> None:
        self.root = root
        self.blobs = Blobs(location or str(root / "blobs"))
        self.clock = Clock()
        self._bounds = {"max_bytes": 1_000_000, "max_scenes": 100, "max_versions": 8} | bounds
        self.store = self.open()

    def open(self) -> SceneStore:
        return SceneStore(self.root, self.blobs, artifact_ttl_s=TTL_S, clock=self.clock, **self._bounds)

    def reopen(self) -> None:
        self.store.close()
        self.store = self.open()

    def file(self, content: bytes, edit: str = "uploaded") -> tuple[SceneFile, Path]:
        path = self.root / f"made-{secrets.token_hex(4)}"
        path.write_bytes(content)
        ref = SceneRef("gaussians", digest(content), len(content), 2.5)
        return SceneFile(ref, "ply", edit, 7, 2, BOUNDS), path

    def put(self, name: str, content: bytes, *, replace: bool = False) -> SceneInfo:
        new = NewScene(name, (0.0, -1.0, 0.0), "Ann, CC0")
        return self.store.put(new, *self.file(content), content, replace=replace)

    def edit(self, name: str, content: bytes, base: int | None = None) -> SceneInfo:
        version = self.store.resolve(name, base)[1]
        return self.store.edit(name, version, *self.file(content, f"made {content!r}"), content)

    def stored(self) -> set[str]:
        return set(self.blobs.list())


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.store.close()


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def edits(info: SceneInfo) -> list[str]:
    return [version.edit for version in info.versions]


def numbers(info: SceneInfo) -> list[int]:
    return [version.number for version in info.versions]


def test_what_was_put_in_is_there_also_after_a_restart(site: Site) -> None:
    made = site.put("room", b"one")
    assert (made.name, made.kind, made.source, made.up) == ("room", "gaussians", "ply", (0.0, -1.0, 0.0))
    assert (made.attribution, made.created, made.updated) == ("Ann, CC0", site.clock.now, site.clock.now)
    version = made.shown
    assert (version.number, version.edit, version.count, version.sh_degree) == (1, "uploaded", 7, 2)
    assert version.ref == SceneRef("gaussians", digest(b"one"), 3, 2.5)
    assert version.bounds == BOUNDS
    site.reopen()
    assert site.store.get("room") == made
    assert site.store.resolve("room", None) == (made, version)
    assert site.store.resolve("room", 1) == (made, version)
    assert site.blobs.read(digest(b"one")) == b"one"


def test_what_is_not_there_is_not_found(site: Site) -> None:
    site.put("room", b"one")
    for call in (site.store.get, site.store.delete, lambda name: site.store.undo(name, None)):
        with pytest.raises(NotFound) as caught:
            call("../room")
        assert (caught.value.code, caught.value.param) == ("scene_not_found", "scene")
    with pytest.raises(NotFound, match="it has 1") as caught:
        site.store.resolve("room", 2)
    assert (caught.value.code, caught.value.param) == ("version_not_found", "version")
    with pytest.raises(NotFound) as caught:
        site.store.artifact("art_x")
    assert caught.value.code == "artifact_not_found"


def test_a_name_is_taken_once_unless_its_scene_gives_way(site: Site) -> None:
    first = site.put("room", b"one")
    assert site.put("room", b"one") == first  # sent again
    site.edit("room", b"edited")
    with pytest.raises(Conflict) as caught:
        site.put("room", b"one")  # the scene is another by now
    assert (caught.value.code, caught.value.param) == ("scene_exists", "name")
    with pytest.raises(Conflict):
        site.put("room", b"two")
    assert site.stored() == {digest(b"one"), digest(b"edited")}

    replaced = site.put("room", b"two", replace=True)
    assert numbers(replaced) == [3]  # never one that stood for something else
    assert site.stored() == {digest(b"two")}
    assert site.put("room", b"two", replace=True) == replaced


def test_scenes_are_listed_by_name_a_page_at_a_time(site: Site) -> None:
    for name in ("c", "a", "b.1", "b"):
        site.put(name, b"same")
    assert [info.name for info in site.store.list_scenes(None, 3)] == ["a", "b", "b.1"]
    assert [info.name for info in site.store.list_scenes("b.1", 3)] == ["c"]
    assert site.store.list_scenes("c", 3) == ()


def test_an_edit_is_a_version_that_can_be_undone_and_redone(site: Site) -> None:
    site.put("room", b"1")
    site.clock.now += 5
    second = site.edit("room", b"2")
    assert (second.current, numbers(second), edits(second)) == (2, [1, 2], ["uploaded", "made b'2'"])
    assert second.updated == second.created + 5
    site.edit("room", b"3")
    assert site.store.undo("room", 3).current == 2
    undone = site.store.undo("room", None)
    assert (undone.current, numbers(undone)) == (1, [1, 2, 3])
    with pytest.raises(Conflict) as caught:
        site.store.undo("room", None)
    assert caught.value.code == "nothing_to_undo"
    site.reopen()
    assert site.store.redo("room", 1).current == 2
    assert site.store.redo("room", None).current == 3
    with pytest.raises(Conflict) as caught:
        site.store.redo("room", None)
    assert caught.value.code == "nothing_to_redo"


def test_an_edit_after_an_undo_takes_the_place_of_what_was_undone(site: Site) -> None:
    site.put("room", b"1")
    site.edit("room", b"2")
    site.edit("room", b"3")
    site.store.undo("room", None)
    site.store.undo("room", None)
    branched = site.edit("room", b"4")
    assert (branched.current, numbers(branched)) == (4, [1, 4])
    assert site.stored() == {digest(b"1"), digest(b"4")}
    assert site.store.undo("room", None).shown.ref.digest == digest(b"1")
    with pytest.raises(NotFound):
        site.store.resolve("room", 2)


def test_of_two_edits_of_one_version_the_second_is_refused(site: Site) -> None:
    site.put("room", b"1")
    base = site.store.resolve("room", 1)[1]
    first = site.store.edit("room", base, *site.file(b"2"), b"left")
    with pytest.raises(Conflict, match="now it is version 2") as caught:
        site.store.edit("room", base, *site.file(b"3"), b"right")
    assert (caught.value.code, caught.value.param) == ("version_conflict", "base_version")
    assert site.store.get("room") == first
    assert site.stored() == {digest(b"1"), digest(b"2")}  # nothing of what was refused is left
    with pytest.raises(Conflict):
        site.store.find_edit("room", 1, b"right")
    assert site.store.find_edit("room", 2, b"right") is None


def test_calls_that_name_their_base_may_be_sent_twice(site: Site) -> None:
    site.put("room", b"1")
    base = site.store.resolve("room", 1)[1]
    made = site.store.edit("room", base, *site.file(b"2"), b"left")
    assert site.store.find_edit("room", 1, b"left") == made
    assert site.store.edit("room", base, *site.file(b"2"), b"left") == made
    undone = site.store.undo("room", 2)
    assert site.store.undo("room", 2) == undone
    redone = site.store.redo("room", 1)
    assert site.store.redo("room", 1) == redone
    assert redone.current == 2
    with pytest.raises(Conflict) as caught:
        site.store.undo("room", 7)
    assert caught.value.code == "version_conflict"


def test_an_edit_of_a_scene_whose_name_another_has_taken_is_refused(site: Site) -> None:
    site.put("room", b"1")
    base = site.store.resolve("room", 1)[1]
    site.store.delete("room")
    site.put("room", b"other")
    with pytest.raises(Conflict) as caught:
        site.store.edit("room", base, *site.file(b"2"), b"left")
    assert caught.value.code == "version_conflict"
    assert site.stored() == {digest(b"other")}


def test_the_oldest_versions_go_beyond_the_bound(tmp_path: Path) -> None:
    site = Site(tmp_path, max_versions=3)
    site.put("room", b"1")
    for content in (b"2", b"3", b"4", b"5"):
        site.edit("room", content)
    info = site.store.get("room")
    assert (numbers(info), info.current) == ([3, 4, 5], 5)
    assert site.stored() == {digest(content) for content in (b"3", b"4", b"5")}
    site.store.close()


def test_a_file_goes_with_the_last_that_stands_on_it(site: Site) -> None:
    site.put("a", b"same")
    site.put("b", b"same")
    assert site.store.stats().bytes == 4
    export = site.store.add_own_export(site.store.resolve("a", 1)[1], "export", Label("a", "a.safetensors", "x/y"))
    site.store.delete("a")
    assert site.stored() == {digest(b"same")}
    site.store.delete("b")
    assert site.store.read(export.id, 0, 10) == b"same"
    site.clock.now += TTL_S
    assert site.store.sweep() == 1
    assert site.stored() == set()
    stats = site.store.stats()
    assert (stats.scenes, stats.versions, stats.artifacts, stats.bytes) == (0, 0, 0, 0)


def test_artifacts_are_read_in_pieces_until_they_expire(site: Site) -> None:
    made = site.store.add_artifact(Label("room", "way.mp4", "video/mp4"), b"0123456789")
    assert (made.scene, made.filename, made.media_type, made.nbytes) == ("room", "way.mp4", "video/mp4", 10)
    assert made.expires == site.clock.now + TTL_S
    site.reopen()
    assert site.store.artifact(made.id) == made
    assert [site.store.read(made.id, offset, 4) for offset in (0, 4, 8, 12)] == [b"0123", b"4567", b"89", b""]
    site.clock.now += TTL_S - 1
    assert site.store.sweep() == 0
    site.clock.now += 1
    with pytest.raises(NotFound) as caught:
        site.store.read(made.id, 0, 4)  # although no sweep has come by
    assert caught.value.code == "artifact_not_found"
    assert site.store.sweep() == 1
    assert site.stored() == set()


def test_an_export_is_made_once_and_lives_on_when_it_is_asked_for(site: Site) -> None:
    key = f"{digest(b'scene')} spz"
    label = Label("a", "a-v1.spz", "x/y")
    assert site.store.find_export(key, label) is None
    _, path = site.file(b"spz")
    made = site.store.add_export(key, label, path, digest(b"spz"))
    site.clock.now += TTL_S / 2
    found = site.store.find_export(key, label)
    assert found is not None and (found.id, found.expires) == (made.id, site.clock.now + TTL_S)
    # The same content under another name is another artifact on the same file.
    other = site.store.find_export(key, Label("b", "b-v1.spz", "x/y"))
    assert other is not None and other.id != made.id and (other.scene, other.filename) == ("b", "b-v1.spz")
    assert site.store.stats().bytes == 3
    assert site.store.read(other.id, 0, 10) == b"spz"
    site.clock.now += TTL_S
    assert site.store.find_export(key, label) is None


def test_an_export_of_a_version_that_went_meanwhile_is_refused(site: Site) -> None:
    site.put("room", b"1")
    version = site.store.resolve("room", 1)[1]
    site.store.delete("room")
    with pytest.raises(NotFound) as caught:
        site.store.add_own_export(version, "export", Label("room", "room.safetensors", "x/y"))
    assert caught.value.code == "scene_gone"


def test_a_full_store_refuses_and_keeps_nothing_of_it(tmp_path: Path) -> None:
    site = Site(tmp_path, max_bytes=100, max_scenes=3)
    site.put("a", bytes(60))
    site.store.add_artifact(Label("room", "old.mp4", "video/mp4"), b"x" * 30)
    with pytest.raises(OutOfCapacity, match="would hold 110 bytes; at most 100"):
        site.put("b", b"b" * 20)
    with pytest.raises(OutOfCapacity):
        site.edit("a", b"c" * 20)
    with pytest.raises(OutOfCapacity):
        site.store.add_artifact(Label("room", "new.mp4", "video/mp4"), b"y" * 20)
    assert len(site.stored()) == 2
    site.clock.now += TTL_S  # what has expired gives way at once
    site.put("b", b"b" * 20)
    assert site.stored() == {digest(bytes(60)), digest(b"b" * 20)}
    # One that gives way makes the room itself.
    site.put("a", b"d" * 80, replace=True)
    site.put("c", b"d" * 80)  # the same file
    with pytest.raises(OutOfCapacity, match="holds its 3 scenes"):
        site.put("d", b"d" * 80)
    site.put("c", b"b" * 20, replace=True)
    site.store.close()


def test_artifacts_are_bounded_in_number(tmp_path: Path) -> None:
    site = Site(tmp_path, max_artifacts=2)
    for name in "ab":
        site.store.add_artifact(Label("room", name, "x/y"), b"")
    with pytest.raises(OutOfCapacity, match="its 2 exports and videos"):
        site.store.add_artifact(Label("room", "c", "x/y"), b"")
    site.clock.now += TTL_S
    site.store.add_artifact(Label("room", "c", "x/y"), b"")
    assert site.store.stats().artifacts == 1
    site.store.close()


def test_files_that_are_missing_are_reported_at_the_start(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.put("room", b"1")
    site.put("hall", b"2")
    site.blobs.delete(digest(b"1"))
    site.reopen()
    assert f"1 files of scenes are missing, {digest(b'1')} among them" in caplog.text
    assert site.store.get("hall").shown.ref.digest in site.stored()


def test_what_nothing_stands_on_is_deleted_at_the_next_start(site: Site) -> None:
    site.put("room", b"1")
    orphan = site.blobs.write(b"stored, but never named")
    (site.root / "blobs" / ".new-1234").write_bytes(b"cut sho")
    site.reopen()
    assert orphan not in site.stored()
    assert sorted(path.name for path in (site.root / "blobs").iterdir()) == sorted([digest(b"1"), "owner"])
    assert site.blobs.read(digest(b"1")) == b"1"


def test_files_that_belong_to_another_store_are_left_alone(tmp_path: Path) -> None:
    site = Site(tmp_path / "one", str(tmp_path / "files"))
    site.put("room", b"1")
    site.store.close()
    with pytest.raises(Conflict, match="belong to the scene store") as caught:
        Site(tmp_path / "two", str(tmp_path / "files"))
    assert (caught.value.code, caught.value.param) == ("store_locked", "blobs")
    assert site.stored() == {digest(b"1")}
    site.reopen()
    site.store.close()


def test_a_file_that_is_being_stored_again_is_not_deleted_under_its_name(site: Site) -> None:
    """Threads put in and delete scenes of the same few contents; what is named is always there."""
    contents = [b"x" * size for size in (10, 20, 30)]
    failures: list[BaseException] = []

    def work(thread: int) -> None:
        try:
            for turn in range(30):
                name, content = f"s{thread}", contents[(thread + turn) % 3]
                site.put(name, content)
                assert site.blobs.read(digest(content)) == content
                site.store.delete(name)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert site.stored() == set()


@pytest.mark.parametrize("scheme", ["memory", Bucket.protocol])
def test_files_may_lie_in_an_object_store(tmp_path: Path, scheme: str) -> None:
    site = Site(tmp_path, f"{scheme}://scenes-{secrets.token_hex(4)}/deep")
    site.put("room", b"1")
    site.edit("room", b"2")
    export = site.store.add_artifact(Label("room", "a.mp4", "video/mp4"), b"0123")
    assert site.store.read(export.id, 1, 2) == b"12"
    assert site.store.read(digest(b"2"), 0, 9) == b"2"
    orphan = site.blobs.write(b"orphan")
    site.reopen()
    assert orphan not in site.stored()
    site.store.delete("room")
    assert site.stored() == {digest(b"0123")}
    site.store.close()


def test_a_store_of_an_earlier_build_goes_on_without_its_artifacts(site: Site) -> None:
    made = site.put("room", b"1")
    old = site.store.add_artifact(Label("room", "old.mp4", "video/mp4"), b"film")
    site.store.close()
    database = sqlite3.connect(site.root / FILE_NAME, isolation_level=None)
    database.executescript("ALTER TABLE artifacts DROP COLUMN scene; PRAGMA user_version = 1;")
    database.close()
    site.store = site.open()
    assert site.store.get("room") == made
    with pytest.raises(NotFound):
        site.store.artifact(old.id)
    new = site.store.add_artifact(Label("room", "new.mp4", "video/mp4"), b"another")
    assert site.store.artifact(new.id).scene == "room"
    assert site.stored() == {digest(b"1"), digest(b"another")}
    site.reopen()
    assert site.store.artifact(new.id) == new


def test_a_folder_has_one_store(site: Site) -> None:
    with pytest.raises(Conflict) as caught:
        site.open()
    assert caught.value.code == "store_locked"


def test_a_broken_store_says_so(site: Site) -> None:
    site.store.check()
    (site.root / ".lock").unlink()
    with pytest.raises(Unavailable):
        site.store.check()
    site.store.close()
    with pytest.raises(Unavailable):
        site.store.get("room")
    (site.root / FILE_NAME).write_bytes(b"no database" * 1000)
    with pytest.raises(Unavailable):
        site.open()
