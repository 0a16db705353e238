"""The videos service: what a request needs, who does it, and what it would take.

```
 /v1/videos, jobs ─> VideoService.run ─┬─ Reader ─> video_reader: facts, cuts, clips, pictures
                                       ├─ Watcher ─> Backends: one chat model or provider, or the next
                                       ├─ KeyframeFinder ─> Backends: a captioner, or the next
                                       └─ ClipClassifier ─> video_classifier
```
"""

from __future__ import annotations

from types import MappingProxyType

from deployments.video_classifier.actions import window_and_stride
from serve.calls import Calls
from serve.chat import ChatService
from serve.config.cluster import ClusterFile
from serve.config.models import GenerativeModel, VideoClassifierModel
from serve.config.video_checks import watching
from serve.config.videos import Videos
from serve.context import RequestContext
from serve.dataplane import CHAT, CLASSIFY_VIDEO, DataPlane
from serve.errors import InvalidRequest, NotFound
from serve.media.admit import MediaDoor, MediaSource, Reference
from serve.media.source import MediaBytes
from serve.videos import estimate
from serve.videos.backends import Backends
from serve.videos.classify import ClipClassifier
from serve.videos.keyframes import MOST_TOKENS, KeyframeFinder
from serve.videos.pace import Pace
from serve.videos.reader import Reader
from serve.videos.types import (
    Actions,
    Body,
    Classify,
    Done,
    Features,
    Keyframes,
    OnProgress,
    VideoRequest,
    Watch,
    silent,
)
from serve.videos.watch import Watcher, asked_about, at_a_time, prompt_of, video_object

_NOTHING: Done = MappingProxyType({})


