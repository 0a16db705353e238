"""What the scene store acknowledged survives: real processes, killed amid uploads and edits, and between steps."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deployments.scenes.blobs import Blobs
from deployments.scenes.store import SceneStore
from serve.errors import Conflict, NotFound

REPOSITORY = Path(__file__).parents[2]

# Two clients put in scenes, edit them twice, undo once and delete every other; a line is printed only when a step was
# acknowledged.
WORK_FOR_EVER = """
import asyncio, sys
from deployments.scenes.replica import SceneStoreReplica
from deployments.splat import scene_file
from deployments.splat.edits_types import All, Translate
from serve.config.scene_models import SceneStoreModel
from tests.support.gaussians import random_scene

async def client(store, client):
    for turn in range(100_000):
        name = f"{client}-{turn}"
        info = await store.put(name, scene_file.write(random_scene(400, seed=turn)))
        print("put", name, info.shown.ref.digest, flush=True)
        for step in (1, 2):
            info = await store.edit(name, [Translate(All(), (step, turn, 0))], step)
            print("edit", name, info.shown.ref.digest, flush=True)
        await store.undo(name)
        print("undo", name, flush=True)
        if turn % 2:
            await store.delete(name)
            print("delete", name, flush=True)

async def main():
    store = SceneStoreReplica(SceneStoreModel(kind="scene_store", path=sys.argv[1]))
    await asyncio.gather(client(store, "a"), client(store, "b"))

if __name__ == "__main__":
    asyncio.run(main())
"""

# Dies at a method of its files: before or after it does its work.
DIE_AT = """
import os, signal, sys, time
from pathlib import Path
from deployments.rendering.messages import SceneRef
from deployments.scenes.blobs import Blobs
from deployments.scenes.store import SceneStore
from deployments.scenes.types import Bounds, NewScene, SceneFile

root, method, moment = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
store = SceneStore(
    root, Blobs(str(root / "blobs")), max_bytes=1 << 30, max_scenes=9, max_versions=9, artifact_ttl_s=9
)

def put(name, content):
    (root / "made").write_bytes(content)
    origin = (0.0, 0.0, 0.0)
    ref = SceneRef("gaussians", Blobs.digest(content), len(content))
    file = SceneFile(ref, "ply", "uploaded", 1, 0, Bounds(origin, origin, origin, 1.0))
    store.put(NewScene(name, (0.0, -1.0, 0.0), ""), file, root / "made", content, replace=True)

put("old", b"old")
work = getattr(Blobs, method)

def dying(self, *arguments):
    if moment == "after":
        work(self, *arguments)
    os.kill(os.getpid(), signal.SIGKILL)

setattr(Blobs, method, dying)
put("old", b"new")
"""


@contextmanager
def process(code: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    child = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    try:
        yield child
    finally:
        child.kill()
        child.wait()


def open_store(folder: Path) -> SceneStore:
    blobs = Blobs(str(folder / "blobs"))
    return SceneStore(folder, blobs, max_bytes=1 << 34, max_scenes=1000, max_versions=32, artifact_ttl_s=9)


@pytest.mark.parametrize("acknowledgements", [1, 7, 40])
def test_acknowledged_steps_survive_a_kill(tmp_path: Path, acknowledgements: int) -> None:
    with process(WORK_FOR_EVER, str(tmp_path)) as child:
        assert child.stdout is not None
        printed = [child.stdout.readline() for _ in range(acknowledgements)]
        with pytest.raises(Conflict):
            open_store(tmp_path)
        child.send_signal(signal.SIGKILL)
        child.wait()
        printed += child.stdout.readlines()  # acknowledged before the kill, read after it
    steps = [line.split() for line in printed if line.endswith("\n")]
    assert len(steps) >= acknowledgements

    store = open_store(tmp_path)  # at once: the lock went with its owner
    blobs = Blobs(str(tmp_path / "blobs"))
    for name in {step[1] for step in steps}:
        own = [step for step in steps if step[1] == name]
        if own[-1][0] == "delete":
            with pytest.raises(NotFound):
                store.get(name)
            continue
        try:
            info = store.get(name)
        except NotFound:
            assert own[-1][0] == "undo"  # and its deletion was under way
            continue
        digests = [step[2] for step in own if len(step) > 2]
        assert [version.ref.digest for version in info.versions[: len(digests)]] == digests
        assert info.current >= len(digests) or own[-1][0] == "undo" or len(digests) == 3
        if own[-1][0] == "undo":
            assert info.current == 2
    named = {version.ref.digest for info in store.list_scenes(None, 1000) for version in info.versions}
    assert set(blobs.list()) == named  # nothing is missing, and nothing is left over
    for digest in named:
        blobs.read(digest)
    store.close()


@pytest.mark.parametrize(
    ("method", "moment", "left"),
    [("take", "before", b"old"), ("take", "after", b"old"), ("delete", "before", b"new"), ("delete", "after", b"new")],
)
def test_a_death_between_file_and_name_leaves_one_or_the_other(
    tmp_path: Path, method: str, moment: str, left: bytes
) -> None:
    with process(DIE_AT, str(tmp_path), method, moment) as child:
        assert child.wait() == -signal.SIGKILL
    store = open_store(tmp_path)
    assert store.get("old").shown.ref.digest == Blobs.digest(left)
    assert Blobs(str(tmp_path / "blobs")).list() == {Blobs.digest(left): 3}
    store.close()
