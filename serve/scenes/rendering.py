"""Pictures of scenes: a request checked against the scene and the renderer that will draw it, and sent there."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from deployments.rendering.camera import Camera
from deployments.rendering.encode import check_size
from deployments.rendering.messages import (
    Encoding,
    FilmRequest,
    FilmSegment,
    Output,
    RasterOptions,
    RenderRequest,
    RenderResult,
    SceneKind,
    ViewFiles,
)
from deployments.scenes.types import SceneInfo, Version
from serve.calls import Calls
from serve.config.cluster import ClusterFile
from serve.config.scene_models import NerfModel, RendererModel, SplatModel
from serve.context import RequestContext
from serve.errors import ArgusError, InvalidRequest, ModelFailed, NotFound
from serve.scenes.cameras import View, placed

# Pixels of all views of a request together, in the largest views that its renderer draws.
_VIEWS_AT_ONCE: Final = 4
# The kind of model that draws a kind of scene.
_RENDERERS: Final[Mapping[SceneKind, type[RendererModel]]] = {"gaussians": SplatModel, "nerf": NerfModel}
_PLAIN: Final = RasterOptions()


@dataclass(frozen=True, slots=True)
class Shot:
    """Pictures that a client wants.

    Attributes:
        views: at least one, each with the request's field that it stands in.
        width, height: of every picture, in pixels.
        model: that draws; the first of the scene's kind when None.
        outputs, encoding, options, time_s, quality, effort: see `deployments.rendering.messages.RenderRequest`.
    """

    views: tuple[tuple[str, View], ...]
    width: int = 640
    height: int = 480
    outputs: tuple[Output, ...] = ("rgb",)
    encoding: Encoding = "png"
    options: RasterOptions = _PLAIN
    time_s: float = 0.0
    quality: int = 90
    effort: float = 1.0
    model: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """An entry of `views` is the error that this view alone met.

    Attributes:
        took_s: see `deployments.rendering.messages.RenderResult`.
    """

    model: str
    cameras: tuple[Camera, ...]
    views: tuple[ViewFiles | ArgusError, ...]
    took_s: float


class SceneRenderer:
    """See the module's text.

    Args:
        store: name of the store whose scenes are drawn; None when there is none.
    """

    def __init__(self, cluster: ClusterFile, calls: Calls, store: str | None) -> None:
        self._calls = calls
        self._models: dict[str, RendererModel] = {
            name: model
            for name, model in cluster.models.items()
            if isinstance(model, RendererModel) and model.scenes == store
        }
        self._most_views = cluster.limits.max_inputs

    def pick(self, kind: SceneKind, name: str | None = None) -> str:
        """The named model if it draws scenes of that kind, else the first that does.

        Raises:
            NotFound: `not_configured`: no model does; `model_not_found`.
            InvalidRequest: `task_not_supported`: the named one does not.
        """
        wanted = _RENDERERS[kind]
        if name is not None:
            if name not in self._models:
                known = ", ".join(self._models) or "none"
                message = f"No renderer is named {name[:80]!r}; there are {known}."
                raise NotFound(message, code="model_not_found", param="model")
            if not isinstance(self._models[name], wanted):
                message = f"Model {name!r} does not draw this scene, which is of kind {kind}."
                raise InvalidRequest(message, code="task_not_supported", param="model")
            return name
        for candidate, model in self._models.items():
            if isinstance(model, wanted):
                return candidate
        raise NotFound(
            f"No model that draws scenes of kind {kind} is in this cluster; this scene is not drawn here.",
            code="not_configured",
        )

    def check(self, shot: Shot, model: str, *, whole: bool = False) -> None:
        """Refuses what the model would not draw.

        Args:
            whole: all views together may be as large as one, since they travel as they are.

        Raises:
            InvalidRequest: `too_many_inputs`, `too_many_pixels`, `invalid_field`.
        """
        settings = self._models[model]
        most_views = min(settings.max_views, self._most_views)
        if len(shot.views) > most_views:
            message = f"There are {len(shot.views)} cameras; at most {most_views} are drawn in one request."
            raise InvalidRequest(message, code="too_many_inputs", param="cameras")
        pixels = shot.width * shot.height
        if pixels > settings.max_pixels:
            message = f"{shot.width} x {shot.height} are {pixels:,} pixels; a view has at most {settings.max_pixels:,}."
            raise InvalidRequest(message, code="too_many_pixels", param="width")
        most = settings.max_pixels * (1 if whole else _VIEWS_AT_ONCE)
        if pixels * len(shot.views) > most:
            message = (
                f"The views have {pixels * len(shot.views):,} pixels together; at most {most:,} are drawn at once."
            )
            raise InvalidRequest(message, code="too_many_pixels", param="cameras")
        if shot.encoding in ("jpeg", "webp") and "depth" in shot.outputs:
            message = f"Depth is not written as {shot.encoding}; png, exr and npy hold it."
            raise InvalidRequest(message, code="invalid_field", param="format")
        try:
            check_size(shot.width, shot.height, shot.encoding)
        except InvalidRequest as error:
            raise error.at("format") from None

    async def draw(
        self, shot: Shot, info: SceneInfo, version: Version, context: RequestContext, *, whole: bool = False
    ) -> Drawn:
        """The pictures.

        Args:
            whole: see `check`.

        Raises:
            ArgusError: what is wrong with the request as a whole.
        """
        model = self.pick(info.kind, shot.model)
        self.check(shot, model, whole=whole)
        cameras = tuple(
            placed(view, version.bounds, info.up, shot.width, shot.height, param) for param, view in shot.views
        )
        request = RenderRequest(
            version.ref,
            cameras,
            shot.outputs,
            shot.encoding,
            sized(shot.options, version.bounds.radius),
            shot.time_s,
            shot.quality,
            shot.effort,
        )
        result = await self.ask(model, request, context)
        params = [param for param, _ in shot.views]
        return Drawn(model, cameras, blamed(result.views, params), result.took_s)

    def most_views(self, model: str) -> int:
        """Cameras that a request to it may hold."""
        return self._models[model].max_views

    def longest_side(self, model: str) -> int:
        """Of a square picture, in pixels."""
        return math.isqrt(self._models[model].max_pixels)

    async def film(self, model: str, request: FilmRequest, context: RequestContext) -> FilmSegment:
        """A part of a film; see `ask`."""
        return (await self._calls.task(model, request, context, affinity=request.scene.digest)).value

    async def ask(self, model: str, request: RenderRequest, context: RequestContext) -> RenderResult:
        """What a renderer answers; a scene goes where it was drawn before."""
        return (await self._calls.task(model, request, context, affinity=request.scene.digest)).value


def sized(options: RasterOptions, radius: float) -> RasterOptions:
    """For what is so large: before something small, cameras stand nearer than the near plane is by default.

    Args:
        radius: of the sphere around what is looked at.
    """
    return replace(options, near=options.near * min(1.0, radius or 1.0))


def blamed(views: Sequence[ViewFiles | Exception], params: Sequence[str]) -> tuple[ViewFiles | ArgusError, ...]:
    """Errors as ours, each with the field of its view."""
    return tuple(_own(view, param) for view, param in zip(views, params, strict=True))


def _own(view: ViewFiles | Exception, param: str) -> ViewFiles | ArgusError:
    if isinstance(view, ViewFiles):
        return view
    if isinstance(view, ArgusError):
        return view if view.param else view.at(param)
    return ModelFailed(str(view), param=param)
