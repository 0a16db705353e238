"""Scenes as their clients see them: the store and the renderers behind one door."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Final, Literal

from deployments.rendering.camera import Vector
from deployments.scenes.history import conflict
from deployments.scenes.types import Artifact, Bounds, SceneInfo, Version
from deployments.splat.edits_select import mask_of, selected
from deployments.splat.edits_types import Edit, Mask, Selection
from deployments.splat.formats.names import ExportName, FormatName
from serve.calls import Calls
from serve.config.cluster import ClusterFile, Limits
from serve.context import RequestContext
from serve.dataplane import DataPlane
from serve.errors import InvalidRequest, NotFound
from serve.handles import ModelHandle
from serve.scenes.centres import Centres, Float32, bounds_of
from serve.scenes.films import FilmMaker
from serve.scenes.meshes import MeshMaker
from serve.scenes.rendering import SceneRenderer
from serve.scenes.selection import Selected, TextSelector
from serve.stores import StoreClient

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}")
_MOST_TEXTS: Final = 8
# Bytes of a file that are read from the store at once.
CHUNK: Final = 4 * 1024 * 1024
FIELD: Final = "nerf"
_MISSING: Final = "No model of kind scene_store is in this cluster; scenes are not kept here."


@dataclass(frozen=True, slots=True)
class Upload:
    """A scene's file as a client sent it.

    Attributes:
        format: told by its content when None; `nerf` is a radiance field, as it is exported in the format `argus`.
        filename: as its sender names it; its suffix tells what content cannot.
        up: direction that is up in it; the format's own when None.
        replace: a scene of that name gives way.
    """

    name: str
    data: bytes
    format: FormatName | Literal["nerf"] | None = None
    filename: str = ""
    up: Vector | None = None
    attribution: str = ""
    replace: bool = False


class SceneService:
    """See the module's text.

    Args:
        store: the store's handle; None when the cluster file has none.
        name: of that store.
    """

    def __init__(
        self, cluster: ClusterFile, plane: DataPlane, calls: Calls, store: ModelHandle | None, name: str | None
    ) -> None:
        self._store = StoreClient(store, "scene_store", _MISSING)
        self.limits: Limits = cluster.limits
        self.renderer = SceneRenderer(cluster, calls, name)
        self._centres = Centres(self._read)
        self.films = FilmMaker(self.renderer)
        self.meshes = MeshMaker(self.renderer)
        self._texts = TextSelector(plane, calls, self.renderer, self._centres)

    async def put(self, upload: Upload, context: RequestContext) -> SceneInfo:
        """Keeps a scene.

        Raises:
            InvalidRequest: its name, or its file.
            Conflict: there is another one of that name, and it shall not give way.
            OutOfCapacity: the store is full.
        """
        check_name(upload.name)
        how: dict[str, Any] = {} if upload.up is None else {"up": upload.up}
        method = "put_field"
        if upload.format != FIELD:
            method, how["format"] = "put", upload.format
            # No more of its name, so that one file sent under two names is one upload.
            how["filename"] = PurePath(upload.filename).suffix
        info: SceneInfo = await self._store.call(
            method,
            context,
            upload.name,
            upload.data,
            attribution=upload.attribution,
            replace=upload.replace,
            **how,
        )
        return info

    async def get(self, name: str, context: RequestContext) -> SceneInfo:
        """One scene.

        Raises:
            NotFound: `scene_not_found`, `not_configured`.
        """
        info: SceneInfo = await self._store.call("get", context, check_name(name))
        return info

    async def list_scenes(self, context: RequestContext, after: str | None, limit: int) -> Sequence[SceneInfo]:
        """Scenes by name, from the one after `after` on."""
        found: Sequence[SceneInfo] = await self._store.call("list_scenes", context, after, limit)
        return found

    async def delete(self, name: str, context: RequestContext) -> None:
        """Deletes a scene with all its versions."""
        await self._store.delete(context, check_name(name))

    async def edit(
        self, name: str, edits: Sequence[Edit], base_version: int | None, context: RequestContext
    ) -> SceneInfo:
        """The scene with a version more.

        Args:
            base_version: the version that the client has seen; None for whichever is the current one.

        Raises:
            Conflict: `version_conflict`: the current version is another one.
        """
        base = base_version or (await self.get(name, context)).current
        info: SceneInfo = await self._store.call("edit", context, check_name(name), tuple(edits), base)
        return info

    async def undo(self, name: str, base_version: int | None, context: RequestContext) -> SceneInfo:
        """The scene as it was before its last edit.

        Raises:
            Conflict: `nothing_to_undo`, `version_conflict`.
        """
        return await self._step("undo", name, base_version, context)

    async def redo(self, name: str, base_version: int | None, context: RequestContext) -> SceneInfo:
        """What `undo` took back.

        Raises:
            Conflict: `nothing_to_redo`, `version_conflict`.
        """
        return await self._step("redo", name, base_version, context)

    async def _step(self, method: str, name: str, base_version: int | None, context: RequestContext) -> SceneInfo:
        # Named, so that a call that is sent twice steps once.
        base = base_version or (await self.get(name, context)).current
        info: SceneInfo = await self._store.call(method, context, check_name(name), base)
        return info

    async def named(
        self, texts: Mapping[str, str], info: SceneInfo, version: Version, context: RequestContext
    ) -> dict[str, Selected]:
        """The Gaussians that texts name, each text by the field that it stands in; see `TextSelector.select`."""
        if len(texts) > _MOST_TEXTS:
            message = f"There are {len(texts)} texts; at most {_MOST_TEXTS} are looked for in one request."
            raise InvalidRequest(message, code="too_many_inputs", param=list(texts)[_MOST_TEXTS])
        return {param: await self._texts.select(text, info, version, context, param) for param, text in texts.items()}

    async def look_at(self, where: Selection, version: Version, context: RequestContext) -> tuple[Mask, Bounds | None]:
        """Which Gaussians of a version a selection takes, and the box around their centres; None around none.

        Raises:
            InvalidRequest: `invalid_selection`.
        """
        if version.ref.kind != "gaussians":
            raise InvalidRequest("A radiance field has no parts that could be selected.", code="unsupported_edit")
        centres = await self._centres.of(version.ref, context)
        return await asyncio.to_thread(_looked_at, where, centres)

    async def version(self, name: str, number: int | None, context: RequestContext) -> tuple[SceneInfo, Version]:
        """A scene and one of its versions, the current one when None.

        Raises:
            NotFound: `scene_not_found`, `version_not_found`.
        """
        found: tuple[SceneInfo, Version] = await self._store.call("resolve", context, check_name(name), number)
        return found

    async def base(self, name: str, number: int | None, context: RequestContext) -> tuple[SceneInfo, Version]:
        """The same for an edit of the version that a client has seen, which may be kept no more.

        Raises:
            NotFound: `scene_not_found`, `version_not_found`.
            Conflict: `version_conflict`.
        """
        try:
            return await self.version(name, number, context)
        except NotFound as error:
            if number is None or error.code != "version_not_found":
                raise
            info = await self.get(name, context)
            raise conflict(number, info) if number < info.current else error.at("base_version") from None

    async def export(self, name: str, version: int, format: ExportName, context: RequestContext) -> Artifact:
        """A file of a version, kept for a while.

        Raises:
            InvalidRequest: the scene has no file of that format.
        """
        artifact: Artifact = await self._store.call("export", context, check_name(name), version, format)
        return artifact

    async def artifact(self, name: str, artifact_id: str, context: RequestContext) -> Artifact:
        """A file that was made from the scene of that name, which may be gone by now.

        Raises:
            NotFound: `artifact_not_found`.
        """
        check_name(name)
        artifact: Artifact = await self._store.call("artifact", context, artifact_id)
        if artifact.scene != name:
            raise NotFound(f"There is no such file of scene {name!r}.", code="artifact_not_found", param="id")
        return artifact

    async def keep(self, name: str, filename: str, media_type: str, data: bytes, context: RequestContext) -> Artifact:
        """Stores a file that was made from the scene of that name."""
        artifact: Artifact = await self._store.call("add_artifact", context, name, filename, media_type, data)
        return artifact

    async def _read(self, key: str, offset: int, length: int, context: RequestContext) -> bytes:
        piece: bytes = await self._store.call("read", context, key, offset, min(CHUNK, length))
        return piece

    async def read(
        self, artifact_id: str, start: int, end: int, context: RequestContext
    ) -> AsyncGenerator[bytes, None]:
        """Bytes of an artifact, from `start` to `end`, the latter excluded, in pieces."""
        while start < end:
            piece = await self._read(artifact_id, start, end - start, context)
            if not piece:
                raise NotFound("The file is past its time and gone.", code="artifact_not_found", param="id")
            yield piece
            start += len(piece)


def _looked_at(where: Selection, centres: Float32) -> tuple[Mask, Bounds | None]:
    which = selected(where, centres)
    return mask_of(which), bounds_of(centres[which]) if which.any() else None


def is_name(text: str) -> bool:
    """Whether a scene may be called so."""
    return _NAME.fullmatch(text) is not None


def check_name(name: str) -> str:
    """A scene's name.

    Raises:
        InvalidRequest: `invalid_scene_name`.
    """
    if not is_name(name):
        raise InvalidRequest(
            "A scene's name has at most 63 of a-z, 0-9, '_', '.', '-', and begins with a letter or digit.",
            code="invalid_scene_name",
            param="name",
        )
    return name


def version_with(info: SceneInfo, digest: str) -> Version:
    """The newest version with that content.

    Raises:
        NotFound: `version_not_found`.
    """
    for version in reversed(info.versions):
        if version.ref.digest == digest:
            return version
    message = f"Scene {info.name!r} keeps no version with this digest."
    raise NotFound(message, code="version_not_found", param="digest")


def version_of(info: SceneInfo, number: int | None) -> Version:
    """The version of that number, the current one when None.

    Raises:
        NotFound: `version_not_found`.
    """
    for version in info.versions:
        if version.number == (number or info.current):
            return version
    message = f"Scene {info.name!r} keeps no version {number}."
    raise NotFound(message, code="version_not_found", param="version")