class VideoService:
    """See the module's text.

    Args:
        plane: knows the models.
        chat: knows which media they take.
        door: admits videos.
    """

    def __init__(
        self, cluster: ClusterFile, plane: DataPlane, chat: ChatService, calls: Calls, door: MediaDoor
    ) -> None:
        self._cluster = cluster
        self._settings = cluster.videos
        self._plane = plane
        self._chat = chat
        self._door = door
        self._watching = frozenset(watching(cluster))
        self._pace = Pace()
        backends = Backends(calls, cluster.models)
        reader = None
        if cluster.videos is not None:
            reader = Reader(cluster.videos, calls)
            self._watcher = Watcher(cluster.videos, reader, backends, self._pace)
            self._keyframes = KeyframeFinder(cluster.videos, reader, backends, _silent_captioners(cluster))
        self._reader = reader
        self._classifier = ClipClassifier(cluster.videos, reader, calls, cluster.models)

    async def admit(self, source: MediaSource, context: RequestContext, param: str) -> bytes:
        """A video file, fetched if it is named by URL, whose first bytes have been checked.

        Raises:
            ArgusError: why it is refused, `param` set.
        """
        if not isinstance(source, MediaBytes | Reference):
            raise InvalidRequest("A video must be a file.", code="unsupported_content", param=param)
        return await self._door.admit_video(source, context, param)

    def check(self, request: VideoRequest) -> None:
        """What can be said before the video is read.

        Raises:
            NotFound: `not_configured`, or a model that does not exist.
            InvalidRequest: a model that cannot do this; a part that ends before it begins; windows with gaps.
        """
        if request.end_s is not None and request.end_s <= request.start_s:
            raise InvalidRequest(
                f"start_s is {request.start_s:g}, end_s is {request.end_s:g}; the end must come after the start.",
                code="invalid_field",
                param="end_s",
            )
        names = self._asked(request)
        if isinstance(request, Actions):
            model = self._cluster.models[names[0]]
            assert isinstance(model, VideoClassifierModel), "others have no such task"
            window_and_stride(model, request.window_s, request.stride_s)

    async def run(
        self,
        request: VideoRequest,
        context: RequestContext,
        on_progress: OnProgress = silent,
        done: Done = _NOTHING,
    ) -> Body:
        """Answers; cancelling this cancels everything below.

        Args:
            on_progress: told of each stage and of each finished chunk.
            done: values of chunks that an earlier run of the same request has finished; they are not worked on again.

        Returns:
            the response body, plain JSON, without the request's id.

        Raises:
            ArgusError: whatever is wrong with the request or fails as a whole. What fails of one chunk stands in its
                place, as long as another one went well.
        """
        self.check(request)
        names = self._asked(request)
        match request:
            case Watch():
                return await self._watcher.run(request, names, context, on_progress, done)
            case Keyframes():
                return await self._keyframes.run(request, names, context, on_progress, done)
            case Actions():
                return await self._classifier.actions(request, names[0], context, on_progress, done)
            case Classify():
                return await self._classifier.classify(request, names[0], context)
        assert isinstance(request, Features)
        return await self._classifier.features(request, names[0], context)

    async def estimate(self, request: VideoRequest, context: RequestContext) -> Body:
        """What `run` would take, a row for each back end that may be asked. Only the reader runs.

        Chunks are counted as they will be; where a cut moves a border, their lengths change a little.
        """
        self.check(request)
        names = self._asked(request)
        if self._reader is None or self._settings is None:
            raise _not_configured()
        part = await self._reader.part(request, context)
        rows: list[estimate.Estimate] = []
        seconds: float | None = None
        chunks = 1
        if isinstance(request, Watch):
            part = asked_about(request, part, self._settings)
            planned = self._reader.nominal(part, request.chunk_s or self._settings.chunk_s)
            chunks, most = len(planned), request.max_tokens or self._settings.max_tokens
            prompt = prompt_of(request, self._settings, planned[0])
            rows = [estimate.watching(self._cluster, name, planned, prompt, most) for name in names]
            seconds = self._pace.needs(names[0], chunks, at_a_time(request, self._settings))
        elif isinstance(request, Keyframes):
            chunks, size = estimate.pictures(request, part)
            rows = [estimate.describing(self._cluster, name, chunks, size, MOST_TOKENS) for name in names]
        elif isinstance(request, Actions):
            planned = self._classifier.planned(request, names[0], part)
            chunks, rows = len(planned), [estimate.detecting(self._cluster, names[0], request, planned)]
        elif isinstance(request, Classify | Features):
            rows = [estimate.seeing(self._cluster, names[0], 1, 1)]
        merge = None
        if isinstance(request, Watch) and request.operation != "describe" and chunks > 1 and self._settings.summariser:
            most = request.max_tokens or self._settings.max_tokens
            room = self._settings.merge_tokens
            merge = estimate.merging(self._cluster, self._settings.summariser, chunks, most, room)
        return {
            "object": "video.estimate",
            "operation": request.operation,
            "video": video_object(part),
            "chunks": chunks,
            "backends": [row.body() for row in rows],
            "summariser": None if merge is None else merge.body(),
            "seconds": seconds,
        }

    def _asked(self, request: VideoRequest) -> list[str]:
        """Who is asked, in order; none where key frames stay bare."""
        if isinstance(request, Actions | Classify | Features):
            return [self._plane.pick(request.model, CLASSIFY_VIDEO).name]
        if self._settings is None:
            raise _not_configured()
        if isinstance(request, Keyframes) and not request.describe:
            return []
        if request.model is None:
            return self._usual(request, self._settings)
        name = self._plane.pick(request.model, CHAT).name
        is_picture = isinstance(request, Keyframes)
        if not (self._chat.most_media(name)[0] if is_picture else name in self._watching):
            wanted = "an image" if is_picture else "a video"
            raise InvalidRequest(f"Model {name!r} does not take {wanted}.", code="task_not_supported", param="model")
        return [name]

    def _usual(self, request: VideoRequest, settings: Videos) -> list[str]:
        if not isinstance(request, Keyframes):
            return list(settings.backends)
        if settings.captioner is None:
            return []
        named = dict.fromkeys((settings.captioner, *settings.backends, settings.summariser))
        return [name for name in named if name is not None and self._chat.most_media(name)[0]]


def _silent_captioners(cluster: ClusterFile) -> list[str]:
    """BLIP-2 captions an image that comes alone; the others are asked for it in words."""
    return [name for name, m in cluster.models.items() if isinstance(m, GenerativeModel) and m.kind == "blip2"]


def _not_configured() -> NotFound:
    return NotFound("This cluster watches no videos: its file has no section videos.", code="not_configured")
