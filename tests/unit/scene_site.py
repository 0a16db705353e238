"""A router with scenes: a store that keeps what it is told in memory, and renderers that answer from the request."""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
from PIL import Image as PillowImage

from deployments.messages import ModelInfo
from deployments.rendering.messages import (
    CoverRequest,
    CoverResult,
    FilmRequest,
    FilmSegment,
    RenderRequest,
    RenderResult,
    SceneKind,
    SceneRef,
    ViewFiles,
)
from deployments.scenes.types import Artifact, Bounds, SceneInfo, StoreStats, Version
from serve.context import RequestContext
from serve.errors import Conflict, InvalidMedia, NotFound
from tests.unit.fakes import Site, cluster

FILE = b"a scene, as far as the store is concerned"

UP = (0.0, -1.0, 0.0)
BOX = Bounds((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), 2.0)
MODELS = {
    "clip": {"kind": "clip", "checkpoint": "openai/clip-vit-large-patch14"},
    "scenes": {"kind": "scene_store"},
    "splat": {"kind": "splat", "scenes": "scenes", "max_pixels": 10_000, "max_views": 4},
    "nerf": {"kind": "nerf", "scenes": "scenes", "max_pixels": 10_000, "max_views": 4},
}


class FakeSceneStore:
    """A `ModelHandle` of a scene store. A file of `b"bad"` is refused; each edit makes a version."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forgets what a test did."""
        self.scenes: dict[str, SceneInfo] = {}
        self.puts: list[dict[str, Any]] = []
        self.edits: list[tuple[Any, ...]] = []
        self.files: dict[str, tuple[Artifact, bytes]] = {}
        self.reads: list[tuple[int, int]] = []
        self.contents: dict[str, bytes] = {}

    async def call(self, method: str, context: RequestContext, *args: Any, **kwargs: Any) -> Any:
        context.remaining_s()
        return getattr(self, f"_{method}")(*args, **kwargs)

    def _stats(self) -> StoreStats:
        return StoreStats(len(self.scenes), 0, 0, 0)

    def put_scene(self, name: str, data: bytes, kind: SceneKind = "gaussians") -> SceneInfo:
        """A scene that is there before a test."""
        return self._put(name, data, kind, attribution="", replace=True)

    def _put(self, name: str, data: bytes, kind: SceneKind = "gaussians", **said: Any) -> SceneInfo:
        if data == b"bad":
            raise InvalidMedia("The file ends early.", code="invalid_scene")
        if name in self.scenes and not said["replace"]:
            raise Conflict(f"There is a scene {name!r}.", code="scene_exists", param="name")
        self.puts.append({"name": name, "data": data, **said})
        self.contents[hashlib.sha256(data).hexdigest()] = data
        info = SceneInfo(
            name,
            kind,
            1,
            (_version(1, data, kind, "uploaded"),),
            said.get("format") or "splat",
            said.get("up", UP),
            said["attribution"],
            1e9,
            1e9,
        )
        self.scenes[name] = info
        return info

    def _put_field(self, name: str, data: bytes, **said: Any) -> SceneInfo:
        return self._put(name, data, "nerf", **said)

    def _get(self, name: str) -> SceneInfo:
        if name not in self.scenes:
            raise NotFound(f"Scene {name!r} does not exist.", code="scene_not_found", param="name")
        return self.scenes[name]

    def _resolve(self, name: str, number: int | None) -> tuple[SceneInfo, Version]:
        info = self._get(name)
        for version in info.versions:
            if version.number == (number or info.current):
                return info, version
        raise NotFound("No such version.", code="version_not_found", param="version")

    def _list_scenes(self, after: str | None, limit: int) -> tuple[SceneInfo, ...]:
        return tuple(self.scenes[name] for name in sorted(self.scenes) if name > (after or ""))[:limit]

    def _delete(self, name: str) -> None:
        self._get(name)
        del self.scenes[name]

    def _edit(self, name: str, edits: tuple[Any, ...], base: int) -> SceneInfo:
        info = self._get(name)
        if base != info.current:
            raise Conflict("Another version is the current one.", code="version_conflict", param="base_version")
        self.edits.append(edits)
        kept = [version for version in info.versions if version.number <= base]
        number = max(version.number for version in info.versions) + 1
        made = _version(number, repr((base, edits)).encode(), info.kind, f"{len(edits)} edits")
        return self._shown(info, (*kept, made), number)

    def _undo(self, name: str, base: int) -> SceneInfo:
        return self._step(name, base, -1, "nothing_to_undo")

    def _redo(self, name: str, base: int) -> SceneInfo:
        return self._step(name, base, 1, "nothing_to_redo")

    def _step(self, name: str, base: int, way: int, code: str) -> SceneInfo:
        info = self._get(name)
        numbers = [version.number for version in info.versions]
        at = numbers.index(base) + way
        if not 0 <= at < len(numbers):
            raise Conflict("There is nothing there.", code=code)
        return self._shown(info, info.versions, numbers[at])

    def _shown(self, info: SceneInfo, versions: tuple[Version, ...], current: int) -> SceneInfo:
        shown = SceneInfo(
            info.name, info.kind, current, versions, info.source, info.up, info.attribution, info.created, 2e9
        )
        self.scenes[info.name] = shown
        return shown

    def _export(self, name: str, number: int, format: str) -> Artifact:
        _, version = self._resolve(name, number)
        return self._add_artifact(name, f"{name}.{format}", "model/ply", f"{format} {version.ref.digest}".encode() * 7)

    def _add_artifact(self, scene: str, filename: str, media_type: str, data: bytes) -> Artifact:
        made = Artifact(f"art_{len(self.files)}", scene, filename, media_type, len(data), 2e9)
        self.files[made.id] = (made, data)
        return made

    def _artifact(self, artifact_id: str) -> Artifact:
        if artifact_id not in self.files:
            raise NotFound("There is no such file.", code="artifact_not_found", param="id")
        return self.files[artifact_id][0]

    def _read(self, key: str, offset: int, length: int) -> bytes:
        self.reads.append((offset, length))
        data = self.contents[key] if key in self.contents else self.files[key][1]
        return data[offset : offset + length]


