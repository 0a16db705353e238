"""Key frames with their times and descriptions."""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator, Collection, Sequence

from deployments.generation.messages import ImagePart, Part, Text
from deployments.messages import EncodedImage
from deployments.video.messages import SampledFrame
from serve.calls import Usage
from serve.config.videos import Videos
from serve.context import RequestContext
from serve.errors import ArgusError
from serve.videos.backends import Backends, digest
from serve.videos.plan import Chunk
from serve.videos.reader import Reader
from serve.videos.types import Body, Done, Keyframes, OnProgress, Progress, clock, seconds
from serve.videos.watch import at_a_time, error_object, usage_object, usage_of, video_object
from serve.videos.work import work

# Written about a picture.
MOST_TOKENS = 64
_CAPTION = "Describe the image."


class KeyframeFinder:
    """See the module's text.

    Args:
        silent: names of models that caption a picture which comes without words (BLIP-2).
    """

    def __init__(self, settings: Videos, reader: Reader, backends: Backends, silent: Collection[str]) -> None:
        self._settings = settings
        self._reader = reader
        self._backends = backends
        self._silent = frozenset(silent)

    async def run(
        self, request: Keyframes, captioner: str | None, context: RequestContext, on_progress: OnProgress, done: Done
    ) -> Body:
        """The response body. A frame whose description fails has an `error` in its place.

        Args:
            captioner: describes the frames; None leaves them bare.
        """
        await on_progress(Progress("reading", 0, 0))
        part = await self._reader.part(request, context)
        pictures = await self._reader.pictures(request, part, context)
        frames = [_frame(index, picture, request) for index, picture in enumerate(pictures)]
        usage = Usage()
        if captioner is not None:
            concurrency = at_a_time(request, self._settings)
            captions = await self._captions(pictures, captioner, concurrency, context, on_progress, done)
            for frame, caption in zip(frames, captions, strict=True):
                if isinstance(caption, ArgusError):
                    frame["error"] = error_object(caption)
                    continue
                frame["description"] = caption["text"]
                usage += usage_of(caption)
        return {
            "object": "video.keyframes",
            "video": video_object(part),
            "strategy": request.strategy,
            "model": captioner,
            "keyframes": frames,
            "usage": usage_object(usage),
        }

    async def _captions(
        self,
        pictures: Sequence[SampledFrame],
        captioner: str,
        concurrency: int,
        context: RequestContext,
        on_progress: OnProgress,
        done: Done,
    ) -> list[Body | ArgusError]:
        chunks = [Chunk(index, picture.at_s, picture.at_s) for index, picture in enumerate(pictures)]

        async def files(left: Sequence[Chunk]) -> AsyncGenerator[tuple[Chunk, bytes], None]:
            for chunk in left:
                yield chunk, pictures[chunk.index].jpeg

        async def one(chunk: Chunk, jpeg: bytes) -> Body:
            parts: list[Part] = [ImagePart(EncodedImage(jpeg))]
            if captioner not in self._silent:
                parts.append(Text(_CAPTION))
            written = await self._backends.ask([captioner], parts, MOST_TOKENS, context, digest(jpeg))
            return {
                "index": chunk.index,
                "at_s": seconds(chunk.start_s),
                "at": clock(chunk.start_s),
                "text": written.text,
                "usage": usage_object(written.usage),
            }

        return await work(chunks, files, one, concurrency, on_progress, done)


def _frame(index: int, picture: SampledFrame, request: Keyframes) -> Body:
    frame: Body = {
        "index": index,
        "at_s": seconds(picture.at_s),
        "at": clock(picture.at_s),
        "width": picture.width,
        "height": picture.height,
        "change": picture.change,
        "description": None,
    }
    if request.images:
        frame["image"] = f"data:image/jpeg;base64,{base64.b64encode(picture.jpeg).decode()}"
    return frame
