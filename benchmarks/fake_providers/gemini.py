"""Google's Gemini API: `generateContent`, `streamGenerateContent` and the File API.

Request and response follow https://ai.google.dev/api/generate-content and https://ai.google.dev/api/files (resumable
uploads in the two steps that the official SDK takes), errors https://ai.google.dev/gemini-api/docs/troubleshooting.
"""

from __future__ import annotations

import base64
from typing import Any

import orjson
from aiohttp import web
from pydantic import ValidationError

from benchmarks.fake_providers.gemini_fields import Body, Part
from benchmarks.fake_providers.media import check_image
from benchmarks.fake_providers.server import KEY, Answer, FakeServer, Fault, Refusal, pieces

_STATUS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_INLINE_BYTES = 20_000_000
_IMAGE_TOKENS = 258


class FakeGemini(FakeServer):
    """See the module's text and `FakeServer`.

    Args:
        polls: looks at an uploaded file until it is ACTIVE.
        processing_fails: uploaded files end as FAILED instead.

    Attributes:
        files: those uploaded and not deleted, by name: their bytes, None until they have come.
        deleted: names of those deleted.
        retry_delay: what RetryInfo in the body of a 429 says, such as `7s`.
    """

    def __init__(
        self, answer: Answer = "A cat on a mat.", *, polls: int = 2, processing_fails: bool = False, **options: Any
    ) -> None:
        super().__init__(answer, **options)
        self.polls = polls
        self.processing_fails = processing_fails
        self.files: dict[str, bytes | None] = {}
        self.deleted: list[str] = []
        self.retry_delay: str | None = None
        self._looks: dict[str, int] = {}
        self._types: dict[str, str] = {}

    def routes(self, app: web.Application) -> None:
        """See `FakeServer.routes`."""
        app.router.add_post("/{version:v1(?:beta)?}/models/{call}", self.model_call(self._generate))
        app.router.add_post("/upload/{version:v1(?:beta)?}/files", self._start)
        app.router.add_post("/upload/{version:v1(?:beta)?}/files/{name}", self._upload)
        app.router.add_get("/{version:v1(?:beta)?}/files/{name}", self._get)
        app.router.add_delete("/{version:v1(?:beta)?}/files/{name}", self._delete)

    def error(self, status: int, message: str) -> Any:
        """See `FakeServer.error`."""
        error: dict[str, Any] = {"code": status, "message": message, "status": _STATUS.get(status, "UNKNOWN")}
        if status == 429 and self.retry_delay is not None:
            kind = "type.googleapis.com/google.rpc.RetryInfo"
            error["details"] = [{"@type": kind, "retryDelay": self.retry_delay}]
        return {"error": error}

    def streams(self, request: web.Request, body: Any) -> bool:
        """See `FakeServer.streams`."""
        return request.path.endswith(":streamGenerateContent")

    async def _generate(self, request: web.Request, body: Any, fault: Fault | None) -> web.StreamResponse:
        self._check_key(request)
        model, _, method = request.match_info["call"].partition(":")
        if method not in ("generateContent", "streamGenerateContent"):
            raise Refusal(404, self.error(404, f"{method} is not found"))
        fields = self._fields(body)
        for content in fields.contents:
            for part in content.parts:
                self._check_part(part)
        mode = None if fault is None else fault.mode
        if mode == "too_long":
            raise self._refused(
                "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576)."
            )
        head = {"modelVersion": model, "responseId": "fake"}
        if mode == "refuse":
            blocked = {**head, "promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": self._usage(fields, 0)}
            return await self._respond(request, [blocked], fault)
        text = "This is not JSON {" if mode == "invalid_output" else self.text_for(body)
        config = fields.generation_config
        most = config.max_output_tokens or 10**6
        for stop in config.stop_sequences or ():
            text = text.split(stop, 1)[0]
        tokens = pieces(text)[:most]
        reason = "SAFETY" if mode == "refuse_answer" else "MAX_TOKENS" if len(pieces(text)) > most else "STOP"
        count = config.candidate_count or 1
        usage = self._usage(fields, len(tokens) * count)
        logprobs = _logprobs(tokens, config.logprobs or 0) if config.response_logprobs else {}
        if not self.streams(request, body):
            candidates = [
                {"index": i, "content": _content("".join(tokens)), "finishReason": reason, **logprobs}
                for i in range(count)
            ]
            if reason == "SAFETY":
                candidates = [{"index": i, "finishReason": reason} for i in range(count)]
            return await self._respond(request, [{**head, "candidates": candidates, "usageMetadata": usage}], fault)
        chunks = []
        for i in range(count):
            for number, token in enumerate(tokens):
                ends = {"finishReason": reason} if number == len(tokens) - 1 else {}
                candidate = {"index": i, "content": _content(token), **ends}
                chunks.append({**head, "candidates": [candidate], "usageMetadata": usage})
        return await self._respond(request, chunks, fault)

    async def _respond(
        self, request: web.Request, chunks: list[dict[str, Any]], fault: Fault | None
    ) -> web.StreamResponse:
        if self.streams(request, None):
            events = [b"data: " + orjson.dumps(chunk) + b"\r\n\r\n" for chunk in chunks]
            return await self.send_events(request, events, fault)
        return await self.send(request, chunks[0], fault)

    def _fields(self, body: Any) -> Body:
        try:
            return Body.model_validate(body)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise self._refused(f"Invalid JSON payload: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None

    def _check_part(self, part: Part) -> None:
        if part.inline_data is not None:
            if len(base64.b64decode(_standard(part.inline_data.data))) > _INLINE_BYTES:
                raise self._refused("Request payload size exceeds the limit: 20971520 bytes.")
            if part.inline_data.mime_type.startswith("image/"):
                try:
                    check_image(part.inline_data.mime_type, _standard(part.inline_data.data))
                except ValueError:
                    raise self._refused("Unable to process input image.") from None
        if part.file_data is not None:
            name = "files/" + part.file_data.file_uri.rsplit("/", 1)[-1]
            if self.files.get(name) is None:
                raise Refusal(403, self.error(403, f"You do not have permission to access the File {name}"))
            if self._state(name) != "ACTIVE":
                raise self._refused(f"The File {name} is not in an ACTIVE state and usage is not allowed.")

    def _check_key(self, request: web.Request) -> None:
        given = request.headers.get("x-goog-api-key", "")
        if given != KEY:
            error = self.error(400, f"API key not valid: {given}. Please pass a valid API key.")
            kind = "type.googleapis.com/google.rpc.ErrorInfo"
            error["error"]["details"] = [{"@type": kind, "reason": "API_KEY_INVALID"}]
            raise Refusal(400, error)

    def _refused(self, message: str) -> Refusal:
        return Refusal(400, self.error(400, message))

    def _usage(self, fields: Body, completion: int) -> dict[str, int]:
        parts = [part for content in fields.contents for part in content.parts]
        texts = sum(len(part.text or "") for part in parts)
        prompt = max(1, texts // 4) + _IMAGE_TOKENS * sum(part.text is None for part in parts)
        return {
            "promptTokenCount": prompt,
            "candidatesTokenCount": completion,
            "thoughtsTokenCount": 3,
            "totalTokenCount": prompt + completion + 3,
        }

    async def _start(self, request: web.Request) -> web.StreamResponse:
        """The first step of a resumable upload: what will come, and where it goes."""
        body = await self.record(request)
        if request.headers.get("x-goog-api-key") != KEY:
            return web.json_response(self.error(403, "no key"), status=403)
        wanted = {"X-Goog-Upload-Protocol": "resumable", "X-Goog-Upload-Command": "start"}
        if any(request.headers.get(name) != value for name, value in wanted.items()):
            return web.json_response(self.error(400, "not a resumable upload"), status=400)
        name = body["file"]["name"]
        if name in self.files:
            return web.json_response(self.error(409, f"Requested entity already exists: {name}"), status=409)
        self.files[name] = None
        self._types[name] = request.headers["X-Goog-Upload-Header-Content-Type"]
        url = f"{self.base_url}/upload/v1/{name}"
        return web.json_response({}, headers={"X-Goog-Upload-URL": url, "X-Goog-Upload-Status": "active"})

    async def _upload(self, request: web.Request) -> web.StreamResponse:
        """The second step: the bytes."""
        name = f"files/{request.match_info['name']}"
        self.files[name] = (self.files[name] or b"") + await request.read()
        if "finalize" not in request.headers.get("X-Goog-Upload-Command", ""):
            return web.json_response({}, headers={"X-Goog-Upload-Status": "active"})
        return web.json_response({"file": self._file(name)}, headers={"X-Goog-Upload-Status": "final"})

    async def _get(self, request: web.Request) -> web.StreamResponse:
        name = f"files/{request.match_info['name']}"
        if name not in self.files:
            return web.json_response(self.error(404, f"{name} is not found"), status=404)
        self._looks[name] = self._looks.get(name, 0) + 1
        return web.json_response(self._file(name))

    async def _delete(self, request: web.Request) -> web.StreamResponse:
        name = f"files/{request.match_info['name']}"
        if self.files.pop(name, self) is self:
            return web.json_response(self.error(404, f"{name} is not found"), status=404)
        self.deleted.append(name)
        return web.json_response({})

    def _state(self, name: str) -> str:
        if self._looks.get(name, 0) < self.polls:
            return "PROCESSING"
        return "FAILED" if self.processing_fails else "ACTIVE"

    def _file(self, name: str) -> dict[str, Any]:
        return {
            "name": name,
            "mimeType": self._types[name],
            "sizeBytes": str(len(self.files[name] or b"")),
            "uri": f"https://generativelanguage.googleapis.com/v1beta/{name}",
            "state": self._state(name),
            "source": "UPLOADED",
        }


def _content(text: str) -> dict[str, Any]:
    return {"role": "model", "parts": [{"text": text}]}


def _logprobs(tokens: list[str], top: int) -> dict[str, Any]:
    chosen = [{"token": token, "tokenId": i, "logProbability": -0.1} for i, token in enumerate(tokens)]
    tops = [{"candidates": [one, {"token": "~", "tokenId": 0, "logProbability": -2.3}][:top]} for one in chosen]
    return {"logprobsResult": {"chosenCandidates": chosen, "topCandidates": tops}}


def _standard(data: str) -> str:
    """URL-safe base64, in which the SDK sends bytes, as the standard one."""
    return data.replace("-", "+").replace("_", "/")