class FakeRenderer:
    """A `ModelHandle` of a renderer.

    Attributes:
        failing: positions of views whose result is this error.
        segments: makes parts of films.
        padding: bytes behind each picture.
        cover: answer to a `CoverRequest`.
        patch: what is red in pictures that are black elsewhere.
        gate: calls wait until it is set.
        requests: with the affinity of each.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forgets what a test did."""
        self.failing: dict[int, Exception] = {}
        self.took_s = 0.0
        self.segments: Callable[[FilmRequest], FilmSegment] = lambda request: FilmSegment(b"")
        self.padding = 0
        self.cover: tuple[Any, Any] = (np.zeros(1), np.ones(1))
        self.patch: tuple[slice, slice] | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.entered = asyncio.Event()
        self.requests: list[Any] = []
        self.affinities: list[str | None] = []

    async def call(
        self, method: str, context: RequestContext, *args: Any, affinity: str | None = None, **kwargs: Any
    ) -> Any:
        context.remaining_s()
        if method == "info":
            return ModelInfo("cpu", 1.0)
        request = args[0]
        assert method == type(request).method
        self.requests.append(request)
        self.affinities.append(affinity)
        self.entered.set()
        await asyncio.wait_for(self.gate.wait(), 60)
        answer: Any = {"render": self._render, "film": self._film, "cover": self._cover}[method]
        return answer(request)

    def _render(self, request: RenderRequest) -> RenderResult:
        views = (
            self.failing.get(index) or ViewFiles({name: self._file(request, index, name) for name in request.outputs})
            for index in range(len(request.cameras))
        )
        return RenderResult(tuple(views), took_s=self.took_s)

    def _file(self, request: RenderRequest, index: int, output: str) -> Any:
        """A picture that follows from camera, time and output."""
        camera = request.cameras[index]
        seed = hashlib.sha256(camera.world_to_camera.tobytes() + f"{request.time_s} {output}".encode()).digest()
        pixels = np.full((camera.height, camera.width, 3), list(seed[:3]), np.uint8)
        if self.patch is not None:
            pixels[:] = 0
            pixels[(*self.patch, 0)] = 255
        if request.encoding == "raw":
            return pixels if output == "rgb" else pixels[..., 0].astype(np.float32 if output == "depth" else np.uint8)
        buffer = io.BytesIO()
        PillowImage.fromarray(pixels).save(buffer, "JPEG" if request.encoding == "jpeg" else "PNG")
        return buffer.getvalue() + bytes(self.padding)

    def _film(self, request: FilmRequest) -> FilmSegment:
        return self.segments(request)

    def _cover(self, request: CoverRequest) -> CoverResult:
        inside, total = (np.asarray(sums, np.float32) for sums in self.cover)
        return CoverResult(inside, total)


def _version(number: int, data: bytes, kind: SceneKind, edit: str) -> Version:
    ref = SceneRef(kind, hashlib.sha256(data).hexdigest(), len(data), 0.0)
    return Version(number, ref, edit, len(data), 0, BOX, 1e9)


class SceneSite(Site):
    """See the module's text."""

    def __init__(self, **sections: Any) -> None:
        self.scenes, self.nerf = FakeSceneStore(), FakeRenderer()
        more = {"scenes": self.scenes, "splat": FakeRenderer(), "nerf": self.nerf, **sections.pop("more", {})}
        self.splat = more["splat"]
        super().__init__(cluster(**{"models": MODELS, **sections}), more=more)

    def reset(self) -> None:
        super().reset()
        for fake in (self.scenes, self.splat, self.nerf):
            fake.reset()


async def put(client: httpx.AsyncClient, name: str = "room", **fields: Any) -> httpx.Response:
    """Puts `FILE` in as a scene."""
    data = {"name": name, **fields}
    return await client.post("/v1/scenes", data=data, files={"file": ("room.splat", FILE, "application/octet-stream")})
