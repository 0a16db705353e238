"""Which Gaussians a text names: found in pictures from around the scene, and lifted from there.

A model of the cluster that knows texts marks what it takes for the named thing in each picture. Each Gaussian then
votes with what it gives to the marked pixels, as a share of what it gives to all pixels of those pictures (its blending
weights, as in FlashSplat, Shen et al. 2024): what stands behind a mark in one picture stands beside it in another.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from deployments.florence2.messages import Answer, SeenImage, VisionRequest, VisionTask
from deployments.messages import ClassifyRequest, RawImage, Scores
from deployments.rendering.camera import Camera
from deployments.rendering.messages import CoverRequest, RasterOptions, RenderRequest, ViewFiles
from deployments.scenes.types import SceneInfo, Version
from deployments.splat.edits_select import mask_of
from deployments.splat.edits_types import Mask
from serve.calls import Calls
from serve.context import RequestContext
from serve.dataplane import CLASSIFY, VISION, DataPlane
from serve.errors import ArgusError, InvalidRequest, NotFound
from serve.scenes.cameras import FOV_DEG, Orbit, View, fitting_radius, placed
from serve.scenes.centres import Centres, Float32
from serve.scenes.rendering import SceneRenderer, blamed, sized

Bools = npt.NDArray[np.bool_]
UInt8 = npt.NDArray[np.uint8]

# From around the scene, mostly from the side, which is how photos of things are taken.
_AZIMUTHS: Final = 6
_ELEVATIONS: Final = (8.0, 30.0)
# Nearer than where all of it is seen: what is looked for is larger then.
_NEARER: Final = 0.8
_SIDE: Final = 384
_WHITE: Final = RasterOptions(background=(1.0, 1.0, 1.0))
# Pictures in which the thing must be marked; one alone would not say how deep it is.
_LEAST_FOUND: Final = 2
# A mark of more than this share of a picture marks no thing in it.
_LARGEST_MARK: Final = 0.6
# Least share of a Gaussian's pixels that are marked.
_VOTE: Final = 0.6
# Least share of what is marked that the selected Gaussians make up.
_LEAST_SHARE: Final = 0.4
_NOTHING: Final[Bools] = np.zeros(0, bool)
# A Gaussian that gives less than this share of a pixel to all pictures was not seen.
_UNSEEN: Final = 1e-3
# Windows of the search without a model that says where: their side, and how far they lie apart, in sides of a picture.
_WINDOW, _STEP = 1 / 3, 1 / 6
_OTHERS: Final = ("background", "something else")


@dataclass(frozen=True, slots=True, eq=False)
class Selected:
    """What a text names.

    Attributes:
        share: of what was marked in the pictures that these Gaussians make up.
        pictures: in which it was found, of `looked`.
        model: that found it.
    """

    mask: Mask
    count: int
    share: float
    pictures: int
    looked: int
    model: str


class Finder(Protocol):
    """A model that marks in pictures what a text names."""

    name: str

    async def find(self, pictures: Sequence[UInt8], text: str, context: RequestContext) -> list[Bools | None]:
        """One mark (height, width) a picture (height, width, 3); None where it is not seen."""
        ...


class TextSelector:
    """See the module's text."""

    def __init__(self, plane: DataPlane, calls: Calls, renderer: SceneRenderer, centres: Centres) -> None:
        self._plane = plane
        self._calls = calls
        self._renderer = renderer
        self._centres = centres

    async def select(
        self, text: str, info: SceneInfo, version: Version, context: RequestContext, param: str
    ) -> Selected:
        """The Gaussians that the text names.

        Args:
            param: the request's field, for messages.

        Raises:
            NotFound: `nothing_found`; `not_configured`: no model here knows texts.
            InvalidRequest: `empty_text`, `text_too_long`; the scene has no Gaussians.
        """
        self._check(text, info, param)
        finder = self._finder()
        model = self._renderer.pick(info.kind)
        side = min(_SIDE, self._renderer.longest_side(model))
        cameras = [placed(view, version.bounds, info.up, side, side, param) for view in _around(version)]
        views = await self._drawn(model, cameras, version, context)
        good = [
            (camera, np.asarray(view.files["rgb"], np.uint8)) for camera, view in views if isinstance(view, ViewFiles)
        ]
        if not good:
            raise next(view for _, view in views if isinstance(view, ArgusError))
        marks = await finder.find([pixels for _, pixels in good], text, context)
        found = [
            (camera, mark)
            for (camera, _), mark in zip(good, marks, strict=True)
            if mark is not None and 0 < mark.mean() < _LARGEST_MARK
        ]
        which, share = _NOTHING, 0.0
        if len(found) >= _LEAST_FOUND:
            which, share = await self._lifted(found, model, version, context)
        if not which.any() or share < _LEAST_SHARE:
            raise NotFound(
                f"Nothing in the scene was found by {text[:80]!r}: model {finder.name!r} marks something in "
                f"{len(found)} of {len(good)} pictures from around the scene, and {share:.0%} of that is at one place "
                "in space.",
                code="nothing_found",
                param=param,
            )
        return Selected(mask_of(which), int(which.sum()), share, len(found), len(good), finder.name)

    def _check(self, text: str, info: SceneInfo, param: str) -> None:
        if not text.strip():
            raise InvalidRequest("The text is empty.", code="empty_text", param=param)
        most = self._plane.limits.max_text_chars
        if len(text) > most:
            message = f"The text has {len(text)} characters; at most {most} are accepted."
            raise InvalidRequest(message, code="text_too_long", param=param)
        if info.kind != "gaussians":
            message = "A radiance field has no parts that could be selected."
            raise InvalidRequest(message, code="unsupported_edit", param=param)

    def _finder(self) -> Finder:
        for task, kind in ((VISION, _Florence), (CLASSIFY, _Clip)):
            for card in self._plane.models():
                # Not the hosted ones: a selection would send them many pictures.
                if task in card.tasks and card.kind in ("florence2", "clip"):
                    return kind(self._calls, card.name)
        message = "No model of kind florence2 or clip is in this cluster; texts select nothing here."
        raise NotFound(message, code="not_configured")

    async def _drawn(
        self, model: str, cameras: Sequence[Camera], version: Version, context: RequestContext
    ) -> list[tuple[Camera, ViewFiles | ArgusError]]:
        drawn: list[tuple[Camera, ViewFiles | ArgusError]] = []
        step = self._renderer.most_views(model)
        options = sized(_WHITE, version.bounds.radius)
        for start in range(0, len(cameras), step):
            some = tuple(cameras[start : start + step])
            request = RenderRequest(version.ref, some, encoding="raw", options=options)
            result = await self._renderer.ask(model, request, context)
            drawn += zip(some, blamed(result.views, ["scene"] * len(some)), strict=True)
        return drawn

    async def _lifted(
        self, found: Sequence[tuple[Camera, Bools]], model: str, version: Version, context: RequestContext
    ) -> tuple[Bools, float]:
        """(N,): which Gaussians have most of their pixels in the marks, and their share of what is marked: marks on
        something that is there agree in space. Gaussians that no picture shows, inside of things, go with those around
        them."""
        centres = await self._centres.of(version.ref, context)
        inside, total = np.zeros(len(centres), np.float32), np.zeros(len(centres), np.float32)
        step = self._renderer.most_views(model)
        near = sized(_WHITE, version.bounds.radius).near
        for start in range(0, len(found), step):
            cameras, marks = zip(*found[start : start + step], strict=True)
            request = CoverRequest(version.ref, cameras, marks, near=near)
            called = await self._calls.task(model, request, context, affinity=version.ref.digest)
            inside, total = inside + called.value.inside, total + called.value.total
        return await asyncio.to_thread(_voted, centres, inside, total)


