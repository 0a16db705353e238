"""The door for media: whatever way one arrives, it is fetched, measured and checked here, once, before it queues."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from deployments.messages import EncodedImage, Image, PixelValues, RawImage
from serve import tracing
from serve.context import RequestContext
from serve.errors import ArgusError, InvalidMedia
from serve.media.document import inspect_document
from serve.media.image import ImageLimits, inspect_image
from serve.media.source import MediaBytes, classify_source, parse_base64, parse_data_uri
from serve.media.video import VideoLimits, inspect_video


@dataclass(frozen=True, slots=True)
class Reference:
    """A medium named in text: a URL, a data URI, or bare base64."""

    text: str


MediaSource = MediaBytes | Reference | RawImage | PixelValues


class Fetcher(Protocol):
    """Fetches a URL under the cluster's policy."""

    async def fetch(self, url: str, deadline_s: float | None = None) -> MediaBytes: ...


class MediaDoor:
    """Admits images and videos.

    Args:
        limits: sizes of images in bytes and pixels.
        fetcher: for media named by URL.
    """

    def __init__(self, limits: ImageLimits, fetcher: Fetcher) -> None:
        self._limits = limits
        self._videos = VideoLimits(max_bytes=limits.max_bytes)
        self._fetcher = fetcher

    async def admit(self, source: MediaSource, context: RequestContext, param: str) -> Image:
        """A checked image. Only its header has been read; the pixels are decoded beside the model.

        Raises:
            ArgusError: why it is refused, `param` set.
        """
        try:
            if isinstance(source, PixelValues):
                return source
            if isinstance(source, RawImage):
                self._check_pixels(source.pixels.shape)
                return source
            media = await self._bytes(source, context)
            inspect_image(media.data, self._limits, declared_type=media.declared_type)
            return EncodedImage(media.data)
        except ArgusError as error:
            raise error.at(param) from error.__cause__

    async def admit_video(self, source: MediaBytes | Reference, context: RequestContext, param: str) -> bytes:
        """A video file whose first bytes have been checked; its frames are sampled beside the model.

        Raises:
            ArgusError: why it is refused, `param` set.
        """
        try:
            media = await self._bytes(source, context)
            inspect_video(media.data, self._videos, declared_type=media.declared_type)
            return media.data
        except ArgusError as error:
            raise error.at(param) from error.__cause__

    async def admit_document(self, source: MediaSource, context: RequestContext, param: str) -> bytes:
        """A PDF or an image file whose first bytes have been checked; a PDF is opened beside the model.

        Raises:
            ArgusError: why it is refused, `param` set.
        """
        try:
            if not isinstance(source, MediaBytes | Reference):
                raise InvalidMedia("A document must be a file.", code="unsupported_content")
            media = await self._bytes(source, context)
            inspect_document(media.data, self._limits, declared_type=media.declared_type)
            return media.data
        except ArgusError as error:
            raise error.at(param) from error.__cause__

    async def _bytes(self, source: MediaBytes | Reference, context: RequestContext) -> MediaBytes:
        if isinstance(source, MediaBytes):
            return source
        kind = classify_source(source.text)
        if kind == "url":
            with tracing.span("fetch", tracing.Kind.CLIENT) as span:
                media = await self._fetcher.fetch(source.text, context.remaining_s())
                if span is not None:  # neither the address nor its host: both may say what is the client's alone
                    span.set_attribute("argus.media.bytes", len(media.data))
                return media
        parse = parse_data_uri if kind == "data_uri" else parse_base64
        return parse(source.text, max_bytes=self._limits.max_bytes)

    def _check_pixels(self, shape: tuple[int, ...]) -> None:
        height, width = shape[:2]
        limits = self._limits
        if max(height, width) > limits.max_side or height * width > limits.max_pixels:
            raise InvalidMedia(
                f"The image is {width} x {height} pixels; at most {limits.max_side} a side and {limits.max_pixels} "
                "in all are accepted.",
                code="image_too_large",
            )
        if min(height, width) < limits.min_side:
            raise InvalidMedia(
                f"The image is {width} x {height} pixels; a side must have at least {limits.min_side}.",
                code="image_too_small",
            )
