"""`/v1/scenes`: 3D scenes, kept in versions, drawn from any camera, edited, and given out in other formats."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping

from fastapi import APIRouter, Request, Response
from pydantic import Field

from deployments.scenes.types import SceneInfo, Version
from deployments.splat.edits_types import Edit
from deployments.splat.formats.names import EXPORTS, MEDIA_TYPES, ExportName
from serve.context import RequestContext
from serve.errors import ArgusError, raise_if_all_failed
from serve.protocol import routes
from serve.protocol.bodies import Fields, json_object, read_json, read_query, validate
from serve.protocol.body_stream import context_of, read_body
from serve.protocol.native import json
from serve.protocol.openapi import ERRORS, RANGES, file_response, json_body, json_response, query, upload_body
from serve.protocol.scene_bodies import (
    PICTURE_TYPES,
    ListFields,
    StepFields,
    UploadFields,
    read_upload,
    render_object,
    scene_object,
    selection_object,
    version_object,
)
from serve.protocol.scene_cameras import RenderFields, ThumbnailFields
from serve.protocol.scene_edits import EditsFields, SelectFields, selection, texts_in, texts_of
from serve.protocol.scene_edits import edit as edit_of
from serve.protocol.scene_files import IMMUTABLE, REVALIDATED, download, unchanged
from serve.scenes.rendering import Shot
from serve.scenes.selection import Selected
from serve.scenes.service import SceneService, version_with


class ExportFields(Fields):
    """A file of a scene."""

    format: ExportName = Field("ply", description=f"One of {', '.join(EXPORTS)}.")
    version: int | None = Field(None, ge=1, description="Of the scene; the current one when left out.")
    digest: str | None = Field(
        None, max_length=64, description="The version with this digest; the answer may then be kept for good."
    )


def build(service: SceneService) -> APIRouter:
    """The routes, over the scene service."""
    router = routes.router("/v1/scenes", "scenes")
    _add_keeping(router, service)
    _add_versions(router, service)
    _add_drawing(router, service)
    _add_files(router, service)
    return router


def _add_keeping(router: APIRouter, service: SceneService) -> None:
    most = service.limits.max_upload_bytes

    @router.post(
        "",
        status_code=201,
        summary="Put a scene in",
        openapi_extra=upload_body(UploadFields, "application/octet-stream", "model/ply", "application/zip"),
        responses={201: json_response("The scene.", {})[200], **ERRORS},
    )
    async def put(request: Request) -> Response:
        upload = await read_upload(request, most)
        info = await service.put(upload, context_of(request))
        response = json(scene_object(info), 201)
        response.headers["location"] = f"/v1/scenes/{info.name}"
        return response

    @router.get(
        "",
        summary="Every scene",
        openapi_extra=query(ListFields),
        responses=json_response("A list of scenes by name.", ERRORS),
    )
    async def list_scenes(request: Request) -> Response:
        fields = read_query(request, ListFields)
        found = await service.list_scenes(context_of(request), fields.after, fields.limit + 1)
        data = [scene_object(info) for info in found[: fields.limit]]
        return json({"object": "list", "data": data, "has_more": len(found) > fields.limit})

    @router.get("/{name}", summary="One scene", responses=json_response("The scene.", ERRORS))
    async def get(name: str, request: Request) -> Response:
        return json(scene_object(await service.get(name, context_of(request))))

    @router.delete("/{name}", summary="Delete a scene", responses=json_response("What was deleted.", ERRORS))
    async def delete(name: str, request: Request) -> Response:
        await service.delete(name, context_of(request))
        return json({"object": "scene", "name": name, "deleted": True})


def _add_versions(router: APIRouter, service: SceneService) -> None:
    most = service.limits.max_body_bytes

    @router.get("/{name}/versions", summary="A scene's versions", responses=json_response("A list.", ERRORS))
    async def versions(name: str, request: Request) -> Response:
        info = await service.get(name, context_of(request))
        data = [{**version_object(version), "current": version.number == info.current} for version in info.versions]
        return json({"object": "list", "data": data})

    @router.post(
        "/{name}/edits",
        summary="Edit a scene",
        openapi_extra=json_body(EditsFields),
        responses=json_response("The scene, with a version more.", ERRORS),
    )
    async def edit(name: str, request: Request) -> Response:
        context = context_of(request)
        fields = await read_json(request, most, EditsFields)
        texts = texts_in(fields.edits)
        info, base = await service.base(name, fields.base_version, context)
        found = await service.named(texts, info, base, context)
        # In a thread, as below: a mask, or several pictures, are megabytes of base64.
        edits = await asyncio.to_thread(_edits, fields, found)
        return json(scene_object(await service.edit(name, edits, base.number, context)))

    @router.post(
        "/{name}/select",
        summary="What a selection would take",
        openapi_extra=json_body(SelectFields),
        responses=json_response("How many Gaussians, where they are and, on wish, which.", ERRORS),
    )
    async def select(name: str, request: Request) -> Response:
        context = context_of(request)
        fields = await read_json(request, most, SelectFields)
        texts = dict(texts_of(fields.where, "where"))
        info, version = await service.version(name, fields.version, context)
        found = await service.named(texts, info, version, context)
        where = await asyncio.to_thread(selection, fields.where, "where", lambda param, _: found[param].mask)
        mask, bounds = await service.look_at(where, version, context)
        return json(selection_object(info, version, mask, bounds, found, whole=fields.mask))

    @router.post(
        "/{name}/undo",
        summary="Take the last edit back",
        openapi_extra=json_body(StepFields),
        responses=json_response("The scene.", ERRORS),
    )
    async def undo(name: str, request: Request) -> Response:
        fields = await _step(request, most)
        return json(scene_object(await service.undo(name, fields.base_version, context_of(request))))

    @router.post(
        "/{name}/redo",
        summary="Make an edit again that was taken back",
        openapi_extra=json_body(StepFields),
        responses=json_response("The scene.", ERRORS),
    )
    async def redo(name: str, request: Request) -> Response:
        fields = await _step(request, most)
        return json(scene_object(await service.redo(name, fields.base_version, context_of(request))))


def _edits(fields: EditsFields, found: Mapping[str, Selected]) -> list[Edit]:
    return [edit_of(one, f"edits[{i}]", lambda param, _: found[param].mask) for i, one in enumerate(fields.edits)]


async def _step(request: Request, most: int) -> StepFields:
    """Its one field may be left out, and the body with it."""
    body = await read_body(request, most)
    return validate(json_object(body) if body else {}, StepFields)


def _add_drawing(router: APIRouter, service: SceneService) -> None:
    pictures = tuple(PICTURE_TYPES.values())

    @router.post(
        "/{name}/render",
        summary="Pictures of a scene",
        openapi_extra=json_body(RenderFields),
        responses=file_response(
            "One output of one camera is the picture itself; several are JSON with the pictures in base64.",
            pictures,
            ERRORS,
            "application/json",
        ),
    )
    async def render(name: str, request: Request) -> Response:
        context = context_of(request)
        fields = await read_json(request, service.limits.max_body_bytes, RenderFields)
        shot = fields.shot(fields.views())
        info, version = await service.version(name, fields.version, context)
        return await _drawn(service, shot, info, version, context)

    @router.get(
        "/{name}/render",
        summary="A picture of a scene, as a link",
        openapi_extra=query(ThumbnailFields),
        responses=file_response("The picture, seen from an orbit around the scene.", pictures, ERRORS),
    )
    async def thumbnail(name: str, request: Request) -> Response:
        context = context_of(request)
        fields = read_query(request, ThumbnailFields)
        shot = fields.shot(fields.views())
        info, version = await service.version(name, fields.version, context)
        etag = _etag(fields, info, version)
        headers = {"etag": etag, "cache-control": REVALIDATED}
        if unchanged(request, etag):
            return Response(status_code=304, headers=headers)
        response = await _drawn(service, shot, info, version, context)
        response.headers.update(headers)
        return response


async def _drawn(
    service: SceneService, shot: Shot, info: SceneInfo, version: Version, context: RequestContext
) -> Response:
    drawn = await service.renderer.draw(shot, info, version, context)
    raise_if_all_failed(drawn.views)
    headers = {"x-argus-scene-version": str(version.number), "x-argus-scene-digest": version.ref.digest}
    first = drawn.views[0]
    if len(drawn.views) == 1 and len(shot.outputs) == 1 and not isinstance(first, ArgusError):
        picture = bytes(first.files[shot.outputs[0]])
        return Response(picture, media_type=PICTURE_TYPES[shot.encoding], headers=headers)
    response = await asyncio.to_thread(lambda: json(render_object(drawn, shot, info, version, context)))
    response.headers.update(headers)
    return response


def _etag(fields: ThumbnailFields, info: SceneInfo, version: Version) -> str:
    """Of a picture: what is drawn, and how. Renderers give the same bytes for the same request."""
    asked = fields.model_dump_json(exclude={"version"})
    whole = f"{version.ref.digest} {info.up} {version.bounds} {asked}"
    return f'"{hashlib.sha256(whole.encode()).hexdigest()[:32]}"'


def _add_files(router: APIRouter, service: SceneService) -> None:
    @router.get(
        "/{name}/export",
        summary="A scene as a file",
        openapi_extra=query(ExportFields),
        responses=file_response(
            "The file; ranges are answered.", tuple(dict.fromkeys(MEDIA_TYPES.values())), ERRORS | RANGES
        ),
    )
    async def export(name: str, request: Request) -> Response:
        context = context_of(request)
        fields = read_query(request, ExportFields)
        info, version = await service.version(name, fields.version, context)
        if fields.digest is not None:
            version = version_with(info, fields.digest)
        etag = f'"{version.ref.digest}.{fields.format}"'
        cache = REVALIDATED if fields.digest is None else IMMUTABLE
        if unchanged(request, etag):
            return Response(status_code=304, headers={"etag": etag, "cache-control": cache})
        artifact = await service.export(name, version.number, fields.format, context)
        return download(service, artifact, request, etag, cache)

    @router.get(
        "/{name}/artifacts/{id}",
        summary="A file that was made from a scene",
        responses=file_response("The file; ranges are answered.", ("application/octet-stream",), ERRORS | RANGES),
    )
    async def artifact(name: str, id: str, request: Request) -> Response:
        found = await service.artifact(name, id, context_of(request))
        return download(service, found, request, f'"{found.id}"', IMMUTABLE)
