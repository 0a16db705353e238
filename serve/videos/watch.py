"""What a model that reads videos writes about one: descriptions, summaries and answers, chunk by chunk."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import replace

from deployments.generation.messages import Text, VideoPart
from serve.calls import Usage
from serve.config.videos import Videos
from serve.context import RequestContext
from serve.errors import ArgusError, DeadlineExceeded
from serve.videos.backends import Backends, Written, digest
from serve.videos.merge import Vote, decide, without_repeats
from serve.videos.moments import moment_in
from serve.videos.pace import Pace
from serve.videos.plan import Chunk
from serve.videos.reader import Part, Reader, check_inside
from serve.videos.summariser import Merged, Note, Reach, Summariser
from serve.videos.types import Ask, Body, Chunked, Describe, Done, OnProgress, Progress, Summary, Watch, clock, seconds
from serve.videos.work import work

_MERGE: Mapping[Reach, str] = {
    "whole": "These notes describe the parts of one video in order. Write one summary of the whole video from them "
    "alone, in a few sentences, without repeating yourself.\n\n{notes}",
    "part": "These notes describe some parts of one video, which follow each other. Write one summary of these parts "
    "from them alone, in a few sentences, without repeating yourself.\n\n{notes}",
}
_REDUCE: Mapping[Reach, str] = {
    "whole": "A question was asked about each part of one video. Give one answer for the whole video from these "
    "answers alone, briefly.\n\nQuestion: {question}\n\n{notes}",
    "part": "A question was asked about each part of one video. Give one answer for the parts below, which follow each "
    "other, from these answers alone, briefly.\n\nQuestion: {question}\n\n{notes}",
}

# Containers that are pictures by name: providers take them for images, or for nothing they know.
_ANIMATIONS = ("GIF", "WEBP")


def prompt_of(request: Watch, settings: Videos, chunk: Chunk) -> str:
    """What is asked about a chunk. A question that names a time of the whole video is told which part the chunk is."""
    if isinstance(request, Ask):
        if moment_in(request.question) is None:
            return request.question
        span = f"{clock(chunk.start_s)} to {clock(chunk.end_s)}"
        return f"This is the part from {span} of a longer video. {request.question}"
    assert isinstance(request, Describe | Summary)
    return request.prompt or settings.describe_prompt


def at_a_time(request: Chunked, settings: Videos) -> int:
    """How many pieces are worked on at a time."""
    return min(request.concurrency or settings.concurrency, settings.concurrency)


def moment_of(request: Watch) -> tuple[float, str] | None:
    """The moment that a question is about, in seconds, and the field that says so: the question itself, where no other
    says what is watched."""
    if not isinstance(request, Ask):
        return None
    if request.at_s is not None:
        return request.at_s, "at_s"
    named = moment_in(request.question) if not request.start_s and request.end_s is None else None
    return None if named is None else (named, "question")


def asked_about(request: Watch, part: Part, settings: Videos) -> Part:
    """The part that is watched: of a question about a moment, a little around it.

    Raises:
        InvalidRequest: `outside_video`.
    """
    moment = moment_of(request)
    if moment is None:
        return part
    at_s, param = moment
    check_inside(at_s, part.info, param)
    half = settings.moment_s / 2
    return replace(part, start_s=max(0.0, at_s - half), end_s=min(part.info.duration_s, at_s + half))


class Watcher:
    """See the module's text."""

    def __init__(self, settings: Videos, reader: Reader, backends: Backends, pace: Pace) -> None:
        self._settings = settings
        self._reader = reader
        self._backends = backends
        self._pace = pace
        name = settings.summariser
        self._summariser = None if name is None else Summariser(name, settings.merge_tokens, backends)

    async def run(
        self, request: Watch, names: Sequence[str], context: RequestContext, on_progress: OnProgress, done: Done
    ) -> Body:
        """The response body; see `serve.videos.service.VideoService.run`.

        Args:
            names: who is asked about a chunk, in order.
        """
        await on_progress(Progress("reading", 0, 0))
        part = asked_about(request, await self._reader.part(request, context), self._settings)
        chunks = await self._reader.chunks(request, part, request.chunk_s or self._settings.chunk_s, context)
        concurrency = at_a_time(request, self._settings)
        self._check_time(names[0], sum(chunk.key not in done for chunk in chunks), concurrency, context)
        most = request.max_tokens or self._settings.max_tokens

        async def files(left: Sequence[Chunk]) -> AsyncGenerator[tuple[Chunk, bytes], None]:
            if part.is_whole and len(chunks) == 1 and part.info.container not in _ANIMATIONS:
                for chunk in left:
                    yield chunk, request.video
                return
            async for chunk, clip in self._reader.clips(request.video, left, context):
                yield chunk, clip.data

        async def one(chunk: Chunk, data: bytes) -> Body:
            parts = VideoPart(data), Text(prompt_of(request, self._settings, chunk))
            written = await self._backends.ask(names, lambda _: parts, most, context, digest(data))
            self._pace.took(names[0], written.seconds)
            return _segment(chunk, written)

        results = await work(chunks, files, one, concurrency, on_progress, done)
        found = _Found(chunks, results)
        await on_progress(Progress("merging", len(chunks), len(chunks)))
        return await self._merged(request, part, found, most, context)

    def _check_time(self, kind: str, chunks: int, concurrency: int, context: RequestContext) -> None:
        """Refuses what will not end in time.

        Raises:
            DeadlineExceeded: by how long chunks took lately.
        """
        needs = self._pace.needs(kind, chunks, concurrency)
        if needs is not None and needs > context.left_s():
            self._pace.refused(kind)
            raise DeadlineExceeded(
                f"{chunks} chunks of this video take about {needs:.0f} s; {context.left_s():.0f} s are left."
            )

    async def _merged(self, request: Watch, part: Part, found: _Found, most: int, context: RequestContext) -> Body:
        body: Body = {"object": f"video.{request.operation}", "video": video_object(part)}
        merged = await self._asked_to_merge(request, found, most, context)
        if isinstance(request, Summary):
            body["summary"] = merged.text or without_repeats(found.texts)
        elif isinstance(request, Ask):
            answer, share, places = decide(found.votes)
            moment = moment_of(request)
            body["question"] = request.question
            body["at_s"] = None if moment is None else moment[0]
            body["answer"] = merged.text or answer
            body["agreement"] = share
            body["supported_by"] = [found.indices[place] for place in places]
        body["merged_by"] = self._settings.summariser if merged.text else None
        body["segments"] = found.segments
        body["usage"] = usage_object(found.usage + merged.usage)
        return body

    async def _asked_to_merge(self, request: Watch, found: _Found, most: int, context: RequestContext) -> Merged:
        """What the summariser makes of several chunks, if there is one."""
        if self._summariser is None or len(found.notes) < 2 or isinstance(request, Describe):
            return Merged(None, Usage())

        def prompt(lines: str, reach: Reach) -> str:
            if isinstance(request, Ask):
                return _REDUCE[reach].format(question=request.question, notes=lines)
            return _MERGE[reach].format(notes=lines)

        return await self._summariser.merge(found.notes, prompt, most, at_a_time(request, self._settings), context)


