"""What the chat workload says, and how the stream that answers it is read."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import Any

import orjson

from benchmarks.loadtest.request import Failed
from benchmarks.workloads.pictures import Picture

MAX_TOKENS = 48


@dataclass(slots=True)
class Stream:
    """What has been read of an answer.

    Attributes:
        first_s: when the first text came, in seconds from sending; None before.
        done: whether its end has come.
    """

    pieces: list[str] = field(default_factory=list)
    tokens: int = 0
    first_s: float | None = None
    done: bool = False

    @property
    def text(self) -> str:
        """The answer so far."""
        return "".join(self.pieces).strip()


def asked(kind: str, picture: Picture) -> tuple[str, tuple[str, ...]]:
    """A question about a picture, and the words that its answer must have."""
    if kind == "describe":
        return "Describe the object as JSON with keys colour and shape.", (picture.colour, picture.shape)
    return "What colour is the object?", (picture.colour,)


def messages(image: bytes, question: str) -> list[dict[str, Any]]:
    """A conversation in OpenAI's shape: one message with a picture (JPEG) and a question about it."""
    url = f"data:image/jpeg;base64,{base64.b64encode(image).decode()}"
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": question}]
    return [{"role": "user", "content": content}]


def read_event(line: bytes, found: Stream, seconds: float) -> None:
    """Takes in one line of the stream, read `seconds` after the request was sent.

    Raises:
        Failed: it says that the answer failed.
    """
    if not line.startswith(b"data: "):
        return
    if line == b"data: [DONE]":
        found.done = True
        return
    chunk: dict[str, Any] = orjson.loads(line[len(b"data: ") :])
    if "error" in chunk:
        raise Failed(chunk["error"]["code"], chunk["error"]["message"])
    if chunk.get("usage"):
        found.tokens = chunk["usage"]["completion_tokens"]
    for choice in chunk["choices"]:
        if text := choice["delta"].get("content"):
            found.first_s = seconds if found.first_s is None else found.first_s
            found.pieces.append(text)
