"""What every fake provider has: a loopback port, a script of faults, and a record of what it was sent."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn, Self, TypeVar

import orjson
from aiohttp import web

# The key that fake providers take.
KEY = "test-key-3f9a"

_REMEMBERED = 10_000
_MODES = frozenset(
    {
        "hang",
        "malformed",
        "cut",
        "slow",
        "reset",
        "refuse",
        "refuse_answer",
        "too_long",
        "invalid_output",
        "unavailable",
    }
)


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong with one call.

    Attributes:
        mode: a status such as `429` or `503`, or one of
            `hang`: nothing is ever sent;
            `malformed`: status 200 and bytes that are no answer;
            `cut`: the connection is lost while the answer is sent (while it is streamed, after `after_events` events);
            `slow`: a right answer after `delay_s`;
            `reset`: the connection is lost before anything is sent;
            `refuse`: the provider's policy refuses the prompt;
            `refuse_answer`: the model, or a filter, refuses to answer;
            `too_long`: the prompt does not fit the context window;
            `invalid_output`: an answer that is not the JSON that was asked for.
        retry_after: value of the `Retry-After` header: seconds or an HTTP date.
        headers: further headers of an error.
    """

    mode: str
    retry_after: float | str | None = None
    delay_s: float = 1.0
    after_events: int = 1
    headers: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.mode not in _MODES and not (self.mode.isdigit() and 400 <= int(self.mode) <= 599):
            raise ValueError(f"mode is {self.mode!r}; it must be a status of 400 to 599 or one of {sorted(_MODES)}")

    @property
    def status(self) -> int | None:
        """The HTTP status that it stands for, if it is one."""
        return int(self.mode) if self.mode.isdigit() else None