def _voted(centres: Float32, inside: Float32, total: Float32) -> tuple[Bools, float]:
    """See `TextSelector._lifted`.

    Args:
        centres: (N, 3).
        inside, total: (N,): what each Gaussian gives to the marks, and to all pixels.
    """
    seen = total > _UNSEEN
    which: Bools = seen & (inside >= _VOTE * total)
    if not which.any():
        return which, 0.0
    share = float(inside[which].sum() / inside.sum())
    least, most = np.percentile(centres[which], (5, 95), axis=0)
    within = ((centres >= least) & (centres <= most)).all(axis=1)
    return np.asarray(which | (within & ~seen)), share


def _around(version: Version) -> list[View]:
    radius = _NEARER * fitting_radius(version.bounds, FOV_DEG, 1.0)
    return [
        Orbit(360 * (turn + row / 2) / _AZIMUTHS, elevation, radius)
        for row, elevation in enumerate(_ELEVATIONS)
        for turn in range(_AZIMUTHS)
    ]


class _Florence:
    """The outline of what a text refers to; where none is given, what detection finds, boxes marked whole."""

    _TASKS = ("referring-segmentation", "open-vocabulary-detection")

    def __init__(self, calls: Calls, name: str) -> None:
        self._calls = calls
        self.name = name

    async def find(self, pictures: Sequence[UInt8], text: str, context: RequestContext) -> list[Bools | None]:
        """See `Finder.find`."""
        images = tuple(RawImage(picture) for picture in pictures)
        request = VisionRequest(images, tuple(VisionTask(task, text) for task in self._TASKS))
        result = (await self._calls.task(self.name, request, context)).value
        return [_mark(image, picture.shape[:2]) for image, picture in zip(result.images, pictures, strict=True)]


