"""`/v1/scenes/{name}/stream`: a scene looked at live, over a WebSocket.

The viewer sends JSON objects with the fields of `LiveFields`: whatever has changed since its last message, at least one
field, or none to have the view drawn again. A message may also say `seen`: how many pictures the viewer has shown in
all. Who says so never has more than three on their way; who does not is held up by the connection alone.

The server sends each picture as one binary message. A text message is an error, `{"error": {...}}`: of the viewer's
last message, or of a picture that could not be drawn; the view goes on. The error that ends a view stands in the last
text before the socket is closed (`serve.protocol.socket_edge` says with which code, and where a key goes).

How many pictures a second are wanted at most stands in the address: `?max_fps=15`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final

from fastapi import APIRouter
from pydantic import Field
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from deployments.scenes.types import SceneInfo
from serve import tracing
from serve.context import RequestContext
from serve.errors import (
    ArgusError,
    DeadlineExceeded,
    InvalidRequest,
    NotFound,
    Overloaded,
    PayloadTooLarge,
    RateLimited,
    ViewerSilent,
)
from serve.metrics import Recorder
from serve.protocol.bodies import Fields, json_object, read_query, validate
from serve.protocol.scene_cameras import LiveFields
from serve.protocol.socket_edge import error_text, subprotocol_of
from serve.resilience.admission import Admission, lane_of
from serve.scenes.service import SceneService, version_of
from serve.scenes.viewer_state import FULL, RISING, Draw, End, Rules, Watching, next_step, outdated

PATH: Final = "/v1/scenes/{name}/stream"
MOST_FPS: Final = 30
# Viewers of one router replica: each has one or two pictures in work, and a few on their way.
MOST_VIEWERS: Final = 64
# Seconds without a message after which a view ends.
IDLE_S: Final = 120.0
_MOST_MESSAGE: Final = 64 * 1024
# Seconds between looks at whether the scene has changed.
_LOOK_S: Final = 2.0
# Seconds that a viewer may take for one picture.
_SEND_S: Final = 30.0


class StreamFields(Fields):
    """What stands in the address."""

    max_fps: float = Field(MOST_FPS, gt=0, le=60, description="Most pictures a second.")


class _SeenFields(Fields):
    seen: int | None = Field(None, ge=0)


def build(service: SceneService, admission: Admission, recorder: Recorder) -> APIRouter:
    """The route, over the scene service."""
    router = APIRouter()
    viewers: set[_View] = set()

    async def stream(websocket: WebSocket) -> None:
        websocket.scope["route"] = route
        if len(viewers) >= MOST_VIEWERS:
            message = f"{MOST_VIEWERS} views are open in this router, the most that it holds."
            raise Overloaded(message, code="too_many_viewers", retry_after_s=5.0)
        view = _View(service, admission, websocket)
        viewers.add(view)
        recorder.viewing(len(viewers))
        try:
            await view.run()
        finally:
            viewers.remove(view)
            recorder.viewing(len(viewers))

    route = WebSocketRoute(PATH, stream)
    router.routes.append(route)
    return router


@dataclass(frozen=True, slots=True)
class _Picture:
    """Attributes: took_s: see `deployments.rendering.messages.RenderResult`."""

    data: bytes
    took_s: float


class _View:
    """One viewer."""

    def __init__(self, service: SceneService, admission: Admission, websocket: WebSocket) -> None:
        self._service, self._admission, self._socket = service, admission, websocket
        self._name: str = websocket.path_params["name"]
        self._context: RequestContext = websocket.scope["state"]["context"]
        fields = read_query(websocket, StreamFields)
        self._rules = Rules(gap_s=1 / fields.max_fps, idle_s=IDLE_S)
        self._state: Watching[LiveFields] = Watching(time.monotonic())
        self._said: dict[str, Any] = {}
        self._changed = asyncio.Event()
        self._sending = asyncio.Lock()
        self._drawing: dict[int, asyncio.Task[_Picture]] = {}
        self._info: SceneInfo
        self._looked = 0.0
        self._shown = ""

    async def run(self) -> None:
        """Until the viewer leaves.

        Raises:
            ArgusError: what ends the view.
        """
        await self._look(self._soon())
        self._service.renderer.pick(self._info.kind)
        await self._socket.accept(subprotocol_of(self._socket.scope))
        tasks: list[asyncio.Task[Any]] = [asyncio.create_task(self._listen()), asyncio.create_task(self._show())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            with suppress(WebSocketDisconnect, OSError):
                for task in done:
                    task.result()
        finally:
            tasks += self._drawing.values()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _listen(self) -> None:
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            self._state = self._state.told(time.monotonic())
            try:
                self._heard(message.get("text"), message.get("bytes"))
            except InvalidRequest as error:
                if isinstance(error, PayloadTooLarge):
                    raise
                await self._say(error)
            for number in outdated(self._state):
                self._drawing[number].cancel()
            self._changed.set()

    def _heard(self, text: str | None, data: bytes | None) -> None:
        message = (data or b"") if text is None else text.encode()
        if len(message) > _MOST_MESSAGE:
            raise PayloadTooLarge(f"A message has at most {_MOST_MESSAGE} bytes.", param="message")
        if text is None:
            raise InvalidRequest("A message is JSON, as text.", code="invalid_json", param="message")
        given = json_object(message)
        if "seen" in given:
            seen = validate({"seen": given.pop("seen")}, _SeenFields).seen
            self._state = self._state if seen is None else self._state.acknowledged(seen)
            if not given:
                return
        said = {**self._said, **given}
        wish = validate(said, LiveFields)
        self._said = said
        self._state = self._state.wished(wish, self._efforts(wish))

    def _efforts(self, wish: LiveFields) -> Sequence[float]:
        if wish.effort is not None:
            return (wish.effort,)
        return RISING if self._info.kind == "nerf" else FULL

    async def _show(self) -> None:
        while True:
            now = time.monotonic()
            step = next_step(self._state, self._rules, now)
            if isinstance(step, End):
                raise _ended(step)
            if isinstance(step, Draw):
                self._begin(step, now)
                continue
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), min(step.until - now, _LOOK_S))
            self._changed.clear()
            await self._follow()
            for number in [number for number, task in self._drawing.items() if task.done()]:
                await self._finish(number)

    def _begin(self, step: Draw[LiveFields], now: float) -> None:
        self._state = self._state.began(now, self._rules)
        task = asyncio.create_task(self._picture(step.wish, step.effort))
        task.add_done_callback(lambda _: self._changed.set())
        self._drawing[self._state.begun] = task

    async def _finish(self, number: int) -> None:
        task = self._drawing[number]
        error = None if task.cancelled() else task.exception()
        if isinstance(error, ArgusError):
            await self._fail(number, error)
        elif task.cancelled() or self._state.overtaken(number):
            self._state = self._state.dropped(number)
        else:
            picture = task.result()
            await self._send({"type": "websocket.send", "bytes": picture.data})
            self._state = self._state.showed(number, picture.took_s)
        del self._drawing[number]

    async def _fail(self, number: int, error: ArgusError) -> None:
        if error.code == "scene_not_found":
            raise error
        if isinstance(error, NotFound):  # what was to be drawn may have given way to a newer version
            self._looked = 0.0
        if error.retryable or isinstance(error, DeadlineExceeded):
            self._state = self._state.postponed(number, time.monotonic() + (error.retry_after_s or 1.0))
        else:
            self._state = self._state.dropped(number)
        await self._say(error)

    async def _picture(self, wish: LiveFields, effort: float) -> _Picture:
        # A trace of its own: one of a whole view would have as many spans as its viewer likes.
        with tracing.root("picture", tracing.link_to(tracing.current()), asked=False):
            return await self._drawn(wish, effort)

    async def _drawn(self, wish: LiveFields, effort: float) -> _Picture:
        context = self._soon()
        with self._admission.enter(context, lane_of(self._socket.scope["path"])):
            if time.monotonic() - self._looked > _LOOK_S:
                await self._look(context)
            version = version_of(self._info, wish.version)
            self._shown = version.ref.digest
            drawn = await self._service.renderer.draw(wish.shot(effort), self._info, version, context)
        view = drawn.views[0]
        if isinstance(view, ArgusError):
            raise view
        return _Picture(bytes(view.files["rgb"]), drawn.took_s)

    async def _follow(self) -> None:
        """Has what is shown drawn again when the scene has changed."""
        wish = self._state.wish
        if wish is None or wish.effort is not None or self._state.work or time.monotonic() - self._looked < _LOOK_S:
            return
        try:
            await self._look(self._soon())
            changed = version_of(self._info, wish.version).ref.digest != self._shown
        except ArgusError as error:
            if not error.retryable:
                raise
            return  # the store comes back, or the next picture says that it does not
        if changed:
            self._state = self._state.wished(wish, self._efforts(wish))

    async def _look(self, context: RequestContext) -> None:
        self._info = await self._service.get(self._name, context)
        self._looked = time.monotonic()

    def _soon(self) -> RequestContext:
        """Of one picture, which has the time that a request has."""
        return replace(self._context, deadline=time.monotonic() + self._service.limits.default_timeout_s)

    async def _say(self, error: ArgusError) -> None:
        await self._send({"type": "websocket.send", "text": error_text(error, self._context.request_id)})

    async def _send(self, message: dict[str, Any]) -> None:
        async with self._sending:
            try:
                async with asyncio.timeout(_SEND_S):
                    await self._socket.send(message)
            except TimeoutError:
                raise ViewerSilent("The viewer does not read.", code="viewer_too_slow") from None


def _ended(step: End) -> ArgusError:
    if step.reason == "idle":
        return ViewerSilent("The viewer has said nothing for a while.")
    return RateLimited("The viewer sends too many messages.", code="too_many_messages")
