"""Uploads, edits, steps back and forth, exports and restarts in any order: what holds for the scene store always."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from deployments.rendering.messages import SceneRef
from deployments.scenes.blobs import Blobs
from deployments.scenes.store import SceneStore
from deployments.scenes.types import Bounds, Label, NewScene, SceneFile
from serve.errors import Conflict, NotFound, OutOfCapacity

ORIGIN = (0.0, 0.0, 0.0)
TTL_S = 10.0
MOST_BYTES, MOST_SCENES, MOST_VERSIONS = 60, 2, 3
NAMES = st.sampled_from("abc")
# Few, of different sizes, so that scenes and artifacts share files and the store is full now and then.
CONTENTS = st.sampled_from([bytes([size]) * size for size in (3, 5, 8, 13, 21)])


class Clients(RuleBasedStateMachine):
    """The store beside what it should hold: of each scene its history, and how far it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.now = 0.0
        self.scenes: dict[str, tuple[list[bytes], int]] = {}
        self.artifacts: dict[str, tuple[bytes, float]] = {}
        self.seen: dict[str, set[int]] = {}  # numbers of versions that the scene of a name ever had
        self.open()

    def open(self) -> None:
        self.blobs = Blobs(str(self.folder / "blobs"))
        self.store = SceneStore(
            self.folder,
            self.blobs,
            max_bytes=MOST_BYTES,
            max_scenes=MOST_SCENES,
            max_versions=MOST_VERSIONS,
            artifact_ttl_s=TTL_S,
            clock=lambda: self.now,
        )

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.folder)

    def file(self, content: bytes) -> tuple[SceneFile, Path]:
        path = self.folder / "made"
        path.write_bytes(content)
        ref = SceneRef("gaussians", Blobs.digest(content), len(content))
        return SceneFile(ref, "ply", "made", 1, 0, Bounds(ORIGIN, ORIGIN, ORIGIN, 1.0)), path

    def living(self) -> dict[str, bytes]:
        return {key: content for key, (content, expires) in self.artifacts.items() if expires > self.now}

    def fits(self, name: str | None, history: list[bytes], *others: bytes) -> bool:
        """Whether the store is within its bound when the scene has that history; what expired does not count."""
        scenes = {own: contents for own, (contents, _) in self.scenes.items()} | ({name: history} if name else {})
        files = {content for contents in scenes.values() for content in contents}
        return sum(map(len, files | set(self.living().values()) | set(others))) <= MOST_BYTES

    @rule(name=NAMES, content=CONTENTS, replace=st.booleans())
    def put(self, name: str, content: bytes, replace: bool) -> None:
        try:
            info = self.store.put(NewScene(name, (0, -1, 0), ""), *self.file(content), content, replace=replace)
        except Conflict:
            assert name in self.scenes and not replace
        except OutOfCapacity:
            known = name in self.scenes
            assert (not known and len(self.scenes) == MOST_SCENES) or not self.fits(name, [content])
        else:
            again = self.scenes.get(name) == ([content], 0)
            assert again or info.current not in self.seen.get(name, set())
            self.scenes[name] = [content], 0
            assert self.fits(None, [])

    @rule(name=NAMES, content=CONTENTS)
    def edit(self, name: str, content: bytes) -> None:
        if name not in self.scenes:
            return
        history, shown = self.scenes[name]
        after = [*history[: shown + 1], content][-MOST_VERSIONS:]
        base = self.store.get(name).shown
        try:
            info = self.store.edit(name, base, *self.file(content), content)
        except OutOfCapacity:
            assert not self.fits(name, after)
        else:
            assert self.fits(name, after)
            assert info.current not in self.seen[name]
            self.scenes[name] = after, len(after) - 1

    @rule(name=NAMES, way=st.sampled_from(["undo", "redo"]), named=st.booleans(), twice=st.booleans())
    def step(self, name: str, way: str, named: bool, twice: bool) -> None:
        if name not in self.scenes:
            return
        history, shown = self.scenes[name]
        base = self.store.get(name).current if named else None
        to = shown - 1 if way == "undo" else shown + 1
        call = self.store.undo if way == "undo" else self.store.redo
        try:
            info = call(name, base)
            if named and twice:
                assert call(name, base) == info
        except Conflict as error:
            assert error.code == f"nothing_to_{way}" and not 0 <= to < len(history)
        else:
            self.scenes[name] = history, to

    @rule(name=NAMES)
    def delete(self, name: str) -> None:
        try:
            self.store.delete(name)
        except NotFound:
            assert name not in self.scenes
        else:
            del self.scenes[name], self.seen[name]

    @rule(content=CONTENTS)
    def add_artifact(self, content: bytes) -> None:
        try:
            artifact = self.store.add_artifact(Label("room", "film.mp4", "video/mp4"), content)
        except OutOfCapacity:
            assert not self.fits(None, [], content)
        else:
            self.artifacts[artifact.id] = content, self.now + TTL_S

    @rule(name=NAMES)
    def export(self, name: str) -> None:
        if name not in self.scenes:
            return
        version = self.store.get(name).shown
        history, shown = self.scenes[name]
        label = Label(name, name, "x/y")
        artifact = self.store.find_export(version.ref.digest, label) or self.store.add_own_export(
            version, version.ref.digest, label
        )
        assert artifact.scene == name
        self.artifacts[artifact.id] = history[shown], self.now + TTL_S

    @rule(seconds=st.sampled_from([1.0, TTL_S]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def sweep(self) -> None:
        self.store.sweep()

    @rule()
    def restart(self) -> None:
        self.blobs.write(b"orphan")
        self.store.close()
        self.open()
        assert Blobs.digest(b"orphan") not in self.blobs.list()

    @invariant()
    def holds_what_it_should(self) -> None:
        infos = self.store.list_scenes(None, 10)
        assert [info.name for info in infos] == sorted(self.scenes)
        for info in infos:
            history, shown = self.scenes[info.name]
            assert [version.ref.digest for version in info.versions] == [Blobs.digest(each) for each in history]
            assert info.shown == info.versions[shown]
            self.seen.setdefault(info.name, set()).update(version.number for version in info.versions)
        for key, content in self.living().items():
            assert self.store.read(key, 0, 100) == content

    @invariant()
    def has_each_file_that_is_needed_and_no_other(self) -> None:
        needed = {content for contents, _ in self.scenes.values() for content in contents} | set(self.living().values())
        past = {content for content, expires in self.artifacts.values() if expires <= self.now}
        stored = self.blobs.list()
        assert {Blobs.digest(content) for content in needed} <= set(stored)
        assert set(stored) <= {Blobs.digest(content) for content in needed | past}
        assert self.store.stats().bytes == sum(stored.values())


Clients.TestCase.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
TestClients = Clients.TestCase