class _Found:
    """What was written about the chunks.

    Attributes:
        segments: of all of them, in order; a failed one has an `error` in place of its text.
        indices: of those with a text.
        texts, notes: theirs.
    """

    def __init__(self, chunks: Sequence[Chunk], results: Sequence[Body | ArgusError]) -> None:
        self.segments = [
            {**_span(chunk), "error": error_object(result)} if isinstance(result, ArgusError) else result
            for chunk, result in zip(chunks, results, strict=True)
        ]
        good = [segment for segment in self.segments if "error" not in segment]
        self.indices: list[int] = [segment["index"] for segment in good]
        self.texts: list[str] = [segment["text"] for segment in good]
        self.votes = [
            Vote(segment["text"], 1.0 if segment["confidence"] is None else segment["confidence"]) for segment in good
        ]
        self.notes = [Note(segment["start"], segment["end"], segment["text"]) for segment in good]
        self.usage = sum((usage_of(segment) for segment in good), Usage())


def video_object(part: Part) -> Body:
    """The video and the part of it that was watched."""
    info = part.info
    return {
        "duration_s": seconds(info.duration_s),
        "width": info.width,
        "height": info.height,
        "fps": info.fps,
        "start_s": seconds(part.start_s),
        "end_s": seconds(part.end_s),
    }


def usage_object(usage: Usage) -> Body:
    """Tokens and money."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.tokens,
        "usd": usage.usd,
    }


def usage_of(result: Body) -> Usage:
    """What `usage_object` was made of, in a chunk's value."""
    usage = result["usage"]
    return Usage(usage["prompt_tokens"], usage["completion_tokens"], usage["usd"])


def error_object(error: ArgusError) -> Body:
    """An error in a part's place."""
    return {"code": error.code, "message": error.message, "param": error.param}


def fallbacks_of(written: Written) -> list[Body]:
    """Who was asked before the one that answered, and how it failed."""
    return [{"model": model, "failure": failure} for model, failure in written.failures]


def _span(chunk: Chunk) -> Body:
    return {
        "index": chunk.index,
        "start_s": seconds(chunk.start_s),
        "end_s": seconds(chunk.end_s),
        "start": clock(chunk.start_s),
        "end": clock(chunk.end_s),
    }


def _segment(chunk: Chunk, written: Written) -> Body:
    return {
        **_span(chunk),
        "text": written.text,
        "model": written.model,
        "confidence": written.confidence,
        "fallbacks": fallbacks_of(written),
        "usage": usage_object(written.usage),
    }
