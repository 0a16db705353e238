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
from serve.videos.watch import at_a_time, error_object, fallbacks_of, usage_object, usage_of, video_object
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
        self, request: Keyframes, names: Sequence[str], context: RequestContext, on_progress: OnProgress, done: Done
    ) -> Body:
        """The response body. A frame whose description fails has an `error` in its place.

        Args:
            names: who is asked to describe a frame, in order; none leave them bare.
        """
        await on_progress(Progress("reading", 0, 0))
        part = await self._reader.part(request, context)
        pictures = await self._reader.pictures(request, part, context)
        frames = [_frame(index, picture, request) for index, picture in enumerate(pictures)]
        usage = Usage()
        if names:
            concurrency = at_a_time(request, self._settings)
            captions = await self._captions(pictures, names, concurrency, context, on_progress, done)
            for frame, caption in zip(frames, captions, strict=True):
                if isinstance(caption, ArgusError):
                    frame["error"] = error_object(caption)
                    continue
                frame["description"] = caption["text"]
                # Who wrote it is not in what an older version has kept of a job.
                frame["model"], frame["fallbacks"] = caption.get("model"), caption.get("fallbacks", [])
                usage += usage_of(caption)
        return {
            "object": "video.keyframes",
            "video": video_object(part),
            "strategy": request.strategy,
            "model": next(iter(names), None),
            "keyframes": frames,
            "usage": usage_object(usage),
        }

    async def _captions(
        self,
        pictures: Sequence[SampledFrame],
        names: Sequence[str],
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
            picture = ImagePart(EncodedImage(jpeg))

            def parts(name: str) -> list[Part]:
                return [picture] if name in self._silent else [picture, Text(_CAPTION)]

            written = await self._backends.ask(names, parts, MOST_TOKENS, context, digest(jpeg))
            return {
                "index": chunk.index,
                "at_s": seconds(chunk.start_s),
                "at": clock(chunk.start_s),
                "text": written.text,
                "model": written.model,
                "fallbacks": fallbacks_of(written),
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
