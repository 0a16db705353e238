"""Scenes as fields of requests and answers."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, Literal

from fastapi import Request
from pydantic import Field

from deployments.rendering.messages import Encoding, ViewFiles
from deployments.scenes.types import Artifact, Bounds, SceneInfo, Version
from deployments.splat.edits_types import Mask
from deployments.splat.formats.names import FORMATS, FormatName
from serve.context import RequestContext
from serve.errors import ArgusError, InvalidRequest, UnsupportedMedia
from serve.media.source import MediaBytes
from serve.protocol.bodies import Fields, validate
from serve.protocol.body_stream import read_body
from serve.protocol.edge import error_fields
from serve.protocol.forms import read_upload_form
from serve.protocol.scene_cameras import Triple
from serve.scenes.rendering import Drawn, Shot
from serve.scenes.selection import Selected
from serve.scenes.service import Upload

PICTURE_TYPES: Final[dict[Encoding, str]] = {
    "png": "image/png",
    "jpeg": "image/jpeg",
    "webp": "image/webp",
    "exr": "image/x-exr",
    "npy": "application/x-npy",
}
ZIP_TYPES: Final = ("application/zip", "application/x-zip-compressed")
"""As browsers and clients call a zip file; the second on Windows."""
# A scene's file as it is: of no type, or, as its container, a SOG file and an SPZ file.
_RAW_TYPES: Final = ("application/octet-stream", *ZIP_TYPES, "application/gzip")
_LISTED: Final = 100


class UploadFields(Fields):
    """A scene's file, and what is known of it."""

    name: str = Field(description="Of the scene: at most 63 of a-z, 0-9, '_', '.', '-'.")
    format: FormatName | Literal["nerf"] | None = Field(
        None, description=f"One of {', '.join(FORMATS)}, nerf; told by the file's content when left out."
    )
    up: Triple | None = Field(None, description="Direction that is up in it; its format's own when left out.")
    attribution: str = Field("", max_length=2000, description="Who made it, and under which licence.")
    replace: bool = Field(False, description="A scene of that name gives way.")


class ListFields(Fields):
    """Which scenes to list."""

    after: str | None = Field(None, max_length=128, description="Those after this name.")
    limit: int = Field(20, ge=1, le=_LISTED, description="Most scenes.")


class StepFields(Fields):
    """Which edit to take back, or to make again."""

    base_version: int | None = Field(None, ge=1, description="The current version, as the client knows it.")