class _Clip:
    """Windows of a picture against the text: coarse, for clusters without a model that says where things are."""

    def __init__(self, calls: Calls, name: str) -> None:
        self._calls = calls
        self.name = name

    async def find(self, pictures: Sequence[UInt8], text: str, context: RequestContext) -> list[Bools | None]:
        """See `Finder.find`."""
        labels = (text, *(other for other in _OTHERS if other != text))
        return [await self._search(picture, labels, context) for picture in pictures]

    async def _search(self, picture: UInt8, labels: tuple[str, ...], context: RequestContext) -> Bools | None:
        height, width = picture.shape[:2]
        side, step = round(_WINDOW * min(height, width)), round(_STEP * min(height, width))
        corners = [(y, x) for y in range(0, height - side + 1, step) for x in range(0, width - side + 1, step)]
        windows = tuple(RawImage(np.ascontiguousarray(picture[y : y + side, x : x + side])) for y, x in corners)
        result = (await self._calls.classify(self.name, ClassifyRequest(windows, labels), context)).value
        total, count = np.zeros((height, width)), np.zeros((height, width))
        for (y, x), scores in zip(corners, result.images, strict=True):
            if isinstance(scores, Scores):
                total[y : y + side, x : x + side] += scores.probabilities[0]
                count[y : y + side, x : x + side] += 1
        mark: Bools = total > 0.5 * np.maximum(count, 1)
        return mark if mark.any() else None


def _mark(image: SeenImage | Exception, size: tuple[int, ...]) -> Bools | None:
    answers = image.answers if isinstance(image, SeenImage) else ()
    canvas = Image.new("1", (size[1], size[0]))
    draw = ImageDraw.Draw(canvas)
    for answer in answers:
        if not isinstance(answer, Answer):
            continue
        for outline in answer.polygons:
            for ring in outline.rings:
                draw.polygon([*ring], fill=1)
        for found in () if answer.polygons else answer.boxes:
            draw.rectangle(found.box, fill=1)
        if canvas.getbbox() is not None:
            return np.asarray(canvas, bool)
    return None
