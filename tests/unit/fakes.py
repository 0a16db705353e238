"""Stand-ins for what lies beyond the router's edges, and a whole HTTP side built over them.

The fakes answer from the request alone: equal requests get equal answers, different ones different answers, so that a
test can compare what two protocols say of the same thing.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
import numpy as np
from PIL import Image as PillowImage

from deployments.generation.messages import ChatEvent, ChatRequest, Gathering, Text, TokenLogprob
from deployments.messages import (
    ClassifyRequest,
    ClassifyResult,
    EmbedRequest,
    EmbedResult,
    EncodedImage,
    ModelInfo,
    PixelValues,
    RawImage,
    Scores,
)
from deployments.vector_types import Hit, IndexInfo, IndexSpec, Item
from serve.auth import hash_key
from serve.config.cluster import ClusterFile
from serve.config.load import parse
from serve.context import RequestContext
from serve.errors import Conflict, Forbidden, NotFound
from serve.media.source import MediaBytes
from serve.metrics import RequestRecord
from serve.protocol import http
from serve.protocol.oip import InferenceService
from serve.resilience.admission import build_admission
from serve.resilience.build import build_guard
from serve.resilience.cache_key import CacheKeys, identities_of
from serve.resilience.recorder import Silent
from serve.routed_calls import RoutedCalls
from serve.services import build_services

DIMENSION = 4
TEMPERATURE = 0.5
MAX_BODY = 64 * 1024
MAX_UPLOAD = 3 * MAX_BODY
KEYS = {"alice": "alice-key-1", "bob": "bob-key-2"}


def png(colour: str = "red", size: tuple[int, int] = (8, 6)) -> bytes:
    """A small image file."""
    buffer = io.BytesIO()
    PillowImage.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def content_of(given: Any) -> bytes:
    """What distinguishes one input of a model from another."""
    if isinstance(given, str):
        return b"text:" + given.encode()
    if isinstance(given, EncodedImage):
        return given.data
    array = given.pixels if isinstance(given, RawImage) else given.values
    assert isinstance(given, RawImage | PixelValues)
    return f"{array.dtype}{array.shape}".encode() + array.tobytes()


def numbers(count: int, *seeds: object) -> np.ndarray[Any, np.dtype[np.float32]]:
    """`count` float32 that follow from the seeds."""
    digest = hashlib.sha256(repr(seeds).encode()).digest()
    return np.random.default_rng(list(digest)).normal(size=count).astype(np.float32)


class FakeModel:
    """A `ModelHandle` of a model that classifies and embeds.

    Attributes:
        failing: inputs (by `content_of`) whose result is this error.
        raises: what every call raises.
        gate: calls wait until it is set.
        calls: method and arguments of each call.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forgets what a test did."""
        self.failing: dict[bytes, Exception] = {}
        self.raises: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.entered = asyncio.Event()
        self.calls: list[tuple[str, tuple[Any, ...]]] = []

    async def call(self, method: str, context: RequestContext, *args: Any, **kwargs: Any) -> Any:
        context.remaining_s()
        self.calls.append((method, args))
        self.entered.set()
        await asyncio.wait_for(self.gate.wait(), 60)  # a call that should never have come fails instead of hanging
        if self.raises is not None:
            raise self.raises
        answer: Any = {"info": self._info, "classify": self._classify, "embed": self._embed}[method]
        return answer(*args, **kwargs)

    def requests(self, method: str) -> list[Any]:
        """The requests that calls of `method` carried."""
        return [args[0] for name, args in self.calls if name == method]

    def _info(self) -> ModelInfo:
        return ModelInfo("cpu", 1.23456, DIMENSION, 224)

    def _classify(self, request: ClassifyRequest, call: object) -> ClassifyResult:
        return ClassifyResult(tuple(self._scores(image, request) for image in request.images), TEMPERATURE)

    def _scores(self, image: Any, request: ClassifyRequest) -> Scores | Exception:
        if content_of(image) in self.failing:
            return self.failing[content_of(image)]
        logits = np.concatenate([numbers(1, content_of(image), label, request.templates) for label in request.labels])
        if request.multi_label:
            return Scores(1 / (1 + np.exp(-logits)), logits)
        exp = np.exp(logits)
        return Scores(exp / exp.sum(), logits)

    def _embed(self, request: EmbedRequest, call: object) -> EmbedResult:
        vectors = tuple(self._vector(given, request.normalize) for given in request.inputs)
        return EmbedResult(vectors, sum(len(given.split()) for given in request.inputs if isinstance(given, str)))

    def _vector(self, given: Any, normalize: bool) -> Any:
        if content_of(given) in self.failing:
            return self.failing[content_of(given)]
        vector = numbers(DIMENSION, content_of(given))
        return vector / np.linalg.norm(vector) if normalize else vector


class FakeGenerator:
    """A `ModelHandle` of a generating model: it repeats the last text word by word, then says what it was shown.

    Attributes:
        script: errors that the next attempts raise, each after that many events.
        requests: of each attempt.
        closed: attempts whose stream its reader left before the end.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forgets what a test did."""
        self.script: list[tuple[int, Exception]] = []
        self.requests: list[ChatRequest] = []
        self.affinities: list[str | None] = []
        self.closed = 0
        self.hang = asyncio.Event()
        self.hang.set()
        self.ends = asyncio.Event()
        self.ends.set()

    async def call(
        self, method: str, context: RequestContext, *args: Any, affinity: str | None = None, **kwargs: Any
    ) -> Any:
        context.remaining_s()
        if method == "info":
            return ModelInfo("cpu", 1.0, engine="fake", context_tokens=100)
        assert method == "chat"
        gathering = Gathering()
        async for event in self.stream("chat_stream", context, *args, affinity=affinity):
            gathering.add(event)
        return gathering.result()

    async def stream(
        self, method: str, context: RequestContext, *args: Any, affinity: str | None = None
    ) -> AsyncGenerator[Any, None]:
        assert method == "chat_stream"
        request: ChatRequest = args[0]
        self.requests.append(request)
        self.affinities.append(affinity)
        stop_after, error = self.script.pop(0) if self.script else (1 << 30, None)
        try:
            for i, event in enumerate(self.events(request)):
                if i >= stop_after and error is not None:
                    raise error
                await self.hang.wait()
                yield event
            await self.ends.wait()
            if error is not None:
                raise error
        except GeneratorExit:
            self.closed += 1
            raise

    def events(self, request: ChatRequest) -> list[ChatEvent]:
        """What an undisturbed attempt yields."""
        sampling = request.sampling
        parts = [part for message in request.messages for part in message.parts]
        media = sum(not isinstance(part, Text) for part in parts)
        said = [part.text for part in request.messages[-1].parts if isinstance(part, Text)]
        words = [*" ".join(said).split(), f"({media} media)"][: sampling.max_tokens]
        events = []
        for index in range(sampling.n):
            for i, word in enumerate(words):
                last = i == len(words) - 1
                reason = None if not last else "length" if len(words) == sampling.max_tokens else "stop"
                logprobs = () if sampling.logprobs is None else (_told(word, (_told(word),)),)
                text = word if i == 0 else f" {word}"
                events.append(ChatEvent(index, text, (i,), logprobs, reason, 7, 3))  # type: ignore[arg-type]
        return events


def _told(word: str, top: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
    return TokenLogprob(word, -0.5, top, word.encode())


class FakeStore:
    """A `ModelHandle` of a vector index: a dictionary and a dot product."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forgets what a test did."""
        self._indexes: dict[str, tuple[IndexSpec, dict[str, Item]]] = {}
        self.filters: list[Any] = []

    async def call(self, method: str, context: RequestContext, *args: Any, **kwargs: Any) -> Any:
        context.remaining_s()
        return getattr(self, f"_{method}")(*args, **kwargs)

    def _find(self, name: str) -> tuple[IndexSpec, dict[str, Item]]:
        if name not in self._indexes:
            raise NotFound(f"Index {name!r} does not exist.", code="index_not_found", param="name")
        return self._indexes[name]

    def _create(self, spec: IndexSpec) -> IndexInfo:
        existing = self._indexes.setdefault(spec.name, (spec, {}))[0]
        if replace(existing, checkpoint=spec.checkpoint) != spec:
            raise Conflict(f"Index {spec.name!r} exists and is different.", param="name")
        return self._info(spec.name)

    def _drop(self, name: str) -> None:
        self._find(name)
        del self._indexes[name]

    def _info(self, name: str) -> IndexInfo:
        spec, items = self._find(name)
        return IndexInfo(spec, len(items), 4 * spec.dimension * len(items))

    def _list_indexes(self) -> list[IndexInfo]:
        return [self._info(name) for name in sorted(self._indexes)]

    def _add(self, name: str, items: Sequence[Item]) -> int:
        self._find(name)[1].update({item.id: item for item in items})
        return len(items)

    def _get(self, name: str, ids: Sequence[str]) -> list[Item]:
        items = self._find(name)[1]
        return [items[item_id] for item_id in ids if item_id in items]

    def _delete(self, name: str, *, ids: Sequence[str] | None, filter: Any) -> int:
        self.filters.append(filter)
        items = self._find(name)[1]
        return sum(items.pop(item_id, None) is not None for item_id in ids or ())

    def _search(self, name: str, queries: Any, k: int, *, filter: Any, include_vectors: bool) -> list[list[Hit]]:
        self.filters.append(filter)
        items = list(self._find(name)[1].values())
        found = []
        for query in queries:
            scored = sorted(((float(item.vector @ query), item) for item in items), key=lambda pair: -pair[0])
            found.append([Hit(i.id, s, i.metadata, i.vector if include_vectors else None) for s, i in scored[:k]])
        return found