@dataclass(frozen=True, slots=True)
class Received:
    """One request as it came in; `body` is decoded JSON, or bytes that are none."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Any


class Refusal(Exception):
    """A provider's error answer.

    Args:
        status: HTTP status.
        body: JSON of the answer.
    """

    def __init__(self, status: int, body: Any, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(body)
        self.status = status
        self.body = body
        self.headers = dict(headers or {})


class Aborted(asyncio.CancelledError):
    """The script ended the connection; aiohttp ends a cancelled handler without a word."""


class Malformed(Exception):
    """What is sent instead of an answer."""

    def __init__(self, stream: bool) -> None:
        super().__init__()
        broken = b'{"choices": [{"mess\xff\xfe'
        self.data = b"data: " + broken + b"\n\n" if stream else broken
        self.content_type = "text/event-stream" if stream else "application/json"


Answer = str | Callable[[Any], str]


class FakeServer:
    """A provider on a free loopback port, as an async context manager.

    Args:
        answer: text of its answers, or a function of the request's JSON body.
        latency_s: seconds that each answer takes.
        event_s: seconds between two events of a stream.

    Attributes:
        script: faults of the next calls, in order; None among them is a call that goes well.
        always: fault of each call that the script says nothing of: one for all, or a function of the call's number.
        requests: what was received, oldest first.
        calls: model calls received, ill-formed ones included.
        gone: model calls whose client went away before its answer had been sent.
        in_flight: model calls in progress.
        most_in_flight: the most of them at any time.
    """

    def __init__(self, answer: Answer = "A cat on a mat.", *, latency_s: float = 0.0, event_s: float = 0.0) -> None:
        self.answer = answer
        self.latency_s = latency_s
        self.event_s = event_s
        self.always: Fault | Callable[[int], Fault | None] | None = None
        self.requests: deque[Received] = deque(maxlen=_REMEMBERED)
        self.calls = 0
        self.gone = 0
        self.in_flight = 0
        self.most_in_flight = 0
        self.host = ""
        self._script: deque[Fault | None] = deque()
        self._runner: web.AppRunner | None = None

    @property
    def script(self) -> Sequence[Fault | None]:
        """See the class."""
        return tuple(self._script)

    @script.setter
    def script(self, faults: Iterable[Fault | None]) -> None:
        self._script = deque(faults)

    @property
    def base_url(self) -> str:
        """What a client of this API is given."""
        return f"http://{self.host}"

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        self.routes(app)
        # Cancelling a handler is how a client's going away shows.
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.host = f"127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None, "it was entered"
        await self._runner.cleanup()

    def routes(self, app: web.Application) -> None:
        """Adds the API's routes."""
        raise NotImplementedError

    def error(self, status: int, message: str) -> Any:
        """The API's error body for a status that a fault names."""
        raise NotImplementedError

    def streams(self, request: web.Request, body: Any) -> bool:
        """Whether the answer is wanted as server-sent events."""
        return isinstance(body, dict) and bool(body.get("stream"))

    def text_for(self, body: Any) -> str:
        """The answer to a request."""
        return self.answer(body) if callable(self.answer) else self.answer

    def model_call(self, handler: Callable[[web.Request, Any, Fault | None], Any]) -> Callable[[web.Request], Any]:
        """A handler of model calls: counted, recorded, and subject to faults before `handler` sees them."""

        async def handle(request: web.Request) -> web.StreamResponse:
            self.calls += 1
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
            fault = self._next_fault()
            try:
                body = await self.record(request)
                await self._before(request, body, fault)
                response: web.StreamResponse = await handler(request, body, fault)
                return response
            except Refusal as refusal:
                return web.json_response(refusal.body, status=refusal.status, headers=refusal.headers)
            except Malformed as malformed:
                return web.Response(body=malformed.data, content_type=malformed.content_type)
            except Aborted:
                raise
            except (asyncio.CancelledError, ConnectionResetError):
                self.gone += 1
                raise asyncio.CancelledError from None  # aiohttp would log anything else
            finally:
                self.in_flight -= 1

        return handle

    async def record(self, request: web.Request) -> Any:
        """Remembers the request; gives its body."""
        data = await request.read()
        try:
            body = orjson.loads(data)
        except orjson.JSONDecodeError:
            body = data
        self.requests.append(Received(request.method, request.path, dict(request.headers), body))
        return body

    def _next_fault(self) -> Fault | None:
        if self._script:
            return self._script.popleft()
        return self.always(self.calls - 1) if callable(self.always) else self.always

    async def _before(self, request: web.Request, body: Any, fault: Fault | None) -> None:
        """Waits, and the faults that look alike in every API."""
        await asyncio.sleep(self.latency_s + (fault.delay_s if fault is not None and fault.mode == "slow" else 0))
        if fault is None:
            return
        if fault.mode == "hang":
            await asyncio.sleep(3600)
        if fault.mode == "reset":
            abort(request)
        if fault.mode == "malformed":
            raise Malformed(self.streams(request, body))
        if fault.status is not None or fault.mode == "unavailable":
            status = fault.status or 503
            raise Refusal(status, self.error(status, f"The server answers {status}."), error_headers(fault))

    async def send(self, request: web.Request, answer: Any, fault: Fault | None) -> web.StreamResponse:
        """A whole answer as JSON, or the first half of it."""
        data = orjson.dumps(answer)
        if fault is None or fault.mode != "cut":
            return web.Response(body=data, content_type="application/json")
        response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": str(len(data))})
        await response.prepare(request)
        await response.write(data[: len(data) // 2])
        return abort(request)

    async def send_events(
        self, request: web.Request, events: Sequence[bytes], fault: Fault | None
    ) -> web.StreamResponse:
        """Server-sent events, or the first of them."""
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
        await response.prepare(request)
        for number, event in enumerate(events):
            if fault is not None and fault.mode == "cut" and number >= fault.after_events:
                abort(request)
            await response.write(event)
            await asyncio.sleep(self.event_s)
        await response.write_eof()
        return response


def error_headers(fault: Fault) -> dict[str, str]:
    """The headers that come with an error."""
    headers = dict(fault.headers)
    if fault.retry_after is not None:
        headers["Retry-After"] = fault.retry_after if isinstance(fault.retry_after, str) else f"{fault.retry_after:g}"
    return headers


def abort(request: web.Request) -> NoReturn:
    """Ends the connection with a reset, at once.

    Raises:
        Aborted: always: nothing more can be sent.
    """
    if request.transport is not None:
        request.transport.abort()
    raise Aborted


def pieces(text: str, size: int = 4) -> list[str]:
    """The text in pieces that stand for tokens."""
    return [text[start : start + size] for start in range(0, len(text), size)]


Server = TypeVar("Server", bound=FakeServer)


@contextmanager
def in_thread(server: Server) -> Iterator[Server]:
    """The server on an event loop of its own thread, for callers without one or with a busy one."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="fake-provider", daemon=True)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(server.__aenter__(), loop).result(10)
        try:
            yield server
        finally:
            asyncio.run_coroutine_threadsafe(server.__aexit__(), loop).result(10)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
