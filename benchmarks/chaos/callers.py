"""What is asked while things break: kinds of traffic, what each was told is done, and whether it is there later."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, ClassVar

import httpx
import numpy as np
from PIL import Image
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException

from benchmarks.chaos.outcome import CUT, NO_CODE, WRONG
from benchmarks.chaos.site import Site

# Seconds that one thing of those acknowledged may take to be looked up, or to come to its end, once all is well again.
_LOOK_UP_S = 60.0
_JOB_S = 90.0
_LOOKED_UP_AT_ONCE = 8


class Refused(Exception):
    """A request that failed with a code."""

    def __init__(self, code: str, message: str = "") -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class Caller:
    """One kind of request.

    Args:
        rate_per_s: of its Poisson arrivals.
        deadline_s: that each request states.
        neighbour: see `outcome.Sent`.
    """

    kind: ClassVar[str]

    def __init__(self, rate_per_s: float, deadline_s: float = 8.0, *, neighbour: bool = False, name: str = "") -> None:
        self.name = name or self.kind
        self.rate_per_s = rate_per_s
        self.deadline_s = deadline_s
        self.neighbour = neighbour

    @property
    def headers(self) -> dict[str, str]:
        """Of each request."""
        return {"x-argus-timeout-ms": f"{1e3 * self.deadline_s:.0f}"}

    async def prepare(self, client: httpx.AsyncClient, site: Site) -> None:
        """Before the first request, while all is well."""

    async def send(self, client: httpx.AsyncClient, number: int) -> None:
        """One request; returns when it was answered rightly.

        Raises:
            Refused: it was answered with an error, or wrongly.
            httpx.TransportError: there was no answer.
        """
        raise NotImplementedError

    async def lost(self, client: httpx.AsyncClient) -> list[str]:
        """What was acknowledged and is not there, once all is well again."""
        return []

    async def close(self) -> None:
        """After the last request."""


class Classify(Caller):
    """Zero-shot classification by a scripted model: safe to repeat."""

    kind = "classify"

    def __init__(self, rate_per_s: float, model: str = "staged", **options: Any) -> None:
        super().__init__(rate_per_s, **options)
        self._model = model

    async def send(self, client: httpx.AsyncClient, number: int) -> None:
        params = {"model": self._model, "labels": "a,b"}
        headers = {**self.headers, "content-type": "image/png"}
        answer = await client.post("/v1/classify", params=params, content=PICTURE, headers=headers)
        if len(answered(answer)["results"][0].get("scores", ())) != 2:
            raise Refused(answer.json()["results"][0].get("error", {}).get("code", WRONG))


class Adds(Caller):
    """Items for an index; each is looked up later."""

    kind = "index adds"
    _PATH: ClassVar[str] = "/v1/indexes/chaos"
    _DIMENSION: ClassVar[int] = 16

    def __init__(self, rate_per_s: float, **options: Any) -> None:
        super().__init__(rate_per_s, **options)
        self._series = 0
        self._added: dict[str, list[float]] = {}

    async def prepare(self, client: httpx.AsyncClient, site: Site) -> None:
        self._series = site.next_number()
        body = {"dimension": self._DIMENSION, "metric": "l2"}
        answered(await client.put(self._PATH, json=body, headers={"x-argus-timeout-ms": "60000"}))

    async def send(self, client: httpx.AsyncClient, number: int) -> None:
        drawn = np.random.default_rng([self._series, number])
        vector = [float(value) for value in drawn.standard_normal(self._DIMENSION, np.float32)]
        name = f"{self._series}-{number}"
        item = {"id": name, "vector": vector, "metadata": {"text": "x" * 2000}}
        answer = await client.post(f"{self._PATH}/items", json={"items": [item]}, headers=self.headers)
        if answered(answer)["added"] != 1:
            raise Refused(WRONG, answer.text)
        self._added[name] = vector

    async def lost(self, client: httpx.AsyncClient) -> list[str]:
        async def missing(item: str) -> str | None:
            answer = await client.get(f"{self._PATH}/items/{item}", timeout=_LOOK_UP_S)
            if answer.is_success and np.allclose(answer.json()["vector"], self._added[item], atol=1e-6):
                return None
            return f"item {item} ({answer.status_code})"

        return await _of_all(self._added, missing)


class Turns(Caller):
    """Messages to sessions, each in its turn; what was said and answered must be in the history, once.

    No session is asked twice at a time, which would be refused: the one that was used longest ago is next.
    """

    kind = "session turns"
    _SESSIONS: ClassVar[int] = 24

    def __init__(self, rate_per_s: float, model: str = "spare", **options: Any) -> None:
        super().__init__(rate_per_s, **options)
        self._model = model
        self._ids: list[str] = []
        self._idle: asyncio.Queue[str] = asyncio.Queue()
        self._said: list[tuple[str, str]] = []

    async def prepare(self, client: httpx.AsyncClient, site: Site) -> None:
        for _ in range(self._SESSIONS):
            answer = await client.post("/v1/sessions", json={"model": self._model}, timeout=60)
            self._ids.append(answered(answer)["id"])
            self._idle.put_nowait(self._ids[-1])

    async def send(self, client: httpx.AsyncClient, number: int) -> None:
        session, text = await self._idle.get(), f"message {number}"
        try:
            body = {"content": text, "max_tokens": 16}
            answered(await client.post(f"/v1/sessions/{session}/messages", json=body, headers=self.headers))
            self._said.append((session, text))
        finally:
            self._idle.put_nowait(session)

    async def lost(self, client: httpx.AsyncClient) -> list[str]:
        found = []
        for session in self._ids:
            answer = await client.get(f"/v1/sessions/{session}/messages", timeout=_LOOK_UP_S)
            messages = answered(answer)["data"]
            counts = Counter(_text(message["content"]) for message in messages if message["role"] == "user")
            found += [f"turn {text!r}" for whose, text in self._said if whose == session and text not in counts]
            found += [f"turn {text!r} is there {count} times" for text, count in counts.items() if count > 1]
        return found


class Jobs(Caller):
    """Jobs under idempotency keys; each that was accepted must come to its end, once."""

    kind = "jobs"
    _IMAGES: ClassVar[int] = 4

    def __init__(self, rate_per_s: float, **options: Any) -> None:
        super().__init__(rate_per_s, **options)
        self._series = 0
        self._accepted: dict[str, str] = {}

    async def prepare(self, client: httpx.AsyncClient, site: Site) -> None:
        self._series = site.next_number()

    async def send(self, client: httpx.AsyncClient, number: int) -> None:
        answer = await self._submit(client, number)
        self._accepted[str(number)] = answered(answer)["id"]

    async def lost(self, client: httpx.AsyncClient) -> list[str]:
        async def missing(number: str) -> str | None:
            # Whoever lost the answer asks again under the same key, and must be given the same job.
            again = answered(await self._submit(client, int(number)))["id"]
            if again != self._accepted[number]:
                return f"job {number} was made twice under one key"
            for _ in range(int(_JOB_S / 0.5)):
                answer = await client.get(f"/v1/jobs/{again}", timeout=_LOOK_UP_S)
                status = answer.json().get("status") if answer.is_success else answer.status_code
                if status == "succeeded":
                    done = len(answer.json()["result"]["results"])
                    return None if done == self._IMAGES else f"job {number} has {done} of {self._IMAGES} results"
                if status not in ("queued", "running", httpx.codes.SERVICE_UNAVAILABLE):
                    return f"job {number} is {status}: {answer.text[:200]}"
                await asyncio.sleep(0.5)
            return f"job {number} has not ended in {_JOB_S:.0f} s"

        return await _of_all(self._accepted, missing)

    async def _submit(self, client: httpx.AsyncClient, number: int) -> httpx.Response:
        request = {"labels": ["a", "b", str(number)], "model": "staged"}
        return await client.post(
            "/v1/jobs",
            data={"operation": "classify", "request": json.dumps(request)},
            files=[("images", (f"{i}.png", _picture(i), "image/png")) for i in range(self._IMAGES)],
            headers={**self.headers, "idempotency-key": f"chaos-{self._series}-{number}"},
        )


class Chat(Caller):
    """Questions to a hosted model, or to a cascade over hosted models; no two alike.

    Args:
        warm: questions asked before, so that the router knows how long answers usually take.
    """

    kind = "hosted chat"

    def __init__(self, rate_per_s: float, model: str = "hosted", warm: int = 0, **options: Any) -> None:
        super().__init__(rate_per_s, **options)
        self._model = model
        self._warm = warm

    async def prepare(self, client: httpx.AsyncClient, site: Site) -> None:
        for number in range(self._warm):
            await self.send(client, -1 - number)

    async def send(self, client: httpx.AsyncClient, number: int) -> None:
        uri = "data:image/png;base64," + base64.b64encode(PICTURE).decode()
        content = [
            {"type": "image_url", "image_url": {"url": uri}},
            {"type": "text", "text": f"What is this? {number}"},
        ]
        body = {"model": self._model, "messages": [{"role": "user", "content": content}], "max_completion_tokens": 16}
        answer = await client.post("/v1/chat/completions", json=body, headers=self.headers)
        if not answered(answer)["choices"][0]["message"]["content"]:
            raise Refused(WRONG, "an empty answer")


class Streams(Caller):
    """The same as server-sent events; one that ends without `[DONE]` or an error was cut."""

    kind = "chat streams"

    def __init__(self, rate_per_s: float, model: str = "hosted", tokens: int = 16, **options: Any) -> None:
        super().__init__(rate_per_s, **options)
        self._model = model
        self._tokens = tokens

    async def send(self, client: httpx.AsyncClient, number: int) -> None:
        body = {
            "model": self._model,
            "messages": [{"role": "user", "content": f"Tell me something. {number}"}],
            "max_completion_tokens": self._tokens,
            "stream": True,
        }
        async with client.stream("POST", "/v1/chat/completions", json=body, headers=self.headers) as answer:
            if not answer.is_success:
                await answer.aread()
                answered(answer)
            async for line in answer.aiter_lines():
                data = line.removeprefix("data: ")
                if data == "[DONE]":
                    return
                if data.startswith("{") and "error" in (event := json.loads(data)):
                    raise Refused(event["error"]["code"])
        raise Refused(CUT, "the stream ended without an end")


class GrpcReady(Caller):
    """Whether a model is ready, over gRPC."""

    kind = "gRPC"

    def __init__(self, rate_per_s: float, model: str = "neighbour", **options: Any) -> None:
        super().__init__(rate_per_s, **options)
        self._model = f"{model}.classify"
        self._key = ""
        self._asked: InferenceServerClient | None = None

    async def prepare(self, client: httpx.AsyncClient, site: Site) -> None:
        self._asked, self._key = InferenceServerClient(site.grpc), site.key

    async def send(self, client: httpx.AsyncClient, number: int) -> None:
        assert self._asked is not None, "it was prepared"
        try:
            ready = await self._asked.is_model_ready(
                self._model, headers={"x-api-key": self._key}, client_timeout=self.deadline_s
            )
        except InferenceServerException as error:
            told = error.message()
            # What gRPC says of its own accord when nobody answered on a stream, with status INTERNAL or CANCELLED.
            if "RST_STREAM" in told or "Stream removed" in told:
                raise Refused(CUT, told) from None
            raise Refused(str(error.status()).removeprefix("StatusCode.").lower(), told) from None
        if not ready:
            raise Refused("unavailable", "not ready")

    async def close(self) -> None:
        if self._asked is not None:
            await self._asked.close()


def answered(response: httpx.Response) -> dict[str, Any]:
    """The body of a success.

    Raises:
        Refused: it is none.
    """
    if response.is_success:
        body: dict[str, Any] = response.json()
        return body
    try:
        code = response.json()["error"]["code"]
    except (ValueError, KeyError, TypeError):
        code = NO_CODE
    raise Refused(str(code), response.text[:200])


def _text(content: Any) -> str:
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


async def _of_all(names: Iterable[str], missing: Callable[[str], Awaitable[str | None]]) -> list[str]:
    """What `missing` says of each name, a few at a time."""
    places = asyncio.Semaphore(_LOOKED_UP_AT_ONCE)

    async def one(name: str) -> str | None:
        async with places:
            return await missing(name)

    return [found for found in await asyncio.gather(*map(one, names)) if found is not None]


def _picture(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), (0, 128, 128 + number)).save(buffer, "PNG")
    return buffer.getvalue()


PICTURE = _picture(0)