class FakeFetcher:
    """Serves some URLs and forbids the others."""

    def __init__(self, pages: dict[str, bytes]) -> None:
        self._pages = pages

    async def fetch(self, url: str, deadline_s: float | None = None) -> MediaBytes:
        if url not in self._pages:
            raise Forbidden("This address may not be fetched.", code="url_not_allowed")
        return MediaBytes(self._pages[url], "image/png")


class FakeRecorder:
    """Keeps what is reported."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forgets what a test did."""
        self.requests: list[RequestRecord] = []
        self.counts: list[int] = []
        self.viewers: list[int] = []

    def record(self, request: RequestRecord) -> None:
        self.requests.append(request)

    def in_flight(self, count: int) -> None:
        self.counts.append(count)

    def viewing(self, count: int) -> None:
        self.viewers.append(count)


async def bodies_of_head(app: Any, path: str, headers: dict[str, str] | None = None) -> list[bytes]:
    """The pieces of body that an application sends for a HEAD; a client would not see them, nor a stream that hangs."""
    bodies: list[bytes] = []

    async def noting(scope: Any, receive: Any, send: Any) -> None:
        async def note(message: Any) -> None:
            if message["type"] == "http.response.body":
                bodies.append(message["body"])
            await send(message)

        await app(scope, receive, note)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=noting), base_url="http://argus") as client:
        await client.head(path, headers=headers)
    return bodies