async def read_upload(request: Request, limit: int) -> Upload:
    """A scene's file: a part of a form, or the body itself with the fields in the query.

    Raises:
        InvalidRequest: a field that is missing, unknown or wrong; no file, or several.
        PayloadTooLarge: more than `limit` bytes.
        UnsupportedMedia: a body of another kind.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        fields, file = await _form(request, limit)
    elif kind in _RAW_TYPES or kind.startswith("model/"):
        fields, file = dict(request.query_params), MediaBytes(await read_body(request, limit, upload=True), kind)
    else:
        raise UnsupportedMedia(
            f"Content type {kind or 'none'!r} is not accepted; send multipart/form-data, {', '.join(_RAW_TYPES)} or "
            "model/*.",
            param="content-type",
        )
    if isinstance(up := fields.get("up"), str):
        fields["up"] = _numbers(up)
    given = validate(fields, UploadFields, text=True)
    if not file.data:
        raise InvalidRequest("The file is empty.", code="missing_field", param="file")
    filename = file.filename or given.name  # of a body without one: a scene may well be named as its file was
    return Upload(given.name, file.data, given.format, filename, given.up, given.attribution, given.replace)


async def _form(request: Request, limit: int) -> tuple[dict[str, Any], MediaBytes]:
    fields: dict[str, Any] = {}
    files: list[MediaBytes] = []
    for name, value in await read_upload_form(request, limit):
        if isinstance(value, MediaBytes):
            if name not in ("file", "scene"):
                message = f"File field {name[:80]!r} is not known; send the scene as 'file'."
                raise InvalidRequest(message, code="unknown_field", param=name[:80])
            files.append(value)
        elif name in fields:
            raise InvalidRequest(f"Field {name[:80]!r} stands twice.", code="invalid_field", param=name[:80])
        else:
            fields[name] = value
    if len(files) != 1:
        code = "too_many_files" if files else "missing_field"
        raise InvalidRequest("Send one file.", code=code, param="file")
    return fields, files[0]


def _numbers(text: str) -> object:
    """`0,-1,0` or `[0, -1, 0]`, as forms and queries carry it; what is no such list is left as it is."""
    try:
        return [float(part) for part in text.strip().removeprefix("[").removesuffix("]").split(",")]
    except ValueError:
        return text


def scene_object(info: SceneInfo) -> dict[str, Any]:
    """A scene as clients see it."""
    shown = info.shown
    return {
        "object": "scene",
        "name": info.name,
        "kind": info.kind,
        "source": info.source,
        "attribution": info.attribution,
        "up": info.up,
        "version": info.current,
        "versions": [version_object(version) for version in info.versions],
        "digest": shown.ref.digest,
        "bytes": shown.ref.nbytes,
        "gaussians": shown.count,
        "sh_degree": shown.sh_degree,
        "motion_s": shown.ref.motion_s,
        "bounds": bounds_object(shown.bounds),
        "created_at": time_of(info.created),
        "updated_at": time_of(info.updated),
    }


def version_object(version: Version) -> dict[str, Any]:
    """One state of a scene."""
    return {
        "version": version.number,
        "edit": version.edit,
        "digest": version.ref.digest,
        "bytes": version.ref.nbytes,
        "gaussians": version.count,
        "created_at": time_of(version.created),
    }


def bounds_object(bounds: Bounds) -> dict[str, Any]:
    """Where a scene is."""
    return {"min": bounds.least, "max": bounds.most, "centre": bounds.centre, "radius": bounds.radius}


def selection_object(
    info: SceneInfo,
    version: Version,
    mask: Mask,
    bounds: Bounds | None,
    found: Mapping[str, Selected],
    *,
    whole: bool,
) -> dict[str, Any]:
    """What a selection takes.

    Args:
        whole: the mask itself is wanted.
    """
    shown: dict[str, Any] = {
        "object": "scene.selection",
        "scene": info.name,
        "version": version.number,
        "gaussians": int.from_bytes(mask.bits).bit_count(),
        "of": mask.count,
        "bounds": None if bounds is None else bounds_object(bounds),
        "texts": [
            {
                "param": param,
                "model": one.model,
                "gaussians": one.count,
                "share": one.share,
                "found_in": one.pictures,
                "looked": one.looked,
            }
            for param, one in found.items()
        ],
    }
    if whole:
        shown["mask"] = {"bits": base64.b64encode(mask.bits).decode(), "count": mask.count}
    return shown


def artifact_object(artifact: Artifact) -> dict[str, Any]:
    """A file that was made from a scene, and where it can be fetched."""
    return {
        "object": "scene.artifact",
        "id": artifact.id,
        "filename": artifact.filename,
        "media_type": artifact.media_type,
        "bytes": artifact.nbytes,
        "expires_at": time_of(artifact.expires),
        "url": f"/v1/scenes/{artifact.scene}/artifacts/{artifact.id}",
    }


def render_object(
    drawn: Drawn, shot: Shot, info: SceneInfo, version: Version, context: RequestContext
) -> dict[str, Any]:
    """Pictures of several views or outputs, in base64."""
    return {
        "object": "render",
        "scene": info.name,
        "version": version.number,
        "digest": version.ref.digest,
        "model": drawn.model,
        "width": shot.width,
        "height": shot.height,
        "media_type": PICTURE_TYPES[shot.encoding],
        "views": [
            {"index": index, "error": error_fields(view, context.request_id)}
            if isinstance(view, ArgusError)
            else {"index": index, "samples": view.samples, "pictures": _pictures(view)}
            for index, view in enumerate(drawn.views)
        ],
        "request_id": context.request_id,
    }


def _pictures(view: ViewFiles) -> dict[str, str]:
    return {output: base64.b64encode(bytes(file)).decode() for output, file in view.files.items()}


def time_of(seconds: float) -> str:
    """RFC 3339, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
