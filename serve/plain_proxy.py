"""Ray Serve's own proxy, where there is no HAProxy: what it leaves without an answer gets one of ours."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]
_App = Callable[[MutableMapping[str, Any], _Receive, _Send], Awaitable[None]]

_STATUS = 503
_TEXT = "The router went away while it answered; try again."


def error_body(code: str, message: str) -> bytes:
    """An error of a proxy, which knows no request id, in the one shape of an error."""
    fields = {"code": code, "message": message, "param": None, "type": f"{code}_error", "request_id": None}
    return json.dumps({"error": fields}).encode()


class AnswersAll:
    """ASGI middleware: a request whose router died before it answered is told so.

    Ray Serve's proxy (2.60, `send_http_response_on_exception`) returns without a word then, of which uvicorn makes a
    plain 500. An answer that was half sent stays as it is, and its connection is closed.
    """

    def __init__(self, app: _App) -> None:
        self._app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: _Receive, send: _Send) -> None:
        """Calls the proxy, then answers in its place if it did not."""
        began = scope["type"] != "http"

        async def note(message: _Message) -> None:
            nonlocal began
            began = True
            await send(message)

        await self._app(scope, receive, note)
        if began:
            return
        body = error_body("unavailable", _TEXT)
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"retry-after", b"1"),
        ]
        await send({"type": "http.response.start", "status": _STATUS, "headers": headers})
        await send({"type": "http.response.body", "body": body})