def cluster(*, keys: bool = False, **sections: Any) -> ClusterFile:
    """A model that does everything, one that only classifies, and a vector index."""
    custom = {"kind": "custom", "implementation": "some.module:Class", "tasks": ["classify"]}
    data: dict[str, Any] = {
        "name": "test",
        "node_pools": {"local": {}},
        "models": {
            "clip": {"kind": "clip", "checkpoint": "openai/clip-vit-large-patch14", "revision": "abc"},
            "judge": custom,
            "index": {"kind": "vector_index"},
        },
        "limits": {
            "max_body_bytes": MAX_BODY,
            "max_upload_bytes": MAX_UPLOAD,
            "max_inputs": 6,
            "max_labels": 5,
            "max_text_chars": 60,
            "max_image_side": 512,
            "max_image_pixels": 512 * 512,
        },
        **sections,
    }
    if keys:
        data["auth"] = {"keys": [{"name": name, "sha256": hash_key(key)} for name, key in KEYS.items()]}
    return parse(data)


@dataclass
class Site:
    """A router without Ray: its services over fakes.

    Attributes:
        more: handles of further models, by name.
        providers: stand-ins for hosted models, by name.
    """

    config: ClusterFile = field(default_factory=cluster)
    pages: dict[str, bytes] = field(default_factory=dict)
    slots: int = 8
    more: dict[str, Any] = field(default_factory=dict)
    providers: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.model, self.judge, self.store = FakeModel(), FakeModel(), FakeStore()
        self.llava, self.blip2 = FakeGenerator(), FakeGenerator()
        self.recorder = FakeRecorder()
        handles: dict[str, Any] = {"clip": self.model, "judge": self.judge, "index": self.store}
        handles |= {"llava": self.llava, "blip2": self.blip2, **self.more}
        config = self.config.model_copy(
            update={"router": self.config.router.model_copy(update={"max_ongoing_requests": self.slots})}
        )
        served = {name: handle for name, handle in handles.items() if name in config.models}
        admission = build_admission(config, self.recorder.in_flight)
        guard = build_guard(config, Silent(), admission.waited)
        self.services = build_services(
            config,
            served,
            RoutedCalls(served, self.providers, guard, CacheKeys(identities_of(config))),
            FakeFetcher(self.pages),
            admission,
            guard.tenants,
            self.recorder,
            "1.2.3",
        )
        self.plane, self.search = self.services.plane, self.services.search
        self.inference = InferenceService(
            self.plane, self.services.chat, self.services.cascades, self.services.vision, self.services.scenes
        )
        self.app = http.build(self.services, self.inference)

    def reset(self) -> None:
        """As new, without building the application again: that takes longer than most tests."""
        for fake in (self.model, self.judge, self.store, self.llava, self.blip2, self.recorder):
            fake.reset()
        self.pages.clear()

    def client(self, **options: Any) -> httpx.AsyncClient:
        """An HTTP client whose requests end in this process."""
        return httpx.AsyncClient(transport=httpx.ASGITransport(app=self.app), base_url="http://argus", **options)
